//! Carries captured DNS datagrams between the workload and the name servers it asks, unchanged both ways, and learns names
//! from what passes. On a thread of its own, whose sockets are not captured.
//!
//! Each client socket gets an upstream socket of its own for each name server, so that servers see what they would see
//! without us: one port for one socket, and a new one for each new socket.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::SendFlags;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::time::Instant;

use super::Resolver;
use super::answer::{self, Asked};
use super::learned::LearnedNames;

/// Questions of one client socket that wait for answers; answers to older ones are not learned.
const QUESTIONS_MAX: usize = 64;
/// How long a socket is kept after its last question was answered.
const ANSWERED_LINGER: Duration = Duration::from_secs(1);
/// How long an answer is waited for, and anything that is no DNS.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// The largest datagram that there is.
const DATAGRAM_MAX: usize = 65_535;

/// Which name server stands behind a socket, by its index. `None`: nobody has been sent there.
pub type ServerOf = Arc<dyn Fn(usize) -> Option<SocketAddr> + Send + Sync>;

pub struct RelayOptions {
    /// Where queries arrive: one for each name server that there may be, non-blocking.
    pub sockets: Vec<std::net::UdpSocket>,
    pub server_of: ServerOf,
    /// Knows which servers are to be trusted.
    pub resolver: Resolver,
    pub learned: Arc<LearnedNames>,
    /// The network namespace from which name servers are asked; `None`: our own.
    pub netns: Option<Arc<OwnedFd>>,
    /// Upstream sockets at one time. What finds no room is lost, as the network loses datagrams.
    pub flows_max: usize,
}

impl fmt::Debug for RelayOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RelayOptions").field("sockets", &self.sockets.len()).finish_non_exhaustive()
    }
}

/// A running relay; dropping it ends its thread.
#[derive(Debug)]
pub struct Relay {
    thread: JoinHandle<()>,
    _stop: oneshot::Sender<()>,
}

impl Relay {
    /// # Errors
    /// When its thread or the thread's runtime can't be made, it can't wait for a socket, or the namespace can't be entered.
    pub fn start(options: RelayOptions) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let sockets = options.sockets.into_iter().map(UdpSocket::from_std).collect::<io::Result<Vec<_>>>()?;
        drop(entered);
        let (stop, stopped) = oneshot::channel();
        let (server_of, resolver, learned) = (options.server_of, options.resolver, options.learned);
        let (flows_max, netns) = (options.flows_max, options.netns);
        let (entered, has_entered) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("dns-relay".into()).spawn(move || {
            let enter = |netns: Arc<OwnedFd>| {
                move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
            };
            let result = netns.map_or(Ok(()), enter);
            let has_failed = result.is_err();
            if entered.send(result).is_err() || has_failed {
                return;
            }
            let shared = Rc::new(Shared {
                server_of,
                resolver,
                learned,
                flows_open: Cell::new(0),
                flows_max,
                buffer: RefCell::new(vec![0; DATAGRAM_MAX]),
            });
            LocalSet::new().block_on(&runtime, async move {
                for (index, socket) in sockets.into_iter().enumerate() {
                    let stand_in =
                        StandIn { shared: Rc::clone(&shared), index, socket, flows: RefCell::default() };
                    tokio::task::spawn_local(Rc::new(stand_in).serve());
                }
                // Nothing is sent: it ends when the other side is dropped.
                let _stopped = stopped.await.is_ok();
            });
        })?;
        let result = has_entered.recv().map_err(|_ended| io::Error::other("the relay's thread has ended"))?;
        result?;
        Ok(Self { thread, _stop: stop })
    }

    /// Whether it has ended, which only dropping it may bring about.
    pub fn failed(&self) -> bool {
        self.thread.is_finished()
    }
}

struct Shared {
    server_of: ServerOf,
    resolver: Resolver,
    learned: Arc<LearnedNames>,
    flows_open: Cell<usize>,
    flows_max: usize,
    /// For whoever reads: nobody holds it while waiting.
    buffer: RefCell<Vec<u8>>,
}

/// One socket on loopback that stands for a name server.
struct StandIn {
    shared: Rc<Shared>,
    index: usize,
    socket: UdpSocket,
    flows: RefCell<HashMap<SocketAddr, Rc<Flow>>>,
}

/// What one client socket has going with one name server.
struct Flow {
    client: SocketAddr,
    server: SocketAddr,
    upstream: UdpSocket,
    questions: RefCell<VecDeque<Asked>>,
    /// Something was sent that is no question: whether it is answered can't be told.
    is_other: Cell<bool>,
    last_active: Cell<Instant>,
}

impl StandIn {
    async fn serve(self: Rc<Self>) {
        loop {
            let received = self.socket.readable().await.and_then(|()| {
                let mut buffer = self.shared.buffer.borrow_mut();
                let (length, client) = self.socket.try_recv_from(&mut buffer)?;
                self.ask(client, &buffer[..length]);
                Ok(())
            });
            match received {
                Ok(()) => tokio::task::yield_now().await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::debug!(%error, "a query could not be received");
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Sends what a client said to the name server.
    fn ask(self: &Rc<Self>, client: SocketAddr, query: &[u8]) {
        let counters = &self.shared.learned.counters;
        let Some(flow) = self.flow(client) else {
            counters.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        match answer::question(query) {
            Some(asked) => {
                let mut questions = flow.questions.borrow_mut();
                if questions.len() == QUESTIONS_MAX {
                    questions.pop_front();
                }
                questions.push_back(asked);
            }
            None => flow.is_other.set(true),
        }
        flow.last_active.set(Instant::now());
        // What the network does not take is lost, and asked again.
        if rustix::net::send(&flow.upstream, query, SendFlags::DONTWAIT).is_ok() {
            counters.queries.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flow(self: &Rc<Self>, client: SocketAddr) -> Option<Rc<Flow>> {
        if let Some(flow) = self.flows.borrow().get(&client) {
            return Some(Rc::clone(flow));
        }
        if self.shared.flows_open.get() >= self.shared.flows_max {
            return None;
        }
        let server = (self.shared.server_of)(self.index)?;
        let upstream = connected(server)
            .inspect_err(|error| tracing::debug!(%server, %error, "a name server can't be asked"))
            .ok()?;
        let flow = Rc::new(Flow {
            client,
            server,
            upstream,
            questions: RefCell::default(),
            is_other: Cell::new(false),
            last_active: Cell::new(Instant::now()),
        });
        self.flows.borrow_mut().insert(client, Rc::clone(&flow));
        self.shared.flows_open.set(self.shared.flows_open.get() + 1);
        tokio::task::spawn_local(Rc::clone(self).answer(Rc::clone(&flow)));
        Some(flow)
    }

    /// Hands the server's answers back until there is nothing to wait for.
    async fn answer(self: Rc<Self>, flow: Rc<Flow>) {
        loop {
            let until = flow.waits_until();
            tokio::select! {
                ready = flow.upstream.readable() => if ready.is_err() { break },
                () = tokio::time::sleep_until(until) => {
                    if flow.waits_until() <= Instant::now() {
                        break;
                    }
                    continue;
                }
            }
            let mut buffer = self.shared.buffer.borrow_mut();
            // An error is the news that nobody listens there; the client would wait for an answer, too.
            if let Ok(length) = flow.upstream.try_recv(&mut buffer) {
                self.hand_back(&flow, &buffer[..length]);
            }
        }
        self.flows.borrow_mut().remove(&flow.client);
        self.shared.flows_open.set(self.shared.flows_open.get() - 1);
    }

    /// First learned, then handed back: the connection that the answer is for finds its names.
    fn hand_back(&self, flow: &Flow, bytes: &[u8]) {
        flow.last_active.set(Instant::now());
        let Shared { learned, resolver, .. } = &*self.shared;
        learned.learn_if(bytes, flow.server, resolver, |asked| flow.take(asked));
        // A client that is gone, or whose buffer is full, loses it.
        if let Err(error) = rustix::net::sendto(&self.socket, bytes, SendFlags::DONTWAIT, &flow.client) {
            tracing::debug!(client = %flow.client, %error, "an answer could not be handed back");
        }
    }
}

impl Flow {
    fn waits_until(&self) -> Instant {
        let is_waiting = self.is_other.get() || !self.questions.borrow().is_empty();
        self.last_active.get() + if is_waiting { SILENCE_MAX } else { ANSWERED_LINGER }
    }

    /// Whether this was asked, and is answered for the first time.
    fn take(&self, asked: &Asked) -> bool {
        let mut questions = self.questions.borrow_mut();
        let position = questions.iter().position(|waiting| waiting == asked);
        position.is_some_and(|position| questions.remove(position).is_some())
    }
}

/// A socket of its own: the kernel takes from nobody but the server, and chooses the port.
fn connected(server: SocketAddr) -> io::Result<UdpSocket> {
    let any = if server.is_ipv4() {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    } else {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    UdpSocket::from_std(socket)
}

#[cfg(test)]
mod tests;
