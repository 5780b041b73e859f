//! HTTP versions, upgrades, and messages that are not quite HTTP.

use std::io::{self, Read, Write};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use interceptor_tests::{World, content_length, echo_heads, header, python, read_head, seeds};

#[test]
fn http2_prior_knowledge_reaches_an_http1_server() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let (sender, received) = mpsc::channel();
    let origin = world.origin(80, move |mut socket| {
        let head = read_head(&mut socket)?;
        let mut body = vec![0; content_length(&head)];
        socket.read_exact(&mut body)?;
        sender.send((head, body)).map_err(io::Error::other)?;
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    })?;
    // One request a connection: this curl can't use such a connection twice, with nginx neither.
    let run = pod.interceptor()?.config(&origin.service_entry("HTTP"))?.registry_only().curl(&[
        "--http2-prior-knowledge",
        "-d",
        "the body",
        &origin.url("/path"),
    ])?;
    run.expect_code(0)?;
    assert_eq!((run.http()?.status_line.as_str(), run.http()?.body.as_str()), ("HTTP/2 200 ", "ok"));
    let line = run.line()?;
    assert_eq!((line.method.as_str(), line.protocol.as_str()), ("POST", "HTTP/2"));
    assert_eq!((line.authority, line.received, line.sent), (origin.name(), 8, 2));
    let (head, body) = received.recv()?;
    assert!(head.starts_with("POST /path HTTP/1.1\r\n") && body == b"the body", "{head}");
    assert_eq!(header(&head, "host"), Some(origin.name().as_str()));
    Ok(())
}

#[test]
fn http2_to_the_server_when_its_port_says_so() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let config = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: two}
spec:
  hosts: [hbchen.com]
  ports: [{number: 80, name: http2, protocol: HTTP2, targetPort: 443}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: two}
spec: {host: hbchen.com, trafficPolicy: {tls: {mode: SIMPLE}}}
";
    let run = pod.interceptor()?.config(config)?.registry_only().curl(&["http://hbchen.com/"])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.status_line, "HTTP/1.1 200 OK");
    let hits = world.nginx.wait_hits(&pod.address, 1)?;
    assert_eq!((hits[0].get("alpn"), hits[0].get("protocol")), ("h2", "HTTP/2.0"));
    Ok(())
}

#[test]
fn http10_works_by_registry_or_passthrough() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run =
        pod.interceptor()?.config(&seeds(&["000-01-se-se"])?)?.curl(&["-0", "http://httpbin.org/get"])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.status, 200);
    assert_eq!(run.http()?.json()?["headers"]["Host"], "httpbin.org");
    Ok(())
}

#[test]
fn hop_by_hop_headers_stop_here() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let origin = world.origin(80, echo_heads)?;
    let run = pod.interceptor()?.config(&origin.service_entry("HTTP"))?.curl(&[
        "-H",
        "Connection: keep-alive, x-hop",
        "-H",
        "X-Hop: 1",
        "-H",
        "Keep-Alive: timeout=5",
        "-H",
        "Proxy-Connection: keep-alive",
        "-H",
        "X-End: 1",
        "-H",
        "X-Request-Id: mine",
        &origin.url("/"),
    ])?;
    run.expect_code(0)?;
    let seen = run.http()?.body;
    for gone in ["x-hop", "keep-alive", "proxy-connection"] {
        assert_eq!(header(&seen, gone), None, "{seen}");
    }
    assert_eq!((header(&seen, "x-end"), header(&seen, "x-request-id")), (Some("1"), Some("mine")), "{seen}");
    assert_eq!(run.line()?.request_id, "mine");
    Ok(())
}

#[test]
fn websocket_upgrade_becomes_a_tunnel() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let origin = world.origin(80, |mut socket| {
        let head = read_head(&mut socket)?;
        if !header(&head, "upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")) {
            return Err(io::Error::other(format!("no upgrade arrived: {head}")));
        }
        socket.write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nserver first;",
        )?;
        let mut ping = [0; 5];
        socket.read_exact(&mut ping)?;
        socket.write_all(b"pong:")?;
        socket.write_all(&ping)
    })?;
    let script = format!(
        r#"
s = socket.create_connection(("{0}", 80), 10)
s.sendall(b"GET /chat HTTP/1.1\r\nHost: {0}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
data = b""
while not data.endswith(b"server first;"): data += s.recv(65536) or sys.exit(data)
s.sendall(b"\x00\xffabc")
while chunk := s.recv(65536): data += chunk
sys.stdout.buffer.write(data)
"#,
        origin.name()
    );
    let run =
        pod.interceptor()?.config(&origin.service_entry("HTTP"))?.registry_only().run(&python(&script)?)?;
    run.expect_code(0)?;
    assert!(run.stdout.starts_with(b"HTTP/1.1 101 "), "{}", run.text());
    assert!(run.stdout.ends_with(b"server first;pong:\x00\xffabc"), "{:?}", origin.errors());
    assert_eq!(run.line()?.code, 101);
    Ok(())
}

#[test]
fn ambiguous_framing_is_refused_and_forwarded_to_nobody() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    let origin = world.origin(80, move |mut socket| {
        let head = read_head(&mut socket)?;
        seen.lock().map_err(|error| io::Error::other(error.to_string()))?.push(head);
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    })?;
    for framing in [
        "Content-Length: 3\\r\\nTransfer-Encoding: chunked",
        "Content-Length: 3\\r\\nContent-Length: 4",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Content-Length : 3",
        "Content-Length: +3",
        "Content-Length: 3, 4",
    ] {
        let script = format!(
            r#"
s = socket.create_connection(("{0}", 80), 10)
s.sendall(b"POST / HTTP/1.1\r\nHost: {0}\r\n{framing}\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: {0}\r\n\r\n")
try:
    while data := s.recv(65536): sys.stdout.write(data.decode())
except ConnectionError: pass
"#,
            origin.name()
        );
        let run = pod
            .interceptor()?
            .config(&origin.service_entry("HTTP"))?
            .registry_only()
            .run(&python(&script)?)?;
        run.expect_code(0)?;
        let text = run.text();
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 400 "), "{framing}: {text}");
        assert_eq!(text.matches("HTTP/1.1").count(), text.lines().count().min(1), "{framing}: {text}");
    }
    assert_eq!(*heads.lock().expect("not poisoned"), Vec::<String>::new());
    Ok(())
}

#[test]
fn an_answer_that_is_no_http_is_a_502() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    for answer in
        ["SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"]
    {
        let origin = world.origin(80, move |mut socket| {
            read_head(&mut socket)?;
            socket.write_all(answer.as_bytes())
        })?;
        let run = pod.interceptor()?.config(&origin.service_entry("HTTP"))?.curl(&[&origin.url("/")])?;
        run.expect_code(0)?;
        assert_eq!(run.http()?.status, 502, "{answer:?}");
        assert_eq!(run.line()?.flags, "UPE", "{}", run.log);
    }
    Ok(())
}

#[test]
fn a_missing_host_is_a_bad_request() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run = pod.interceptor()?.config(&seeds(&["000-01-se-se"])?)?.curl(&[
        "-H",
        "Host:",
        "http://httpbin.org/get",
    ])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.status, 400);
    assert_eq!(run.line()?.details, "missing_host_header");
    Ok(())
}
