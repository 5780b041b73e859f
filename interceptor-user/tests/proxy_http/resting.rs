//! A client's connection that has been idle for a while rests: it holds no buffers, and nobody can tell.

use crate::support::{Client, Config, HOST, Proxy, Upstream, eventually, get};
use crate::termination;
use crate::tls::Authority;

const REST: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn eventually_resting(proxy: &Proxy, count: u64) {
    eventually("so many rest", || proxy.counters().connections_resting == count);
}

/// The only connection, after one request.
fn resting(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    client.send(get(HOST, "/"));
    assert_eq!(client.reply().status(), 200);
    eventually_resting(proxy, 1);
    client
}

#[test]
fn a_connection_that_has_rested_goes_on() {
    let upstream = Upstream::answering(REST);
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send(get(HOST, "/"));
        assert_eq!(client.reply().text(), "ok");
        eventually_resting(&proxy, 1);
    }
    // Also in two pieces, and with a body.
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n"));
    eventually_resting(&proxy, 0);
    client.send("Content-Length: 3\r\n\r\nabc");
    assert_eq!(client.reply().text(), "ok");
    let records = proxy.records.wait(3);
    assert_eq!(records[2].number("bytes_received"), 3);
    assert_eq!(proxy.counters().connections_accepted, 1);
}

#[test]
fn what_is_under_way_does_not_rest() {
    let upstream = Upstream::start(|mut client, _| {
        client.request().unwrap();
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n");
        // Other connections come to rest meanwhile.
        client.read_until("never");
    });
    let other = Upstream::answering(REST);
    let proxy = Config::new(&[upstream.address]).start();
    let idle = Config::new(&[other.address]).start();
    let (mut answering, mut begun) = (proxy.client(), proxy.client());
    answering.send(get(HOST, "/"));
    answering.read_until("\r\n\r\n");
    begun.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n"));
    let mut client = idle.client();
    for _ in 0..2 {
        client.send(get(HOST, "/"));
        assert_eq!(client.reply().status(), 200);
        eventually_resting(&idle, 1);
    }
    assert_eq!(proxy.counters().connections_resting, 0);
    assert_eq!(proxy.counters().connections_open, 2);
}

#[test]
fn a_resting_connections_end_is_seen() {
    let upstream = Upstream::answering(REST);
    let proxy = Config::new(&[upstream.address]).start();
    drop(resting(&proxy));
    eventually("it is closed", || proxy.counters().connections_open == 0);
    assert_eq!(proxy.counters().connections_resting, 0);
}

#[test]
fn a_resting_connection_ends_with_its_workload() {
    let upstream = Upstream::answering(REST);
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = resting(&proxy);
    proxy.start_draining();
    assert!(client.is_closed());
}

#[test]
fn a_connection_inside_tls_rests_too() {
    let authority = Authority::new();
    let upstream = Upstream::answering(REST);
    let proxy = termination::start(termination::snapshot(&upstream, termination::simple(&authority)));
    let mut client = termination::connect(&proxy, &authority, &termination::Speaks::default());
    for _ in 0..2 {
        client.send(get(HOST, "/"));
        assert_eq!(client.reply().text(), "ok");
        eventually_resting(&proxy, 1);
    }
}

#[test]
fn a_connection_that_has_rested_may_change_its_protocol() {
    let upstream = Upstream::start(|mut client, _| {
        if !client.request().unwrap().head.contains("upgrade: x\r\n") {
            return client.send(REST.replace("content", "connection: close\r\ncontent"));
        }
        client.send("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: x\r\n\r\n");
        client.read_until("ping");
        client.send("pong");
    });
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = proxy.client();
    client.send(get(HOST, "/"));
    assert_eq!(client.reply().text(), "ok");
    eventually_resting(&proxy, 1);
    client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"));
    client.read_until("\r\n\r\n");
    client.send("ping");
    client.read_until("pong");
}
