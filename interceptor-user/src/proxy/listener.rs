//! The one accept loop. It runs at its workload's home, and hands over what another thread is to carry.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::connection;
use super::downstream::Downstream;
use super::placement::{Load, Placement};
use super::tcp;
use super::threads::Threads;
use super::worker::Worker;
use super::workload::Workload;
use crate::datapath;

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

/// A connection that nobody carries yet.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) workload: Arc<Workload>,
    stream: std::net::TcpStream,
    remote_address: SocketAddr,
    original_dst: SocketAddr,
    load: Load,
}

/// What an error of accept(2) means for the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AcceptError {
    /// That connection's own: go on.
    Connection,
    /// Nobody waits to be accepted.
    Nobody,
    /// Ours, and passing: wait a little.
    Exhausted,
    /// The listening socket is of no use any more.
    Fatal,
}

fn classify(error: &io::Error) -> AcceptError {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => AcceptError::Nobody,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => AcceptError::Exhausted,
        Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP) => AcceptError::Fatal,
        Some(_) | None => AcceptError::Connection,
    }
}

/// Accepts until the workload drains, and then what waits still. A listening socket that fails for good ends
/// nothing but this, and is told as its workload's failure.
pub(super) fn accept(
    worker: Rc<Worker>,
    listener: std::net::TcpListener,
    threads: Threads,
    placement: Rc<Placement>,
) -> impl Future<Output = ()> {
    // From now on, not from when it is first looked at.
    let busy = worker.busy();
    async move {
        let _busy = busy;
        if let Err(error) = accept_all(&worker, listener, &threads, &placement).await {
            let workload = worker.workload();
            tracing::error!(source = ?workload.source, %error, "a listening socket of a workload failed");
            // The first one is told.
            drop(workload.numbers.failure.set(error.to_string().into()));
        }
    }
}

async fn accept_all(
    worker: &Rc<Worker>,
    listener: std::net::TcpListener,
    threads: &Threads,
    placement: &Placement,
) -> io::Result<()> {
    // What connects from now on has it, too. Small writes go out as they come: what is carried was paced by its sender.
    SockRef::from(&listener).set_tcp_nodelay(true)?;
    let mut has_nodelay = false;
    let listener = datapath::readable(listener.into())?;
    loop {
        let ready = tokio::select! {
            biased;
            () = worker.draining() => None,
            ready = listener.readable() => Some(ready?),
        };
        match accept_one(listener.get_ref()) {
            Ok((stream, peer)) => {
                let _has_nodelay = has_nodelay || stream.set_nodelay(true).is_ok();
                intercept(worker, threads, placement, stream, peer);
            }
            Err(error) => match classify(&error) {
                AcceptError::Connection => {}
                AcceptError::Nobody if ready.is_none() => return Ok(()),
                AcceptError::Nobody => {}
                AcceptError::Exhausted => {
                    worker.stats().accept_exhausted();
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
                AcceptError::Fatal => return Err(error),
            },
        }
        let Some(mut ready) = ready else {
            tokio::task::yield_now().await;
            continue;
        };
        if is_awaited(listener.get_ref()) {
            // What is carried has its turn before the next one is taken.
            tokio::task::yield_now().await;
        } else {
            ready.clear_ready();
            has_nodelay = true;
        }
    }
}

/// Whether a connection waits to be accepted. An accept(2) in vain makes a socket and takes it apart again: ten times this.
fn is_awaited(listener: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(listener, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::default())).map_or(true, |ready| ready > 0)
}

fn accept_one(listener: &OwnedFd) -> io::Result<(TcpStream, SocketAddr)> {
    let (socket, peer) = acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    let peer = peer.ok_or_else(|| io::Error::other("a connection from nowhere"))?;
    Ok((TcpStream::from_std(socket.into())?, peer))
}

/// Begins one connection's story, here or on another thread. Without an original destination there is none: it is
/// closed, and counted, never guessed.
fn intercept(
    worker: &Rc<Worker>,
    threads: &Threads,
    placement: &Placement,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let workload = worker.workload();
    let intercepted = match (workload.intercepted)(stream.as_fd()) {
        Ok(Some(intercepted)) => intercepted,
        Ok(None) => return worker.stats().without_original_dst(),
        Err(error) => {
            tracing::error!(%peer, %error, "the original destination of a connection cannot be read: closed");
            return worker.stats().without_original_dst();
        }
    };
    // An address that the application bound itself is no loopback address and stays.
    let source = intercepted.source.filter(|_| peer.ip().is_loopback()).unwrap_or(peer.ip());
    let (remote_address, original_dst) = (SocketAddr::new(source, peer.port()), intercepted.original_dst);
    let share = workload.shares.as_ref().map(|shares| shares.take(source));
    workload.part.made(&stream);
    let surplus = workload.part.is_full() || share.as_ref().is_some_and(Option::is_none);
    let (other, load) = placement.place(workload, share.flatten());
    if surplus {
        let open = worker.opened(load);
        let downstream =
            Downstream::new(remote_address, original_dst, Rc::clone(worker.origin()), Some(open));
        worker.stats().surplus();
        return tcp::refuse_surplus(worker, stream, &downstream);
    }
    let Some(other) = other else {
        tokio::task::spawn_local(carry(worker, stream, remote_address, original_dst, load));
        return;
    };
    match stream.into_std() {
        Ok(stream) => {
            let workload = Arc::clone(workload);
            threads.carry(other, Accepted { workload, stream, remote_address, original_dst, load });
        }
        Err(error) => not_carried(remote_address, &error),
    }
}

impl Accepted {
    /// As [`carry`]; `None` when its socket can't be waited for.
    pub(super) fn carry(self, worker: &Rc<Worker>) -> Option<impl Future<Output = ()> + use<>> {
        let Self { stream, remote_address, original_dst, load, .. } = self;
        match TcpStream::from_std(stream) {
            Ok(stream) => Some(carry(worker, stream, remote_address, original_dst, load)),
            Err(error) => {
                not_carried(remote_address, &error);
                None
            }
        }
    }
}

fn not_carried(peer: SocketAddr, error: &io::Error) {
    tracing::warn!(%peer, %error, "a connection can't be waited for: closed");
}

/// The whole story of a connection, told by `worker`.
fn carry(
    worker: &Rc<Worker>,
    stream: TcpStream,
    remote_address: SocketAddr,
    original_dst: SocketAddr,
    load: Load,
) -> impl Future<Output = ()> + use<> {
    let open = worker.opened(load);
    let origin = Rc::clone(worker.origin());
    let downstream = Downstream::new(remote_address, original_dst, origin, Some(open));
    connection::serve(Rc::clone(worker), stream, downstream)
}
