//! How much of a cluster a workload uses now, counted for all its workers, and refused beyond its bounds. What
//! nothing bounds is not counted. No lock: workers meet in atomics, and wait for each other's connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;

use crate::snapshot::{Bounds, RetryBudget};

/// A bound was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overflow;

/// The counters of a cluster.
#[derive(Debug)]
pub(crate) struct Usage {
    connections: Option<Arc<Connections>>,
    pending: Option<Arc<Count>>,
    requests: Option<Arc<Count>>,
    retries: Option<Arc<Count>>,
    retry_budget: Option<RetryBudget>,
}

impl Usage {
    pub(super) fn new(bounds: &Bounds) -> Self {
        let budget = bounds.retry_budget;
        // A budget is a share of the requests under way, which are counted for it.
        let counted = |bound: Option<u32>| bound.or(budget.map(|_| u32::MAX)).map(Count::up_to);
        Self {
            connections: bounds.connections.map(|max| Arc::new(Connections::up_to(max))),
            pending: counted(bounds.pending_requests),
            requests: counted(bounds.requests),
            retries: counted(bounds.retries),
            retry_budget: budget,
        }
    }

    /// The bound on connections, if there is one.
    pub(super) fn connections(&self) -> Option<&Arc<Connections>> {
        self.connections.as_ref()
    }

    /// One request more on a connection.
    pub(super) fn request(&self) -> Result<Option<Slot>, Overflow> {
        self.requests.as_ref().map(|count| count.enter(count.max)).transpose()
    }

    /// One request more that waits for a connection.
    pub(super) fn pending(&self) -> Result<Option<Slot>, Overflow> {
        self.pending.as_ref().map(|count| count.enter(count.max)).transpose()
    }

    /// One try more of a request that failed.
    pub(crate) fn retry(&self) -> Result<Option<Slot>, Overflow> {
        let Some(retries) = &self.retries else { return Ok(None) };
        let max = match self.retry_budget {
            Some(budget) => {
                let now = |count: &Option<Arc<Count>>| count.as_ref().map_or(0, |count| count.now());
                budget.retries(now(&self.requests).saturating_add(now(&self.pending)))
            }
            None => retries.max,
        };
        retries.enter(max).map(Some)
    }
}

#[derive(Debug)]
struct Count {
    now: AtomicU32,
    max: u32,
}

impl Count {
    fn up_to(max: u32) -> Arc<Self> {
        Arc::new(Self { now: AtomicU32::new(0), max })
    }

    fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }

    fn enter(self: &Arc<Self>, max: u32) -> Result<Slot, Overflow> {
        if is_added(&self.now, max) { Ok(Slot(Arc::clone(self))) } else { Err(Overflow) }
    }
}

/// One of a bounded number, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Count>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A bounded number of connections, and those who wait for one.
#[derive(Debug)]
pub(super) struct Connections {
    now: AtomicU32,
    max: u32,
    waiting: AtomicU32,
    /// Idle connections that are still to be given up for those who wait.
    asked: AtomicU32,
    freed: Notify,
    asking: Notify,
}

impl Connections {
    fn up_to(max: u32) -> Self {
        Self {
            now: AtomicU32::new(0),
            max,
            waiting: AtomicU32::new(0),
            asked: AtomicU32::new(0),
            freed: Notify::new(),
            asking: Notify::new(),
        }
    }

    pub(super) fn enter(self: &Arc<Self>) -> Option<ConnectionSlot> {
        is_added(&self.now, self.max).then(|| ConnectionSlot(Arc::clone(self)))
    }

    /// Counts as waiting until the answer is dropped.
    pub(super) fn wait(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(Arc::clone(self))
    }

    pub(super) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Ready when a connection has ended; who was not there then gets the next one.
    pub(super) fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }

    /// Asks whoever keeps an idle connection, in any worker, to give it up.
    pub(super) fn ask(&self) {
        self.asked.store(self.waiting(), Ordering::Relaxed);
        self.asking.notify_waiters();
    }

    /// Ready when somebody has asked; the connection that was offered goes if [`Self::is_asked`].
    pub(super) fn asking(&self) -> tokio::sync::futures::Notified<'_> {
        self.asking.notified()
    }

    /// Whether one more is to be given up; true as often as there is somebody who waits, and waits still.
    pub(super) fn is_asked(&self) -> bool {
        self.waiting() > 0
            && self
                .asked
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |asked| asked.checked_sub(1))
                .is_ok()
    }
}

/// One of a bounded number of connections.
#[derive(Debug)]
pub(crate) struct ConnectionSlot(Arc<Connections>);

impl ConnectionSlot {
    pub(super) fn connections(&self) -> &Arc<Connections> {
        &self.0
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
        self.0.freed.notify_one();
    }
}

#[derive(Debug)]
pub(super) struct Waiting(Arc<Connections>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Adds one unless there are `max`.
fn is_added(now: &AtomicU32, max: u32) -> bool {
    let one_more = |now: u32| now.checked_add(1).filter(|more| *more <= max);
    now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
}

#[cfg(test)]
mod tests {
    use super::{Overflow, Usage};
    use crate::snapshot::{Bounds, RetryBudget};

    #[test]
    fn slots_are_given_back() {
        let usage = Usage::new(&Bounds { requests: Some(2), ..Bounds::default() });
        let first = usage.request().unwrap();
        let second = usage.request().unwrap();
        assert_eq!(usage.request().unwrap_err(), Overflow);
        drop(first);
        let third = usage.request().unwrap();
        assert_eq!(usage.request().unwrap_err(), Overflow);
        drop((second, third));
        assert!(usage.request().is_ok());
    }

    #[test]
    fn what_nothing_bounds_is_not_counted() {
        let usage = Usage::new(&Bounds::default());
        assert!(usage.connections().is_none());
        assert!(matches!((usage.request(), usage.pending(), usage.retry()), (Ok(None), Ok(None), Ok(None))));
    }

    #[test]
    fn a_budget_grows_with_the_requests_and_goes_before_the_bound() {
        let budget = RetryBudget { percent_thousandths: 50_000, min_retry_concurrency: 1 };
        let usage = Usage::new(&Bounds { retries: Some(0), retry_budget: Some(budget), ..Bounds::default() });
        let first = usage.retry().unwrap();
        assert_eq!(usage.retry().unwrap_err(), Overflow);
        let _requests = [usage.request().unwrap(), usage.request().unwrap(), usage.pending().unwrap()];
        assert_eq!(usage.retry().unwrap_err(), Overflow, "half of three is one");
        let _fourth = usage.request().unwrap();
        let second = usage.retry().unwrap();
        assert_eq!(usage.retry().unwrap_err(), Overflow);
        drop((first, second));
        assert!(usage.retry().is_ok());
    }

    #[test]
    fn a_connection_is_asked_for_as_often_as_somebody_waits() {
        let usage = Usage::new(&Bounds { connections: Some(1), ..Bounds::default() });
        let connections = usage.connections().unwrap();
        let slot = connections.enter().unwrap();
        assert!(connections.enter().is_none());
        let waiting = [connections.wait(), connections.wait()];
        connections.ask();
        assert_eq!([(); 3].map(|()| connections.is_asked()), [true, true, false]);
        connections.ask();
        drop(waiting);
        assert!(!connections.is_asked(), "nobody waits any more");
        drop(slot);
        assert!(connections.enter().is_some());
    }
}
