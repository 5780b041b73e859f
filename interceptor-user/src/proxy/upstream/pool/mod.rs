//! The upstream connections of one worker: idle HTTP/1 connections and shared HTTP/2 ones, by cluster,
//! endpoint and TLS server name. Bounded, and swept of what is closed, idle for too long, or of a
//! cluster that is gone.

mod before_answer;
mod bounded;
mod connect;
mod lease;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::client::conn::{http1, http2};

use super::bounds::ConnectionSlot;
use super::error::UpstreamError;
use super::{ClusterRuntime, Pick, RuntimeId};
use crate::hash::HashMap;
use crate::proxy::downstream::Downstream;
use crate::proxy::http::upload::RequestBody;
use crate::snapshot::{EndpointAddress, UpstreamProtocol};
use before_answer::BeforeAnswer;
pub(crate) use before_answer::{AnsweringIo, NoAnswer};
use connect::{connect_http1, connect_http2};
pub(crate) use lease::Lease;
use lease::Sender;

/// Idle HTTP/1 connections that a worker keeps, all clusters together.
const IDLE_CONNECTIONS_MAX: usize = 1024;

/// Which connections can stand in for each other, but for the TLS server name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PoolKey {
    runtime: RuntimeId,
    address: EndpointAddress,
    protocol: UpstreamProtocol,
    preserve_header_case: bool,
}

/// What a request wants of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// For whom it is.
    pub(crate) downstream: &'a Downstream,
    /// Towards TLS origination: the name that the handshake is about.
    pub(crate) server_name: Option<&'a str>,
    /// What it must be made with: see [`ClusterRuntime::tls_version`].
    pub(crate) tls_version: u64,
    pub(crate) protocol: UpstreamProtocol,
    pub(crate) preserve_header_case: bool,
    /// A new one, after a kept one turned out to be closed.
    pub(crate) fresh: bool,
}

/// What stays true of a connection while it is open.
#[derive(Debug)]
pub(crate) struct ConnectionFacts {
    key: PoolKey,
    server_name: Option<Box<str>>,
    tls_version: u64,
    /// The address that answered, which is not `key.address` when another family did.
    pub(crate) peer: EndpointAddress,
    pub(crate) local: Option<SocketAddr>,
    requests_max: Option<u32>,
    requests: Cell<u32>,
    /// The server has said that it is not for such requests.
    misdirected: Cell<bool>,
    idle_timeout: Duration,
    /// When it is too old for another request.
    expires: Option<Instant>,
    /// Of a cluster whose connections are bounded.
    slot: Option<ConnectionSlot>,
    before_answer: BeforeAnswer,
}

impl ConnectionFacts {
    fn exhausted(&self) -> bool {
        self.misdirected.get()
            || self.requests_max.is_some_and(|max| self.requests.get() >= max)
            || self.expires.is_some_and(|expires| expires <= Instant::now())
    }

    fn is_for(&self, wanted: &Wanted<'_>) -> bool {
        self.server_name.as_deref() == wanted.server_name
    }

    /// Made with files that have changed since, or one that may take no more requests.
    fn is_over(&self, wanted: &Wanted<'_>) -> bool {
        self.tls_version != wanted.tls_version || self.exhausted()
    }
}

struct Idle {
    sender: http1::SendRequest<RequestBody>,
    facts: Rc<ConnectionFacts>,
    since: Instant,
}

struct SharedHttp2 {
    sender: http2::SendRequest<RequestBody>,
    facts: Rc<ConnectionFacts>,
    /// Requests on it now; the pool itself holds one reference.
    users: Rc<()>,
    users_max: Option<u32>,
    last_used: Instant,
}

impl SharedHttp2 {
    fn users(&self) -> usize {
        Rc::strong_count(&self.users) - 1
    }

    fn has_room(&self) -> bool {
        self.users_max.and_then(|max| usize::try_from(max).ok()).is_none_or(|max| self.users() < max)
    }
}

#[derive(Default)]
struct EndpointPool {
    /// Last used last.
    idle: Vec<Idle>,
    shared: Vec<SharedHttp2>,
    /// Held while an HTTP/2 connection is being made, so that concurrent requests share it.
    connecting: Arc<tokio::sync::Mutex<()>>,
    /// How often one was begun.
    begun: u64,
    /// Which of them failed last, and how: those who waited for it fail with it.
    failed: Option<(u64, UpstreamError)>,
    /// Those who wait for a connection of a cluster that is allowed no more of them.
    waiting: bounded::LocalWaiters,
}

/// All pools of a worker.
#[derive(Default)]
pub(crate) struct Pools {
    endpoints: RefCell<HashMap<PoolKey, EndpointPool>>,
    idle: Cell<usize>,
}

impl std::fmt::Debug for Pools {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Pools").field("idle", &self.idle.get()).finish_non_exhaustive()
    }
}

impl Pools {
    /// One that was kept, or that others use too.
    fn kept(&self, key: &PoolKey, wanted: &Wanted<'_>) -> Option<(Sender, Rc<ConnectionFacts>)> {
        match key.protocol {
            UpstreamProtocol::Http1 => {
                self.take(key, wanted).map(|idle| (Sender::Http1(idle.sender), idle.facts))
            }
            UpstreamProtocol::Http2 => self.share(key, wanted),
        }
    }

    /// A connection that has to be waited for; true when it served others before.
    async fn obtain(
        self: &Rc<Self>,
        runtime: &Arc<ClusterRuntime>,
        pick: &Pick,
        key: &PoolKey,
        wanted: &Wanted<'_>,
    ) -> Result<(Sender, Rc<ConnectionFacts>, bool), UpstreamError> {
        let usage = runtime.usage(wanted.downstream);
        let _pending = usage.pending()?;
        let _one_at_a_time = match key.protocol {
            UpstreamProtocol::Http1 => None,
            UpstreamProtocol::Http2 => {
                let turn = self.turn(key).await?;
                if let Some((sender, facts)) = self.share(key, wanted) {
                    return Ok((sender, facts, true));
                }
                Some(turn)
            }
        };
        let slot = match usage.connections() {
            None => None,
            Some(connections) => match self.room_for_one(connections, key, wanted).await {
                bounded::Room::Kept(sender, facts) => return Ok((sender, facts, true)),
                bounded::Room::New(slot) => Some(slot),
            },
        };
        match key.protocol {
            UpstreamProtocol::Http1 => {
                let (sender, facts) = connect_http1(self, runtime, pick, key, wanted, slot).await?;
                Ok((Sender::Http1(sender), facts, false))
            }
            UpstreamProtocol::Http2 => {
                let (sender, facts) = self.connect_shared(runtime, pick, key, wanted, slot).await?;
                Ok((sender, facts, false))
            }
        }
    }

    /// A new HTTP/2 connection for this request and others.
    async fn connect_shared(
        self: &Rc<Self>,
        runtime: &Arc<ClusterRuntime>,
        pick: &Pick,
        key: &PoolKey,
        wanted: &Wanted<'_>,
        slot: Option<ConnectionSlot>,
    ) -> Result<(Sender, Rc<ConnectionFacts>), UpstreamError> {
        let begun = self.with_pool(key, |pool| {
            pool.begun += 1;
            pool.begun
        });
        let connected = connect_http2(self, runtime, pick, key, wanted, slot).await;
        let (sender, facts) = connected.inspect_err(|error| {
            self.with_pool(key, |pool| pool.failed = Some((begun, error.clone())));
        })?;
        let users = Rc::new(());
        let shared = SharedHttp2 {
            sender: sender.clone(),
            facts: Rc::clone(&facts),
            users: Rc::clone(&users),
            users_max: runtime.cluster().max_concurrent_streams,
            last_used: Instant::now(),
        };
        self.with_pool(key, |pool| pool.shared.push(shared));
        Ok((Sender::Http2(sender, users), facts))
    }

    fn with_pool<T>(&self, key: &PoolKey, change: impl FnOnce(&mut EndpointPool) -> T) -> T {
        change(self.endpoints.borrow_mut().entry(key.clone()).or_default())
    }

    /// Waits for the turn to make an HTTP/2 connection. Fails with the one that was waited for.
    async fn turn(&self, key: &PoolKey) -> Result<tokio::sync::OwnedMutexGuard<()>, UpstreamError> {
        let (connecting, begun) = self.with_pool(key, |pool| (Arc::clone(&pool.connecting), pool.begun));
        if let Ok(turn) = Arc::clone(&connecting).try_lock_owned() {
            return Ok(turn);
        }
        let turn = connecting.lock_owned().await;
        self.with_pool(key, |pool| match &pool.failed {
            Some((failed, error)) if *failed >= begun => Err(error.clone()),
            Some(_) | None => Ok(turn),
        })
    }

    /// The most recently used idle connection that is still open.
    fn take(&self, key: &PoolKey, wanted: &Wanted<'_>) -> Option<Idle> {
        let mut endpoints = self.endpoints.borrow_mut();
        let idle = &mut endpoints.get_mut(key)?.idle;
        let mut position = idle.len();
        while position > 0 {
            position -= 1;
            let candidate = &idle[position];
            let expired = candidate.since.elapsed() >= candidate.facts.idle_timeout;
            if candidate.sender.is_closed() || expired || candidate.facts.is_over(wanted) {
                idle.remove(position);
                self.idle.set(self.idle.get() - 1);
            } else if candidate.sender.is_ready() && candidate.facts.is_for(wanted) {
                self.idle.set(self.idle.get() - 1);
                return Some(idle.remove(position));
            }
        }
        None
    }

    /// Keeps a connection, in place of the one that has been idle for longest when there are too many.
    fn put(&self, idle: Idle) {
        if idle.facts.slot.as_ref().is_some_and(|slot| self.is_for_others(slot, &idle.facts)) {
            return;
        }
        let mut endpoints = self.endpoints.borrow_mut();
        if self.idle.get() < IDLE_CONNECTIONS_MAX {
            self.idle.set(self.idle.get() + 1);
        } else if let Some(oldest) = endpoints
            .values_mut()
            .filter(|pool| !pool.idle.is_empty())
            .min_by_key(|pool| pool.idle.first().map(|idle| idle.since))
        {
            oldest.idle.remove(0);
        }
        let pool = endpoints.entry(idle.facts.key.clone()).or_default();
        pool.idle.push(idle);
        pool.waiting.wake();
    }

    fn share(&self, key: &PoolKey, wanted: &Wanted<'_>) -> Option<(Sender, Rc<ConnectionFacts>)> {
        let mut endpoints = self.endpoints.borrow_mut();
        let shared = &mut endpoints.get_mut(key)?.shared;
        shared.retain(|connection| !connection.sender.is_closed() && !connection.facts.is_over(wanted));
        let connection =
            shared.iter_mut().find(|connection| connection.facts.is_for(wanted) && connection.has_room())?;
        connection.last_used = Instant::now();
        let sender = Sender::Http2(connection.sender.clone(), Rc::clone(&connection.users));
        Some((sender, Rc::clone(&connection.facts)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.endpoints.borrow().is_empty()
    }

    /// HTTP/1 connections that nobody uses.
    pub(crate) fn idle(&self) -> usize {
        self.idle.get()
    }

    /// HTTP/2 connections.
    pub(crate) fn shared(&self) -> usize {
        self.endpoints.borrow().values().map(|pool| pool.shared.len()).sum()
    }

    /// Forgets connections that are closed, were idle for too long, or belong to a cluster that
    /// `is_live` no longer knows. Those in use finish.
    pub(crate) fn sweep(&self, is_live: impl Fn(RuntimeId) -> bool) {
        let mut kept = 0;
        self.endpoints.borrow_mut().retain(|key, pool| {
            if !is_live(key.runtime) {
                return false;
            }
            pool.idle.retain(|idle| {
                !idle.sender.is_closed()
                    && !idle.facts.exhausted()
                    && idle.since.elapsed() < idle.facts.idle_timeout
            });
            pool.shared.retain(|connection| {
                let in_use = connection.users() > 0;
                !connection.sender.is_closed()
                    && (in_use || connection.last_used.elapsed() < connection.facts.idle_timeout)
            });
            kept += pool.idle.len();
            let in_use = Arc::strong_count(&pool.connecting) > 1 || pool.waiting.any();
            !pool.idle.is_empty() || !pool.shared.is_empty() || in_use
        });
        self.idle.set(kept);
    }
}

/// Runs hyper's HTTP/2 tasks on this worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::{Duration, Instant};

    use super::{BeforeAnswer, ConnectionFacts, IDLE_CONNECTIONS_MAX, Idle, PoolKey, Pools, RuntimeId};
    use crate::snapshot::UpstreamProtocol;

    #[tokio::test]
    async fn the_connection_that_was_idle_for_longest_makes_room() {
        let pools = Pools::default();
        let key = |port| PoolKey {
            runtime: RuntimeId(0),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into(),
            protocol: UpstreamProtocol::Http1,
            preserve_header_case: false,
        };
        let idle_at = |port| pools.endpoints.borrow().get(&key(port)).map_or(0, |pool| pool.idle.len());
        for number in 0..=IDLE_CONNECTIONS_MAX {
            let port = if number == 0 { 1 } else { 2 };
            let io = hyper_util::rt::TokioIo::new(tokio::io::empty());
            let (sender, _connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            let facts = ConnectionFacts {
                key: key(port),
                server_name: None,
                tls_version: 0,
                peer: key(port).address,
                local: None,
                requests_max: None,
                requests: 0.into(),
                misdirected: false.into(),
                idle_timeout: Duration::from_secs(60),
                expires: None,
                slot: None,
                before_answer: BeforeAnswer::default(),
            };
            pools.put(Idle { sender, facts: facts.into(), since: Instant::now() });
            assert_eq!(idle_at(1), usize::from(number < IDLE_CONNECTIONS_MAX), "{number}");
        }
        assert_eq!((idle_at(2), pools.idle.get()), (IDLE_CONNECTIONS_MAX, IDLE_CONNECTIONS_MAX));
    }
}
