//! The one accept loop. Each worker runs it on its own duplicate of every listening socket; whoever is
//! idle takes the next connection.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::connection;
use super::downstream::Downstream;
use super::stats::WorkerStats;
use super::worker::Worker;

/// Reads the destination that an accepted socket's connect() asked for: `None` when it has none.
pub type OriginalDstSource = Arc<dyn Fn(BorrowedFd<'_>) -> io::Result<Option<SocketAddr>> + Send + Sync>;

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
    original_dst: OriginalDstSource,
    stats: Arc<WorkerStats>,
) -> io::Error {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                intercept(&worker, &original_dst, &stats, stream, peer);
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
    original_dst: &OriginalDstSource,
    stats: &Arc<WorkerStats>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let original_dst = match original_dst(stream.as_fd()) {
        Ok(Some(original_dst)) => original_dst,
        Ok(None) => return stats.without_original_dst(),
        Err(error) => {
            tracing::error!(%peer, %error, "the original destination of a connection cannot be read: closed");
            return stats.without_original_dst();
        }
    };
    // Small writes go out as they come: what is carried was paced by its sender.
    let _nodelay = stream.set_nodelay(true).is_ok();
    let open = stats.opened();
    let downstream = Downstream::new(peer, original_dst);
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        let _open = open;
        connection::serve(worker, stream, downstream).await;
    });
}
