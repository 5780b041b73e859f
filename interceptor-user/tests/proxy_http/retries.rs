//! Which failures are tried again, with what, and what is told when all tries are used up.

use std::sync::Arc;
use std::time::Duration;

use interceptor_user::snapshot::RetryOn;

use crate::stopwatch::Stopwatch;
use crate::support::{Config, HOST, Upstream, refused};

fn on_503() -> RetryOn {
    RetryOn { connect_failure: true, status_codes: vec![503], ..RetryOn::default() }
}

/// Answers 503 as often as told, then 200 with the request's body.
fn unavailable(times: usize) -> Upstream {
    let answered = std::sync::atomic::AtomicUsize::new(0);
    Upstream::start(move |mut client, _| {
        while let Some(request) = client.request() {
            if answered.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < times {
                client.send("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy");
                continue;
            }
            let count = request.header("x-envoy-attempt-count").unwrap();
            let body = format!("{count}:{}", request.text());
            client.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
        }
    })
}

#[test]
fn a_retriable_status_is_tried_again() {
    let upstream = unavailable(2);
    let proxy = Config::new(&[upstream.address]).retries(2, on_503()).start();
    let reply = proxy.get("/");
    assert_eq!((reply.status(), reply.text().as_str()), (200, "3:"));
    assert_eq!(proxy.records.only().end(), (200, "-", "via_upstream"));
}

#[test]
fn used_up_tries_pass_the_last_answer_with_urx() {
    let upstream = unavailable(3);
    let proxy = Config::new(&[upstream.address]).retries(2, on_503()).start();
    let reply = proxy.get("/");
    assert_eq!((reply.status(), reply.text().as_str()), (503, "busy"));
    assert_eq!(proxy.records.only().end(), (503, "URX", "via_upstream"));
}

#[test]
fn a_body_is_sent_again_whole() {
    for framing in [
        "content-length: 12\r\n\r\nsent in full",
        "transfer-encoding: chunked\r\n\r\n7\r\nsent in\r\n5\r\n full\r\n0\r\n\r\n",
    ] {
        let upstream = unavailable(1);
        let proxy = Config::new(&[upstream.address]).retries(2, on_503()).start();
        let reply = proxy.exchange(&format!("POST / HTTP/1.1\r\nhost: {HOST}\r\n{framing}"));
        assert_eq!((reply.status(), reply.text().as_str()), (200, "2:sent in full"));
        let record = proxy.records.only();
        assert_eq!(record.number("bytes_received"), 12);
    }
}

#[test]
fn a_body_beyond_the_bound_is_sent_once() {
    let upstream = unavailable(1);
    let proxy = Config::new(&[upstream.address]).retries(2, on_503()).start();
    let length = 200 * 1024;
    let mut client = proxy.client();
    client.send(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {length}\r\n\r\n"));
    client.send(vec![b'x'; length]);
    assert_eq!(client.reply().status(), 503);
}

#[test]
fn a_body_in_too_many_pieces_is_sent_once() {
    for (pieces, status) in [(256, 200), (257, 503)] {
        let upstream = unavailable(1);
        let proxy = Config::new(&[upstream.address]).retries(2, on_503()).start();
        let body = "1\r\nx\r\n".repeat(pieces);
        let reply = proxy.exchange(&format!(
            "POST / HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n{body}0\r\n\r\n"
        ));
        assert_eq!(reply.status(), status, "{pieces}");
    }
}

#[test]
fn refused_connections_are_retried_and_told_as_such() {
    let proxy = Config::new(&[refused()]).retries(2, on_503()).start();
    let reply = proxy.get("/");
    assert_eq!(
        reply.text(),
        "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote \
         connection failure, transport failure reason: delayed connect error: Connection refused"
    );
    assert_eq!(proxy.records.only().text("response_flags"), "UF,URX");
}

#[test]
fn a_disconnect_is_not_retried_unless_asked() {
    for (retry_on, status) in [
        (on_503(), 503),
        (RetryOn { reset: true, ..RetryOn::default() }, 200),
        (RetryOn { gateway_error: true, ..RetryOn::default() }, 200),
    ] {
        let upstream = Upstream::start(|mut client, number| {
            client.request();
            if number > 1 {
                client.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            }
        });
        let proxy = Config::new(&[upstream.address]).retries(2, retry_on).start();
        assert_eq!(proxy.get("/").status(), status);
    }
}

#[test]
fn every_try_has_its_own_timeout() {
    let upstream = Upstream::start(|mut client, number| {
        client.request();
        if number == 1 {
            client.read_to_end();
        }
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    });
    let mut config =
        Config::new(&[upstream.address]).retries(1, RetryOn { reset: true, ..RetryOn::default() });
    Arc::make_mut(config.forward.retries.as_mut().unwrap()).per_try_timeout = Some(Duration::from_secs(1));
    assert_eq!(config.start().get("/").status(), 200);
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn a_slow_upload_is_not_a_slow_try() {
    let upstream = Upstream::echo();
    let mut config =
        Config::new(&[upstream.address]).retries(1, RetryOn { reset: true, ..RetryOn::default() });
    Arc::make_mut(config.forward.retries.as_mut().unwrap()).per_try_timeout = Some(Duration::from_secs(1));
    let proxy = config.start();
    let mut client = proxy.client();
    client.send(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 2\r\n\r\na"));
    // What is tested is that this much time may pass.
    std::thread::sleep(Duration::from_millis(1300));
    client.send("b");
    let reply = client.reply();
    assert_eq!((reply.status(), reply.text().ends_with("\r\n\r\nab")), (200, true), "{reply:?}");
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_try_that_is_too_slow_is_504() {
    let upstream = Upstream::start(|mut client, _| {
        client.request();
        client.read_to_end();
    });
    let mut config = Config::new(&[upstream.address]).retries(1, on_503());
    Arc::make_mut(config.forward.retries.as_mut().unwrap()).per_try_timeout =
        Some(Duration::from_millis(100));
    let proxy = config.start();
    let reply = proxy.get("/");
    assert_eq!((reply.status(), reply.text().as_str()), (504, "upstream request timeout"));
    assert_eq!(proxy.records.only().end(), (504, "UT", "upstream_per_try_timeout"));
}

#[test]
fn the_routes_timeout_bounds_all_tries() {
    let upstream = unavailable(1000);
    let mut config =
        Config::new(&[upstream.address]).timeout(Duration::from_millis(150)).retries(1000, on_503());
    Arc::make_mut(config.forward.retries.as_mut().unwrap()).base_interval = Duration::from_millis(20);
    let proxy = config.start();
    let started = Stopwatch::start();
    assert_eq!(proxy.get("/").status(), 504);
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!(proxy.records.only().end(), (504, "UT", "upstream_response_timeout"));
}

#[test]
fn grpc_statuses_are_retried() {
    let upstream = Upstream::start(|mut client, _| {
        let mut first = true;
        while client.request().is_some() {
            let status = if first { 14 } else { 0 };
            first = false;
            client.send(format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: {status}\r\ncontent-length: 0\r\n\r\n"
            ));
        }
    });
    let retry_on = RetryOn { grpc_statuses: vec![14], ..RetryOn::default() };
    let reply = Config::new(&[upstream.address]).retries(2, retry_on).start().get("/");
    assert_eq!(reply.header("grpc-status"), Some("0"));
}
