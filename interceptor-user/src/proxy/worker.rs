//! One workload on one thread: its connections there, and its upstream pools. No workload's connection is ever
//! another's, and no thread waits for another.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;

use super::active::Active;
use super::counting::Counting;
use super::downstream::Origin;
use super::names::NameKnowledge;
use super::placement::Load;
use super::stats::WorkerStats;
use super::upstream::pool::Pools;
use super::workload::{Life, Workload};
use crate::dns::Resolver;
use crate::telemetry::{AccessLog, AccessRecord, Flows};

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

/// What all workers of a proxy have in common.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) resolver: Resolver,
    pub(super) access_log: AccessLog,
    pub(super) flows: Flows,
}

/// What every connection of a worker uses.
#[derive(Debug)]
pub(crate) struct Worker {
    workload: Arc<Workload>,
    pub(crate) access_log: AccessLog,
    flows: Flows,
    pub(crate) names: NameKnowledge,
    counting: Rc<Counting>,
    origin: Rc<Origin>,
    /// The last configuration seen, so that a request costs no count shared by all threads.
    seen: RefCell<Current>,
    pools: Rc<Pools>,
    copies_on_their_way: Rc<Cell<u32>>,
    draining: Cell<bool>,
    drain: Notify,
    busy: Rc<Busy>,
    /// Connections that have begun to rest since that was asked last.
    rested: Cell<usize>,
}

impl Worker {
    pub(super) fn new(workload: Arc<Workload>, shared: &Shared) -> Rc<Self> {
        let Shared { access_log, resolver, flows } = shared.clone();
        let stats = workload.numbers.of_worker();
        Rc::new(Self {
            seen: RefCell::new(Current::new(workload.active())),
            access_log,
            flows,
            names: NameKnowledge {
                asker: workload.asker(),
                learned: workload.learned.clone(),
                resolver,
                stats,
            },
            counting: Rc::new(Counting::new(workload.numbers.series())),
            origin: Rc::new(Origin::of(&workload)),
            pools: Rc::default(),
            copies_on_their_way: Rc::default(),
            draining: Cell::new(false),
            drain: Notify::new(),
            busy: Rc::default(),
            rested: Cell::new(0),
            workload,
        })
    }

    pub(super) fn workload(&self) -> &Arc<Workload> {
        &self.workload
    }

    pub(crate) fn counting(&self) -> &Rc<Counting> {
        &self.counting
    }

    /// Whether anybody reads records.
    pub(crate) fn wants_records(&self) -> bool {
        self.access_log.enabled() || self.flows.are_followed()
    }

    /// Tells what there is to tell of a connection or request that has ended.
    pub(crate) fn record(&self, record: &AccessRecord) {
        self.access_log.write(record);
        self.flows.tell(record);
    }

    /// Whose connections these are.
    pub(super) fn origin(&self) -> &Rc<Origin> {
        &self.origin
    }

    /// The configuration of this moment, for what may take long.
    pub(super) fn active(&self) -> Arc<Active> {
        self.workload.active()
    }

    /// The configuration of this moment.
    pub(crate) fn current(&self) -> Current {
        let mut seen = self.seen.borrow_mut();
        self.workload.with_active(|active| {
            if !Arc::ptr_eq(active, &seen.0) {
                *seen = Current::new(Arc::clone(active));
            }
        });
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

    /// Ready once keep-alive connections are to end after the request that they are at.
    pub(crate) async fn draining(&self) {
        let notified = self.drain.notified();
        if !self.draining.get() {
            notified.await;
        }
    }

    /// A connection has let go of its buffers, and does without them for as long as the answer lives.
    pub(crate) fn rest(&self) -> Resting {
        self.rested.set(self.rested.get() + 1);
        self.stats().rests();
        Resting(Arc::clone(&self.names.stats))
    }

    /// How many have begun to rest since this was asked last.
    pub(super) fn take_rested(&self) -> usize {
        self.rested.take()
    }

    /// Counts a connection as open for as long as the answer lives.
    pub(super) fn opened(&self, load: Load) -> Open {
        self.stats().opened();
        Open { stats: Arc::clone(&self.names.stats), _busy: self.busy(), _load: load }
    }

    /// Something that the worker must not end before.
    pub(super) fn busy(&self) -> BusyGuard {
        self.busy.count.set(self.busy.count.get() + 1);
        BusyGuard(Rc::clone(&self.busy))
    }

    /// Whether the workload may be let go of now.
    pub(super) fn is_done(&self) -> bool {
        match *self.workload.life.borrow() {
            Life::Serving => self.workload.life.has_changed().is_err(),
            Life::Draining(until) => self.busy.count.get() == 0 || until <= Instant::now(),
        }
    }

    /// Ready when the workload is to be let go of: it drains, and has nothing open here or no more time.
    pub(super) async fn ended(&self) {
        let mut life = self.workload.life.clone();
        let until = loop {
            // The sender goes with the list of workloads only, which lives as long as this one.
            match *life.borrow_and_update() {
                Life::Serving => {}
                Life::Draining(until) => break until,
            }
            if life.changed().await.is_err() {
                break Instant::now();
            }
        };
        self.draining.set(true);
        self.drain.notify_waiters();
        let idle = async {
            while self.busy.count.get() > 0 {
                self.busy.none.notified().await;
            }
        };
        tokio::select! {
            () = idle => {}
            () = over(life, until) => {}
        }
    }
}

/// Ready at the end of the time to drain, which may be brought forward.
async fn over(mut life: tokio::sync::watch::Receiver<Life>, mut until: Instant) {
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => return,
            changed = life.changed() => match (changed, *life.borrow_and_update()) {
                (Ok(()), Life::Draining(earlier)) => until = earlier,
                (Ok(()), Life::Serving) => {}
                (Err(_), _) => return,
            }
        }
    }
}

/// A connection that is open.
#[derive(Debug)]
pub(crate) struct Open {
    stats: Arc<WorkerStats>,
    _busy: BusyGuard,
    _load: Load,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.stats.closed();
    }
}

/// A connection that has let go of its buffers.
#[derive(Debug)]
pub(crate) struct Resting(Arc<WorkerStats>);

impl Drop for Resting {
    fn drop(&mut self) {
        self.0.rests_no_more();
    }
}

/// Counts what is under way.
#[derive(Debug, Default)]
struct Busy {
    count: Cell<usize>,
    none: Notify,
}

/// One thing that is under way, for as long as it lives.
#[derive(Debug)]
pub(super) struct BusyGuard(Rc<Busy>);

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        if self.0.count.get() == 0 {
            self.0.none.notify_one();
        }
    }
}
