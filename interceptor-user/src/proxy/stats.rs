//! Counters of one worker: written by it alone, read by anybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A worker's counters.
#[derive(Debug, Default)]
pub struct WorkerStats {
    accepted: AtomicU64,
    open: AtomicU64,
    without_original_dst: AtomicU64,
    accept_exhausted: AtomicU64,
}

/// Sums over all workers, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ProxyCounters {
    /// Connections taken over, those that are open still among them.
    pub connections_accepted: u64,
    pub connections_open: u64,
    /// Connections to the listener that no intercepted connect() had made: closed.
    pub connections_without_original_dst: u64,
    /// Times that accepting paused because the process was out of descriptors or memory.
    pub accept_exhausted: u64,
    /// Access log lines that could not be kept because the log could not be written fast enough.
    pub access_log_dropped: u64,
}

/// Counts a connection as open for as long as it lives.
#[derive(Debug)]
pub(super) struct OpenGuard(Arc<WorkerStats>);

impl WorkerStats {
    pub(super) fn opened(self: &Arc<Self>) -> OpenGuard {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenGuard(Arc::clone(self))
    }

    pub(super) fn without_original_dst(&self) {
        self.without_original_dst.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn accept_exhausted(&self) {
        self.accept_exhausted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_to(&self, counters: &mut ProxyCounters) {
        counters.connections_accepted += self.accepted.load(Ordering::Relaxed);
        counters.connections_open += self.open.load(Ordering::Relaxed);
        counters.connections_without_original_dst += self.without_original_dst.load(Ordering::Relaxed);
        counters.accept_exhausted += self.accept_exhausted.load(Ordering::Relaxed);
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
