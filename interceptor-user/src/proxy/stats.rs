//! Counters of one worker (a workload on one thread): written by it alone, read by anybody.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::dns::DnsCounters;

/// A worker's counters.
#[derive(Debug, Default)]
pub struct WorkerStats {
    accepted: AtomicU64,
    open: AtomicU64,
    without_original_dst: AtomicU64,
    accept_exhausted: AtomicU64,
    names_matched: AtomicU64,
    names_mismatched: AtomicU64,
    names_unknown: AtomicU64,
    names_refused: AtomicU64,
    mirrors_sent: AtomicU64,
    mirrors_failed: AtomicU64,
    mirrors_given_up: AtomicU64,
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
    /// Names that clients gave (SNI, Host) that fit the address they asked for; counted when DNS is captured or the
    /// policy is strict, like the following.
    pub names_matched: u64,
    pub names_mismatched: u64,
    /// Nothing was known of the name or of the address.
    pub names_unknown: u64,
    /// Connections and requests that a strict policy refused.
    pub names_refused: u64,
    /// Copies of requests that a mirror has answered, whatever its answer.
    pub mirrors_sent: u64,
    pub mirrors_failed: u64,
    /// Copies that were not sent: their request was too large to be kept, too many were on their way, or a strict policy
    /// refused them.
    pub mirrors_given_up: u64,
    #[serde(flatten)]
    pub dns: DnsCounters,
}

impl WorkerStats {
    pub(super) fn mirror_sent(&self) {
        self.mirrors_sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn mirror_failed(&self) {
        self.mirrors_failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn mirror_given_up(&self) {
        self.mirrors_given_up.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn opened(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn without_original_dst(&self) {
        self.without_original_dst.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn accept_exhausted(&self) {
        self.accept_exhausted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn name_matched(&self) {
        self.names_matched.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn name_mismatched(&self) {
        self.names_mismatched.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn name_unknown(&self) {
        self.names_unknown.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn name_refused(&self) {
        self.names_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub fn add_to(&self, counters: &mut ProxyCounters) {
        counters.connections_accepted += self.accepted.load(Ordering::Relaxed);
        counters.connections_open += self.open.load(Ordering::Relaxed);
        counters.connections_without_original_dst += self.without_original_dst.load(Ordering::Relaxed);
        counters.accept_exhausted += self.accept_exhausted.load(Ordering::Relaxed);
        counters.names_matched += self.names_matched.load(Ordering::Relaxed);
        counters.names_mismatched += self.names_mismatched.load(Ordering::Relaxed);
        counters.names_unknown += self.names_unknown.load(Ordering::Relaxed);
        counters.mirrors_sent += self.mirrors_sent.load(Ordering::Relaxed);
        counters.mirrors_failed += self.mirrors_failed.load(Ordering::Relaxed);
        counters.mirrors_given_up += self.mirrors_given_up.load(Ordering::Relaxed);
        counters.names_refused += self.names_refused.load(Ordering::Relaxed);
    }
}
