//! A proxy on the way that is asked for the target, by CONNECT or by POST.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use interceptor_user::snapshot::{Snapshot, Tunnel, TunnelMethod};

use crate::endpoints::with_tcp_port;
use crate::support::{Running, assert_reset, changed, read_banner, server};

#[test]
fn a_proxy_is_asked_for_the_target_and_its_refusal_is_told() {
    for (answer, expected) in [
        (&b"HTTP/1.1 200 OK\r\n\r\n220 ready\r\n"[..], None),
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            Some("CONNECT_b.example.com:443:_the_proxy_answered_HTTP/1.1_407_Proxy_Authentication_Required"),
        ),
    ] {
        let (address, serving) = server(move |mut stream| {
            let mut request = [0; 63];
            stream.read_exact(&mut request).unwrap();
            assert!(request.starts_with(b"CONNECT b.example.com:443 HTTP/1.1\r\n"), "{request:?}");
            stream.write_all(answer).unwrap();
            stream.read_to_end(&mut Vec::new()).unwrap();
        });
        let tunnel = Tunnel { method: TunnelMethod::Connect, target: "b.example.com:443".into() };
        let cluster = changed(address, |traffic| traffic.tunnel = Some(tunnel));
        let running = Running::start(with_tcp_port(cluster), Some("192.0.2.1:7000".parse().unwrap()));
        let mut client = running.connect();
        match expected {
            None => read_banner(&mut client),
            Some(_) => assert_reset(&mut client),
        }
        drop(client);
        serving.join().unwrap();
        let (records, _) = running.end();
        let flags = if expected.is_some() { "UF,URX" } else { "-" };
        assert_eq!(records[0]["response_flags"], flags, "{records:#?}");
        assert_eq!(records[0]["upstream_transport_failure_reason"].as_str(), expected);
        assert_eq!(records[0]["upstream_host"], address.to_string());
    }
}

/// Reads what is sent by chunks, and the chunk without bytes that ends it; `None` when it breaks off.
fn read_chunks(stream: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let mut size = String::new();
        stream.read_line(&mut size).unwrap();
        let size = usize::from_str_radix(size.strip_suffix("\r\n")?, 16).unwrap();
        let start = whole.len();
        whole.resize(start + size + 2, 0);
        stream.read_exact(&mut whole[start..]).ok()?;
        assert_eq!(whole.split_off(start + size), b"\r\n");
        if size == 0 {
            return Some(whole);
        }
    }
}

/// A snapshot that sends port 7000 through a proxy which is asked by POST.
fn posted(address: SocketAddr) -> Snapshot {
    let tunnel = Tunnel { method: TunnelMethod::Post, target: "b.example.com:443".into() };
    with_tcp_port(changed(address, |traffic| traffic.tunnel = Some(tunnel)))
}

fn read_post(stream: &mut impl BufRead) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_until(b'\n', &mut head).unwrap();
    }
    let head = String::from_utf8(head).unwrap();
    let expected = "POST / HTTP/1.1\r\nhost: b.example.com:443\r\ntransfer-encoding: chunked\r\n\r\n";
    assert_eq!(head, expected);
}

#[test]
fn a_tunnel_by_post_carries_both_ways_at_once_and_both_ends() {
    /// More than sockets and buffers keep on the way.
    const CARRIED: usize = 8 << 20;
    let (address, serving) = server(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        read_post(&mut reader);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nb\r\n220 ready\r\n\r\n")
            .unwrap();
        let returning = std::thread::spawn(move || {
            for _ in 0..CARRIED >> 16 {
                stream.write_all(b"10000\r\n").unwrap();
                stream.write_all(&[b'y'; 1 << 16]).unwrap();
                stream.write_all(b"\r\n").unwrap();
            }
            stream
        });
        let received = read_chunks(&mut reader).unwrap();
        assert!(received.len() == CARRIED && received.iter().all(|byte| *byte == b'x'));
        returning.join().unwrap().write_all(b"4\r\nbye\n\r\n0\r\n\r\n").unwrap();
    });
    let running = Running::start(posted(address), Some("192.0.2.1:7000".parse().unwrap()));
    let mut client = running.connect();
    read_banner(&mut client);
    let mut sender = client.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        sender.write_all(&vec![b'x'; CARRIED]).unwrap();
        sender.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut returned = Vec::new();
    client.read_to_end(&mut returned).unwrap();
    assert!(returned.len() == CARRIED + 4 && returned.ends_with(b"ybye\n"), "{}", returned.len());
    sending.join().unwrap();
    serving.join().unwrap();
    let (records, _) = running.end();
    assert_eq!(records[0]["response_flags"], "-", "{records:#?}");
    assert_eq!(records[0]["bytes_received"], CARRIED, "{records:#?}");
    assert_eq!(records[0]["bytes_sent"], CARRIED + 4 + 11, "{records:#?}");
}

#[test]
fn what_is_wrong_with_a_tunnel_by_post_is_told() {
    for (answer, expected) in [
        (
            &b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"[..],
            "the_proxy_answered_HTTP/1.1_403_Forbidden",
        ),
        (b"SSH-2.0-x\r\n\r\n", "the_proxy_does_not_speak_HTTP/1.1"),
        (b"", "the_proxy_closed_without_an_answer"),
    ] {
        let (address, serving) = server(move |mut stream| {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            read_post(&mut reader);
            stream.write_all(answer).unwrap();
        });
        let running = Running::start(posted(address), Some("192.0.2.1:7000".parse().unwrap()));
        assert_reset(&mut running.connect());
        serving.join().unwrap();
        let (records, _) = running.end();
        assert_eq!(records[0]["response_flags"], "UF,URX", "{records:#?}");
        let reason = records[0]["upstream_transport_failure_reason"].as_str();
        assert_eq!(reason, Some(&*format!("POST_b.example.com:443:_{expected}")));
    }
}

/// Neither side takes what broke off for an end.
#[test]
fn a_tunnel_by_post_that_breaks_off_is_a_reset() {
    let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nb\r\n220 ready\r\n\r\n";
    for server_breaks_off in [true, false] {
        let (address, serving) = server(move |mut stream| {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            read_post(&mut reader);
            stream.write_all(answer).unwrap();
            if !server_breaks_off {
                assert_eq!(read_chunks(&mut reader), None);
            }
        });
        let running = Running::start(posted(address), Some("192.0.2.1:7000".parse().unwrap()));
        let mut client = running.connect();
        read_banner(&mut client);
        let expected = if server_breaks_off {
            assert_reset(&mut client);
            "UC"
        } else {
            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
            "DC"
        };
        drop(client);
        serving.join().unwrap();
        let (records, _) = running.end();
        assert_eq!(records[0]["response_flags"], expected, "{records:#?}");
    }
}
