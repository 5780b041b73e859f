//! Requests of web pages: what preflights are answered, and what answers say to browsers.

use interceptor_user::snapshot::{AbortStatus, Cors, Fault, Share, StringMatch};

use crate::support::{Config, HOST, Reply, Upstream};

fn policy() -> Cors {
    Cors {
        allow_origins: vec![
            StringMatch::Exact("https://page.example".into()),
            StringMatch::Prefix("https://dev.".into()),
        ],
        allow_methods: Some("GET,PUT".parse().unwrap()),
        allow_headers: Some("x-one,x-two".parse().unwrap()),
        expose_headers: Some("x-seen".parse().unwrap()),
        max_age: Some("600".parse().unwrap()),
        allow_credentials: true,
        forward_unmatched_preflights: true,
    }
}

/// An origin that has an opinion of its own.
fn upstream() -> Upstream {
    Upstream::answering(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\naccess-control-allow-origin: *\r\naccess-control-max-age: 1\r\n\r\nok",
    )
}

fn with(policy: Cors, upstream: &Upstream) -> Config {
    let mut config = Config::new(&[upstream.address]);
    config.forward.cors = Some(Box::new(policy));
    config
}

fn request(method: &str, headers: &str) -> String {
    format!("{method} / HTTP/1.1\r\nhost: {HOST}\r\n{headers}\r\n")
}

fn cors_headers(reply: &Reply) -> Vec<(&'static str, &str)> {
    ["origin", "credentials", "methods", "headers"]
        .map(|name| match name {
            "origin" => "access-control-allow-origin",
            "credentials" => "access-control-allow-credentials",
            "methods" => "access-control-allow-methods",
            _ => "access-control-allow-headers",
        })
        .into_iter()
        .chain(["access-control-expose-headers", "access-control-max-age"])
        .filter_map(|name| Some((name, reply.header(name)?)))
        .collect()
}

const PREFLIGHT: &str = "origin: https://page.example\r\naccess-control-request-method: DELETE\r\naccess-control-request-headers: x-mine\r\n";

#[test]
fn a_preflight_is_answered_here() {
    let upstream = upstream();
    let proxy = with(policy(), &upstream).start();
    let reply = proxy.exchange(&request("OPTIONS", PREFLIGHT));
    assert_eq!((reply.status(), reply.body.len()), (200, 0));
    assert_eq!(
        cors_headers(&reply),
        [
            ("access-control-allow-origin", "https://page.example"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "GET,PUT"),
            ("access-control-allow-headers", "x-one,x-two"),
            ("access-control-max-age", "600"),
        ]
    );
    let record = proxy.records.only();
    assert_eq!(record.end(), (200, "-", "cors_response"));
    assert_eq!(record.text("upstream_cluster"), format!("outbound|80||{HOST}"));
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_star_allows_what_is_asked_for() {
    let upstream = upstream();
    let any = || Some("*".parse().unwrap());
    let cors = Cors {
        allow_origins: vec![StringMatch::Exact("*".into())],
        allow_methods: any(),
        allow_headers: any(),
        expose_headers: None,
        max_age: None,
        allow_credentials: false,
        ..policy()
    };
    let reply = with(cors, &upstream).start().exchange(&request("OPTIONS", PREFLIGHT));
    assert_eq!(
        cors_headers(&reply),
        [
            ("access-control-allow-origin", "https://page.example"),
            ("access-control-allow-methods", "DELETE"),
            ("access-control-allow-headers", "x-mine"),
        ]
    );
}

#[test]
fn answers_say_who_may_read_them() {
    let upstream = upstream();
    let origins_own = [("access-control-allow-origin", "*"), ("access-control-max-age", "1")];
    let ours = |origin: &'static str| {
        vec![
            ("access-control-allow-origin", origin),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "x-seen"),
            ("access-control-max-age", "1"),
        ]
    };
    for (method, headers, expected) in [
        ("GET", "origin: https://page.example\r\n", ours("https://page.example")),
        ("PUT", "origin: https://dev.x\r\ncontent-length: 0\r\n", ours("https://dev.x")),
        // Not a preflight: no method is asked for.
        ("OPTIONS", "origin: https://dev.x\r\n", ours("https://dev.x")),
        ("GET", "origin: https://evil.example\r\n", origins_own.to_vec()),
        ("GET", "", origins_own.to_vec()),
        // A preflight of nobody that is known goes to the upstream.
        (
            "OPTIONS",
            "origin: https://evil.example\r\naccess-control-request-method: GET\r\n",
            origins_own.to_vec(),
        ),
    ] {
        let proxy = with(policy(), &upstream).start();
        let reply = proxy.exchange(&request(method, headers));
        assert_eq!((reply.status(), reply.text().as_str()), (200, "ok"), "{method} {headers}");
        assert_eq!(cors_headers(&reply), expected, "{method} {headers}");
        assert_eq!(proxy.records.only().end(), (200, "-", "via_upstream"));
    }
}

#[test]
fn preflights_of_others_can_be_kept_from_the_upstream() {
    let upstream = upstream();
    let proxy = with(Cors { forward_unmatched_preflights: false, ..policy() }, &upstream).start();
    let headers = "origin: https://evil.example\r\naccess-control-request-method: GET\r\n";
    let reply = proxy.exchange(&request("OPTIONS", headers));
    assert_eq!(reply.status(), 200);
    assert_eq!(reply.header("access-control-allow-origin"), None);
    assert_eq!(proxy.records.only().end(), (200, "-", "cors_response"));
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn failures_can_be_read_and_faults_come_first() {
    let mut config = Config::new(&[]);
    config.forward.cors = Some(Box::new(policy()));
    let reply = config.start().exchange(&request("GET", "origin: https://page.example\r\n"));
    assert_eq!(reply.status(), 503);
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://page.example"));

    let upstream = upstream();
    let mut config = with(policy(), &upstream);
    let everybody = Share(1_000_000);
    config.forward.fault = Some(Fault { delay: None, abort: Some((AbortStatus::Http(500), everybody)) });
    let reply = config.start().exchange(&request("OPTIONS", PREFLIGHT));
    assert_eq!((reply.status(), cors_headers(&reply)), (500, Vec::new()));
}
