//! Clients that give up, or that speak HTTP as it is not spoken here.

use std::io::Write;

use interceptor_tests::{World, python, read_head};

use crate::resources::static_entry;
use crate::row::{Reply, Row, check_http, check_line};

#[test]
fn client_gave_up() -> anyhow::Result<()> {
    let silent = World::shared()?.origin(80, |mut socket| {
        read_head(&mut socket)?;
        read_head(&mut socket).map(drop)
    })?;
    let (name, address) = (silent.name(), silent.address);
    Row {
        config: silent.service_entry("HTTP"),
        registry_only: true,
        curl: vec!["--max-time", "0.5", &silent.url("/")],
        reply: Reply::Closed(&[28]),
        log: format!(
            "\"GET / HTTP/1.1\" 0 DC downstream_remote_disconnect - \"-\" 0 0 <ms> - \"-\" \"<ua>\" \"<id>\" \"{name}\" \"{address}\" \
             outbound|80||{name} <pod> {address} <client> - default"
        ),
    }
    .check()
}

#[test]
fn http10_is_not_sniffed() -> anyhow::Result<()> {
    let origin = World::shared()?.origin(80, |mut socket| {
        read_head(&mut socket)?;
        socket.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
    })?;
    let (address, url) = (origin.address, origin.url("/"));
    let row = Row {
        config: origin.service_entry("HTTP"),
        registry_only: false,
        curl: vec!["-0", &url],
        reply: Reply::Any,
        log: format!(
            "\"- - -\" 0 - - - \"-\" <n> 40 <ms> - \"-\" \"-\" \"-\" \"-\" \"{address}\" PassthroughCluster <pod> {address} <client> \
             - -"
        ),
    };
    row.check()?;
    Row {
        registry_only: true,
        reply: Reply::Closed(&[52, 56]),
        log: format!(
            "\"- - -\" 0 UH - - \"-\" 0 0 <ms> - \"-\" \"-\" \"-\" \"-\" \"-\" BlackHoleCluster - {address} <client> - -"
        ),
        ..row
    }
    .check()
}

#[test]
fn http10_after_http11_is_a_low_version() -> anyhow::Result<()> {
    let pod = World::shared()?.pod()?;
    let script = r#"
s = socket.create_connection(("203.0.113.30", 80), 10)
s.sendall(b"GET / HTTP/1.1\r\nHost: edition.cnn.com\r\n\r\n")
head = b""
while not head.endswith(b"\r\n\r\n"): head += s.recv(1) or sys.exit(head)
s.sendall(b"GET / HTTP/1.0\r\nHost: edition.cnn.com\r\n\r\n")
while chunk := s.recv(65536): sys.stdout.buffer.write(chunk)
"#;
    let config = static_entry("somebody-else.test", 80, "{address: 192.0.2.1}");
    let run = pod.interceptor()?.config(&config)?.registry_only().run(&python(script)?)?;
    run.expect_code(0)?;
    let headers = ["content-length: 0", "server: interceptor", "connection: close"].map(str::to_owned);
    check_http(&run.text(), "HTTP/1.0 426 Upgrade Required", &headers, "")?;
    let last = run.log.lines().last().unwrap_or_default();
    check_line(
        "\"GET / HTTP/1.0\" 426 DPE low_version - \"-\" 0 0 <ms> - \"-\" \"-\" \"<id>\" \"edition.cnn.com\" \"-\" - - \
         203.0.113.30:80 <client> - -",
        last,
    )
}

#[test]
fn no_host_in_http11() -> anyhow::Result<()> {
    Row {
        config: static_entry("somebody-else.test", 80, "{address: 192.0.2.1}"),
        registry_only: true,
        curl: vec!["-H", "Host:", "http://edition.cnn.com/"],
        reply: Reply::own("400 Bad Request", ""),
        log: "\"GET / HTTP/1.1\" 400 - missing_host_header - \"-\" 0 0 <ms> - \"-\" \"<ua>\" \"<id>\" \"-\" \"-\" - - \
              203.0.113.30:80 <client> - -"
            .to_owned(),
    }
    .check()
}
