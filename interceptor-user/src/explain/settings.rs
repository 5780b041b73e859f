//! How a cluster's connections are made and bounded: what always matters, and what differs from Istio's defaults.

use std::time::Duration;

use crate::snapshot::{
    Bounds, Cluster, HashKey, LoadBalancer, OutlierDetection, ProxyProtocol, TunnelMethod, UpstreamProtocol,
};

/// Istio's, where nothing else is said.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// One sentence for each group of settings, for those who send `requests` or opaque bytes.
pub(super) fn told(cluster: &Cluster, requests: bool) -> Vec<String> {
    let protocol = match cluster.protocol {
        _ if cluster.use_client_protocol => "the client's HTTP version",
        UpstreamProtocol::Http1 => "HTTP/1.1",
        UpstreamProtocol::Http2 => "HTTP/2",
    };
    let sent_as = if requests { format!("requests go as {protocol}; ") } else { String::new() };
    let always = format!(
        "{sent_as}load balancing {}; connect timeout {:?}",
        load_balancing(cluster),
        cluster.connect_timeout
    );
    let mut told = vec![always];
    told.extend(cluster.outlier_detection.as_ref().map(outlier_detection));
    told.extend(bounds(&cluster.bounds));
    let durations = [
        (
            "idle HTTP connections are closed after",
            Some(cluster.http_idle_timeout).filter(|limit| *limit != IDLE_TIMEOUT),
        ),
        (
            "idle TCP connections are closed after",
            Some(cluster.tcp_idle_timeout).filter(|limit| *limit != IDLE_TIMEOUT),
        ),
        ("HTTP connections live at most", cluster.http_max_connection_duration),
        ("TCP connections live at most", cluster.tcp_max_connection_duration),
    ];
    told.extend(durations.into_iter().filter_map(|(what, limit)| Some(format!("{what} {:?}", limit?))));
    told.extend(
        cluster
            .max_requests_per_connection
            .map(|limit| format!("a connection takes at most {limit} requests")),
    );
    told.extend(cluster.tunnel.as_ref().map(|tunnel| {
        let method = match tunnel.method {
            TunnelMethod::Connect => "CONNECT",
            TunnelMethod::Post => "POST",
        };
        format!("opaque bytes go through a tunnel ({method} {})", tunnel.target)
    }));
    told.extend(cluster.proxy_protocol.map(|version| match version {
        ProxyProtocol::V1 => "connections begin with a PROXY header, version 1".into(),
        ProxyProtocol::V2 => "connections begin with a PROXY header, version 2".into(),
    }));
    told
}

fn load_balancing(cluster: &Cluster) -> String {
    let by = match &cluster.hash_key {
        None => String::new(),
        Some(HashKey::Header(name)) => format!(" by header {name}"),
        Some(HashKey::Cookie(cookie)) => format!(" by cookie {}", cookie.name),
        Some(HashKey::SourceIp) => " by source address".into(),
        Some(HashKey::QueryParameter(name)) => format!(" by query parameter {name}"),
    };
    let name = match cluster.load_balancer {
        LoadBalancer::LeastRequest => "LEAST_REQUEST",
        LoadBalancer::RoundRobin => "ROUND_ROBIN",
        LoadBalancer::Random => "RANDOM",
        LoadBalancer::RingHash { .. } => "ring hash",
        LoadBalancer::Maglev { .. } => "Maglev",
    };
    let warmup = cluster.warmup.map(|warmup| format!(", new endpoints warm up for {:?}", warmup.duration));
    format!("{name}{by}{}", warmup.unwrap_or_default())
}

fn outlier_detection(detection: &OutlierDetection) -> String {
    let counts = [
        (detection.consecutive_5xx, "5xx"),
        (detection.consecutive_gateway_errors, "gateway errors"),
        (detection.consecutive_local_origin_failures.unwrap_or(0), "failures to connect"),
    ];
    let counts = counts.into_iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts.map(|(count, what)| format!("{count} {what}")).collect();
    format!(
        "an endpoint is ejected for {:?} after {} in a row, at most {} % of them",
        detection.base_ejection_time,
        counts.join(" or "),
        detection.max_ejection_percent
    )
}

fn bounds(bounds: &Bounds) -> Option<String> {
    let limits = [
        (bounds.connections, "connections"),
        (bounds.pending_requests, "waiting requests"),
        (bounds.requests, "requests"),
        (bounds.retries, "retries"),
    ];
    let limits = limits.into_iter().filter_map(|(limit, what)| Some(format!("{} {what}", limit?)));
    let limits: Vec<String> = limits.collect();
    (!limits.is_empty()).then(|| format!("at most {} at a time; beyond that 503 UO", limits.join(", ")))
}
