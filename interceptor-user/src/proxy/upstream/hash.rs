//! What of a request or connection a cluster hashes, as Envoy does: equal requests of all workers and all
//! proxies go to the same endpoint.

use std::net::IpAddr;

use http::header::{COOKIE, HeaderValue};
use http::{HeaderMap, Uri};
use twox_hash::XxHash64;

use crate::proxy::downstream::Downstream;
use crate::snapshot::{HashCookie, HashKey};

/// The hash of a request, if it has what is hashed.
#[derive(Debug, Default)]
pub(crate) struct RequestHash {
    pub(crate) hash: Option<u64>,
    /// The cookie that was missing, and that the client is to have.
    pub(crate) set_cookie: Option<HeaderValue>,
}

impl RequestHash {
    pub(crate) fn new(key: &HashKey, headers: &HeaderMap, uri: &Uri, downstream: &Downstream) -> Self {
        let hash = match key {
            HashKey::Header(name) => {
                let mut values = headers.get_all(name).iter();
                values.next().map(|first| match values.next() {
                    None => hash(first.as_bytes()),
                    Some(second) => hash_sorted([first, second].into_iter().chain(values)),
                })
            }
            HashKey::Cookie(key) => return Self::of_cookie(key, headers, downstream),
            HashKey::SourceIp => Some(hash_address(downstream.remote_address.ip())),
            HashKey::QueryParameter(name) => {
                query_parameter(uri.query().unwrap_or_default(), name).map(|value| hash(value.as_bytes()))
            }
        };
        Self { hash, set_cookie: None }
    }

    fn of_cookie(key: &HashCookie, headers: &HeaderMap, downstream: &Downstream) -> Self {
        if let Some(value) = cookie(headers, &key.name) {
            return Self { hash: Some(hash(value)), set_cookie: None };
        }
        let Some(made_with) = &key.made_with else { return Self::default() };
        // The same for all requests of a connection: those that are under way at once agree.
        let connection = format!("{}{}", downstream.remote_address, downstream.original_dst);
        let value = format!("{:016x}", hash(connection.as_bytes()));
        let set_cookie = HeaderValue::try_from(format!("{}=\"{value}\"{made_with}", key.name)).ok();
        Self { hash: Some(hash(value.as_bytes())), set_cookie }
    }
}

/// The hash of a connection for opaque bytes, of which nothing but its source is known.
pub(super) fn of_connection(key: Option<&HashKey>, source: IpAddr) -> Option<u64> {
    match key? {
        HashKey::SourceIp => Some(hash_address(source)),
        HashKey::Header(_) | HashKey::Cookie(_) | HashKey::QueryParameter(_) => None,
    }
}

fn hash_address(address: IpAddr) -> u64 {
    hash(address.to_string().as_bytes())
}

fn hash(value: &[u8]) -> u64 {
    XxHash64::oneshot(0, value)
}

/// Several headers of a name, in whatever order they came.
fn hash_sorted<'a>(values: impl Iterator<Item = &'a HeaderValue>) -> u64 {
    let mut values: Vec<&[u8]> = values.map(HeaderValue::as_bytes).collect();
    values.sort_unstable();
    values.into_iter().fold(0, XxHash64::oneshot)
}

/// The first value that is not empty, without quotes.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|header| header.as_bytes().split(|byte| *byte == b';'))
        .filter_map(|pair| {
            let (key, value) = pair.split_at(pair.iter().position(|byte| *byte == b'=')?);
            (key.trim_ascii() == name.as_bytes()).then(|| unquoted(value[1..].trim_ascii()))
        })
        .next()
        .filter(|value| !value.is_empty())
}

fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

fn query_parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;

    use http::{HeaderMap, HeaderName, HeaderValue, Uri};
    use twox_hash::XxHash64;

    use super::RequestHash;
    use crate::proxy::downstream::Downstream;
    use crate::snapshot::{HashCookie, HashKey};

    fn hashed(key: &HashKey, headers: &[(&'static str, &'static str)], uri: &'static str) -> RequestHash {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        let (client, server) = ("10.1.2.3:5555".parse().unwrap(), "192.0.2.1:80".parse().unwrap());
        let downstream = Downstream::new(client, server, Rc::default(), None);
        RequestHash::new(key, &map, &Uri::from_static(uri), &downstream)
    }

    fn of(value: &str) -> Option<u64> {
        Some(XxHash64::oneshot(0, value.as_bytes()))
    }

    fn cookie(made_with: Option<&str>) -> HashKey {
        HashKey::Cookie(HashCookie { name: "user".into(), made_with: made_with.map(Arc::from) })
    }

    #[test]
    fn what_is_hashed() {
        let header = HashKey::Header(HeaderName::from_static("x-user"));
        let parameter = HashKey::QueryParameter("user".into());
        let cookie = cookie(None);
        for (key, headers, uri, expected) in [
            (&header, &[("x-user", "jo")][..], "/", of("jo")),
            (&header, &[("x-other", "jo")], "/", None),
            (&parameter, &[], "/?a=b&user=jo&user=al", of("jo")),
            (&parameter, &[], "/?user", of("")),
            (&parameter, &[], "/user=jo", None),
            (&cookie, &[("cookie", "a=b; user=jo")], "/", of("jo")),
            (&cookie, &[("cookie", "a=b"), ("cookie", "user=\"jo\"; user=al")], "/", of("jo")),
            (&cookie, &[("cookie", "users=jo; xuser=al; user")], "/", None),
            (&cookie, &[("cookie", "user=")], "/", None),
            (&HashKey::SourceIp, &[], "/", of("10.1.2.3")),
        ] {
            let hashed = hashed(key, headers, uri);
            assert_eq!(hashed.hash, expected, "{key:?} {headers:?} {uri}");
            assert_eq!(hashed.set_cookie, None);
        }
    }

    #[test]
    fn the_order_of_headers_does_not_matter() {
        let key = HashKey::Header(HeaderName::from_static("x-user"));
        let hash = |headers| hashed(&key, headers, "/").hash;
        assert_eq!(hash(&[("x-user", "jo"), ("x-user", "al")]), hash(&[("x-user", "al"), ("x-user", "jo")]));
        assert_ne!(hash(&[("x-user", "jo"), ("x-user", "al")]), hash(&[("x-user", "al")]));
    }

    #[test]
    fn a_missing_cookie_is_made_once_for_a_connection() {
        let key = cookie(Some("; Max-Age=60; Path=/; HttpOnly"));
        let made = hashed(&key, &[("cookie", "user=")], "/");
        let text = made.set_cookie.as_ref().and_then(|cookie| cookie.to_str().ok()).unwrap();
        let value = text.strip_prefix("user=\"").and_then(|rest| rest.split_once('"')).unwrap();
        assert_eq!((value.0.len(), value.1), (16, "; Max-Age=60; Path=/; HttpOnly"));
        assert_eq!(made.hash, of(value.0));
        assert_eq!(hashed(&key, &[], "/").set_cookie, made.set_cookie);
        // Who has it is sent to the same place, and gets no other.
        let sent = hashed(&key, &[("cookie", "user=\"0123456789abcdef\"")], "/");
        assert!(sent.set_cookie.is_none() && sent.hash == of("0123456789abcdef"));
    }
}
