//! How connections of a cluster are bounded, kept and begun, from a DestinationRule over MeshConfig.

use std::time::Duration;

use crate::resource::MeshConfig;
use crate::resource::connection_pool::{ConnectionPool, H2Upgrade, Http2Keepalive, TcpKeepalive};
use crate::resource::destination_rule::Extras;
use crate::resource::tunnel::{ProxyProtocol, Tunnel, TunnelProtocol};
use crate::snapshot::{self, Bounds, RetryBudget, Traffic, TunnelMethod, UpstreamProtocol};

/// Envoy has no default; gRPC's.
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Sets what `pool` and `extras` say, `top` being the pool of the rule's top-level policy. `is_http2` and
/// `is_http` are about the port's protocol.
pub(super) fn apply(
    traffic: Traffic,
    mesh: &MeshConfig,
    pool: &ConnectionPool,
    top: Option<&ConnectionPool>,
    extras: Extras,
    (is_http, is_http2): (bool, bool),
) -> Traffic {
    let http2 = is_http2
        || match pool.h2_upgrade {
            Some(H2Upgrade::Upgrade) => true,
            Some(H2Upgrade::DoNotUpgrade) => false,
            None => is_http && mesh.h2_upgrade == Some(H2Upgrade::Upgrade),
        };
    let defaults = RetryBudget::default();
    let retry_budget = extras.retry_budget.map(|budget| RetryBudget {
        percent_thousandths: budget.percent_thousandths.unwrap_or(defaults.percent_thousandths),
        min_retry_concurrency: budget.min_retry_concurrency.unwrap_or(defaults.min_retry_concurrency),
    });
    Traffic {
        protocol: if http2 { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 },
        use_client_protocol: pool.use_client_protocol,
        connect_timeout: pool.connect_timeout.unwrap_or(mesh.connect_timeout),
        // Istio takes what concerns opaque bytes from the top-level policy only.
        tcp_idle_timeout: top.and_then(|pool| pool.tcp_idle_timeout).unwrap_or(traffic.tcp_idle_timeout),
        tcp_max_connection_duration: top.and_then(|pool| pool.max_connection_duration),
        http_idle_timeout: http_idle_timeout(pool).unwrap_or(traffic.http_idle_timeout),
        http_max_connection_duration: pool.max_connection_duration,
        max_requests_per_connection: pool.max_requests_per_connection,
        max_concurrent_streams: pool.max_concurrent_streams,
        http2_keepalive: pool.http2_keepalive.map(|Http2Keepalive { interval, timeout }| {
            snapshot::Http2Keepalive { interval, timeout: timeout.unwrap_or(HTTP2_PING_TIMEOUT) }
        }),
        tcp_keepalive: keepalive(mesh.tcp_keepalive, pool.tcp_keepalive),
        bounds: Bounds {
            connections: pool.max_connections,
            pending_requests: pool.max_pending_requests,
            requests: pool.max_requests,
            retries: pool.max_retries,
            retry_budget,
        },
        tunnel: extras.tunnel.as_ref().map(tunnel),
        proxy_protocol: extras.proxy_protocol.map(|version| match version {
            ProxyProtocol::V1 => snapshot::ProxyProtocol::V1,
            ProxyProtocol::V2 => snapshot::ProxyProtocol::V2,
        }),
        ..traffic
    }
}

/// Istio's: that of `tcp` where `http` has none. Zero is none at all.
fn http_idle_timeout(pool: &ConnectionPool) -> Option<Duration> {
    let timeout = pool.http_idle_timeout.or(pool.tcp_idle_timeout)?;
    Some(if timeout.is_zero() { Duration::MAX } else { timeout })
}

/// Attribute by attribute: the rule's, the mesh's, ours.
fn keepalive(mesh: TcpKeepalive, rule: TcpKeepalive) -> snapshot::TcpKeepalive {
    let defaults = snapshot::TcpKeepalive::default();
    snapshot::TcpKeepalive {
        probes: rule.probes.or(mesh.probes).unwrap_or(defaults.probes),
        time: rule.time.or(mesh.time).unwrap_or(defaults.time),
        interval: rule.interval.or(mesh.interval).unwrap_or(defaults.interval),
    }
}

fn tunnel(tunnel: &Tunnel) -> snapshot::Tunnel {
    let Tunnel { protocol, target_host, target_port } = tunnel;
    let target = if target_host.contains(':') {
        format!("[{target_host}]:{target_port}")
    } else {
        format!("{target_host}:{target_port}")
    };
    let method = match protocol {
        TunnelProtocol::Connect => TunnelMethod::Connect,
        TunnelProtocol::Post => TunnelMethod::Post,
    };
    snapshot::Tunnel { method, target: target.into() }
}
