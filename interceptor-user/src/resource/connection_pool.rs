//! ConnectionPoolSettings and RetryBudget: how many connections, requests and retries a service gets, and how
//! its connections are kept. As with Istio, 0 is as good as absent.

use std::time::Duration;

use super::decode::Field;
use super::object::Object;
use super::retries::at_least_a_millisecond;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionPool {
    pub connect_timeout: Option<Duration>,
    /// Zero: no timeout.
    pub tcp_idle_timeout: Option<Duration>,
    pub max_connections: Option<u32>,
    pub max_connection_duration: Option<Duration>,
    pub tcp_keepalive: TcpKeepalive,
    pub http_idle_timeout: Option<Duration>,
    pub max_pending_requests: Option<u32>,
    pub max_requests: Option<u32>,
    pub max_requests_per_connection: Option<u32>,
    pub max_retries: Option<u32>,
    pub max_concurrent_streams: Option<u32>,
    pub h2_upgrade: Option<H2Upgrade>,
    pub use_client_protocol: bool,
    pub http2_keepalive: Option<Http2Keepalive>,
}

/// h2UpgradePolicy other than DEFAULT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum H2Upgrade {
    Upgrade,
    DoNotUpgrade,
}

/// tcpKeepalive, as far as it is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

/// http2Keepalive: pings on HTTP/2 connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Keepalive {
    pub interval: Duration,
    pub timeout: Option<Duration>,
}

/// retryBudget, as far as it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Thousandths of a percent of the requests under way.
    pub percent_thousandths: Option<u32>,
    pub min_retry_concurrency: Option<u32>,
}

pub(super) fn read(field: &Field<'_>) -> Option<ConnectionPool> {
    let pool = field.object()?;
    if !pool.has("tcp") && !pool.has("http") {
        field.error("connection pool must have at least one field");
    }
    let mut read = ConnectionPool::default();
    if let Some(tcp) = pool.get("tcp").and_then(|field| field.object()) {
        read.connect_timeout = positive(&tcp, "connectTimeout");
        read.max_connections = bound(&tcp, "maxConnections", "max connections");
        read.max_connection_duration = positive(&tcp, "maxConnectionDuration");
        read.tcp_idle_timeout = tcp.get("idleTimeout").and_then(|field| match field.peek_text() {
            Some("0" | "0s") => Some(Duration::ZERO),
            Some(_) | None => at_least_a_millisecond(&field),
        });
        read.tcp_keepalive =
            tcp.get("tcpKeepalive").and_then(|field| read_keepalive(&field)).unwrap_or_default();
    }
    if let Some(http) = pool.get("http").and_then(|field| field.object()) {
        read.http_idle_timeout = positive(&http, "idleTimeout");
        read.max_pending_requests = bound(&http, "http1MaxPendingRequests", "http1 max pending requests");
        read.max_requests = bound(&http, "http2MaxRequests", "http2 max requests");
        read.max_requests_per_connection =
            bound(&http, "maxRequestsPerConnection", "max requests per connection");
        read.max_retries = bound(&http, "maxRetries", "max retries");
        read.max_concurrent_streams = bound(&http, "maxConcurrentStreams", "max concurrent streams");
        read.h2_upgrade = http.get("h2UpgradePolicy").and_then(|field| read_h2_upgrade(&field));
        read.http2_keepalive = http.get("http2Keepalive").and_then(|field| read_http2_keepalive(&field));
        if let Some(field) = http.get("useClientProtocol") {
            read.use_client_protocol = field.boolean().unwrap_or(false);
            if read.use_client_protocol && read.h2_upgrade == Some(H2Upgrade::Upgrade) {
                field.error("use client protocol must not be true when H2UpgradePolicy is UPGRADE");
            }
        }
    }
    Some(read)
}

/// h2UpgradePolicy of a DestinationRule or of MeshConfig.
pub(super) fn read_h2_upgrade(field: &Field<'_>) -> Option<H2Upgrade> {
    field.one_of(&[
        ("DEFAULT", None),
        ("DO_NOT_UPGRADE", Some(H2Upgrade::DoNotUpgrade)),
        ("UPGRADE", Some(H2Upgrade::Upgrade)),
    ])?
}

/// tcpKeepalive of a DestinationRule or of MeshConfig.
pub(super) fn read_keepalive(field: &Field<'_>) -> Option<TcpKeepalive> {
    let keepalive = field.object()?;
    Some(TcpKeepalive {
        probes: keepalive.get("probes").and_then(|field| field.unsigned()).filter(|probes| *probes > 0),
        time: positive(&keepalive, "time"),
        interval: positive(&keepalive, "interval"),
    })
}

fn read_http2_keepalive(field: &Field<'_>) -> Option<Http2Keepalive> {
    let keepalive = field.object()?;
    let timeout = positive(&keepalive, "timeout");
    let interval = keepalive.require("interval").and_then(|field| at_least_a_millisecond(&field))?;
    Some(Http2Keepalive { interval, timeout })
}

pub(super) fn read_retry_budget(field: &Field<'_>) -> Option<RetryBudget> {
    let budget = field.object()?;
    let percent = budget.get("percent").and_then(|field| {
        let thousandths = field.peek_text().and_then(|text| text.parse::<f64>().ok()).and_then(thousandths);
        if thousandths.is_none() {
            field.error("percent must be a number from 0 to 100");
        }
        thousandths
    });
    let min_retry_concurrency = budget.get("minRetryConcurrency").and_then(|field| field.unsigned());
    Some(RetryBudget { percent_thousandths: percent, min_retry_concurrency })
}

fn thousandths(percent: f64) -> Option<u32> {
    let in_range = (0.0..=100.0).contains(&percent);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100,000")]
    in_range.then(|| (percent * 1000.0).round() as u32)
}

/// A bound; none when it is 0, which Istio can't tell from absent.
fn bound(object: &Object<'_>, name: &'static str, words: &str) -> Option<u32> {
    let field = object.get(name)?;
    let number = field.integer(i64::from(i32::MIN)..=i64::from(i32::MAX))?;
    if number < 0 {
        field.error(format!("{words} must be non-negative"));
    }
    u32::try_from(number).ok().filter(|number| *number > 0)
}

fn positive(object: &Object<'_>, name: &'static str) -> Option<Duration> {
    object.get(name).and_then(|field| at_least_a_millisecond(&field))
}
