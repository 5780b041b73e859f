//! Bodies pass as they come, in both directions, no faster than the slower side.

use std::io::{ErrorKind, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::support::{Config, HOST, PATIENCE, Upstream, get};

#[test]
fn a_response_passes_chunk_by_chunk() {
    let (more, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::start(move |mut client, _| {
        client.request();
        client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        for _ in 0..3 {
            client.send("5\r\nchunk\r\n");
            wait.lock().unwrap().recv().unwrap();
        }
        client.send("0\r\n\r\n");
    });
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = proxy.client();
    client.send(get(HOST, "/"));
    client.read_until("\r\n\r\n");
    for _ in 0..3 {
        // Comes although the upstream has not finished.
        client.read_until("5\r\nchunk\r\n");
        more.send(()).unwrap();
    }
    client.read_until("0\r\n\r\n");
    assert_eq!(proxy.records.only().number("bytes_sent"), 15);
}

#[test]
fn a_request_passes_chunk_by_chunk() {
    let (seen, chunks) = mpsc::channel();
    let seen = std::sync::Mutex::new(seen);
    let upstream = Upstream::start(move |mut client, _| {
        client.read_until("\r\n\r\n");
        for _ in 0..3 {
            client.read_until("5\r\nchunk\r\n");
            seen.lock().unwrap().send(()).unwrap();
        }
        client.read_until("0\r\n\r\n");
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    });
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = proxy.client();
    client.send(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n"));
    for _ in 0..3 {
        client.send("5\r\nchunk\r\n");
        chunks.recv_timeout(Duration::from_secs(30)).unwrap();
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.reply().status(), 200);
    assert_eq!(proxy.records.only().number("bytes_received"), 15);
}

/// How much a writer gets rid of before it would have to wait.
fn write_until_blocked(stream: &mut std::net::TcpStream) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let chunk = [b'x'; 64 * 1024];
    let mut written = 0;
    loop {
        match stream.write(&chunk) {
            Ok(length) => written += length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return written;
            }
            // What a stopped and continued process finds.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("{error}"),
        }
        assert!(written < 64 << 20, "nothing holds the writer back");
    }
}

#[test]
fn a_slow_client_slows_the_upstream() {
    let (wrote, amount) = mpsc::channel();
    let wrote = std::sync::Mutex::new(wrote);
    let upstream = Upstream::start(move |mut client, _| {
        client.request();
        client.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 1_u64 << 40));
        wrote.lock().unwrap().send(write_until_blocked(&mut client.stream)).unwrap();
    });
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = proxy.client();
    client.send(get(HOST, "/"));
    assert!(amount.recv_timeout(Duration::from_secs(30)).unwrap() > 0);
    client.read_until("\r\n\r\n");
}

#[test]
fn a_slow_upstream_slows_the_client() {
    let (done, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::start(move |mut client, _| {
        client.read_until("\r\n\r\n");
        // The sender going away is as good as being told.
        let _told = wait.lock().unwrap().recv().is_ok();
    });
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = proxy.client();
    client.send(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {}\r\n\r\n", 1_u64 << 40));
    assert!(write_until_blocked(&mut client.stream) > 0);
    drop(done);
}

#[test]
fn a_large_body_passes_whole() {
    let length = 8 << 20;
    let upstream = Upstream::start(move |mut client, _| {
        while let Some(request) = client.request() {
            client.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", request.body.len()));
            client.send(request.body);
        }
    });
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = proxy.client();
    let body: Vec<u8> = (0..length).map(|index: usize| index.to_le_bytes()[1]).collect();
    client.send(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {length}\r\n\r\n"));
    client.send(&body);
    assert!(client.reply().body == body);
    let record = proxy.records.only();
    assert_eq!(
        (record.number("bytes_received"), record.number("bytes_sent")),
        (length as u64, length as u64)
    );
}

#[test]
fn trailers_pass_both_ways_when_announced() {
    let upstream = Upstream::start(|mut client, _| {
        let head = client.read_until("\r\n\r\n");
        assert!(head.contains("te: trailers\r\n") && head.contains("trailer: x-up\r\n"), "{head}");
        client.read_until("0\r\nx-up: 1\r\n\r\n");
        client.send(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-down\r\n\r\n2\r\nok\r\n0\r\nx-down: 2\r\n\r\n",
        );
    });
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = proxy.client();
    client.send(format!(
        "POST / HTTP/1.1\r\nhost: {HOST}\r\nte: trailers\r\nconnection: te\r\ntrailer: x-up\r\n\
         transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-up: 1\r\n\r\n"
    ));
    let head = client.read_until("\r\n\r\n");
    assert!(head.contains("trailer: x-down\r\n"), "{head}");
    client.read_until("2\r\nok\r\n0\r\nx-down: 2\r\n\r\n");
}

#[test]
fn a_client_that_expects_continue_is_told_by_the_upstream() {
    let (asked, expectation) = mpsc::channel();
    let asked = std::sync::Mutex::new(asked);
    let upstream = Upstream::start(move |mut client, _| {
        let head = client.read_until("\r\n\r\n");
        assert!(head.contains("expect: 100-continue\r\n"), "{head}");
        asked.lock().unwrap().send(()).unwrap();
        client.send("HTTP/1.1 100 Continue\r\n\r\n");
        client.read_until("body");
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    });
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = proxy.client();
    client.send(format!(
        "POST / HTTP/1.1\r\nhost: {HOST}\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n"
    ));
    expectation.recv_timeout(Duration::from_secs(30)).unwrap();
    client.read_until("HTTP/1.1 100 Continue\r\n\r\n");
    client.send("body");
    assert_eq!(client.reply().status(), 200);
}

#[test]
fn an_upstream_that_declines_spares_the_body() {
    let upstream = Upstream::start(|mut client, _| {
        client.read_until("\r\n\r\n");
        client.send("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n");
        client.read_to_end();
    });
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = proxy.client();
    client.send(format!(
        "POST / HTTP/1.1\r\nhost: {HOST}\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n"
    ));
    let reply = client.reply();
    assert_eq!(reply.status(), 417);
    assert_eq!(proxy.records.only().end(), (417, "-", "via_upstream"));
}

#[test]
fn an_upstream_that_ignores_the_expectation_gets_the_body() {
    let upstream = Upstream::echo();
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = proxy.client();
    client.send(format!(
        "POST / HTTP/1.1\r\nhost: {HOST}\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n"
    ));
    client.read_until("HTTP/1.1 100 Continue\r\n\r\n");
    client.send("body");
    let reply = client.reply();
    assert!(reply.status() == 200 && reply.text().ends_with("body"), "{reply:?}");
}

#[test]
fn a_response_that_breaks_off_is_not_made_to_look_whole() {
    for framing in ["content-length: 10\r\n\r\nhalf", "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let upstream = Upstream::start(move |mut client, _| {
            client.request();
            client.send(format!("HTTP/1.1 200 OK\r\n{framing}"));
        });
        let proxy = Config::new(&[upstream.address]).start();
        let mut client = proxy.client();
        client.send(get(HOST, "/"));
        client.read_until("\r\n\r\n");
        let rest = String::from_utf8(client.read_to_end()).unwrap();
        assert!(rest.contains("half") && !rest.ends_with("0\r\n\r\n"), "{rest:?}");
        let details = "upstream_reset_after_response_started{connection_termination}";
        assert_eq!(proxy.records.only().end(), (200, "UC", details));
    }
}

#[test]
fn a_response_that_takes_too_long_is_cut_off() {
    let upstream = Upstream::start(|mut client, _| {
        client.request();
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf");
        client.read_to_end();
    });
    let proxy = Config::new(&[upstream.address]).timeout(Duration::from_millis(200)).start();
    let mut client = proxy.client();
    let started = Instant::now();
    client.send(get(HOST, "/"));
    client.read_until("half");
    assert!(client.is_closed());
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert_eq!(proxy.records.only().end(), (200, "UT", "upstream_response_timeout"));
}

#[test]
fn the_timeout_starts_when_the_request_is_complete() {
    let upstream = Upstream::start(|mut client, _| {
        client.request();
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    });
    let proxy = Config::new(&[upstream.address]).timeout(Duration::from_secs(1)).start();
    let mut client = proxy.client();
    client.send(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 2\r\n\r\n"));
    std::thread::sleep(Duration::from_millis(1300));
    client.send("ok");
    assert_eq!(client.reply().status(), 200);
}

#[test]
fn a_client_that_leaves_is_recorded() {
    let (gone, noticed) = mpsc::channel();
    let gone = std::sync::Mutex::new(gone);
    let upstream = Upstream::start(move |mut client, _| {
        client.request();
        client.read_to_end();
        gone.lock().unwrap().send(()).unwrap();
    });
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = proxy.client();
    client.send(get(HOST, "/"));
    crate::support::eventually("the request arrives", || upstream.connections() == 1);
    drop(client);
    // The upstream is told, too.
    noticed.recv_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(proxy.records.only().end(), (0, "DC", "downstream_remote_disconnect"));
}

#[test]
fn a_client_that_breaks_off_its_body_is_recorded() {
    let upstream = Upstream::start(|mut client, _| {
        client.read_to_end();
    });
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = proxy.client();
    client.send(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 100\r\n\r\nhalf"));
    crate::support::eventually("the request arrives", || upstream.connections() == 1);
    drop(client);
    let record = proxy.records.only();
    assert_eq!(record.text("response_flags"), "DC");
}

#[test]
fn a_client_that_has_finished_sending_gets_its_answer() {
    let length = 4 << 20;
    let upstream = Upstream::start(move |mut client, _| {
        client.request();
        // Longer than the client's end needs to arrive.
        std::thread::sleep(Duration::from_millis(100));
        client.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n"));
        client.send(vec![b'x'; length]);
    });
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = proxy.client();
    client.send(get(HOST, "/"));
    client.half_close();
    assert_eq!(client.reply().body.len(), length);
    assert!(client.is_closed());
    assert_eq!(proxy.records.only().end(), (200, "-", "via_upstream"));
}

#[test]
fn a_client_that_leaves_after_it_has_finished_sending_is_recorded() {
    let upstream = Upstream::start(|mut client, _| {
        client.request();
        client.read_to_end();
    });
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = proxy.client();
    client.send(get(HOST, "/"));
    client.half_close();
    crate::support::eventually("the request arrives", || upstream.connections() == 1);
    drop(client);
    assert_eq!(proxy.records.only().end(), (0, "DC", "downstream_remote_disconnect"));
}

#[test]
fn what_follows_an_expectation_that_was_not_met_is_not_read() {
    // Declined by us, and by an upstream that takes too long.
    let silent = Upstream::start(|mut client, _| {
        client.read_to_end();
    });
    for (host, status) in [("unknown.example.com", 502), (HOST, 504)] {
        let proxy = Config::new(&[silent.address]).registry_only().timeout(Duration::from_millis(1)).start();
        let mut client = proxy.client();
        client.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\nexpect: 100-continue\r\n\r\n"));
        let reply = client.reply();
        assert_eq!((reply.status(), reply.header("connection")), (status, Some("close")));
        assert!(client.is_closed());
    }
}

#[test]
fn informational_responses_do_not_disturb() {
    let upstream = Upstream::answering(
        "HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    );
    let reply = Config::new(&[upstream.address]).start().get("/");
    assert_eq!((reply.status(), reply.text().as_str()), (200, "ok"));
}

#[test]
fn informational_responses_without_an_end_are_no_answer() {
    for said in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n"] {
        let (gave_up, given_up) = mpsc::channel();
        let upstream = Upstream::start(move |mut client, _| {
            client.request();
            while client.stream.write_all(said.repeat(1000).as_bytes()).is_ok() {}
            gave_up.send(()).unwrap();
        });
        let proxy = Config::new(&[upstream.address]).start();
        assert_eq!(proxy.get("/").status(), 502);
        let details = "upstream_reset_before_response_started{protocol_error}";
        assert_eq!(proxy.records.only().end(), (502, "UPE", details));
        given_up.recv_timeout(PATIENCE).unwrap();
    }
    // As many as there are in an hour of them.
    let upstream = Upstream::start(|mut client, _| {
        client.request();
        client.send("HTTP/1.1 102 Processing\r\n\r\n".repeat(3600));
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    });
    assert_eq!(Config::new(&[upstream.address]).start().get("/").text(), "ok");
}

#[test]
fn a_request_whose_end_comes_with_it_is_answered() {
    let upstream = Upstream::echo();
    let proxy = Config::new(&[upstream.address]).start();
    for count in 1..=50 {
        let mut client = proxy.client();
        client.send(get(HOST, "/"));
        client.half_close();
        assert_eq!(client.reply().status(), 200);
        assert_eq!(proxy.records.wait(count).len(), count);
    }
    // And recorded when nobody waits for the answer: the first record of each is its only one.
    for count in 51..=70 {
        proxy.client().send(get(HOST, "/"));
        assert_eq!(proxy.records.wait(count).len(), count);
    }
}
