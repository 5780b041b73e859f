//! Opaque bytes: what neither HTTP nor TLS is, and TLS that passes, behave as without us.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use interceptor_tests::{Origin, World, large, python};

/// A connection that was not reset is ended by reading to its end.
fn drain(mut socket: &TcpStream) -> io::Result<Vec<u8>> {
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest)?;
    Ok(rest)
}

fn connect(origin: &Origin, then: &str) -> anyhow::Result<Vec<String>> {
    python(&format!(
        "s = socket.create_connection((\"{}\", {}), 10)\n{then}",
        origin.name(),
        origin.address.port()
    ))
}

#[test]
fn a_server_that_speaks_first_is_heard_at_once() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    for (port, protocol) in
        [(25, None), (3306, Some("TCP")), (5433, Some("\"\"")), (80, Some("HTTP")), (443, Some("TLS"))]
    {
        let origin = world.origin(port, |mut socket| {
            socket.write_all(b"220 hello\r\n")?;
            let mut quit = [0; 6];
            socket.read_exact(&mut quit)?;
            socket.write_all(b"221 bye\r\n")
        })?;
        let config = protocol.map(|protocol| origin.service_entry(protocol)).unwrap_or_default();
        let started = Instant::now();
        let run = pod.interceptor()?.config(&config)?.run(&connect(
            &origin,
            "t = time.time(); hello = s.recv(100); waited = time.time() - t\n\
             s.sendall(b'QUIT\\r\\n'); bye = s.recv(100)\n\
             print(hello, bye, waited < 5)",
        )?)?;
        run.expect_code(0)?;
        assert_eq!(run.text(), "b'220 hello\\r\\n' b'221 bye\\r\\n' True\n", "port {port} {protocol:?}");
        assert!(started.elapsed() < Duration::from_secs(10));
        let line = run.line()?;
        assert!(line.line.contains(r#""- - -" 0 - "#), "{}", line.line);
        assert_eq!((line.received, line.sent), (6, 20), "{}", line.line);
    }
    Ok(())
}

#[test]
fn half_close_passes_in_both_directions() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    // The client ends its half first; the answer depends on having seen that.
    let origin = world.origin(7000, |mut socket| {
        let all = drain(&socket)?;
        socket.write_all(format!("got {}", all.len()).as_bytes())
    })?;
    let run = pod.interceptor()?.run(&connect(
        &origin,
        "s.sendall(b'x' * 100000); s.shutdown(socket.SHUT_WR)\nprint(s.recv(100), s.recv(100))",
    )?)?;
    run.expect_code(0)?;
    assert_eq!(run.text(), "b'got 100000' b''\n");
    // The server ends its half first, and still reads.
    let (sender, received) = std::sync::mpsc::channel();
    let origin = world.origin(7000, move |mut socket| {
        socket.write_all(b"only this")?;
        socket.shutdown(Shutdown::Write)?;
        sender.send(drain(&socket)?).map_err(io::Error::other)
    })?;
    let run = pod
        .interceptor()?
        .run(&connect(&origin, "print(s.recv(100), s.recv(100))\ns.sendall(b'y' * 50000); s.close()")?)?;
    run.expect_code(0)?;
    assert_eq!(run.text(), "b'only this' b''\n");
    assert_eq!(received.recv_timeout(Duration::from_secs(30))?.len(), 50000);
    Ok(())
}

#[test]
fn resets_pass_in_both_directions() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let origin = world.origin(7000, |mut socket| {
        socket.read_exact(&mut [0; 5])?;
        reset_on_close(&socket)
    })?;
    let run = pod.interceptor()?.run(&connect(
        &origin,
        "s.sendall(b'hello')\ntry: print('data', s.recv(100))\nexcept ConnectionResetError: print('reset')",
    )?)?;
    run.expect_code(0)?;
    assert_eq!(run.text(), "reset\n");

    let (sender, received) = std::sync::mpsc::channel();
    let origin = world.origin(7000, move |mut socket| {
        socket.write_all(b"ready")?;
        let end = drain(&socket).map(|rest| rest.len()).map_err(|error| error.kind());
        sender.send(end).map_err(io::Error::other)
    })?;
    let run = pod.interceptor()?.run(&connect(
        &origin,
        "s.recv(5); s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); s.close()",
    )?)?;
    run.expect_code(0)?;
    assert_eq!(received.recv_timeout(Duration::from_secs(30))?, Err(io::ErrorKind::ConnectionReset));
    Ok(())
}

/// Closing now resets the connection.
fn reset_on_close(socket: &TcpStream) -> io::Result<()> {
    rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO))?;
    Ok(())
}

#[test]
fn refused_is_not_success() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    // The proxy takes the connection before it knows: it must end at once, without a byte.
    let run = pod.interceptor()?.run(&python(&format!(
        "try: print(socket.create_connection((\"{}\", 7001), 10).recv(100))\n\
         except ConnectionError: print('reset')",
        world.address()
    ))?)?;
    run.expect_code(0)?;
    assert!(["b''\n", "reset\n"].contains(&run.text().as_str()), "{}", run.text());
    let line = run.line()?;
    assert!(line.flags.split(',').any(|flag| flag == "UF"), "{}", line.line);
    Ok(())
}

#[test]
fn megabytes_in_both_directions_with_a_slow_reader() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let (sender, received) = std::sync::mpsc::channel();
    let origin = world.origin(7000, move |socket| {
        let reader = socket.try_clone()?;
        let reading = std::thread::spawn(move || drain(&reader));
        (&socket).write_all(&large())?;
        socket.shutdown(Shutdown::Write)?;
        let all = reading.join().map_err(|panic| io::Error::other(format!("{panic:?}")))??;
        sender.send(all == large()).map_err(io::Error::other)
    })?;
    // The client reads nothing until all it sends is taken: neither side may wait for the other.
    let script = connect(
        &origin,
        "import threading, hashlib\n\
         data = sys.stdin.buffer.read()\n\
         writer = threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR)))\n\
         writer.start(); writer.join()\n\
         got = b''.join(iter(lambda: s.recv(1 << 20), b''))\n\
         print(len(got), got == data)",
    )?;
    let interceptor = pod.interceptor()?;
    let file = interceptor.dir().join("data");
    std::fs::write(&file, large())?;
    let mut command =
        vec!["sh".to_owned(), "-c".to_owned(), "exec \"$@\" <\"$0\"".to_owned(), file.display().to_string()];
    command.extend(script);
    let run = interceptor.run(&command)?;
    run.expect_code(0)?;
    assert_eq!(run.text(), format!("{} True\n", 8 << 20));
    assert!(received.recv_timeout(Duration::from_secs(30))?);
    let line = run.line()?;
    assert_eq!((line.received, line.sent), (8 << 20, 8 << 20));
    Ok(())
}

#[test]
fn a_client_hello_in_pieces_still_has_its_name() -> anyhow::Result<()> {
    let world = World::shared()?;
    let config = interceptor_tests::seeds(&["001-02-se"])?;
    let root = world.ca.root();
    for (pieces, records) in [(1, 0), (200, 0), (100_000, 16), (7, 50)] {
        let pod = world.pod()?;
        let script = format!(
            r#"
import ssl
context = ssl.create_default_context(cafile="{root}")
read, write = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = context.wrap_bio(read, write, server_hostname="www.google.com")
s = socket.create_connection(("203.0.113.20", 443), 10)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
def step(what, *args):
    while True:
        try: return what(*args)
        except ssl.SSLWantReadError: pass
        finally: send(write.read())
        data = s.recv(65536)
        if not data: sys.exit("closed")
        read.write(data)
first = True
def send(data):
    global first
    if first and {records}:
        body = data[5:]
        data = b"".join(data[:3] + struct.pack(">H", len(body[i:i+{records}])) + body[i:i+{records}] for i in range(0, len(body), {records}))
    size = {pieces} if first else 100000
    first = first and not data
    for i in range(0, len(data), size): s.sendall(data[i:i+size])
step(tls.do_handshake)
step(tls.write, b"GET / HTTP/1.1\r\nHost: www.google.com\r\nConnection: close\r\n\r\n")
print(step(tls.read, 1000).decode())
"#,
            root = root.display()
        );
        let run = pod.interceptor()?.config(&config)?.registry_only().run(&python(&script)?)?;
        run.expect_code(0)?;
        assert!(run.text().starts_with("HTTP/1.1 200 OK\r\n"), "{}", run.text());
        let line = run.line()?;
        assert_eq!(
            (line.cluster.as_str(), line.sni.as_str()),
            ("outbound|443||www.google.com", "www.google.com")
        );
    }
    Ok(())
}

#[test]
fn garbage_slow_and_silent_clients_harm_themselves_only() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let config = interceptor_tests::seeds(&["000-01-se-se"])?;
    let script = r#"
def connect(port): return socket.create_connection(("203.0.113.20", port), 10)
held = []
for hello in [b"\x16\x03\x01\xff\xff" + b"A" * 100, b"\x16\x03\x01\x00\x05\x01\xff\xff\xff\xff", b"\x16\x03", b"\x16" * 70000, b"\x80\x2e\x01\x00\x02", b"\x00" * 10]:
    s = connect(443)
    try: s.sendall(hello)
    except ConnectionError: pass
    held.append(s)
for start in [b"", b"G", b"GET / HTTP/1.1\r\nHost: www.goo", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00"]:
    s = connect(80); s.sendall(start); held.append(s)
good = connect(80)
good.sendall(b"GET / HTTP/1.1\r\nHost: www.google.com\r\nConnection: close\r\n\r\n")
print(good.recv(15))
"#;
    let run = pod.interceptor()?.config(&config)?.registry_only().run(&python(script)?)?;
    run.expect_code(0)?;
    assert_eq!(run.text(), "b'HTTP/1.1 200 OK'\n");
    Ok(())
}

#[test]
fn a_header_bomb_is_refused() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let config = interceptor_tests::seeds(&["000-01-se-se"])?;
    for bomb in [
        "b'X-Bomb: ' + b'a' * 4000000 + b'\\r\\n\\r\\n'",
        "b''.join(b'X-%d: bomb\\r\\n' % i for i in range(100000)) + b'\\r\\n'",
    ] {
        let script = format!(
            r#"
s = socket.create_connection(("203.0.113.20", 80), 10)
answer = b""
try:
    s.sendall(b"GET / HTTP/1.1\r\nHost: www.google.com\r\n" + {bomb})
except ConnectionError: pass
try: answer = s.recv(100)
except ConnectionError: pass
print(answer.split(b"\r\n")[0].decode())
good = socket.create_connection(("203.0.113.20", 80), 10)
good.sendall(b"GET / HTTP/1.1\r\nHost: www.google.com\r\nConnection: close\r\n\r\n")
print(good.recv(15))
"#
        );
        let run = pod.interceptor()?.config(&config)?.run(&python(&script)?)?;
        run.expect_code(0)?;
        let text = run.text();
        let (bad, good) = text.trim_end().split_once('\n').unwrap_or_default();
        assert!(
            ["", "HTTP/1.1 431 Request Header Fields Too Large", "HTTP/1.1 400 Bad Request"].contains(&bad),
            "{bad}"
        );
        assert_eq!(good, "b'HTTP/1.1 200 OK'");
    }
    Ok(())
}
