//! How much of bounded clusters a workload uses. As with Envoy beside each pod, bounds are for one workload: what one
//! uses takes nothing from another, whose cluster it is too.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bounds::{Connections, Overflow, Slot, Usage};
use crate::hash::HashMap;
use crate::snapshot::Bounds;

/// Names the bounds of a cluster, over reloads that leave them as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BoundsId(u64);

impl BoundsId {
    pub(super) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What a workload uses of each cluster that has bounds, all threads together.
#[derive(Debug, Default)]
pub(crate) struct Usages(Mutex<HashMap<BoundsId, Arc<Usage>>>);

impl Usages {
    fn lock(&self) -> MutexGuard<'_, HashMap<BoundsId, Arc<Usage>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker's way to it, which takes no lock for what it has used before.
#[derive(Debug, Default)]
pub(crate) struct WorkerUsages {
    all: Arc<Usages>,
    used: RefCell<HashMap<BoundsId, Arc<Usage>>>,
}

impl WorkerUsages {
    pub(crate) fn new(all: &Arc<Usages>) -> Self {
        Self { all: Arc::clone(all), used: RefCell::default() }
    }

    pub(super) fn of(&self, id: BoundsId, bounds: &Bounds) -> Arc<Usage> {
        let new = || {
            let mut all = self.all.lock();
            Arc::clone(all.entry(id).or_insert_with(|| Arc::new(Usage::new(bounds))))
        };
        Arc::clone(self.used.borrow_mut().entry(id).or_insert_with(new))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.used.borrow().is_empty()
    }

    /// Forgets clusters that are gone, or have other bounds by now.
    pub(crate) fn sweep(&self, is_live: impl Fn(BoundsId) -> bool) {
        self.used.borrow_mut().retain(|id, _| is_live(*id));
        self.all.lock().retain(|id, _| is_live(*id));
    }
}

/// What a workload uses of one cluster; nothing is counted of one without bounds.
#[derive(Debug)]
pub(crate) struct UsageOf(pub(super) Option<Arc<Usage>>);

impl UsageOf {
    /// The bound on connections, if there is one.
    pub(super) fn connections(&self) -> Option<&Arc<Connections>> {
        self.0.as_ref()?.connections()
    }

    /// One request more on a connection.
    pub(super) fn request(&self) -> Result<Option<Slot>, Overflow> {
        self.0.as_ref().map_or(Ok(None), |usage| usage.request())
    }

    /// One request more that waits for a connection.
    pub(super) fn pending(&self) -> Result<Option<Slot>, Overflow> {
        self.0.as_ref().map_or(Ok(None), |usage| usage.pending())
    }

    /// One try more of a request that failed.
    pub(crate) fn retry(&self) -> Result<Option<Slot>, Overflow> {
        self.0.as_ref().map_or(Ok(None), |usage| usage.retry())
    }
}
