//! Carries opaque bytes both ways between two connections until both directions have ended, one was
//! reset, or nothing moved for too long.
//!
//! Each side sees of the other what it would see without us: the end of one direction while the other
//! goes on, a reset, and no more room than the other side has. The caller owns the sockets and closes
//! them afterwards, which is when a reset prepared here is sent.

mod buffer;
mod pipe;

use std::cell::Cell;
use std::io;
use std::time::Duration;

use rustix::net::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// After so many bytes in one go other connections of this thread have their turn.
const BYTES_PER_TURN: u64 = 1 << 20;

/// Bytes delivered so far, kept by the caller so that a cancelled copy is accounted for too.
#[derive(Debug, Default)]
pub struct Transferred {
    /// From downstream to upstream.
    pub received: Cell<u64>,
    /// From upstream to downstream.
    pub sent: Cell<u64>,
}

/// How a copy ended. Everything but `Closed` and `IdleTimeout` has prepared a reset of the other side.
#[derive(Debug)]
pub enum CopyEnd {
    /// Both directions ended in good order.
    Closed,
    DownstreamReset,
    UpstreamReset,
    /// No byte was delivered in either direction for the idle timeout.
    IdleTimeout,
    /// The downstream connection broke otherwise: timed out, unreachable.
    DownstreamFailed(io::Error),
    /// The upstream connection broke otherwise; TLS errors are among them.
    UpstreamFailed(io::Error),
}

/// Copies, many bytes with splice(2): they stay in the kernel. An `idle_timeout` of zero is none.
pub async fn splice_bidirectional(
    downstream: &mut TcpStream,
    upstream: &mut TcpStream,
    idle_timeout: Duration,
    progress: &Transferred,
) -> CopyEnd {
    let activity = Activity::start(idle_timeout);
    let (from_downstream, downstream) = downstream.split();
    let (from_upstream, upstream) = upstream.split();
    let (downstream, upstream) = (downstream.as_ref(), upstream.as_ref());
    let mut receiving = std::pin::pin!(pipe::carry(from_downstream, upstream, &progress.received, &activity));
    let mut sending = std::pin::pin!(pipe::carry(from_upstream, downstream, &progress.sent, &activity));
    let mut idle = std::pin::pin!(activity.idle());

    // A socket whose bytes have all been read is watched: it can still be reset.
    let end = tokio::select! {
        received = &mut receiving => match received {
            Err(broken) => broken.end(Side::Downstream),
            Ok(()) => tokio::select! {
                sent = &mut sending => end_of_last(sent, Side::Upstream),
                reset = was_reset(downstream) => Side::Downstream.broken(reset),
                () = &mut idle => CopyEnd::IdleTimeout,
            },
        },
        sent = &mut sending => match sent {
            Err(broken) => broken.end(Side::Upstream),
            Ok(()) => tokio::select! {
                received = &mut receiving => end_of_last(received, Side::Downstream),
                reset = was_reset(upstream) => Side::Upstream.broken(reset),
                () = &mut idle => CopyEnd::IdleTimeout,
            },
        },
        () = &mut idle => CopyEnd::IdleTimeout,
    };
    match &end {
        CopyEnd::Closed | CopyEnd::IdleTimeout => {}
        CopyEnd::DownstreamReset | CopyEnd::DownstreamFailed(_) => reset_on_close(upstream),
        CopyEnd::UpstreamReset | CopyEnd::UpstreamFailed(_) => reset_on_close(downstream),
    }
    end
}

/// Copies between a socket and anything else, as [`splice_bidirectional`] does where it can: of the
/// upstream it sees errors only when it reads or writes. Resetting the upstream is left to the caller,
/// who knows the socket under it.
pub async fn copy_bidirectional_io<U>(
    downstream: &TcpStream,
    upstream: U,
    idle_timeout: Duration,
    progress: &Transferred,
) -> CopyEnd
where
    U: AsyncRead + AsyncWrite,
{
    let activity = Activity::start(idle_timeout);
    let (upstream_reader, upstream_writer) = tokio::io::split(upstream);
    let mut receiving =
        std::pin::pin!(buffer::carry_to(downstream, upstream_writer, &progress.received, &activity));
    let mut sending =
        std::pin::pin!(buffer::carry_from(upstream_reader, downstream, &progress.sent, &activity));
    let mut idle = std::pin::pin!(activity.idle());

    let end = tokio::select! {
        received = &mut receiving => match received {
            Err(broken) => broken.end(Side::Downstream),
            Ok(()) => tokio::select! {
                sent = &mut sending => end_of_last(sent, Side::Upstream),
                reset = was_reset(downstream) => Side::Downstream.broken(reset),
                () = &mut idle => CopyEnd::IdleTimeout,
            },
        },
        sent = &mut sending => match sent {
            Err(broken) => broken.end(Side::Upstream),
            Ok(()) => tokio::select! {
                received = &mut receiving => end_of_last(received, Side::Downstream),
                () = &mut idle => CopyEnd::IdleTimeout,
            },
        },
        () = &mut idle => CopyEnd::IdleTimeout,
    };
    if let CopyEnd::UpstreamReset | CopyEnd::UpstreamFailed(_) = &end {
        reset_on_close(downstream);
    }
    end
}

/// Copies between anything and anything else, as [`copy_bidirectional_io`] does where one is a socket: of both it sees
/// errors only when it reads or writes. Resetting is left to the caller, who knows the sockets under them.
pub async fn copy_bidirectional_any<D, U>(
    downstream: D,
    upstream: U,
    idle_timeout: Duration,
    progress: &Transferred,
) -> CopyEnd
where
    D: AsyncRead + AsyncWrite,
    U: AsyncRead + AsyncWrite,
{
    let activity = Activity::start(idle_timeout);
    let (downstream_reader, downstream_writer) = tokio::io::split(downstream);
    let (upstream_reader, upstream_writer) = tokio::io::split(upstream);
    let mut receiving =
        std::pin::pin!(buffer::carry(downstream_reader, upstream_writer, &progress.received, &activity));
    let mut sending =
        std::pin::pin!(buffer::carry(upstream_reader, downstream_writer, &progress.sent, &activity));
    let mut idle = std::pin::pin!(activity.idle());
    tokio::select! {
        received = &mut receiving => match received {
            Err(broken) => broken.end(Side::Downstream),
            Ok(()) => tokio::select! {
                sent = &mut sending => end_of_last(sent, Side::Upstream),
                () = &mut idle => CopyEnd::IdleTimeout,
            },
        },
        sent = &mut sending => match sent {
            Err(broken) => broken.end(Side::Upstream),
            Ok(()) => tokio::select! {
                received = &mut receiving => end_of_last(received, Side::Downstream),
                () = &mut idle => CopyEnd::IdleTimeout,
            },
        },
        () = &mut idle => CopyEnd::IdleTimeout,
    }
}

fn end_of_last(result: Result<(), Broken>, from: Side) -> CopyEnd {
    match result {
        Ok(()) => CopyEnd::Closed,
        Err(broken) => broken.end(from),
    }
}

#[derive(Clone, Copy, Debug)]
enum Side {
    Downstream,
    Upstream,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Downstream => Self::Upstream,
            Self::Upstream => Self::Downstream,
        }
    }

    fn broken(self, error: io::Error) -> CopyEnd {
        match (self, is_reset(&error)) {
            (Self::Downstream, true) => CopyEnd::DownstreamReset,
            (Self::Upstream, true) => CopyEnd::UpstreamReset,
            (Self::Downstream, false) => CopyEnd::DownstreamFailed(error),
            (Self::Upstream, false) => CopyEnd::UpstreamFailed(error),
        }
    }
}

/// Which end of a direction broke.
#[derive(Debug)]
enum Broken {
    Source(io::Error),
    Sink(io::Error),
}

impl Broken {
    /// `from` is the side that the direction reads.
    fn end(self, from: Side) -> CopyEnd {
        match self {
            Self::Source(error) => from.broken(error),
            Self::Sink(error) => from.other().broken(error),
        }
    }
}

/// Linux reports a reset once, to whoever meets it first: ECONNRESET, or EPIPE when the peer had ended
/// its direction before (`tcp_reset`); writes after that get EPIPE, reads and shutdown ENOTCONN.
fn is_reset(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(error.kind(), ConnectionReset | BrokenPipe | NotConnected)
}

/// Waits until the socket breaks; it is not read from or written to meanwhile.
async fn was_reset(socket: &TcpStream) -> io::Error {
    match socket.ready(Interest::ERROR).await {
        Ok(_) => match socket.take_error() {
            Ok(Some(error)) | Err(error) => error,
            Ok(None) => io::ErrorKind::ConnectionReset.into(),
        },
        Err(error) => error,
    }
}

/// Has the socket closed by a reset, as its peer would have seen without us.
fn reset_on_close(socket: &TcpStream) {
    if let Err(error) = socket.set_zero_linger() {
        tracing::debug!(%error, "a reset is passed on as an end: SO_LINGER");
    }
}

/// Ends the direction to `sink` for good, after its last byte.
fn end_direction(sink: &TcpStream) -> Result<(), Broken> {
    shutdown(sink, Shutdown::Write).map_err(|error| Broken::Sink(error.into()))
}

/// When a byte was last delivered in either direction.
struct Activity {
    last: Cell<Instant>,
    idle_timeout: Duration,
}

impl Activity {
    fn start(idle_timeout: Duration) -> Self {
        Self { last: Cell::new(Instant::now()), idle_timeout }
    }

    /// Counts bytes delivered, and remembers when.
    fn delivered(&self, moved: &Cell<u64>, bytes: usize) {
        moved.set(moved.get() + bytes as u64);
        self.last.set(Instant::now());
    }

    async fn idle(&self) {
        if self.idle_timeout.is_zero() {
            return std::future::pending().await;
        }
        loop {
            let Some(end) = self.last.get().checked_add(self.idle_timeout) else {
                return std::future::pending().await;
            };
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// Lets other connections have their turn now and then.
struct Turn {
    left: u64,
}

impl Turn {
    fn start() -> Self {
        Self { left: BYTES_PER_TURN }
    }

    async fn spend(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes as u64);
        if self.left == 0 {
            tokio::task::yield_now().await;
            self.left = BYTES_PER_TURN;
        }
    }
}

#[cfg(test)]
mod tests;
