//! A workload whose connections are carried, as all threads see it; and the list of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::active::Active;
use super::configured::Configured;
use super::listener::InterceptedSource;
use super::netns::Netns;
use super::peers::Peers;
use super::room::{Part, Room};
use super::shares::Shares;
use super::stats::{ProxyCounters, WorkerStats};
use super::upstream::Usages;
use crate::dns::{Asker, LearnedNames};
use crate::telemetry::metrics::{Metrics, SourceMetrics, WorkerSeries};
use crate::workload::SourceWorkload;

/// Names a workload of a proxy; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadId(u64);

impl WorkloadId {
    /// Which of `threads` threads accepts for it.
    pub(super) fn home(self, threads: usize) -> usize {
        let threads = u64::try_from(threads.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.0 % threads).unwrap_or_default()
    }
}

/// A workload that is to be carried.
pub struct ProxiedWorkload {
    /// Sockets that its intercepted connections arrive on, listening already.
    pub listeners: Vec<TcpListener>,
    pub intercepted: InterceptedSource,
    /// The network namespace that upstream sockets are made in; `None`: the proxy's own.
    pub netns: Option<Arc<OwnedFd>>,
    pub configured: Configured,
    /// Connections that it may have open at one time: one more is reset. Each takes two descriptors, and two more for each
    /// direction in which bytes wait.
    pub connections_max: usize,
    /// Whose descriptors it shares with other workloads.
    pub room: Arc<Room>,
    /// How clients share a gateway, which is open to many; `None`: what comes is one workload's own.
    pub shares: Option<Arc<Shares>>,
    /// Whose addresses a gateway's clients have; `None`: what comes is one workload's own.
    pub peers: Option<Arc<Peers>>,
    /// What the workload's DNS answers say; `None`: they are not captured.
    pub learned: Option<Arc<LearnedNames>>,
    pub source: Arc<SourceWorkload>,
}

impl std::fmt::Debug for ProxiedWorkload {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ProxiedWorkload").field("source", &self.source).finish_non_exhaustive()
    }
}

/// Whether a workload's connections are still taken.
#[derive(Clone, Copy, Debug)]
pub(super) enum Life {
    Serving,
    /// What was accepted may end by itself until then.
    Draining(Instant),
}

/// A workload as all threads see it. Ends when the last of them has let go of it, and with it its descriptors.
pub(super) struct Workload {
    pub(super) id: WorkloadId,
    configured: ArcSwap<ArcSwap<Active>>,
    pub(super) intercepted: InterceptedSource,
    pub(super) netns: Netns,
    pub(super) learned: Option<Arc<LearnedNames>>,
    pub(super) source: Arc<SourceWorkload>,
    pub(super) usages: Arc<Usages>,
    pub(super) part: Part,
    pub(super) shares: Option<Arc<Shares>>,
    pub(super) peers: Option<Arc<Peers>>,
    pub(super) life: watch::Receiver<Life>,
    pub(super) numbers: Arc<Numbers>,
    list: Arc<Workloads>,
}

impl std::fmt::Debug for Workload {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Workload").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Workload {
    /// As whom the resolver knows it.
    pub(super) fn asker(&self) -> Asker {
        Asker { workload: self.id.0, client: None }
    }

    /// The configuration of this moment.
    pub(super) fn active(&self) -> Arc<Active> {
        self.configured.load().load_full()
    }

    /// The same, with nothing counted.
    pub(super) fn with_active<T>(&self, read: impl FnOnce(&Arc<Active>) -> T) -> T {
        read(&self.configured.load().load())
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.list.ended(self.id);
    }
}

/// What is counted of a workload, and why it is not served when it isn't.
#[derive(Debug)]
pub(super) struct Numbers {
    /// One for each thread that has carried something of it.
    workers: Mutex<Vec<Arc<WorkerStats>>>,
    learned: Option<Arc<LearnedNames>>,
    metrics: Arc<SourceMetrics>,
    pub(super) failure: OnceLock<Arc<str>>,
}

impl Numbers {
    pub(super) fn of_worker(&self) -> Arc<WorkerStats> {
        let stats = Arc::<WorkerStats>::default();
        lock(&self.workers).push(Arc::clone(&stats));
        stats
    }

    /// Where a worker counts its requests and connections.
    pub(super) fn series(&self) -> WorkerSeries {
        WorkerSeries::new(&self.metrics)
    }

    fn add_to(&self, counters: &mut ProxyCounters) {
        for stats in lock(&self.workers).iter() {
            stats.add_to(counters);
        }
        if let Some(learned) = &self.learned {
            counters.dns.add(&learned.counters());
        }
    }
}

/// All workloads of a proxy, those that are ending among them.
#[derive(Debug, Default)]
pub(super) struct Workloads {
    state: Mutex<State>,
    /// Told when there is none any more.
    emptied: Condvar,
    pub(super) metrics: Metrics,
}

#[derive(Debug, Default)]
struct State {
    /// The next one's id.
    next: u64,
    live: HashMap<WorkloadId, Entry>,
    /// What was counted of those that are gone.
    past: ProxyCounters,
}

#[derive(Debug)]
struct Entry {
    workload: Weak<Workload>,
    numbers: Arc<Numbers>,
    life: watch::Sender<Life>,
}

impl Workloads {
    /// When the certificates that are shown end, by file.
    pub(super) fn expiries(&self) -> BTreeMap<PathBuf, u64> {
        let live: Vec<_> = {
            let state = lock(&self.state);
            state.live.values().filter_map(|entry| entry.workload.upgrade()).collect()
        };
        let mut expiries = BTreeMap::new();
        let mut seen = HashSet::new();
        for active in live.iter().map(|workload| workload.active()) {
            if seen.insert(Arc::as_ptr(&active)) {
                expiries.extend(active.expiries().map(|expiry| (expiry.file, expiry.until.as_secs())));
            }
        }
        expiries
    }

    /// Enters a workload, and hands back its listeners.
    pub(super) fn add(self: &Arc<Self>, proxied: ProxiedWorkload) -> (Arc<Workload>, Vec<TcpListener>) {
        let ProxiedWorkload { listeners, intercepted, netns, configured, room, learned, source, .. } =
            proxied;
        let (connections_max, shares, peers) = (proxied.connections_max, proxied.shares, proxied.peers);
        let (sender, life) = watch::channel(Life::Serving);
        let numbers = Arc::new(Numbers {
            workers: Mutex::default(),
            learned: learned.clone(),
            metrics: self.metrics.source(&source),
            failure: OnceLock::new(),
        });
        let mut state = lock(&self.state);
        let id = WorkloadId(state.next);
        state.next += 1;
        let workload = Arc::new(Workload {
            id,
            configured: ArcSwap::new(configured.shared()),
            intercepted,
            netns: Netns::new(netns),
            learned,
            source,
            usages: Arc::default(),
            part: Part::new(connections_max, room),
            shares,
            peers,
            life,
            numbers: Arc::clone(&numbers),
            list: Arc::clone(self),
        });
        let entry = Entry { workload: Arc::downgrade(&workload), numbers, life: sender };
        state.live.insert(id, entry);
        (workload, listeners)
    }

    /// False when there is no such workload any more.
    pub(super) fn reconfigure(&self, id: WorkloadId, configured: &Configured) -> bool {
        let workload = lock(&self.state).live.get(&id).and_then(|entry| entry.workload.upgrade());
        workload.is_some_and(|workload| {
            workload.configured.store(configured.shared());
            true
        })
    }

    /// False when there is no such workload any more. A second time it can only end earlier.
    pub(super) fn drain(&self, id: WorkloadId, until: Instant) -> bool {
        lock(&self.state).live.get(&id).is_some_and(|entry| {
            entry.drain(until);
            true
        })
    }

    pub(super) fn drain_all(&self, until: Instant) {
        for entry in lock(&self.state).live.values() {
            entry.drain(until);
        }
    }

    /// Waits until there is no workload, or it is `until`.
    pub(super) fn wait_until_empty(&self, until: Instant) {
        let state = lock(&self.state);
        let left = until.saturating_duration_since(Instant::now());
        let is_there_one = |state: &mut State| !state.live.is_empty();
        drop(self.emptied.wait_timeout_while(state, left, is_there_one));
    }

    pub(super) fn counters(&self) -> ProxyCounters {
        let state = lock(&self.state);
        let mut counters = state.past;
        state.live.values().for_each(|entry| entry.numbers.add_to(&mut counters));
        counters
    }

    pub(super) fn counters_of(&self, id: WorkloadId) -> Option<ProxyCounters> {
        let state = lock(&self.state);
        let mut counters = ProxyCounters::default();
        state.live.get(&id)?.numbers.add_to(&mut counters);
        Some(counters)
    }

    pub(super) fn failure(&self, id: WorkloadId) -> Option<Arc<str>> {
        lock(&self.state).live.get(&id)?.numbers.failure.get().cloned()
    }

    fn ended(&self, id: WorkloadId) {
        let mut state = lock(&self.state);
        if let Some(entry) = state.live.remove(&id) {
            entry.numbers.add_to(&mut state.past);
            state.past = state.past.gone();
        }
        if state.live.is_empty() {
            self.emptied.notify_all();
        }
    }
}

impl Entry {
    fn drain(&self, until: Instant) {
        self.life.send_modify(|life| {
            *life = match *life {
                Life::Serving => Life::Draining(until),
                Life::Draining(before) => Life::Draining(before.min(until)),
            };
        });
    }
}

/// What is guarded is whole after each statement: a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
