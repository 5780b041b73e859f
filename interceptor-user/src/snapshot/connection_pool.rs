//! How upstream connections are bounded, kept and begun.

use std::sync::Arc;
use std::time::Duration;

/// Envoy's circuit breakers: how much of a cluster there may be at a time, in the whole process. `None` is no
/// bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// connectionPool.tcp.maxConnections.
    pub connections: Option<u32>,
    /// Requests that wait for a connection (connectionPool.http.http1MaxPendingRequests).
    pub pending_requests: Option<u32>,
    /// connectionPool.http.http2MaxRequests, which counts requests of either version.
    pub requests: Option<u32>,
    /// Tries after the first (connectionPool.http.maxRetries).
    pub retries: Option<u32>,
    /// Goes before `retries`.
    pub retry_budget: Option<RetryBudget>,
}

/// How many retries there may be for the requests under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RetryBudget {
    /// Thousandths of a percent of the requests under way.
    pub percent_thousandths: u32,
    /// So many may be in any case.
    pub min_retry_concurrency: u32,
}

impl Default for RetryBudget {
    /// Envoy's: a fifth, and three in any case.
    fn default() -> Self {
        Self { percent_thousandths: 20_000, min_retry_concurrency: 3 }
    }
}

impl RetryBudget {
    /// The retries that `requests` allow.
    pub fn retries(&self, requests: u32) -> u32 {
        let share = u64::from(requests) * u64::from(self.percent_thousandths) / 100_000;
        u32::try_from(share).unwrap_or(u32::MAX).max(self.min_retry_concurrency)
    }
}

/// Probes on idle connections. Envoy's default is not to probe, but here an application's own keepalive ends at
/// loopback: NATs and firewalls on the way would forget what it means to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcpKeepalive {
    /// Unanswered probes until the connection counts as dead.
    pub probes: u32,
    /// Silence before the first probe.
    pub time: Duration,
    pub interval: Duration,
}

impl Default for TcpKeepalive {
    fn default() -> Self {
        Self { probes: 4, time: Duration::from_secs(60), interval: Duration::from_secs(15) }
    }
}

/// Pings on HTTP/2 connections that have requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Http2Keepalive {
    pub interval: Duration,
    /// An answer that takes longer ends the connection.
    pub timeout: Duration,
}

/// DestinationRule tunnel: the endpoint is a proxy that is asked for a connection to `target`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tunnel {
    pub method: TunnelMethod,
    /// `host:port`, an IPv6 address in brackets.
    pub target: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunnelMethod {
    Connect,
    Post,
}

/// Version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyProtocol {
    V1,
    V2,
}

#[cfg(test)]
mod tests {
    use super::RetryBudget;

    #[test]
    fn a_budget_is_a_share_of_the_requests_and_never_below_its_minimum() {
        let budget = RetryBudget { percent_thousandths: 12_500, min_retry_concurrency: 2 };
        for (requests, expected) in [(0, 2), (1, 2), (16, 2), (24, 3), (800, 100), (u32::MAX, 536_870_911)] {
            assert_eq!(budget.retries(requests), expected, "{requests}");
        }
        let none = RetryBudget { percent_thousandths: 0, min_retry_concurrency: 0 };
        assert_eq!(none.retries(1000), 0);
    }
}
