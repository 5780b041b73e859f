//! The one accept loop. Each worker runs it on its own duplicate of every listening socket; whoever is
//! idle takes the next connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::connection;
use super::downstream::Downstream;
use super::stats::WorkerStats;
use super::worker::Worker;

/// What the kernel half knows of an accepted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intercepted {
    /// The destination that connect() asked for.
    pub original_dst: SocketAddr,
    /// The workload's own address, which the connection would have come from without the redirect.
    pub source: Option<IpAddr>,
}

/// Asks the kernel half about an accepted socket: `None` when no intercepted connect() made it.
pub type InterceptedSource = Arc<dyn Fn(BorrowedFd<'_>) -> io::Result<Option<Intercepted>> + Send + Sync>;

/// How long accepting pauses when the process is out of descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// What an error of accept(2) means for the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AcceptError {
    /// That connection's own: go on.
    Connection,
    /// Ours, and passing: wait a little.
    Exhausted,
    /// The listening socket is of no use any more.
    Fatal,
}

fn classify(error: &io::Error) -> AcceptError {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => AcceptError::Exhausted,
        Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP) => AcceptError::Fatal,
        Some(_) | None => AcceptError::Connection,
    }
}

/// Accepts until the listening socket fails for good; returns why.
pub(super) async fn accept(
    worker: Rc<Worker>,
    listener: TcpListener,
    source: InterceptedSource,
    stats: Arc<WorkerStats>,
) -> io::Error {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                intercept(&worker, &source, &stats, stream, peer);
                // The other workers have their turn before the next one is taken.
                tokio::task::yield_now().await;
            }
            Err(error) => match classify(&error) {
                AcceptError::Connection => {}
                AcceptError::Exhausted => {
                    stats.accept_exhausted();
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
                AcceptError::Fatal => return error,
            },
        }
    }
}

/// Starts one connection's story. Without an original destination there is none: it is closed, and
/// counted, never guessed.
fn intercept(
    worker: &Rc<Worker>,
    source: &InterceptedSource,
    stats: &Arc<WorkerStats>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let intercepted = match source(stream.as_fd()) {
        Ok(Some(intercepted)) => intercepted,
        Ok(None) => return stats.without_original_dst(),
        Err(error) => {
            tracing::error!(%peer, %error, "the original destination of a connection cannot be read: closed");
            return stats.without_original_dst();
        }
    };
    // Small writes go out as they come: what is carried was paced by its sender.
    let _nodelay = stream.set_nodelay(true).is_ok();
    let open = stats.opened();
    // An address that the application bound itself is no loopback address and stays.
    let source = intercepted.source.filter(|_| peer.ip().is_loopback()).unwrap_or(peer.ip());
    let downstream = Downstream::new(SocketAddr::new(source, peer.port()), intercepted.original_dst);
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        let _open = open;
        connection::serve(worker, stream, downstream).await;
    });
}
