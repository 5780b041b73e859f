//! The client of a row: one process in the row's namespace, under `interceptor exec` where that is measured. It
//! takes orders on standard input and answers on standard output, one line of JSON each.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use interceptor_tests::uninterrupted;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use serde::{Deserialize, Serialize};

use crate::busy;

/// No answer of any server takes longer.
const DEADLINE: Duration = Duration::from_secs(20);

/// Connections that are open at once while connect() is timed.
const BATCH: usize = 50;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Opens and closes connections one after the other.
    Connect { address: SocketAddrV4, count: usize },
    /// Runs wrk with these arguments, the last of them the script that prints [`Load`].
    Wrk { arguments: Vec<String> },
    /// Asks the source for so many bytes, and reads them.
    Download { address: SocketAddrV4, bytes: u64 },
    /// One connection after the other asks the source for so many bytes, reads them, and ends.
    Exchange { address: SocketAddrV4, count: usize, bytes: u64 },
    /// HTTP requests on one connection at so many a second.
    Paced { address: SocketAddrV4, host: String, per_second: u32, seconds: u32 },
    /// Opens connections, sends one HTTP request on each, and keeps them.
    Hold { address: SocketAddrV4, host: String, count: usize },
    /// Goes into a pod: connections made from now on are the pod's.
    Enter { netns: PathBuf, cgroup: PathBuf },
    /// HTTP requests on all connections that are held, some at a time.
    Busy { host: String, seconds: u32 },
    /// Sends requests on one connection until one is answered with this status.
    Until { address: SocketAddrV4, host: String, status: u16 },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Ready {
        pid: u32,
    },
    Connected {
        p50_ns: u64,
        p99_ns: u64,
    },
    /// How long each of so many took.
    Timed {
        count: f64,
        p50_us: f64,
        p99_us: f64,
    },
    Loaded(Load),
    Downloaded {
        seconds: f64,
    },
    Held,
    Failed(String),
}

/// What wrk counted (times in microseconds).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) requests: f64,
    pub(crate) duration_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) errors: f64,
}

/// Prints [`Load`] at the end of a wrk run.
pub(crate) const WRK_SCRIPT: &str = r#"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"errors":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

/// A started client, from the side that gives the orders.
#[derive(Debug)]
pub(crate) struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    /// Of the client itself: what was started may be `interceptor exec`.
    pid: u32,
}

impl Client {
    /// `command` must become `bench client`, at once or through `interceptor exec`.
    pub(crate) fn spawn(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("the client has no output")?);
        let mut new = Self { child, stdin, stdout, pid: 0 };
        match new.answer()? {
            Answer::Ready { pid } => new.pid = pid,
            other @ (Answer::Connected { .. }
            | Answer::Timed { .. }
            | Answer::Loaded(_)
            | Answer::Downloaded { .. }
            | Answer::Held
            | Answer::Failed(_)) => bail!("the client began with {other:?}"),
        }
        Ok(new)
    }

    /// The process that was started: the client, or the interceptor around it.
    pub(crate) fn started_pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn order(&mut self, order: &Order) -> anyhow::Result<Answer> {
        let stdin = self.stdin.as_mut().context("the client has ended")?;
        let line = serde_json::to_string(order).context("cannot write the order")?;
        writeln!(stdin, "{line}").context("the client has ended")?;
        match self.answer()? {
            Answer::Failed(why) => bail!("{why}"),
            answer @ (Answer::Ready { .. }
            | Answer::Connected { .. }
            | Answer::Timed { .. }
            | Answer::Loaded(_)
            | Answer::Downloaded { .. }
            | Answer::Held) => Ok(answer),
        }
    }

    fn answer(&mut self) -> anyhow::Result<Answer> {
        let mut line = String::new();
        let length = self.stdout.read_line(&mut line).context("cannot read the client's answer")?;
        if length == 0 {
            let status = self.child.wait().context("cannot wait for the client")?;
            bail!("the client ended ({status}); what it said, if anything, is above");
        }
        serde_json::from_str(&line).with_context(|| format!("not an answer: {line:?}"))
    }
}

impl Drop for Client {
    /// The end of its input ends the client, and `interceptor exec` with it.
    fn drop(&mut self) {
        self.stdin = None;
        let waited =
            interceptor_tests::wait_for("the client to end", DEADLINE, || self.child.try_wait().transpose());
        if !matches!(waited, Ok(Ok(_)))
            && let Err(error) = self.child.kill().and_then(|()| self.child.wait())
        {
            eprintln!("cannot stop process {}: {error}", self.child.id());
        }
    }
}

/// The client itself: answers orders until its input ends.
pub(crate) fn serve() -> anyhow::Result<()> {
    let mut held = Vec::new();
    answer(&Answer::Ready { pid: std::process::id() })?;
    for line in std::io::stdin().lines() {
        let line = line.context("cannot read an order")?;
        let order = serde_json::from_str(&line).with_context(|| format!("not an order: {line:?}"))?;
        answer(&obey(order, &mut held).unwrap_or_else(|error| Answer::Failed(format!("{error:#}"))))?;
    }
    Ok(())
}

fn answer(answer: &Answer) -> anyhow::Result<()> {
    let line = serde_json::to_string(answer).context("cannot write the answer")?;
    println!("{line}");
    Ok(())
}

fn obey(order: Order, held: &mut Vec<TcpStream>) -> anyhow::Result<Answer> {
    match order {
        Order::Connect { address, count } => connect(address, count),
        Order::Wrk { arguments } => {
            let output = interceptor_tests::output(Command::new("wrk").args(arguments))?;
            let text = String::from_utf8_lossy(&output.stdout);
            let line = text.lines().last().unwrap_or_default();
            let load: Load = serde_json::from_str(line).with_context(|| format!("wrk printed: {text}"))?;
            Ok(Answer::Loaded(load))
        }
        Order::Download { address, bytes } => download(address, bytes),
        Order::Exchange { address, count, bytes } => exchange(address, count, bytes),
        Order::Paced { address, host, per_second, seconds } => paced(address, &host, per_second, seconds),
        Order::Hold { address, host, count } => {
            for _ in 0..count {
                held.push(request(address, &host)?);
            }
            Ok(Answer::Held)
        }
        Order::Enter { netns, cgroup } => busy::enter(&netns, &cgroup).map(|()| Answer::Held),
        Order::Busy { host, seconds } => timed(busy::requests(held, &host, seconds)?),
        Order::Until { address, host, status } => until(address, &host, status),
    }
}

/// Requests one after the other; those of another status are as good as the one waited for, only earlier.
fn until(address: SocketAddrV4, host: &str, status: u16) -> anyhow::Result<Answer> {
    let mut socket = TcpStream::connect_timeout(&SocketAddr::V4(address), DEADLINE)
        .with_context(|| format!("cannot connect to {address}"))?;
    socket.set_read_timeout(Some(DEADLINE)).context("cannot set a timeout")?;
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let wanted = format!("HTTP/1.1 {status} ");
    let started = Instant::now();
    while started.elapsed() < DEADLINE {
        socket.write_all(request.as_bytes()).context("cannot send a request")?;
        let head = interceptor_tests::read_head(&mut socket).context("no response")?;
        // The body of the answer before stands in front of it.
        if head.contains(&wanted) {
            return Ok(Answer::Held);
        }
    }
    bail!("no request to {host} was answered {status}")
}

/// Times connect() alone, each on a new socket. Sockets are kept until the server has closed a batch of them; then
/// the client resets, so that neither side keeps a TIME_WAIT that would make later ports harder to find.
fn connect(address: SocketAddrV4, count: usize) -> anyhow::Result<Answer> {
    let mut samples_ns = Vec::with_capacity(count);
    let mut open = Vec::with_capacity(BATCH);
    while samples_ns.len() < count {
        for _ in 0..BATCH {
            let socket =
                rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                    .context("cannot make a socket")?;
            sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).context("cannot set SO_LINGER")?;
            let started = Instant::now();
            rustix::net::connect(&socket, &address)
                .with_context(|| format!("cannot connect to {address}"))?;
            samples_ns.push(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
            open.push(socket);
        }
        open.drain(..).try_for_each(wait_for_close)?;
    }
    samples_ns.sort_unstable();
    let percentile = |part: usize| samples_ns.get(samples_ns.len() * part / 100).copied();
    let (p50_ns, p99_ns) = percentile(50).zip(percentile(99)).context("no connection was asked for")?;
    Ok(Answer::Connected { p50_ns, p99_ns })
}

fn exchange(address: SocketAddrV4, count: usize, bytes: u64) -> anyhow::Result<Answer> {
    let mut samples_us = Vec::with_capacity(count);
    for _ in 0..count {
        let started = Instant::now();
        download(address, bytes)?;
        samples_us.push(started.elapsed().as_secs_f64() * 1e6);
    }
    timed(samples_us)
}

/// A request that is late goes out at once; those after it keep to their times.
fn paced(address: SocketAddrV4, host: &str, per_second: u32, seconds: u32) -> anyhow::Result<Answer> {
    let mut socket = request(address, host)?;
    let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let between = Duration::from_secs(1) / per_second;
    let (began, mut samples_us) = (Instant::now(), Vec::new());
    for number in 0..per_second * seconds {
        std::thread::sleep((between * number).saturating_sub(began.elapsed()));
        let started = Instant::now();
        socket.write_all(head.as_bytes()).context("cannot send a request")?;
        read_response(&mut socket)?;
        samples_us.push(started.elapsed().as_secs_f64() * 1e6);
    }
    timed(samples_us)
}

fn timed(mut samples_us: Vec<f64>) -> anyhow::Result<Answer> {
    samples_us.sort_by(f64::total_cmp);
    let percentile = |part: usize| samples_us.get(samples_us.len() * part / 100).copied();
    let (p50_us, p99_us) = percentile(50).zip(percentile(99)).context("nothing was asked for")?;
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let count = samples_us.len() as f64;
    Ok(Answer::Timed { count, p50_us, p99_us })
}

fn wait_for_close(socket: OwnedFd) -> anyhow::Result<()> {
    let mut socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(DEADLINE)).context("cannot set a timeout")?;
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).context("the server did not close")?;
    ensure!(rest.is_empty(), "the server sent something");
    Ok(())
}

fn download(address: SocketAddrV4, bytes: u64) -> anyhow::Result<Answer> {
    let started = Instant::now();
    let mut socket = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    socket.set_read_timeout(Some(DEADLINE)).context("cannot set a timeout")?;
    socket.write_all(&bytes.to_be_bytes()).context("cannot ask for bytes")?;
    let mut buffer = vec![0; 256 << 10];
    let mut received = 0_u64;
    loop {
        let read = uninterrupted(|| socket.read(&mut buffer)).context("cannot read")?;
        if read == 0 {
            break;
        }
        received += u64::try_from(read).unwrap_or_default();
    }
    ensure!(received == bytes, "{received} bytes came instead of {bytes}");
    Ok(Answer::Downloaded { seconds: started.elapsed().as_secs_f64() })
}

/// Sends one request, reads the whole answer, and leaves the connection open.
pub(crate) fn request(address: SocketAddrV4, host: &str) -> anyhow::Result<TcpStream> {
    let mut socket = TcpStream::connect_timeout(&SocketAddr::V4(address), DEADLINE)
        .with_context(|| format!("cannot connect to {address}"))?;
    socket.set_read_timeout(Some(DEADLINE)).context("cannot set a timeout")?;
    // In one segment: a request in pieces would wait for the acknowledgement of the first.
    let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    socket.write_all(head.as_bytes()).context("cannot send a request")?;
    read_response(&mut socket)?;
    Ok(socket)
}

fn read_response(socket: &mut TcpStream) -> anyhow::Result<()> {
    let head = interceptor_tests::read_head(socket).context("no response")?;
    let length = head
        .to_ascii_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
        .with_context(|| format!("a response without content-length: {head:?}"))?;
    let mut body = vec![0; length];
    socket.read_exact(&mut body).context("the body did not come")?;
    let body = String::from_utf8_lossy(&body);
    ensure!(head.starts_with("HTTP/1.1 200"), "not the response that was expected: {head:?} {body:?}");
    Ok(())
}
