//! What runs in the pods of `cargo xtask e2e`: a server that says how it was reached, and clients. One static program, so
//! that a cluster needs no image but ours.
//!
//! ```text
//! e2e serve                           HTTP on 80, TLS on 443; prints its certificate, then "ready"
//! e2e get URL HOST                    asks, and prints the status and what the server says
//! e2e load URL HOST SECONDS           asks on one connection after another, and prints what became of them
//! e2e hold [URL HOST]                 asks at once, if told to; then does nothing
//! ```
#![expect(clippy::print_stdout, reason = "its output is read by whoever started it in a pod")]

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// The name in the server's certificate.
const NAME: &str = "outside.e2e.test";
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve"] => serve(),
        ["get", url, host] => {
            println!("{}", get(url, host)?);
            Ok(())
        }
        ["load", url, host, seconds] => {
            load(url, host, Duration::from_secs(seconds.parse().context("SECONDS is no number")?));
            Ok(())
        }
        ["hold"] => hold(),
        ["hold", url, host] => {
            match get(url, host) {
                Ok(answer) => println!("{answer}"),
                Err(error) => println!("{error:#}"),
            }
            hold()
        }
        _ => bail!("usage: e2e serve | get URL HOST | load URL HOST SECONDS | hold [URL HOST]"),
    }
}

fn hold() -> ! {
    loop {
        thread::park();
    }
}

/// The status, and the body: `200 {"tls":false,"proxied":true}`.
fn get(url: &str, host: &str) -> anyhow::Result<String> {
    let rest = url.strip_prefix("http://").context("expected http://ADDRESS/PATH")?;
    let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if address.contains(':') { address.to_owned() } else { format!("{address}:80") };
    let mut stream = TcpStream::connect_timeout(&address.parse().context("no address")?, PATIENCE)
        .with_context(|| format!("can't connect to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("the answer broke off")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).context("no status")?;
    // Of a chunked body the line with the object is enough.
    let body = body.lines().find(|line| line.starts_with('{')).unwrap_or(body.trim_end());
    Ok(format!("{status} {body}"))
}

fn load(url: &str, host: &str, time: Duration) {
    let until = Instant::now() + time;
    let mut answers: BTreeMap<String, u64> = BTreeMap::new();
    while Instant::now() < until {
        let answer = get(url, host).unwrap_or_else(|error| format!("{error:#}"));
        *answers.entry(answer).or_default() += 1;
    }
    println!("{}", serde_json::json!(answers));
}

fn serve() -> anyhow::Result<()> {
    let certified = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key.into())?;
    let config = Arc::new(config);
    let plain = TcpListener::bind(("0.0.0.0", 80)).context("can't listen on 80")?;
    let tls = TcpListener::bind(("0.0.0.0", 443)).context("can't listen on 443")?;
    println!("{}\nready", certified.cert.pem().trim_end());
    thread::spawn(move || {
        accept(&tls, move |stream| {
            let connection = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
            answer(StreamOwned::new(connection, stream), true)
        })
    });
    accept(&plain, |stream| answer(stream, false))
}

fn accept(
    listener: &TcpListener,
    serve: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static,
) -> anyhow::Result<()> {
    for stream in listener.incoming() {
        let (stream, serve) = (stream.context("can't accept")?, serve.clone());
        // Whoever breaks off has nobody to tell.
        thread::spawn(move || drop(serve(stream)));
    }
    Ok(())
}

/// Answers one request after another.
fn answer(mut stream: impl Read + Write, is_tls: bool) -> io::Result<()> {
    loop {
        let mut head = String::new();
        {
            let mut reader = BufReader::with_capacity(1, &mut stream);
            while !head.ends_with("\r\n\r\n") {
                if reader.read_line(&mut head)? == 0 {
                    return Ok(());
                }
            }
        }
        let path = head.split(' ').nth(1).unwrap_or_default();
        if let Some(seconds) = path.strip_prefix("/delay/").and_then(|seconds| seconds.parse().ok()) {
            thread::sleep(Duration::from_secs(seconds));
        }
        let lower = head.to_lowercase();
        let is_proxied = lower.contains("\r\nx-envoy-attempt-count:");
        let body = format!("{}\n", serde_json::json!({"tls": is_tls, "proxied": is_proxied}));
        let length = body.len();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}")?;
        stream.flush()?;
        if lower.contains("\r\nconnection: close") {
            return Ok(());
        }
    }
}
