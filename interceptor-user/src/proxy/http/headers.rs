//! Which headers pass, which are dropped at this hop, and which are added (as Istio does:
//! `x-request-id`, `x-envoy-*`, `x-forwarded-proto`, `server`). Nothing about the pod is ever added.

use std::time::Duration;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderName, HeaderValue, SERVER, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, Uri};

use crate::snapshot::{Changes, ProxyHeaders};

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const X_ENVOY_ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const X_ENVOY_DECORATOR_OPERATION: HeaderName = HeaderName::from_static("x-envoy-decorator-operation");
const X_ENVOY_UPSTREAM_SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
const X_ENVOY_ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// How our own replies name themselves.
const OWN_SERVER: HeaderValue = HeaderValue::from_static("interceptor");

/// Removes what concerns one connection only (RFC 9110 §7.6.1). `TE: trailers` stays.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if let Some(connection) = headers.get(CONNECTION) {
        // As nearly everybody writes it; what stands beside is looked at below.
        let names_itself = |value: &HeaderValue| [&b"keep-alive"[..], b"close"].contains(&value.as_bytes());
        if names_itself(connection) && headers.get_all(CONNECTION).iter().nth(1).is_none() {
            headers.remove(CONNECTION);
        }
    }
    if headers.contains_key(CONNECTION) {
        let listed: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
            // Names that decide where a request goes and where it ends are not the client's to drop.
            .filter(|name| ![TE, HOST, CONTENT_LENGTH, TRANSFER_ENCODING].contains(name))
            .collect();
        for name in listed {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, UPGRADE, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    if let Some(te) = headers.get(TE) {
        let trailers = te.to_str().is_ok_and(|te| has_token(te, "trailers"));
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(TE);
        }
    }
}

/// Removes what proxies say to each other, as Envoy does at its edge: whoever is behind may believe it. Many servers take
/// `_` for `-`.
fn strip_words_of_proxies(headers: &mut HeaderMap) {
    const PREFIX: &[u8] = b"x-envoy-";
    let is = |name: &[u8], word: &[u8]| {
        name.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }).eq(word.iter().copied())
    };
    let is_proxys = |name: &&HeaderName| {
        let name = name.as_str().as_bytes();
        name.get(..PREFIX.len()).is_some_and(|start| is(start, PREFIX))
            || is(name, X_FORWARDED_CLIENT_CERT.as_str().as_bytes())
            || is(name, X_FORWARDED_PROTO.as_str().as_bytes())
    };
    let words: Vec<HeaderName> = headers.keys().filter(is_proxys).cloned().collect();
    for name in words {
        headers.remove(name);
    }
}

/// What a request's head says about how it is to be carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Carriage {
    pub(super) chunked: bool,
    pub(super) upgrade: bool,
}

/// Prepares a request's headers for the upstream, but for what differs between tries.
pub(super) fn prepare_request(
    headers: &mut HeaderMap,
    settings: &ProxyHeaders,
    decorator_operation: Option<&str>,
    scheme: &'static str,
) -> Carriage {
    let chunked = headers.contains_key(TRANSFER_ENCODING);
    let upgrade = wanted_upgrade(headers);
    strip_hop_by_hop(headers);
    headers.remove(HTTP2_SETTINGS);
    if let Some(protocol) = &upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
    if chunked {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if settings.request_id && !headers.contains_key(X_REQUEST_ID) {
        headers.insert(X_REQUEST_ID, request_id());
    }
    // What only a proxy that ended TLS can know is no client's to say.
    headers.remove(X_FORWARDED_CLIENT_CERT);
    if settings.is_edge {
        strip_words_of_proxies(headers);
    }
    if settings.is_edge || scheme == "https" || !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    if settings.envoy_debug_headers
        && let Some(operation) = decorator_operation.filter(|text| !text.is_empty())
        && let Ok(operation) = HeaderValue::from_str(operation)
    {
        headers.insert(X_ENVOY_DECORATOR_OPERATION, operation);
    }
    Carriage { chunked, upgrade: upgrade.is_some() }
}

/// What the route changes, once everything else is in place.
pub(super) fn change_request(parts: &mut Parts, changes: &Changes, settings: &ProxyHeaders) {
    if let Some(uri) = changes.path.as_ref().and_then(|path| path.apply(&parts.uri)) {
        let original = parts.uri.path_and_query().and_then(|path| HeaderValue::from_str(path.as_str()).ok());
        if let Some(original) = original.filter(|_| settings.envoy_debug_headers) {
            parts.headers.insert(X_ENVOY_ORIGINAL_PATH, original);
        }
        parts.uri = uri;
    }
    changes.request.apply(&mut parts.headers);
}

/// The protocol that the client wants to change to. `h2c` is not offered, alone or among others: requests inside it would pass
/// by all routes. The request stays as it is.
fn wanted_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let listed = headers
        .get_all(CONNECTION)
        .iter()
        .any(|value| value.to_str().is_ok_and(|value| has_token(value, "upgrade")));
    let protocol = headers.get(UPGRADE).filter(|_| listed)?;
    // What is no text is no list either.
    Some(protocol.clone()).filter(|protocol| protocol.to_str().is_ok_and(|list| !has_token(list, "h2c")))
}

fn has_token(list: &str, token: &str) -> bool {
    list.split(',').any(|item| item.split(';').next().unwrap_or(item).trim().eq_ignore_ascii_case(token))
}

fn request_id() -> HeaderValue {
    let mut buffer = uuid::Uuid::encode_buffer();
    let text = uuid::Uuid::new_v4().hyphenated().encode_lower(&mut buffer);
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("-"))
}

/// The id of a request that is sent nowhere, for its record.
pub(super) fn new_request_id() -> String {
    uuid::Uuid::new_v4().hyphenated().to_string()
}

/// Says which try this is.
pub(super) fn count_attempt(headers: &mut HeaderMap, settings: &ProxyHeaders, attempt: u32) {
    if settings.attempt_count {
        headers.insert(X_ENVOY_ATTEMPT_COUNT, HeaderValue::from(attempt));
    }
}

/// Host and target as HTTP/1 has them: a Host header, and a path (or `*`).
pub(super) fn to_http1(headers: &mut HeaderMap, uri: &mut Uri, host: &HeaderValue, chunked: bool) {
    if headers.get(HOST) != Some(host) {
        headers.insert(HOST, host.clone());
    }
    if uri.authority().is_some() {
        *uri = path_of(uri);
    }
    if chunked {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    // HTTP/2 may split a cookie into crumbs (RFC 9113 §8.2.3); HTTP/1 has one header.
    if headers.get_all(COOKIE).iter().nth(1).is_some() {
        let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
            headers.insert(COOKIE, cookie);
        }
    }
}

/// Host and target as HTTP/2 has them: scheme and authority beside the path.
pub(super) fn to_http2(headers: &mut HeaderMap, uri: &mut Uri, host: &HeaderValue, tls: bool) {
    headers.remove(TRANSFER_ENCODING);
    let target = Uri::builder()
        .scheme(if tls { "https" } else { "http" })
        .authority(host.as_bytes())
        .path_and_query(uri.path_and_query().map_or("/", |path| path.as_str()))
        .build();
    // A host that is no authority stays a header, as which HTTP/2 allows it.
    if let Ok(target) = target {
        headers.remove(HOST);
        *uri = target;
    }
}

fn path_of(uri: &Uri) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = uri.path_and_query().cloned();
    // A path alone is always a valid target.
    Uri::from_parts(parts).unwrap_or_default()
}

/// Prepares an upstream's response for the client.
pub(super) fn prepare_response(
    headers: &mut HeaderMap,
    settings: &ProxyHeaders,
    service_time: Duration,
    upgraded: bool,
) {
    let protocol = headers.get(UPGRADE).filter(|_| upgraded).cloned();
    one_length(headers);
    strip_hop_by_hop(headers);
    if let Some(protocol) = protocol {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
    if settings.envoy_debug_headers {
        let milliseconds = u64::try_from(service_time.as_millis()).unwrap_or(u64::MAX);
        headers.insert(X_ENVOY_UPSTREAM_SERVICE_TIME, HeaderValue::from(milliseconds));
    }
    if let Some(server) = configured_server(settings) {
        headers.insert(SERVER, server);
    }
}

/// A response's length is told once, and not at all when its end is told otherwise (RFC 9112 §6.3).
fn one_length(headers: &mut HeaderMap) {
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    } else if headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some()
        && let Some(length) = headers.get(CONTENT_LENGTH).cloned()
    {
        headers.insert(CONTENT_LENGTH, length);
    }
}

/// The `server` header of a reply of our own.
pub(super) fn own_server(settings: &ProxyHeaders) -> HeaderValue {
    configured_server(settings).unwrap_or(OWN_SERVER)
}

fn configured_server(settings: &ProxyHeaders) -> Option<HeaderValue> {
    settings.server.as_deref().and_then(|server| HeaderValue::from_str(server).ok())
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue, Uri};

    use super::{Carriage, prepare_request, to_http1, to_http2};
    use crate::snapshot::ProxyHeaders;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    fn prepared(headers: &[(&'static str, &'static str)]) -> (HeaderMap, Carriage) {
        let mut headers = map(headers);
        let carriage = prepare_request(&mut headers, &ProxyHeaders::default(), None, "http");
        headers.remove("x-request-id");
        headers.remove("x-forwarded-proto");
        (headers, carriage)
    }

    #[test]
    fn connection_headers_end_here() {
        let (headers, carriage) = prepared(&[
            ("host", "a"),
            ("connection", "close, x-secret"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip, trailers;q=0.5"),
            ("x-kept", "1"),
        ]);
        assert_eq!(headers, map(&[("host", "a"), ("te", "trailers"), ("x-kept", "1")]));
        assert_eq!(carriage, Carriage { chunked: false, upgrade: false });
    }

    #[test]
    fn what_proxies_say_is_not_taken_from_the_clients_of_a_gateway() {
        let forged = [
            ("x-envoy-internal", "true"),
            ("x-envoy-external-address", "10.0.0.1"),
            ("x-envoy-original-path", "/a"),
            ("x-envoy-peer-metadata", "a"),
            ("x_envoy_peer_metadata_id", "a"),
            ("x-envoy-retry-on", "5xx"),
            ("x_forwarded_client_cert", "a"),
            ("x-forwarded_proto", "https"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-envoyage", "1"),
        ];
        let mut headers = map(&forged);
        let settings = ProxyHeaders { is_edge: true, request_id: false, ..ProxyHeaders::default() };
        prepare_request(&mut headers, &settings, Some("a:80/*"), "http");
        let expected = [
            ("x-forwarded-for", "192.0.2.1"),
            ("x-envoyage", "1"),
            ("x-forwarded-proto", "http"),
            ("x-envoy-decorator-operation", "a:80/*"),
        ];
        assert_eq!(headers, map(&expected));
        // An application's own proxy may say them.
        let (headers, _) = prepared(&forged);
        assert_eq!(headers.get("x-envoy-internal"), Some(&HeaderValue::from_static("true")));
    }

    #[test]
    fn a_client_cannot_drop_the_host_or_the_framing() {
        let (headers, _) =
            prepared(&[("host", "a"), ("content-length", "3"), ("connection", "host, content-length")]);
        assert_eq!(headers, map(&[("host", "a"), ("content-length", "3")]));
    }

    #[test]
    fn a_websocket_upgrade_passes_and_h2c_does_not() {
        let (headers, carriage) =
            prepared(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(headers, map(&[("connection", "upgrade"), ("upgrade", "websocket")]));
        assert!(carriage.upgrade);
        let (headers, carriage) = prepared(&[
            ("connection", "Upgrade, HTTP2-Settings"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
        ]);
        assert_eq!(headers, HeaderMap::new());
        assert!(!carriage.upgrade);
        for list in ["H2C", "h2c, websocket", "websocket,\th2c"] {
            let (headers, carriage) = prepared(&[("connection", "upgrade"), ("upgrade", list)]);
            assert_eq!((headers, carriage.upgrade), (HeaderMap::new(), false), "{list}");
        }
    }

    #[test]
    fn an_absolute_target_becomes_a_path_and_back() {
        let host = HeaderValue::from_static("www.example.com:81");
        let mut headers = map(&[("host", "other"), ("cookie", "a=1")]);
        headers.append("cookie", HeaderValue::from_static("b=2"));
        let mut uri = Uri::from_static("http://www.example.com:81/a?b=c");
        to_http1(&mut headers, &mut uri, &host, false);
        assert_eq!(headers, map(&[("host", "www.example.com:81"), ("cookie", "a=1; b=2")]));
        assert_eq!(uri, "/a?b=c");
        to_http2(&mut headers, &mut uri, &host, true);
        assert_eq!(headers, map(&[("cookie", "a=1; b=2")]));
        assert_eq!(uri, "https://www.example.com:81/a?b=c");
    }
}
