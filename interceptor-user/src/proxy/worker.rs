//! One worker: a thread with its own runtime, its own connections and its own upstream pools. What it
//! shares with the others it reads without waiting.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::active::Active;
use super::names::NameKnowledge;
use super::stats::WorkerStats;
use super::upstream::pool::Pools;
use crate::telemetry::AccessLog;

/// How often pools are rid of what is closed or idle for too long.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The configuration that a request keeps to, counted per worker.
#[derive(Clone, Debug)]
pub(crate) struct Current(
    #[expect(
        clippy::redundant_allocation,
        reason = "counting the Arc would be a count shared by all threads"
    )]
    Rc<Arc<Active>>,
);

impl Current {
    fn new(active: Arc<Active>) -> Self {
        Self(Rc::new(active))
    }
}

impl std::ops::Deref for Current {
    type Target = Active;

    fn deref(&self) -> &Active {
        &self.0
    }
}

/// What every connection of a worker uses.
#[derive(Debug)]
pub struct Worker {
    pub active: Arc<ArcSwap<Active>>,
    pub access_log: AccessLog,
    pub names: NameKnowledge,
    /// The last `active` seen, so that a request costs no count shared by all threads.
    seen: RefCell<Current>,
    pools: Rc<Pools>,
    copies_on_their_way: Rc<Cell<u32>>,
    draining: Cell<bool>,
    drain: Notify,
}

impl Worker {
    /// A worker of the calling thread, which must be inside a `LocalSet`.
    pub fn new(active: Arc<ArcSwap<Active>>, access_log: AccessLog, names: NameKnowledge) -> Rc<Self> {
        let worker = Rc::new(Self {
            seen: RefCell::new(Current::new(active.load_full())),
            active,
            access_log,
            names,
            pools: Rc::default(),
            copies_on_their_way: Rc::default(),
            draining: Cell::new(false),
            drain: Notify::new(),
        });
        tokio::task::spawn_local(sweep(Rc::downgrade(&worker)));
        worker
    }

    /// The configuration of this moment.
    pub(crate) fn current(&self) -> Current {
        let active = self.active.load();
        let mut seen = self.seen.borrow_mut();
        if !Arc::ptr_eq(&active, &seen.0) {
            *seen = Current::new(Arc::clone(&active));
        }
        seen.clone()
    }

    pub(crate) fn pools(&self) -> &Rc<Pools> {
        &self.pools
    }

    pub(crate) fn stats(&self) -> &WorkerStats {
        &self.names.stats
    }

    /// Copies of requests for mirrors that have been sent and not been answered.
    pub(crate) fn copies_on_their_way(&self) -> &Rc<Cell<u32>> {
        &self.copies_on_their_way
    }

    /// Lets keep-alive connections end after the request they are at.
    pub fn start_draining(&self) {
        self.draining.set(true);
        self.drain.notify_waiters();
    }

    /// Ready once [`Worker::start_draining`] was called.
    pub(crate) async fn draining(&self) {
        let notified = self.drain.notified();
        if !self.draining.get() {
            notified.await;
        }
    }
}

async fn sweep(worker: std::rc::Weak<Worker>) {
    let mut interval = tokio::time::interval(SWEEP_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let Some(worker) = worker.upgrade() else { return };
        let active = worker.current();
        let live = active.live_runtimes();
        worker.pools.sweep(|runtime| live.contains(&runtime));
    }
}
