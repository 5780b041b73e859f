//! Upstreams that were connected to, and then fail.

use std::io::{self, Write};
use std::net::TcpStream;

use h2::Reason;
use interceptor_tests::{World, read_head};

use crate::resources::virtual_service;
use crate::row::{Reply, Row};

const BEFORE_HEADERS: &str = "upstream connect error or disconnect/reset before headers.";

/// Resets every stream of an HTTP/2 connection.
fn reset_streams(socket: TcpStream, reason: Reason) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::from_std(socket)?;
        let mut connection = h2::server::handshake(socket).await.map_err(io::Error::other)?;
        while let Some(request) = connection.accept().await {
            let (_request, mut response) = request.map_err(io::Error::other)?;
            response.send_reset(reason);
        }
        Ok(())
    })
}

#[test]
fn closed_before_headers() -> anyhow::Result<()> {
    let origin = World::shared()?.origin(80, |mut socket| read_head(&mut socket).map(drop))?;
    let (name, address) = (origin.name(), origin.address);
    Row {
        config: origin.service_entry("HTTP"),
        registry_only: true,
        curl: vec![&origin.url("/")],
        reply: Reply::own(
            "503 Service Unavailable",
            &format!("{BEFORE_HEADERS} reset reason: connection termination"),
        ),
        log: format!(
            "\"GET / HTTP/1.1\" 503 UC upstream_reset_before_response_started{{connection_termination}} - \"-\" 0 95 <ms> - \"-\" \
             \"<ua>\" \"<id>\" \"{name}\" \"{address}\" outbound|80||{name} <pod> {address} <client> - default"
        ),
    }
    .check()?;
    // Once for each form of the log: what may have been served is not sent again.
    anyhow::ensure!(origin.connections() == 2, "{} connections", origin.connections());
    Ok(())
}

#[test]
fn stream_reset() -> anyhow::Result<()> {
    for (code, route, flags, retried, reason, bytes) in [
        (Reason::INTERNAL_ERROR, "", "UR", "", "remote reset", 85),
        (
            Reason::INTERNAL_ERROR,
            "retries: {attempts: 1, retryOn: reset}, ",
            "UR,URX",
            "retried and the latest ",
            "remote reset",
            108,
        ),
        (Reason::REFUSED_STREAM, "retries: {attempts: 0}, ", "UR", "", "remote refused stream reset", 100),
        (Reason::REFUSED_STREAM, "", "UR,URX", "retried and the latest ", "remote refused stream reset", 123),
    ] {
        let origin = World::shared()?.origin(80, move |socket| reset_streams(socket, code))?;
        let (name, address) = (origin.name(), origin.address);
        Row {
            config: origin.service_entry("HTTP2") + &virtual_service(&name, route, ""),
            registry_only: true,
            curl: vec![&origin.url("/")],
            reply: Reply::own(
                "503 Service Unavailable",
                &format!("{BEFORE_HEADERS} {retried}reset reason: {reason}"),
            ),
            log: format!(
                "\"GET / HTTP/1.1\" 503 {flags} upstream_reset_before_response_started{{{}}} - \"-\" 0 {bytes} <ms> - \"-\" \"<ua>\" \
                 \"<id>\" \"{name}\" \"{address}\" outbound|80||{name} <pod> {address} <client> - -",
                reason.replace(' ', "_")
            ),
        }
        .check()?;
    }
    Ok(())
}

#[test]
fn garbage() -> anyhow::Result<()> {
    for answer in ["SSH-2.0-OpenSSH_9.2\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n"] {
        let origin = World::shared()?.origin(80, move |mut socket| {
            read_head(&mut socket)?;
            socket.write_all(answer.as_bytes())
        })?;
        let (name, address) = (origin.name(), origin.address);
        Row {
            config: origin.service_entry("HTTP"),
            registry_only: true,
            curl: vec![&origin.url("/")],
            reply: Reply::own("502 Bad Gateway", &format!("{BEFORE_HEADERS} reset reason: protocol error")),
            log: format!(
                "\"GET / HTTP/1.1\" 502 UPE upstream_reset_before_response_started{{protocol_error}} - \"-\" 0 87 <ms> - \"-\" \"<ua>\" \
                 \"<id>\" \"{name}\" \"{address}\" outbound|80||{name} <pod> {address} <client> - default"
            ),
        }
        .check()?;
    }
    Ok(())
}
