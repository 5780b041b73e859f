//! Which files and sockets of the proxy's mount namespace resources may name. The proxy opens them as itself: where others
//! than its own user write the resources, a path is refused unless a directory above it was allowed.

use std::fmt;
use std::path::{Component, Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NodePaths {
    Any,
    /// Those below one of these directories, as they are written: links are not followed here.
    Below(Vec<PathBuf>),
}

/// What was not told to be allowed is not.
impl Default for NodePaths {
    fn default() -> Self {
        Self::Below(Vec::new())
    }
}

impl NodePaths {
    /// A directory that can be meant: absolute, without `..`.
    ///
    /// # Errors
    /// What is expected.
    pub fn parse_directory(text: &str) -> Result<PathBuf, String> {
        let directory = PathBuf::from(text);
        if !directory.is_absolute() || is_leading_out(&directory) {
            return Err("expected an absolute path of a directory, without `..`".into());
        }
        Ok(directory)
    }

    pub fn allow(&self, path: &Path) -> bool {
        match self {
            Self::Any => true,
            Self::Below(directories) => {
                !is_leading_out(path) && directories.iter().any(|directory| path.starts_with(directory))
            }
        }
    }
}

/// The directories, or that there are none.
impl fmt::Display for NodePaths {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => formatter.write_str("anything"),
            Self::Below(directories) if directories.is_empty() => formatter.write_str("nothing"),
            Self::Below(directories) => {
                let directories: Vec<_> = directories.iter().map(|path| path.display().to_string()).collect();
                formatter.write_str(&directories.join(", "))
            }
        }
    }
}

fn is_leading_out(path: &Path) -> bool {
    path.components().any(|component| component == Component::ParentDir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_below_a_directory_are_allowed_and_no_others() {
        let below = |directories: &[&str]| NodePaths::Below(directories.iter().map(PathBuf::from).collect());
        let sidecars = below(&["/run/sidecars", "/srv/db/"]);
        for (path, expected) in [
            ("/run/sidecars/a.sock", true),
            ("/run/sidecars/deep/a.sock", true),
            ("/run//./sidecars/a.sock", true),
            ("/srv/db/a.sock", true),
            ("/run/docker.sock", false),
            ("/run/sidecars-of-others/a.sock", false),
            ("/run/sidecars/../docker.sock", false),
            ("/run/sidecars/..", false),
            ("run/sidecars/a.sock", false),
            ("/a/run/sidecars/a.sock", false),
        ] {
            assert_eq!(sidecars.allow(Path::new(path)), expected, "{path}");
            assert!(NodePaths::Any.allow(Path::new(path)));
            assert!(!NodePaths::default().allow(Path::new(path)));
        }
        assert!(below(&["/"]).allow(Path::new("/run/docker.sock")));
        assert!(!below(&["/"]).allow(Path::new("/a/../run/docker.sock")));
        assert!(!below(&["/"]).allow(Path::new("run/docker.sock")));
    }

    #[test]
    fn directories_are_absolute() {
        assert_eq!(NodePaths::parse_directory("/run/a"), Ok("/run/a".into()));
        for text in ["", "run", "./run", "/run/../etc", "~/run"] {
            assert!(NodePaths::parse_directory(text).is_err(), "{text}");
        }
    }
}
