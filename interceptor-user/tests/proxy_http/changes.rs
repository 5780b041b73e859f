//! What a route changes on the way: rewrites, headers, redirects.

use http::{HeaderName, HeaderValue};
use interceptor_user::snapshot::{Changes, HeaderChanges, PathRewrite, Redirect, RouteMatch, StringMatch};

use crate::support::{Config, HOST, Upstream};

fn changes() -> Changes {
    let pair = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
    Changes {
        path: Some(PathRewrite::Prefix { bytes: 4, replacement: "/new".into() }),
        authority: Some(HeaderValue::from_static("other.example.com")),
        request: HeaderChanges {
            remove: vec![HeaderName::from_static("user-agent")],
            add: vec![pair("x-added", "1")],
            set: vec![pair("x-envoy-decorator-operation", "mine")],
        },
        response: HeaderChanges {
            remove: vec![HeaderName::from_static("server")],
            add: Vec::new(),
            set: vec![pair("x-set", "1")],
        },
    }
}

#[test]
fn requests_and_responses_are_changed() {
    let upstream = Upstream::echo();
    let proxy = Config { changes: Some(changes()), ..Config::new(&[upstream.address]) }.start();
    let reply = proxy.get("/old/x?q=1");
    assert_eq!((reply.status(), reply.header("x-set"), reply.header("server")), (200, Some("1"), None));
    let seen = reply.text();
    assert!(seen.starts_with("GET /new/x?q=1 HTTP/1.1\r\n"), "{seen}");
    for line in [
        "host: other.example.com",
        "x-added: 1",
        "x-envoy-decorator-operation: mine",
        "x-envoy-original-path: /old/x?q=1",
        "x-envoy-attempt-count: 1",
    ] {
        assert!(seen.lines().any(|seen| seen == line), "{line} in {seen}");
    }
    assert!(!seen.contains("user-agent"), "{seen}");
    // The log says what was asked for, and whom it went to.
    let record = proxy.records.only();
    assert_eq!((record.text("path"), record.text("authority")), ("/old/x?q=1", "other.example.com"));
}

#[test]
fn dot_segments_do_not_get_past_a_route() {
    let upstream = Upstream::echo();
    let public = RouteMatch { uri: Some(StringMatch::Prefix("/public/".into())), ..RouteMatch::default() };
    let proxy = Config { matches: vec![public], ..Config::new(&[upstream.address]) }.start();
    for path in ["/secret", "/public/../secret", "/public/%2e%2E/secret", "/public/a/../../secret"] {
        assert_eq!(proxy.get(path).status(), 404, "{path}");
    }
    assert_eq!(upstream.connections(), 0);
    let reply = proxy.get("/secret/../public/a?back=/../%2e");
    assert_eq!(reply.status(), 200);
    assert!(reply.text().starts_with("GET /public/a?back=/../%2e HTTP/1.1\r\n"), "{}", reply.text());
    let record = proxy.records.wait(5).remove(4);
    assert_eq!(record.text("path"), "/public/a?back=/../%2e");
}

#[test]
fn redirects_are_answered() {
    let upstream = Upstream::echo();
    let redirect = Redirect {
        status: 308,
        scheme: Some("https".into()),
        authority: None,
        port: None,
        path: Some(PathRewrite::Whole("/moved".into())),
    };
    let config = Config::new(&[upstream.address]);
    let proxy = Config { changes: Some(changes()), redirect: Some(redirect), ..config }.start();
    let reply = proxy.get("/old?q=1");
    assert_eq!((reply.status(), reply.body.len()), (308, 0));
    assert_eq!(reply.header("location"), Some(&*format!("https://{HOST}/moved?q=1")));
    assert_eq!(reply.header("x-set"), Some("1"));
    let record = proxy.records.only();
    assert_eq!(
        (record.text("response_code_details"), record.text("upstream_cluster")),
        ("direct_response", "-")
    );
    assert_eq!(upstream.connections(), 0);
}
