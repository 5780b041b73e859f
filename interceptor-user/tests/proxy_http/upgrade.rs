//! A connection that changes its protocol carries bytes from then on.

use crate::support::{Config, HOST, Upstream};

fn websocket() -> String {
    format!(
        "GET /socket HTTP/1.1\r\nhost: {HOST}\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
    )
}

#[test]
fn a_websocket_passes() {
    let upstream = Upstream::start(|mut client, _| {
        let head = client.read_until("\r\n\r\n");
        assert!(
            head.contains("connection: upgrade\r\n") && head.contains("upgrade: websocket\r\n"),
            "{head}"
        );
        assert!(head.contains("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), "{head}");
        // The first bytes of the new protocol come with the answer.
        client.send(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: x\r\n\r\nhello",
        );
        client.read_until("ping");
        client.send("pong");
        // Half-closed by the client; the other half still works.
        assert!(client.is_closed());
        client.send("bye");
    });
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = proxy.client();
    client.send(websocket());
    let head = client.read_until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    for line in ["connection: upgrade\r\n", "upgrade: websocket\r\n", "sec-websocket-accept: x\r\n"] {
        assert!(head.contains(line), "{head}");
    }
    client.read_until("hello");
    client.send("ping");
    client.read_until("pong");
    client.half_close();
    assert_eq!(client.read_to_end(), b"bye");
    let record = proxy.records.only();
    assert_eq!(record.end(), (101, "-", "via_upstream"));
    assert_eq!((record.number("bytes_received"), record.number("bytes_sent")), (4, 12));
}

#[test]
fn an_upstream_may_decline_to_change() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nplain");
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send(websocket());
        assert_eq!(client.reply().text(), "plain");
    }
}

#[test]
fn a_change_that_nobody_asked_for_is_refused() {
    let upstream = Upstream::answering(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n",
    );
    let proxy = Config::new(&[upstream.address]).start();
    assert_eq!(proxy.get("/").status(), 502);
}

#[test]
fn a_reset_is_passed_on_and_the_bytes_before_it_counted() {
    let (met, meets) = std::sync::mpsc::channel();
    let upstream = Upstream::start(move |mut client, _| {
        client.read_until("\r\n\r\n");
        client.send("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n");
        let bytes = client.read_exactly(1000);
        client.send(bytes);
        met.send(std::io::Read::read(&mut client.stream, &mut [0]).map_err(|error| error.kind())).unwrap();
    });
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = proxy.client();
    client.send(websocket());
    client.read_until("\r\n\r\n");
    client.send([b'x'; 1000]);
    client.read_exactly(1000);
    socket2::SockRef::from(&client.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(client);
    assert_eq!(meets.recv().unwrap(), Err(std::io::ErrorKind::ConnectionReset));
    let record = proxy.records.only();
    assert_eq!(record.end(), (101, "DC", "downstream_remote_disconnect"));
    assert_eq!((record.number("bytes_received"), record.number("bytes_sent")), (1000, 1000));
}
