//! Requests and responses keep their framing, and what can be read in two ways is refused.

use crate::support::{Config, HOST, Upstream, get};

/// Everything that reaches the upstream, as the body of a 200 each time a head is complete.
fn raw_echo() -> Upstream {
    Upstream::start(|mut client, _| {
        while let Some(request) = client.request() {
            let body = format!("{}[{}]", request.head, request.text());
            client.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
        }
    })
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let upstream = raw_echo();
    let refused: &[(&str, u16)] = &[
        // Two ways to tell the end of the body, in either order.
        (
            "POST / HTTP/1.1\r\nHost: H\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
            400,
        ),
        // Two lengths, and lengths that are none.
        ("POST / HTTP/1.1\r\nHost: H\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        ("POST / HTTP/1.1\r\nHost: H\r\nContent-Length: 3, 3\r\n\r\nabc", 400),
        ("POST / HTTP/1.1\r\nHost: H\r\nContent-Length: +3\r\n\r\nabc", 400),
        ("POST / HTTP/1.1\r\nHost: H\r\nContent-Length: -3\r\n\r\nabc", 400),
        ("POST / HTTP/1.1\r\nHost: H\r\nContent-Length: 0x3\r\n\r\nabc", 400),
        ("POST / HTTP/1.1\r\nHost: H\r\nContent-Length: 99999999999999999999\r\n\r\nabc", 400),
        // Transfer codings that are not chunked, or not only.
        ("POST / HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        ("POST / HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        (
            "POST / HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
            400,
        ),
        // Lines that are not lines.
        ("GET / HTTP/1.1\r\nHost: H\r\nX: a\rb\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: H\r\nX: a\r\n folded\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: H\r\nX : a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n Host: H\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: H\r\nX: a\0b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: H\r\nno colon\r\n\r\n", 400),
        ("GET  / HTTP/1.1\r\nHost: H\r\n\r\n", 400),
        ("GET /a b HTTP/1.1\r\nHost: H\r\n\r\n", 400),
        ("GET / HTTP/1.9\r\nHost: H\r\n\r\n", 400),
        // Hosts: none, two, and one that is none.
        ("GET / HTTP/1.1\r\nX: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: H\r\nHost: H\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: H/path\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\nHost: H\r\n\r\n", 426),
        ("CONNECT H:443 HTTP/1.1\r\nHost: H:443\r\n\r\n", 404),
    ];
    for (request, status) in refused {
        let proxy = Config::new(&[upstream.address]).registry_only().start();
        let mut client = proxy.client();
        // What comes first decides whether the connection speaks HTTP at all.
        client.send(get("unknown.example.com", "/"));
        assert_eq!(client.reply().status(), 502);
        client.send(request.replace("Host: H", &format!("Host: {HOST}")));
        let reply = client.reply();
        assert_eq!(reply.status(), *status, "{request:?}: {reply:?}");
        if matches!(status, 400 | 426 | 501) && request.contains("Host: H") {
            assert_eq!(reply.header("connection"), Some("close"), "{request:?}: {reply:?}");
            assert!(client.is_closed(), "{request:?}");
        }
        assert_eq!(proxy.records.wait(2)[1].number("response_code"), u64::from(*status), "{request:?}");
    }
    assert_eq!(upstream.connections(), 0);
}

/// As Envoy names them.
#[test]
fn the_log_says_why_a_head_could_not_be_read() {
    let upstream = raw_echo();
    let large = |length| format!("X: {}\r\n", "x".repeat(length));
    for (lines, status, details) in [
        ("X-Many: 1\r\n".repeat(101), 431, "http1.too_many_headers"),
        (large(62_000), 431, "http1.headers_too_large"),
        (large(50_000) + &"X-Many: 1\r\n".repeat(101), 431, "http1.too_many_headers"),
        ("Content-Length: abc\r\n".to_owned(), 400, "http1.codec_error"),
        ("no colon\r\n".to_owned(), 400, "http1.codec_error"),
        (
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n".to_owned(),
            400,
            "http1.content_length_and_chunked_not_allowed",
        ),
    ] {
        let proxy = Config::new(&[upstream.address]).registry_only().start();
        let mut client = proxy.client();
        client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{lines}\r\n"));
        assert_eq!(client.reply().status(), status, "{details}");
        let record = &proxy.records.wait(1)[0];
        assert_eq!(
            (record.number("response_code"), record.text("response_code_details")),
            (status.into(), details)
        );
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn what_follows_a_refused_request_is_not_read() {
    let upstream = raw_echo();
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = proxy.client();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{}",
        get(HOST, "/smuggled")
    ));
    assert_eq!(client.reply().status(), 400);
    assert!(client.is_closed());
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn what_is_ambiguous_is_refused_behind_another_request_too() {
    let ambiguous = format!(
        "POST /two HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    );
    for first in [
        get(HOST, "/one"),
        format!("POST /one HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 3\r\n\r\nabc"),
        format!("POST /one HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ] {
        let upstream = raw_echo();
        let proxy = Config::new(&[upstream.address]).start();
        let mut client = proxy.client();
        client.send(format!("{first}{ambiguous}"));
        assert_eq!(client.reply().status(), 200, "{first:?}");
        let refusal = client.reply();
        assert_eq!((refusal.status(), refusal.header("connection")), (400, Some("close")), "{first:?}");
        assert!(client.is_closed());
        assert_eq!(upstream.connections(), 1);
    }
}

#[test]
fn chunks_follow_chunks_on_one_connection() {
    let upstream = raw_echo();
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = proxy.client();
    for body in ["3\r\nabc\r\n0\r\n\r\n", "0\r\n\r\n", "3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n"] {
        for framing in ["Content-Length: 3\r\n\r\nabc", &format!("Transfer-Encoding: chunked\r\n\r\n{body}")]
        {
            let (head, body) = framing.split_once("\r\n\r\n").unwrap();
            client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n{head}\r\n\r\n"));
            client.send(body);
            assert_eq!(client.reply().status(), 200, "{framing:?}");
        }
    }
    // Several without a body may be sent at once.
    let chunked = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    client.send(format!("{}{}{chunked}", get(HOST, "/"), get(HOST, "/")));
    for _ in 0..3 {
        assert_eq!(client.reply().status(), 200);
    }
}

#[test]
fn broken_chunks_end_the_request() {
    for body in
        ["zz\r\n", "-1\r\nabc\r\n", "3\r\nabcde\r\n0\r\n\r\n", "3\nabc\n0\n\n\n\r", "ffffffffffffffffff\r\n"]
    {
        let upstream = Upstream::start(|mut client, _| {
            client.read_to_end();
        });
        let proxy = Config::new(&[upstream.address]).start();
        let mut client = proxy.client();
        client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
        let answer = String::from_utf8(client.read_to_end()).unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{body:?}: {answer}");
        let record = proxy.records.only();
        assert_eq!(record.text("response_flags"), "DC", "{body:?}");
    }
}

#[test]
fn a_head_beyond_60_kib_is_431() {
    let upstream = raw_echo();
    let proxy = Config::new(&[upstream.address]).start();
    let fits = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX-Fits: {}\r\n\r\n", "x".repeat(50 * 1024));
    assert_eq!(proxy.exchange(&fits).status(), 200);
    let bomb = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX-Bomb: {}\r\n\r\n", "x".repeat(70 * 1024));
    assert_eq!(proxy.exchange(&bomb).status(), 431);
    let many = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{}\r\n", "X: y\r\n".repeat(200));
    assert_eq!(proxy.exchange(&many).status(), 431);
    let ends: Vec<_> = proxy.records.wait(3).iter().map(|record| record.number("response_code")).collect();
    assert_eq!(ends, [200, 431, 431]);
}

#[test]
fn bodies_keep_their_framing() {
    let upstream = raw_echo();
    let proxy = Config::new(&[upstream.address]).start();
    for (framing, kept, body) in [
        ("Content-Length: 3\r\n\r\nabc", "content-length: 3\r\n", "[abc]"),
        ("Content-Length: 0\r\n\r\n", "content-length: 0\r\n", "[]"),
        ("Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "content-length: 3\r\n", "[abc]"),
        (
            "Transfer-Encoding: chunked\r\n\r\n2;ext=1\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
            "transfer-encoding: chunked\r\n",
            "[abc]",
        ),
        ("Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", "transfer-encoding: chunked\r\n", "[]"),
        ("\r\n", "", "[]"),
    ] {
        for method in ["POST", "GET", "DELETE"] {
            let seen = proxy.exchange(&format!("{method} / HTTP/1.1\r\nHost: {HOST}\r\n{framing}")).text();
            assert!(seen.contains(kept) && seen.ends_with(body), "{method} {framing:?}: {seen}");
            let framings = seen.matches("content-length").count() + seen.matches("transfer-encoding").count();
            assert_eq!(framings, usize::from(!kept.is_empty()), "{method} {framing:?}: {seen}");
        }
    }
}

#[test]
fn an_absolute_target_names_the_host() {
    let upstream = raw_echo();
    let proxy = Config::new(&[upstream.address]).registry_only().start();
    let reply = proxy.exchange(&format!("GET http://{HOST}/path?q HTTP/1.1\r\nHost: unknown\r\n\r\n"));
    assert_eq!(reply.status(), 200);
    assert!(reply.text().starts_with("GET /path?q HTTP/1.1\r\n"), "{}", reply.text());
    assert!(reply.text().contains(&format!("host: {HOST}\r\n")), "{}", reply.text());
    let reply = proxy.exchange(&format!("GET http://unknown/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    assert_eq!(reply.status(), 502);
    let reply = proxy.exchange(&format!("OPTIONS * HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    assert!(reply.text().starts_with("OPTIONS * HTTP/1.1\r\n"), "{}", reply.text());
}

#[test]
fn a_port_in_the_host_is_ignored_for_routing_and_passed_on() {
    let upstream = raw_echo();
    let proxy = Config::new(&[upstream.address]).registry_only().start();
    let reply = proxy.exchange(&get(&format!("{}:8080", HOST.to_uppercase()), "/"));
    assert_eq!(reply.status(), 200);
    assert!(reply.text().contains(&format!("host: {}:8080\r\n", HOST.to_uppercase())), "{}", reply.text());
}

#[test]
fn duplicate_headers_stay_in_order() {
    let upstream = Upstream::answering(
        "HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 0\r\n\r\n",
    );
    let reply = Config::new(&[upstream.address]).start().get("/");
    let cookies: Vec<_> = reply.head.lines().filter(|line| line.starts_with("set-cookie")).collect();
    assert_eq!(cookies, ["set-cookie: a=1", "set-cookie: b=2"]);
}

#[test]
fn header_case_is_kept_when_asked() {
    let upstream = Upstream::start(|mut client, _| {
        while let Some(request) = client.request() {
            let body = request.head;
            client.send(format!(
                "HTTP/1.1 200 OK\r\nX-Answer-Case: 1\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ));
        }
    });
    let mut config = Config::new(&[upstream.address]);
    config.snapshot.mesh.proxy_headers.preserve_http1_header_case = true;
    let reply =
        config.start().exchange(&format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX-Request-CASE: 1\r\n\r\n"));
    assert!(reply.head.contains("X-Answer-Case: 1\r\n"), "{}", reply.head);
    assert!(reply.text().contains("X-Request-CASE: 1\r\n"), "{}", reply.text());
}

#[test]
fn switches_turn_headers_off() {
    let upstream = Upstream::echo();
    let mut config = Config::new(&[upstream.address]);
    let headers = &mut config.snapshot.mesh.proxy_headers;
    headers.request_id = false;
    headers.attempt_count = false;
    headers.envoy_debug_headers = false;
    headers.server = Some("envoy".into());
    let proxy = config.start();
    let reply = proxy.get("/");
    assert_eq!(reply.header("server"), Some("envoy"));
    assert_eq!(reply.header("x-envoy-upstream-service-time"), None);
    assert!(!reply.text().contains("x-envoy") && !reply.text().contains("x-request-id"), "{}", reply.text());
    let mut client = proxy.client();
    client.send(get(HOST, "/") + "GET / HTTP/1.0\r\n\r\n");
    assert_eq!((client.reply().status(), client.reply().header("server")), (200, Some("envoy")));
}

#[test]
fn a_given_request_id_is_kept() {
    let upstream = Upstream::echo();
    let proxy = Config::new(&[upstream.address]).start();
    let reply = proxy.exchange(&format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX-Request-Id: mine\r\n\r\n"));
    assert!(reply.text().contains("x-request-id: mine\r\n"), "{}", reply.text());
    assert_eq!(proxy.records.only().text("request_id"), "mine");
}

#[test]
fn an_upstream_that_talks_nonsense_is_502() {
    for answer in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 banana\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\ncontent-length: banana\r\n\r\n",
    ] {
        let upstream = Upstream::answering(answer);
        let proxy = Config::new(&[upstream.address]).start();
        let reply = proxy.get("/");
        assert_eq!(reply.status(), 502, "{answer:?}");
        assert_eq!(
            reply.text(),
            "upstream connect error or disconnect/reset before headers. reset reason: protocol error"
        );
        let details = "upstream_reset_before_response_started{protocol_error}";
        assert_eq!(proxy.records.only().end(), (502, "UPE", details));
    }
}

#[test]
fn an_upstream_that_closes_is_503_uc() {
    for answer in ["", "HTTP/1.1 200 OK\r\ncontent-le"] {
        let upstream = Upstream::start(move |mut client, _| {
            client.request();
            client.send(answer);
        });
        let proxy = Config::new(&[upstream.address]).start();
        let reply = proxy.get("/");
        assert_eq!(reply.status(), 503, "{answer:?}");
        assert_eq!(
            reply.text(),
            "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
        );
        let details = "upstream_reset_before_response_started{connection_termination}";
        assert_eq!(proxy.records.only().end(), (503, "UC", details));
    }
}

#[test]
fn a_response_with_two_ends_has_one() {
    let upstream = Upstream::answering(
        "HTTP/1.1 200 OK\r\ncontent-length: 99\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    );
    let reply = Config::new(&[upstream.address]).start().get("/");
    assert_eq!(reply.header("content-length"), None);
    assert_eq!(reply.text(), "abc");
}

#[test]
fn bodiless_responses_have_no_body() {
    let upstream = Upstream::start(|mut client, _| {
        while let Some(request) = client.request() {
            let answer = if request.head.starts_with("HEAD") {
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
            } else if request.head.contains("/304") {
                "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n"
            } else {
                "HTTP/1.1 204 No Content\r\n\r\n"
            };
            client.send(answer);
        }
    });
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = proxy.client();
    for (method, path, status, length) in
        [("HEAD", "/", 200, Some("5")), ("GET", "/304", 304, None), ("GET", "/204", 204, None)]
    {
        client.send(get(HOST, path).replace("GET", method));
        let head = client.read_until("\r\n\r\n");
        let reply = crate::support::Reply { head, body: Vec::new() };
        assert_eq!((reply.status(), reply.header("content-length")), (status, length));
    }
    for record in proxy.records.wait(3) {
        assert_eq!(record.text("response_flags"), "-");
    }
    assert_eq!(upstream.connections(), 1);
}
