//! What a route changes in the requests it forwards and in the responses that come back, and where a
//! redirect leads.

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use regex::Regex;

use super::route::host_of;

/// VirtualService `rewrite` and `headers`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub path: Option<PathRewrite>,
    /// Instead of the request's authority, in the Host header and wherever it is used further on.
    pub authority: Option<HeaderValue>,
    pub request: HeaderChanges,
    pub response: HeaderChanges,
}

/// Envoy's order: what is to go goes first, then values are added, then set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    pub remove: Vec<HeaderName>,
    pub add: Vec<(HeaderName, HeaderValue)>,
    pub set: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderChanges {
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
    }
}

/// How a request's path is replaced. The query stays.
#[derive(Clone, Debug)]
pub enum PathRewrite {
    /// The first bytes of the path, which the route's match has compared.
    Prefix {
        bytes: usize,
        replacement: Box<str>,
    },
    Whole(Box<str>),
    /// Every match; `$1` and so on stand for groups.
    Regex {
        pattern: Regex,
        replacement: Box<str>,
    },
}

impl PartialEq for PathRewrite {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Prefix { bytes: a, replacement: x }, Self::Prefix { bytes: b, replacement: y }) => {
                a == b && x == y
            }
            (Self::Whole(x), Self::Whole(y)) => x == y,
            (Self::Regex { pattern: a, replacement: x }, Self::Regex { pattern: b, replacement: y }) => {
                a.as_str() == b.as_str() && x == y
            }
            (Self::Prefix { .. } | Self::Whole(_) | Self::Regex { .. }, _) => false,
        }
    }
}

impl Eq for PathRewrite {}

impl PathRewrite {
    fn path(&self, path: &str) -> String {
        match self {
            Self::Prefix { bytes, replacement } => {
                format!("{replacement}{}", path.get(*bytes..).unwrap_or_default())
            }
            Self::Whole(replacement) => replacement.to_string(),
            Self::Regex { pattern, replacement } => pattern.replace_all(path, &**replacement).into_owned(),
        }
    }

    /// The target with its path replaced; `None` when what comes out is no path.
    pub fn apply(&self, uri: &Uri) -> Option<Uri> {
        let path = self.path(uri.path());
        let target = match uri.query() {
            Some(query) if !path.contains('?') => format!("{path}?{query}"),
            Some(_) | None => path,
        };
        let target = Some(target).filter(|target| target.starts_with('/'))?;
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
        Uri::from_parts(parts).ok()
    }
}

/// VirtualService `redirect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    pub status: u16,
    pub scheme: Option<Arc<str>>,
    pub authority: Option<Arc<str>>,
    /// Not set for a scheme's own port.
    pub port: Option<u16>,
    /// The query stays unless this brings one.
    pub path: Option<PathRewrite>,
}

impl Redirect {
    /// Where a request to `authority` (as sent) and `target` is sent (Envoy's `newUri`).
    pub fn location(&self, authority: &str, target: &Uri) -> String {
        let scheme = self.scheme.as_deref().unwrap_or("http");
        let host = match (&self.authority, self.port) {
            (Some(authority), _) => authority,
            (None, Some(_)) => without_port(authority),
            // The port of the old scheme means nothing to the new one.
            (None, None) if self.scheme.is_some() => authority.strip_suffix(":80").unwrap_or(authority),
            (None, None) => authority,
        };
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        let path = self.path.as_ref().map(|path| path.path(target.path()));
        let path = match (path, target.query()) {
            (Some(path), Some(query)) if !path.contains('?') => format!("{path}?{query}"),
            (Some(path), _) => path,
            (None, _) => target.path_and_query().map_or("/", PathAndQuery::as_str).to_owned(),
        };
        format!("{scheme}://{host}{port}{path}")
    }
}

fn without_port(authority: &str) -> &str {
    let host = host_of(authority);
    if authority.starts_with('[') { &authority[..host.len() + 2] } else { host }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let prefix =
            |bytes, replacement: &str| PathRewrite::Prefix { bytes, replacement: replacement.into() };
        let regex = |pattern, replacement: &str| PathRewrite::Regex {
            pattern: Regex::new(pattern).expect("a pattern"),
            replacement: replacement.into(),
        };
        for (rewrite, uri, expected) in [
            (prefix(4, "/new"), "/old/x?q=1", Some("/new/x?q=1")),
            (prefix(4, "/new"), "http://a.com/old", Some("http://a.com/new")),
            (prefix(5, "/"), "/old/x", Some("/x")),
            (prefix(4, ""), "/old", None),
            (PathRewrite::Whole("/w".into()), "/old/x?q=1", Some("/w?q=1")),
            (PathRewrite::Whole("/w?a=b".into()), "/old/x?q=1", Some("/w?a=b")),
            (
                regex("^/service/([^/]+)(/.*)$", "${2}/instance/${1}"),
                "/service/foo/v1/api",
                Some("/v1/api/instance/foo"),
            ),
            (PathRewrite::Whole("/w w".into()), "/x", None),
        ] {
            let uri: Uri = uri.parse().expect("a target");
            let rewritten = rewrite.apply(&uri).map(|uri| uri.to_string());
            assert_eq!(rewritten.as_deref(), expected, "{rewrite:?} {uri}");
        }
    }

    #[test]
    fn redirects() {
        let none = Redirect { status: 301, scheme: None, authority: None, port: None, path: None };
        for (redirect, authority, target, expected) in [
            (
                Redirect { path: Some(PathRewrite::Whole("/new".into())), ..none.clone() },
                "a.com",
                "/old?q=1",
                "http://a.com/new?q=1",
            ),
            (
                Redirect { path: Some(PathRewrite::Whole("/n?x".into())), ..none.clone() },
                "a.com",
                "/old?q=1",
                "http://a.com/n?x",
            ),
            (
                Redirect {
                    path: Some(PathRewrite::Prefix { bytes: 4, replacement: "/new".into() }),
                    ..none.clone()
                },
                "a.com",
                "/old/a?q=1",
                "http://a.com/new/a?q=1",
            ),
            (
                Redirect { authority: Some("b.com".into()), ..none.clone() },
                "a.com:81",
                "/x?q",
                "http://b.com/x?q",
            ),
            (Redirect { scheme: Some("https".into()), ..none.clone() }, "a.com:80", "/", "https://a.com/"),
            (Redirect { scheme: Some("https".into()), ..none.clone() }, "a.com:81", "/", "https://a.com:81/"),
            (Redirect { port: Some(8443), ..none.clone() }, "a.com:81", "/", "http://a.com:8443/"),
            (Redirect { port: Some(8443), ..none.clone() }, "[::1]:81", "/", "http://[::1]:8443/"),
        ] {
            let target: Uri = target.parse().expect("a target");
            assert_eq!(redirect.location(authority, &target), expected);
        }
    }

    #[test]
    fn headers_are_removed_then_added_then_set() {
        let name = HeaderName::from_static;
        let value = HeaderValue::from_static;
        let mut headers = HeaderMap::new();
        headers.insert("a", value("1"));
        headers.insert("b", value("1"));
        headers.insert("c", value("1"));
        HeaderChanges {
            remove: vec![name("a")],
            add: vec![(name("a"), value("2")), (name("b"), value("2"))],
            set: vec![(name("c"), value("2"))],
        }
        .apply(&mut headers);
        let all = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!((all("a"), all("b"), all("c")), (vec!["2"], vec!["1", "2"], vec!["2"]));
    }
}
