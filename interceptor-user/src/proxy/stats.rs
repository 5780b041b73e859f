//! Counters of one worker (a workload on one thread): written by it alone, read by anybody.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::termination::HandshakeResult;
use crate::dns::DnsCounters;
use crate::telemetry::exposition::Family;

/// A worker's counters.
#[derive(Debug, Default)]
pub struct WorkerStats {
    accepted: AtomicU64,
    open: AtomicU64,
    without_original_dst: AtomicU64,
    accept_exhausted: AtomicU64,
    surplus: AtomicU64,
    names_matched: AtomicU64,
    names_mismatched: AtomicU64,
    names_unknown: AtomicU64,
    names_refused: AtomicU64,
    around_gateway: AtomicU64,
    mirrors_sent: AtomicU64,
    mirrors_failed: AtomicU64,
    mirrors_given_up: AtomicU64,
    resting: AtomicU64,
    idle_connections: AtomicU64,
    shared_connections: AtomicU64,
    handshakes: [AtomicU64; HandshakeResult::ALL.len()],
}

/// Sums over all workers, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ProxyCounters {
    /// Connections taken over, those that are open still among them.
    pub connections_accepted: u64,
    pub connections_open: u64,
    /// Those of them that speak HTTP/1 and have been idle for a while: without buffers.
    pub connections_resting: u64,
    /// Connections to the listener that no intercepted connect() had made: closed.
    pub connections_without_original_dst: u64,
    /// Times that accepting paused because the process was out of descriptors or memory.
    pub accept_exhausted: u64,
    /// Connections that were one too many for their workload: reset.
    pub connections_surplus: u64,
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
    /// Connections and requests that were refused because they lead around the enforced egress gateway.
    pub around_gateway: u64,
    /// Copies of requests that a mirror has answered, whatever its answer.
    pub mirrors_sent: u64,
    pub mirrors_failed: u64,
    /// Copies that were not sent: their request was too large to be kept, too many were on their way, or a strict policy
    /// refused them.
    pub mirrors_given_up: u64,
    /// Upstream connections that wait for a request, and HTTP/2 ones, which requests share; as of a few seconds ago.
    pub upstream_connections_idle: u64,
    pub upstream_connections_shared: u64,
    /// Of clients whose TLS ends here.
    pub tls_handshakes: Handshakes,
    #[serde(flatten)]
    pub dns: DnsCounters,
}

/// Handshakes by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshakes([u64; HandshakeResult::ALL.len()]);

impl Handshakes {
    pub fn of(&self, result: HandshakeResult) -> u64 {
        self.0[result as usize]
    }
}

impl serde::Serialize for Handshakes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(HandshakeResult::ALL.map(|result| (result.name(), self.of(result))))
    }
}

impl ProxyCounters {
    /// What a workload leaves behind when it goes: what grows, and nothing of what there is.
    pub(super) fn gone(self) -> Self {
        Self {
            connections_open: 0,
            connections_resting: 0,
            upstream_connections_idle: 0,
            upstream_connections_shared: 0,
            ..self
        }
    }

    /// Appends them in Prometheus' text format.
    pub(super) fn append(&self, out: &mut String) {
        let Self { dns, .. } = self;
        for (name, help, count) in [
            (
                "interceptor_connections_accepted_total",
                "Connections that were taken over.",
                self.connections_accepted,
            ),
            (
                "interceptor_connections_without_original_destination_total",
                "Connections to a listener that no intercepted connect() had made: closed.",
                self.connections_without_original_dst,
            ),
            (
                "interceptor_accept_exhausted_total",
                "Times that accepting paused because the process was out of descriptors or memory.",
                self.accept_exhausted,
            ),
            (
                "interceptor_connections_surplus_total",
                "Connections, and requests beside others on theirs, that were one too many for their workload: refused.",
                self.connections_surplus,
            ),
            (
                "interceptor_access_log_dropped_total",
                "Access log lines that were lost because they could not be written fast enough.",
                self.access_log_dropped,
            ),
            (
                "interceptor_names_refused_total",
                "Connections and requests that a strict policy refused for their name.",
                self.names_refused,
            ),
            (
                "interceptor_around_gateway_refused_total",
                "Connections and requests that lead around the enforced egress gateway: refused.",
                self.around_gateway,
            ),
            ("interceptor_dns_queries_total", "Datagrams sent on to name servers.", dns.dns_queries),
            ("interceptor_dns_answers_total", "Answers of name servers.", dns.dns_answers),
            ("interceptor_dns_learned_total", "Addresses whose names were learned.", dns.dns_learned),
            (
                "interceptor_dns_malformed_total",
                "Answers of name servers that could not be read.",
                dns.dns_malformed,
            ),
            ("interceptor_dns_unasked_total", "Answers that nobody had asked for.", dns.dns_unasked),
            ("interceptor_dns_dropped_total", "Queries that found no room.", dns.dns_dropped),
            (
                "interceptor_dns_forgotten_total",
                "Addresses that were forgotten for newer ones.",
                dns.dns_forgotten,
            ),
        ] {
            Family::counter(out, name, help).sample(&[], count);
        }
        Family::counter(
            out,
            "interceptor_names_total",
            "Names that clients gave, by whether they fit the address.",
        )
        .sample(&[("result", "matched")], self.names_matched)
        .sample(&[("result", "mismatched")], self.names_mismatched)
        .sample(&[("result", "unknown")], self.names_unknown);
        Family::counter(
            out,
            "interceptor_mirrors_total",
            "Copies of requests for mirrors, by what became of them.",
        )
        .sample(&[("result", "answered")], self.mirrors_sent)
        .sample(&[("result", "failed")], self.mirrors_failed)
        .sample(&[("result", "given_up")], self.mirrors_given_up);
        let mut handshakes = Family::counter(
            out,
            "interceptor_tls_handshakes_total",
            "Handshakes with clients whose TLS ends here, by what became of them.",
        );
        for result in HandshakeResult::ALL {
            handshakes.sample(&[("result", result.name())], self.tls_handshakes.of(result));
        }
        Family::gauge(out, "interceptor_connections_open", "Connections of workloads that are open.")
            .sample(&[], self.connections_open);
        Family::gauge(
            out,
            "interceptor_connections_resting",
            "Open connections that speak HTTP/1 and have been idle for a while: they hold no buffers.",
        )
        .sample(&[], self.connections_resting);
        Family::gauge(
            out,
            "interceptor_upstream_connections",
            "Upstream connections in pools: idle ones, and those of HTTP/2, which requests share.",
        )
        .sample(&[("state", "idle")], self.upstream_connections_idle)
        .sample(&[("state", "shared")], self.upstream_connections_shared);
    }
}

/// Appends when certificates end, in seconds since 1970, by file.
pub(super) fn append_expiries(out: &mut String, expiries: &BTreeMap<PathBuf, u64>) {
    if expiries.is_empty() {
        return;
    }
    let help = "When certificates that are shown to clients and servers end, in seconds since 1970.";
    let mut family = Family::gauge(out, "interceptor_certificate_expiry_timestamp_seconds", help);
    for (file, until) in expiries {
        family.sample(&[("source", &file.to_string_lossy())], *until);
    }
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

    pub(super) fn pooled(&self, idle: usize, shared: usize) {
        self.idle_connections.store(idle as u64, Ordering::Relaxed);
        self.shared_connections.store(shared as u64, Ordering::Relaxed);
    }

    pub(super) fn opened(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn rests(&self) {
        self.resting.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn rests_no_more(&self) {
        self.resting.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn without_original_dst(&self) {
        self.without_original_dst.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn handshake(&self, result: HandshakeResult) {
        self.handshakes[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn surplus(&self) {
        self.surplus.fetch_add(1, Ordering::Relaxed);
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

    pub(super) fn leads_around_gateway(&self) {
        self.around_gateway.fetch_add(1, Ordering::Relaxed);
    }

    pub fn add_to(&self, counters: &mut ProxyCounters) {
        counters.connections_accepted += self.accepted.load(Ordering::Relaxed);
        counters.connections_open += self.open.load(Ordering::Relaxed);
        counters.connections_resting += self.resting.load(Ordering::Relaxed);
        counters.connections_without_original_dst += self.without_original_dst.load(Ordering::Relaxed);
        counters.accept_exhausted += self.accept_exhausted.load(Ordering::Relaxed);
        counters.connections_surplus += self.surplus.load(Ordering::Relaxed);
        for (sum, count) in counters.tls_handshakes.0.iter_mut().zip(&self.handshakes) {
            *sum += count.load(Ordering::Relaxed);
        }
        counters.names_matched += self.names_matched.load(Ordering::Relaxed);
        counters.names_mismatched += self.names_mismatched.load(Ordering::Relaxed);
        counters.names_unknown += self.names_unknown.load(Ordering::Relaxed);
        counters.mirrors_sent += self.mirrors_sent.load(Ordering::Relaxed);
        counters.mirrors_failed += self.mirrors_failed.load(Ordering::Relaxed);
        counters.mirrors_given_up += self.mirrors_given_up.load(Ordering::Relaxed);
        counters.around_gateway += self.around_gateway.load(Ordering::Relaxed);
        counters.names_refused += self.names_refused.load(Ordering::Relaxed);
        counters.upstream_connections_idle += self.idle_connections.load(Ordering::Relaxed);
        counters.upstream_connections_shared += self.shared_connections.load(Ordering::Relaxed);
    }
}
