//! What a person asks about: `http://host:80/path`, `https://host`, `host:port`, `tcp://host:port`, `tls://host:port`.

use std::net::IpAddr;
use std::str::FromStr;

use http::Uri;
use serde::{Deserialize, Serialize};

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Spoken {
    Http,
    Tls,
    Tcp,
}

impl Spoken {
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As written.
    pub text: String,
    pub spoken: Option<Spoken>,
    /// A name or an address, lower case and without brackets.
    pub host: String,
    pub port: u16,
    /// `/` for what is not HTTP.
    pub path_and_query: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error(
        "{0:?} is no target: expected http://HOST[:PORT][/PATH], https://HOST[:PORT], tls://HOST:PORT, tcp://HOST:PORT or HOST:PORT"
    )]
    Malformed(String),
    #[error("unknown scheme {0:?}: expected http, https, tls or tcp")]
    Scheme(String),
    #[error("{0:?} has no port: write HOST:PORT, or http:// or https:// in front")]
    NoPort(String),
    #[error("{0:?} has a user name: leave it out, routes do not look at it")]
    User(String),
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let malformed = || TargetError::Malformed(text.to_owned());
        let (scheme, rest) =
            text.split_once("://").map_or((None, text), |(scheme, rest)| (Some(scheme), rest));
        let (spoken, default_port) = match scheme.map(str::to_ascii_lowercase).as_deref() {
            None => (None, None),
            Some("http") => (Some(Spoken::Http), Some(80)),
            Some("https") => (Some(Spoken::Tls), Some(443)),
            Some("tls") => (Some(Spoken::Tls), None),
            Some("tcp") => (Some(Spoken::Tcp), None),
            Some(other) => return Err(TargetError::Scheme(other.to_owned())),
        };
        let (authority, path) = match rest.find(['/', '?']) {
            Some(start) => rest.split_at(start),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err(TargetError::User(text.to_owned()));
        }
        let path = path.split('#').next().unwrap_or_default();
        let path_and_query = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        if path_and_query.parse::<Uri>().is_err() {
            return Err(malformed());
        }
        let (host, port) = split_port(authority).ok_or_else(malformed)?;
        let host = host.strip_suffix('.').map(str::to_owned).unwrap_or(host);
        let is_host = host.parse::<IpAddr>().is_ok() || is_name(&host);
        let port = match port {
            Some(port) => Some(port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(malformed)?),
            None => default_port,
        };
        match port {
            _ if !is_host => Err(malformed()),
            None => Err(TargetError::NoPort(text.to_owned())),
            Some(port) => Ok(Self { text: text.to_owned(), spoken, host, port, path_and_query }),
        }
    }
}

/// Host and port of an authority; an IPv6 address needs brackets when a port follows.
fn split_port(authority: &str) -> Option<(String, Option<&str>)> {
    let authority_lower = |host: &str| host.to_ascii_lowercase();
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, after) = rest.split_once(']')?;
        let port = match after.strip_prefix(':') {
            Some(port) => Some(port),
            None if after.is_empty() => None,
            None => return None,
        };
        return Some((authority_lower(address), port));
    }
    match authority.split_once(':') {
        Some((_, port)) if port.contains(':') => Some((authority_lower(authority), None)),
        Some((host, port)) => Some((authority_lower(host), Some(port))),
        None => Some((authority_lower(authority), None)),
    }
}

fn is_name(host: &str) -> bool {
    host.len() <= 253
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        })
}

/// What is spoken where neither the target nor the registry says it.
pub(super) fn usual_on(port: u16) -> (Spoken, String) {
    match port {
        80 => (Spoken::Http, "as is usual on port 80; --protocol says otherwise".into()),
        443 => (Spoken::Tls, "as is usual on port 443; --protocol says otherwise".into()),
        _ => (Spoken::Tcp, "nothing says otherwise; --protocol does".into()),
    }
}

impl Target {
    /// The Host header that clients send.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == 80 { host } else { format!("{host}:{}", self.port) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let rows = [
            ("http://www.apple.com", Ok("Http www.apple.com 80 /")),
            ("http://www.Apple.com:8080/a/b?c=d#e", Ok("Http www.apple.com 8080 /a/b?c=d")),
            ("http://a?b", Ok("Http a 80 /?b")),
            ("https://a.b.", Ok("Tls a.b 443 /")),
            ("tls://a:993", Ok("Tls a 993 /")),
            ("tcp://10.0.0.1:5432", Ok("Tcp 10.0.0.1 5432 /")),
            ("[::1]:80", Ok("- ::1 80 /")),
            ("http://[2001:db8::1]/", Ok("Http 2001:db8::1 80 /")),
            ("a:443", Ok("- a 443 /")),
            ("a", Err("has no port")),
            ("tcp://a", Err("has no port")),
            ("a:0", Err("is no target")),
            ("a:65536", Err("is no target")),
            ("ftp://a", Err("unknown scheme")),
            ("http://me@a/", Err("user name")),
            ("http://", Err("is no target")),
            ("http://a b/", Err("is no target")),
            ("http://a/\u{7f}", Err("is no target")),
            ("", Err("is no target")),
            ("[::1", Err("is no target")),
        ];
        for (text, expected) in rows {
            match (text.parse::<Target>(), expected) {
                (Ok(Target { spoken, host, port, path_and_query, .. }), Ok(wanted)) => {
                    let spoken = spoken.map_or_else(|| "-".to_owned(), |spoken| format!("{spoken:?}"));
                    assert_eq!(format!("{spoken} {host} {port} {path_and_query}"), wanted, "{text:?}");
                }
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{text:?}: {error}"),
                (got, wanted) => panic!("{text:?}: got {got:?}, expected {wanted:?}"),
            }
        }
    }
}
