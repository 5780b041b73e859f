//! A configuration in effect, for all workloads that have the same: those of one client.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::active::Active;
use crate::dns::Resolver;
use crate::snapshot::Snapshot;

/// A handle to it; clones are the same one. Endpoints, their load and health belong to it, and are shared by its
/// workloads; upstream connections never are.
#[derive(Clone, Debug)]
pub struct Configured {
    active: Arc<ArcSwap<Active>>,
    resolver: Resolver,
}

impl Configured {
    pub fn new(snapshot: Snapshot, resolver: &Resolver) -> Self {
        let active = Active::build(Arc::new(snapshot), None, resolver);
        Self { active: Arc::new(ArcSwap::from_pointee(active)), resolver: resolver.clone() }
    }

    /// Puts a new snapshot in effect for connections and requests that come from now on. Equal to the
    /// present one, it changes nothing.
    pub fn publish(&self, snapshot: Snapshot) {
        let current = self.active.load_full();
        if *current.snapshot == snapshot {
            return;
        }
        let next = Active::build(Arc::new(snapshot), Some(&current), &self.resolver);
        self.active.store(Arc::new(next));
    }

    /// What is in effect.
    pub fn active(&self) -> Arc<Active> {
        self.active.load_full()
    }

    pub(super) fn shared(&self) -> Arc<ArcSwap<Active>> {
        Arc::clone(&self.active)
    }
}
