//! What a VirtualService's routes do beside leading somewhere: timeouts, retries, rewrites, headers, replies of their own.

use std::time::Duration;

use interceptor_user::snapshot::{RetryPolicy, RouteAction};

use crate::support::{Config, in_namespace};
use crate::virtual_service::{ENTRIES, check, http, with};

fn retries_of(config: &Config) -> (Option<Duration>, Option<RetryPolicy>, String) {
    let route = config.route("203.0.113.9:80 http GET http://a.example.com/status/1").expect("a route");
    let RouteAction::Forward(forward) = &route.action else { panic!("{route:?}") };
    (forward.timeout, forward.retries.as_deref().cloned(), forward.decorator_operation.to_string())
}

#[test]
fn timeouts_and_retries() {
    let route = |fields: &str| {
        with(&http(
            "vs",
            "a.example.com",
            &format!("  http: [{{{fields}, route: [{{destination: {{host: b.example.com}}}}]}}]"),
        ))
    };
    let (timeout, retries, _) = retries_of(&with(""));
    let defaults = retries.expect("retries");
    assert_eq!((timeout, defaults.attempts, defaults.per_try_timeout), (None, 2, None));
    assert_eq!(defaults.base_interval, Duration::from_millis(25));
    let on = &defaults.retry_on;
    assert!(on.connect_failure && on.refused_stream && !on.server_error && !on.reset && !on.gateway_error);
    assert_eq!((&on.grpc_statuses[..], &on.status_codes[..]), (&[14, 1][..], &[][..]));

    assert_eq!(retries_of(&route("timeout: 3s")).0, Some(Duration::from_secs(3)));
    assert_eq!(retries_of(&route("timeout: 3s")).1, Some(defaults.clone()));
    assert_eq!(retries_of(&route("timeout: 0s")).0, None);
    assert_eq!(retries_of(&route("retries: {attempts: 0}")).1, None);
    assert_eq!(
        retries_of(&route("retries: {attempts: 5}")).1,
        Some(RetryPolicy { attempts: 5, ..defaults.clone() })
    );
    let custom = retries_of(&route(
        "retries: {attempts: 1, perTryTimeout: 500ms, retryOn: '5xx,reset,503', backoff: 1s}",
    ));
    let custom = custom.1.expect("retries");
    assert_eq!((custom.attempts, custom.per_try_timeout), (1, Some(Duration::from_millis(500))));
    assert_eq!(custom.base_interval, Duration::from_secs(1));
    assert!(custom.retry_on.server_error && custom.retry_on.reset && !custom.retry_on.connect_failure);
    assert_eq!(custom.retry_on.status_codes, [503]);

    let mesh = in_namespace(ENTRIES, "defaultHttpRetryPolicy: {attempts: 7}", "default");
    assert_eq!(retries_of(&mesh).1, Some(RetryPolicy { attempts: 7, ..defaults }));
}

#[test]
fn decorator_operations() {
    for (fields, expected) in [
        ("route: [{destination: {host: b.example.com, port: {number: 8080}}}]", "b.example.com:8080/*"),
        (
            "match: [{uri: {prefix: /status}}], route: [{destination: {host: b.example.com}}]",
            "b.example.com:80/status*",
        ),
        (
            "match: [{uri: {exact: /status/1}}], route: [{destination: {host: b.example.com}}]",
            "b.example.com:80/status/1",
        ),
        (
            "match: [{uri: {regex: '/s.*'}}], route: [{destination: {host: b.example.com}}]",
            "b.example.com:80/s.*",
        ),
        (
            "route: [{destination: {host: b.example.com}, weight: 1}, {destination: {host: a.example.com}, weight: 1}]",
            "vs:80/*",
        ),
    ] {
        let config = with(&http("vs", "a.example.com", &format!("  http: [{{{fields}}}]")));
        assert_eq!(retries_of(&config).2, expected, "{fields}");
    }
    assert_eq!(retries_of(&with("")).2, "a.example.com:80/*");
}

#[test]
fn direct_responses() {
    let config = with(&http(
        "vs",
        "a.example.com",
        "  http: [{name: n, directResponse: {status: 503, body: {string: closed}}}]",
    ));
    check(&config, &[("203.0.113.9:80 http GET http://a.example.com/", "503 n")]);
    let route = config.route("203.0.113.9:80 http GET http://a.example.com/").expect("a route");
    let RouteAction::DirectResponse(response) = &route.action else { panic!("{route:?}") };
    assert_eq!(&response.body[..], b"closed");
    let config = with(&http(
        "vs",
        "a.example.com",
        "  http: [{name: n, directResponse: {status: 200, body: {bytes: 'aGVsbG8='}}}]",
    ));
    let route = config.route("203.0.113.9:80 http GET http://a.example.com/").expect("a route");
    let RouteAction::DirectResponse(response) = &route.action else { panic!("{route:?}") };
    assert_eq!(&response.body[..], b"hello");
}

#[test]
fn rewrites_headers_and_redirects() {
    let route = |fields: &str| {
        let config = with(&http("vs", "a.example.com", &format!("  http: [{{{fields}}}]")));
        config.route("203.0.113.9:80 http GET http://a.example.com/status/1").expect("a route").clone()
    };
    let to_b = "route: [{destination: {host: b.example.com}}]";
    for (fields, uri, expected) in [
        ("match: [{uri: {prefix: /status}}], rewrite: {uri: /s}", "/status/1?q", "/s/1?q"),
        ("match: [{uri: {exact: /status/1}}], rewrite: {uri: /s}", "/status/1?q", "/s?q"),
        ("match: [{uri: {regex: '/st.*'}}], rewrite: {uri: /s}", "/status/1", "/s"),
        ("rewrite: {uri: /s/}", "/status/1", "/s/status/1"),
        (
            "rewrite: {uriRegexRewrite: {match: '^/([a-z]+)/([0-9]+)$', rewrite: '/\\2/\\1$'}}",
            "/status/1",
            "/1/status$",
        ),
    ] {
        let route = route(&format!("{fields}, {to_b}"));
        let path = route.changes.as_ref().and_then(|changes| changes.path.as_ref()).expect("a rewrite");
        let rewritten = path.apply(&uri.parse().expect("a target")).expect("a target");
        assert_eq!(rewritten.to_string(), expected, "{fields}");
    }
    for (fields, expected) in [
        ("rewrite: {authority: x.com}", "x.com"),
        ("headers: {request: {set: {host: y.com}}}", "y.com"),
        ("headers: {request: {set: {':authority': z.com}}}", "z.com"),
    ] {
        let route = route(&format!("{fields}, {to_b}"));
        let authority =
            route.changes.as_ref().and_then(|changes| changes.authority.as_ref()).expect("an authority");
        assert_eq!(authority, expected, "{fields}");
    }
    // A single destination's headers follow the route's.
    let both = route(
        "headers: {request: {add: {a: '1'}, remove: [b]}, response: {set: {c: '1'}}}, \
         route: [{destination: {host: b.example.com}, headers: {request: {add: {a: '2'}}}}]",
    );
    let changes = both.changes.as_ref().expect("changes");
    let added: Vec<_> =
        changes.request.add.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(added, [("a", "1"), ("a", "2")]);
    assert_eq!((changes.request.remove.len(), changes.response.set.len()), (1, 1));
    assert_eq!(route(to_b).changes, None);

    for (fields, expected) in [
        ("redirect: {uri: /new}", "301 http://a.example.com/new?q"),
        ("redirect: {scheme: https, redirectCode: 308}", "308 https://a.example.com/old?q"),
        ("redirect: {authority: b.com, port: 443, scheme: https}", "301 https://b.com/old?q"),
        ("redirect: {authority: b.com, derivePort: FROM_REQUEST_PORT}", "301 http://b.com/old?q"),
        ("redirect: {authority: b.com, port: 8080}", "301 http://b.com:8080/old?q"),
    ] {
        let route = route(fields);
        let RouteAction::Redirect(redirect) = &route.action else { panic!("{route:?}") };
        let location = redirect.location("a.example.com", &"/old?q".parse().expect("a target"));
        assert_eq!(format!("{} {location}", redirect.status), expected, "{fields}");
    }
}
