//! Upstream connections are kept, shared and given up as they should be.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use crate::support::{Config, HOST, Upstream, eventually, get, refused};

#[test]
fn clients_share_kept_connections() {
    let upstream = Upstream::echo();
    let proxy = Config::new(&[upstream.address]).start();
    for _ in 0..20 {
        assert_eq!(proxy.get("/").status(), 200);
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn concurrent_requests_have_connections_of_their_own() {
    let together = Arc::new(Barrier::new(3));
    let upstream = Upstream::start(move |mut client, _| {
        client.request();
        together.wait();
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    });
    let proxy = Config::new(&[upstream.address]).start();
    let mut clients = [proxy.client(), proxy.client(), proxy.client()];
    for client in &mut clients {
        client.send(get(HOST, "/"));
    }
    for client in &mut clients {
        assert_eq!(client.reply().status(), 200);
    }
    assert_eq!(upstream.connections(), 3);
}

#[test]
fn a_connection_serves_as_many_requests_as_it_may() {
    let upstream = Upstream::echo();
    let mut config = Config::new(&[upstream.address]);
    config.cluster.max_requests_per_connection = Some(2);
    let proxy = config.start();
    for _ in 0..6 {
        assert_eq!(proxy.get("/").status(), 200);
    }
    assert_eq!(upstream.connections(), 3);
}

#[test]
fn an_idle_connection_is_given_up_after_its_time() {
    let upstream = Upstream::echo();
    let mut config = Config::new(&[upstream.address]);
    config.cluster.http_idle_timeout = Duration::from_millis(50);
    let proxy = config.start();
    assert_eq!(proxy.get("/").status(), 200);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(proxy.get("/").status(), 200);
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn a_connection_that_the_upstream_closes_after_each_answer_is_not_reused() {
    let upstream = Upstream::start(|mut client, _| {
        client.request();
        client.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    });
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = proxy.client();
    for _ in 0..5 {
        client.send(get(HOST, "/"));
        let reply = client.reply();
        assert_eq!(reply.status(), 200);
        // That was between the upstream and us.
        assert_eq!(reply.header("connection"), None);
    }
    assert_eq!(upstream.connections(), 5);
}

/// Answers one request on each connection, then closes it when the next request comes.
fn closes_on_second() -> (Upstream, Arc<AtomicUsize>) {
    let lost = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&lost);
    let upstream = Upstream::start(move |mut client, _| {
        client.request();
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        if client.request().is_some() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    (upstream, lost)
}

#[test]
fn a_kept_connection_that_is_closed_costs_a_request_nothing() {
    let closed = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&closed);
    let upstream = Upstream::start(move |mut client, _| {
        client.request();
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        drop(client);
        counter.fetch_add(1, Ordering::SeqCst);
    });
    let proxy = Config::new(&[upstream.address]).start();
    for number in 1..=6 {
        assert_eq!(proxy.get("/").status(), 200);
        eventually("the connection is closed", || closed.load(Ordering::SeqCst) == number);
        assert_eq!(upstream.connections(), number);
    }
}

#[test]
fn what_a_server_may_have_read_is_not_sent_again_unasked() {
    let reset = || interceptor_user::snapshot::RetryOn {
        reset: true,
        ..interceptor_user::snapshot::RetryOn::default()
    };
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "POST"] {
        let request = format!("{method} / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 2\r\n\r\nok");
        for attempts in [None, Some(0), Some(1)] {
            let (upstream, lost) = closes_on_second();
            let mut config = Config::new(&[upstream.address]);
            if let Some(attempts) = attempts {
                config = config.retries(attempts, reset());
            }
            let proxy = config.start();
            let statuses = [proxy.exchange(&request).status(), proxy.exchange(&request).status()];
            let row = format!("{method} {attempts:?}");
            let (expected, flags) = match attempts {
                Some(1) => ([200, 200], "-"),
                Some(_) => ([200, 503], "UC,URX"),
                None => ([200, 503], "UC"),
            };
            assert_eq!(statuses, expected, "{row}");
            assert_eq!(proxy.records.wait(2)[1].text("response_flags"), flags, "{row}");
            assert_eq!(lost.load(Ordering::SeqCst), 1, "{row}");
            assert_eq!(upstream.connections(), if attempts == Some(1) { 2 } else { 1 }, "{row}");
        }
    }
}

#[test]
fn reloads_keep_what_they_do_not_change() {
    let (first, second) = (Upstream::echo(), Upstream::echo());
    let proxy = Config::new(&[first.address]).start();
    let mut client = proxy.client();
    let mut request = |expected: &Upstream| {
        client.send(get(HOST, "/"));
        assert_eq!(client.reply().status(), 200);
        assert!(expected.connections() > 0);
    };
    request(&first);
    // Another route to the same cluster.
    proxy.reload(Config::new(&[first.address]).timeout(Duration::from_secs(9)).build(80));
    request(&first);
    assert_eq!((first.connections(), second.connections()), (1, 0));
    // Another cluster under the same name, on the client's same connection.
    proxy.reload(Config::new(&[second.address]).build(80));
    request(&second);
    assert_eq!((first.connections(), second.connections()), (1, 1));
}

#[test]
fn connections_of_clusters_that_are_gone_are_closed() {
    let (closed, noticed) = mpsc::channel();
    let closed = std::sync::Mutex::new(closed);
    let upstream = Upstream::start(move |mut client, _| {
        while client.request().is_some() {
            client.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
        closed.lock().unwrap().send(()).unwrap();
    });
    let proxy = Config::new(&[upstream.address]).start();
    assert_eq!(proxy.get("/").status(), 200);
    proxy.reload(Config::new(&[refused()]).build(80));
    noticed.recv_timeout(Duration::from_secs(30)).unwrap();
}

#[test]
fn draining_ends_connections_after_the_request_they_are_at() {
    let (answer, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::start(move |mut client, _| {
        client.request();
        wait.lock().unwrap().recv().unwrap();
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    });
    let proxy = Config::new(&[upstream.address]).start();
    let (mut busy, mut idle) = (proxy.client(), proxy.client());
    busy.send(get(HOST, "/"));
    idle.send("GET / HTTP/1.1\r\nhost: unfinished");
    eventually("the request arrives", || upstream.connections() == 1);
    proxy.start_draining();
    // The busy connection is not cut.
    busy.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(std::io::Read::read(&mut busy.stream, &mut [0]).is_err());
    busy.stream.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    answer.send(()).unwrap();
    let reply = busy.reply();
    assert_eq!((reply.status(), reply.header("connection")), (200, Some("close")));
    assert!(busy.is_closed());
}
