//! The paths: what a client does, and what its server answers.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use interceptor_tests::{Dir, read_head};

use crate::Cost;
use crate::callgrind::{self, Counts};

pub(crate) const HOST: &str = "paths.test";
/// Nothing takes longer, under valgrind on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
/// Operations of two runs: what they differ by is the operations' alone, without start and end.
const FEW: u32 = 20;
const MANY: u32 = 120;

const REQUEST: &str = "GET /path?query HTTP/1.1\r\nHost: paths.test\r\nUser-Agent: paths\r\nAccept: */*\r\n";
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 16\r\nServer: paths\r\n\r\n0123456789abcdef";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Path {
    /// Requests on a connection that stays open
    Keepalive,
    /// A connection for each request
    Close,
    /// A connection of opaque bytes, 64 each way
    Opaque,
}

impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Keepalive => "keepalive",
            Self::Close => "close",
            Self::Opaque => "opaque",
        })
    }
}

impl Path {
    pub(crate) const ALL: [Self; 3] = [Self::Keepalive, Self::Close, Self::Opaque];

    /// The service's port and protocol.
    pub(crate) fn port(self) -> (u16, &'static str) {
        match self {
            Self::Keepalive | Self::Close => (80, "HTTP"),
            Self::Opaque => (9000, "TCP"),
        }
    }

    pub(crate) fn cost(self) -> anyhow::Result<Cost> {
        let (few, many) = (self.counts(FEW)?, self.counts(MANY)?);
        let each = |few: f64, many: f64| (many - few) / f64::from(MANY - FEW);
        Ok(Cost {
            instructions: each(few.instructions, many.instructions),
            allocations: each(few.allocations, many.allocations),
        })
    }

    /// A proxy that carries so many operations, from its start to its end.
    fn counts(self, operations: u32) -> anyhow::Result<Counts> {
        let server = TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
        let address = server.local_addr().context("the listener has no address")?;
        // Ends with this process, waiting for a connection that does not come.
        thread::spawn(move || {
            server.incoming().flatten().for_each(|stream| drop(thread::spawn(|| serve(stream))))
        });

        let dir = Dir::new()?;
        let out = dir.join("callgrind.out");
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = callgrind::command(&program, &out);
        command.arg("carry").arg(self.to_string()).arg(address.to_string());
        let mut proxy = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run valgrind (cargo xtask paths installs it)")?;
        let carried = (|| {
            let mut line = String::new();
            let stdout = proxy.stdout.take().context("the proxy has no output")?;
            BufReader::new(stdout).read_line(&mut line).context("cannot read the proxy's address")?;
            self.operate(line.trim().parse().context("the proxy did not start")?, operations)
        })();
        // The end of its input ends it.
        drop(proxy.stdin.take());
        let status = proxy.wait().context("cannot wait for the proxy")?;
        carried?;
        ensure!(status.success(), "the proxy ended with {status}");
        callgrind::read(&out)
    }

    fn operate(self, proxy: SocketAddr, operations: u32) -> anyhow::Result<()> {
        let connect = || -> anyhow::Result<TcpStream> {
            let stream = TcpStream::connect(proxy).context("cannot connect to the proxy")?;
            stream.set_read_timeout(Some(DEADLINE)).context("cannot set a timeout")?;
            stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
            Ok(stream)
        };
        match self {
            Self::Keepalive => {
                let mut stream = connect()?;
                for _ in 0..operations {
                    request(&mut stream, "")?;
                }
            }
            Self::Close => {
                for _ in 0..operations {
                    let mut stream = connect()?;
                    request(&mut stream, "Connection: close\r\n")?;
                    // The proxy is done with it before the next one comes.
                    ensure_ended(&mut stream)?;
                }
            }
            Self::Opaque => {
                for _ in 0..operations {
                    let mut stream = connect()?;
                    stream.write_all(&[b'x'; 64]).context("cannot send")?;
                    stream.read_exact(&mut [0; 64]).context("nothing came back")?;
                    stream.shutdown(std::net::Shutdown::Write).context("cannot end")?;
                    ensure_ended(&mut stream)?;
                }
            }
        }
        Ok(())
    }
}

/// Sends one request and reads its response, which is [`RESPONSE`].
fn request(stream: &mut TcpStream, header: &str) -> anyhow::Result<()> {
    stream.write_all(format!("{REQUEST}{header}\r\n").as_bytes()).context("cannot send a request")?;
    let head = read_head(stream).context("no response")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "not the response that was expected: {head}");
    let mut body = [0; 16];
    stream.read_exact(&mut body).context("the response broke off")?;
    ensure!(body == *b"0123456789abcdef", "not the body that was expected");
    Ok(())
}

/// Waits for the end: nothing may come before it.
fn ensure_ended(stream: &mut TcpStream) -> anyhow::Result<()> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).context("cannot read")?;
    ensure!(rest.is_empty(), "more came than was asked for: {:?}", String::from_utf8_lossy(&rest));
    Ok(())
}

/// The server: answers each request, or sends opaque bytes back.
fn serve(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        let bytes = buffer.get(..read).unwrap_or_default();
        let answer = if bytes.ends_with(b"\r\n\r\n") { RESPONSE } else { bytes };
        if stream.write_all(answer).is_err() {
            return;
        }
    }
}
