//! The path of a unix socket, as an endpoint's address names it.

use std::fmt;
use std::sync::Arc;

/// The path of a unix stream socket, as the proxy's mount namespace has it; behind `@` a name in the
/// abstract namespace of the proxy's network namespace (unix(7)).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnixPath(Arc<str>);

impl UnixPath {
    /// In front of a path where a resource has an address (Istio's `UnixAddressPrefix`).
    pub const PREFIX: &'static str = "unix://";

    /// Of sockaddr_un's 108 bytes one is a NUL: behind a path, in front of an abstract name.
    pub const BYTES_MAX: usize = 107;

    /// The path that an endpoint's address names; `None` when that is no unix socket.
    ///
    /// # Errors
    /// What is wrong with the path, beginning with the words of Istio's webhook.
    pub fn of_address(address: &str) -> Option<Result<Self, String>> {
        address.strip_prefix(Self::PREFIX).map(Self::parse)
    }

    fn parse(path: &str) -> Result<Self, String> {
        if path.is_empty() || path == "@" {
            return Err(
                "unix address must not be empty: write unix:///path/to/socket, or unix://@name for an \
                        abstract one"
                    .into(),
            );
        }
        if !path.starts_with('@') && (!path.starts_with('/') || path.ends_with('/')) {
            return Err(format!(
                "{path} is not an absolute path to a file: write unix:///path/to/socket, or unix://@name for \
                 an abstract one"
            ));
        }
        if path.contains(char::is_control) {
            return Err(format!("{path:?} has control characters: a socket can't be named like that here"));
        }
        if path.len() > Self::BYTES_MAX {
            return Err(format!(
                "the path has {} bytes and a unix socket's at most {}: use a shorter one, through a symbolic \
                 link if need be",
                path.len(),
                Self::BYTES_MAX
            ));
        }
        Ok(Self(path.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name in the abstract namespace, if it is one there.
    pub fn abstract_name(&self) -> Option<&str> {
        self.0.strip_prefix('@')
    }
}

impl fmt::Display for UnixPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::UnixPath;

    #[test]
    fn paths() {
        let of = |path: &str| UnixPath::of_address(&format!("unix://{path}")).unwrap();
        for path in ["/run/a.sock", "/a", "@a", "@/run/a", "@a/", &format!("/{}", "x".repeat(106))] {
            assert_eq!(of(path).unwrap().as_str(), path);
        }
        for (path, expected) in [
            ("", "must not be empty"),
            ("@", "must not be empty"),
            ("run/a.sock", "run/a.sock is not an absolute path to a file"),
            ("/run/", "/run/ is not an absolute path to a file"),
            ("/", "/ is not an absolute path to a file"),
            ("/a\0b", "control characters"),
            ("@a\nb", "control characters"),
            (&format!("/{}", "x".repeat(107)), "the path has 108 bytes and a unix socket's at most 107"),
            (&format!("@{}", "é".repeat(54)), "the path has 109 bytes"),
        ] {
            let problem = of(path).unwrap_err();
            assert!(problem.contains(expected), "{path:?}: {problem}");
        }
        for address in ["10.0.0.1", "unix:/run/a.sock", "/run/a.sock", ""] {
            assert_eq!(UnixPath::of_address(address), None);
        }
    }
}
