//! connectionPool, retryBudget, tunnel and proxyProtocol: what a cluster gets, from which policy.

use std::time::Duration;

use interceptor_user::snapshot::{
    Bounds, Cluster, ClusterName, Http2Keepalive, ProxyProtocol, RetryBudget, TcpKeepalive, Tunnel,
    TunnelMethod, UpstreamProtocol,
};

use crate::support::{Config, allow_any, in_namespace};

const ENTRY: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: se}
spec:
  hosts: [a.example.com]
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 443, name: https, protocol: HTTPS}
  - {number: 81, name: http2, protocol: HTTP2}
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: dr}
spec:
  host: a.example.com
";

fn with(spec: &str) -> Config {
    allow_any(&format!("{ENTRY}{spec}"))
}

fn with_mesh(spec: &str, mesh: &str) -> Config {
    let config = in_namespace(&format!("{ENTRY}{spec}"), mesh, "default");
    assert!(!config.found().contains("error"), "{}", config.found());
    config
}

fn cluster<'a>(config: &'a Config, port: u16, subset: &str) -> &'a Cluster {
    &config.snapshot.clusters[&ClusterName::outbound(port, subset, "a.example.com")]
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn without_a_policy_nothing_is_bounded() {
    let config = with("  exportTo: ['*']");
    let cluster = cluster(&config, 80, "");
    assert_eq!(cluster.bounds, Bounds::default());
    assert_eq!((cluster.max_concurrent_streams, cluster.http2_keepalive), (None, None));
    assert_eq!((cluster.tcp_max_connection_duration, cluster.http_max_connection_duration), (None, None));
    assert_eq!((&cluster.tunnel, cluster.proxy_protocol), (&None, None));
}

#[test]
fn every_field_acts() {
    let config = with(
        "  trafficPolicy:
    connectionPool:
      tcp:
        maxConnections: 1
        maxConnectionDuration: 9s
        tcpKeepalive: {probes: 2, time: 7200s, interval: 75s}
      http:
        http1MaxPendingRequests: 2
        http2MaxRequests: 3
        maxRequestsPerConnection: 4
        maxRetries: 5
        maxConcurrentStreams: 6
        http2Keepalive: {interval: 30s, timeout: 5s}
        useClientProtocol: true
    retryBudget: {percent: 12.5, minRetryConcurrency: 7}
",
    );
    assert!(!config.found().contains("not applied"), "{}", config.found());
    let cluster = cluster(&config, 80, "");
    let budget = RetryBudget { percent_thousandths: 12_500, min_retry_concurrency: 7 };
    assert_eq!(
        cluster.bounds,
        Bounds {
            connections: Some(1),
            pending_requests: Some(2),
            requests: Some(3),
            retries: Some(5),
            retry_budget: Some(budget),
        }
    );
    assert_eq!(cluster.tcp_keepalive, TcpKeepalive { probes: 2, time: 7200 * SECOND, interval: 75 * SECOND });
    assert_eq!(cluster.max_requests_per_connection, Some(4));
    assert_eq!(cluster.max_concurrent_streams, Some(6));
    assert_eq!(cluster.http2_keepalive, Some(Http2Keepalive { interval: 30 * SECOND, timeout: 5 * SECOND }));
    assert_eq!(cluster.tcp_max_connection_duration, Some(9 * SECOND));
    assert_eq!(cluster.http_max_connection_duration, Some(9 * SECOND));
    assert!(cluster.use_client_protocol);
}

/// Istio can't tell 0 from absent.
#[test]
fn zero_is_no_bound() {
    let config = with(
        "  trafficPolicy: {connectionPool: {tcp: {maxConnections: 0}, http: {http1MaxPendingRequests: 0, \
         http2MaxRequests: 0, maxRetries: 0, maxRequestsPerConnection: 0, maxConcurrentStreams: 0}}}",
    );
    let cluster = cluster(&config, 80, "");
    assert_eq!(cluster.bounds, Bounds::default());
    assert_eq!((cluster.max_requests_per_connection, cluster.max_concurrent_streams), (None, None));
}

#[test]
fn idle_timeouts() {
    for (pool, tcp, http) in [
        ("http: {maxRetries: 1}", 3600, 3600),
        ("tcp: {idleTimeout: 5s}", 5, 5),
        ("tcp: {idleTimeout: 5s}, http: {idleTimeout: 7s}", 5, 7),
        ("http: {idleTimeout: 7s}", 3600, 7),
        // Disabled.
        ("tcp: {idleTimeout: 0s}", 0, u64::MAX),
    ] {
        let config = with(&format!("  trafficPolicy: {{connectionPool: {{{pool}}}}}"));
        let cluster = cluster(&config, 80, "");
        let found = (cluster.tcp_idle_timeout.as_secs(), cluster.http_idle_timeout.as_secs());
        assert_eq!(found, (tcp, http), "{pool}");
    }
}

/// What concerns opaque bytes comes from the top level, whatever ports and subsets say.
#[test]
fn opaque_bytes_go_by_the_top_level() {
    let config = with(
        "  trafficPolicy:
    connectionPool: {tcp: {maxConnectionDuration: 1s, idleTimeout: 2s, maxConnections: 3}}
    portLevelSettings:
    - {port: {number: 443}, connectionPool: {tcp: {maxConnectionDuration: 11s, maxConnections: 13}}}
  subsets:
  - {name: s, trafficPolicy: {connectionPool: {tcp: {maxConnectionDuration: 21s, maxConnections: 23}}}}
",
    );
    for (port, subset, duration, connections) in [(80, "", 1, 3), (443, "", 11, 13), (443, "s", 21, 23)] {
        let cluster = cluster(&config, port, subset);
        assert_eq!(cluster.tcp_max_connection_duration, Some(SECOND), "{port} {subset}");
        assert_eq!(cluster.tcp_idle_timeout, 2 * SECOND, "{port} {subset}");
        assert_eq!(cluster.http_max_connection_duration, Some(duration * SECOND), "{port} {subset}");
        assert_eq!(cluster.bounds.connections, Some(connections), "{port} {subset}");
    }
}

#[test]
fn keepalive_is_the_rules_over_the_meshs_attribute_by_attribute() {
    let ours = TcpKeepalive::default();
    let mesh = "tcpKeepalive: {time: 10s, interval: 11s}";
    for (rule, mesh, expected) in [
        ("tcp: {maxConnections: 1}", "{}", ours),
        ("tcp: {maxConnections: 1}", mesh, TcpKeepalive { time: 10 * SECOND, interval: 11 * SECOND, ..ours }),
        (
            "tcp: {tcpKeepalive: {time: 20s, probes: 21}}",
            mesh,
            TcpKeepalive { probes: 21, time: 20 * SECOND, interval: 11 * SECOND },
        ),
        ("tcp: {tcpKeepalive: {}}", "tcpKeepalive: {probes: 0}", ours),
    ] {
        let config = with_mesh(&format!("  trafficPolicy: {{connectionPool: {{{rule}}}}}"), mesh);
        assert_eq!(cluster(&config, 443, "").tcp_keepalive, expected, "{rule} {mesh}");
    }
}

#[test]
fn http2_towards_endpoints() {
    use UpstreamProtocol::{Http1, Http2};
    for (policy, mesh, [http, https, http2]) in [
        ("DEFAULT", "DO_NOT_UPGRADE", [Http1, Http1, Http2]),
        ("UPGRADE", "DO_NOT_UPGRADE", [Http2, Http2, Http2]),
        ("DO_NOT_UPGRADE", "DO_NOT_UPGRADE", [Http1, Http1, Http2]),
        // The mesh's word is for ports that are HTTP.
        ("DEFAULT", "UPGRADE", [Http2, Http1, Http2]),
        ("DO_NOT_UPGRADE", "UPGRADE", [Http1, Http1, Http2]),
    ] {
        let config = with_mesh(
            &format!("  trafficPolicy: {{connectionPool: {{http: {{h2UpgradePolicy: {policy}}}}}}}"),
            &format!("h2UpgradePolicy: {mesh}"),
        );
        let found = [80, 443, 81].map(|port| cluster(&config, port, "").protocol);
        assert_eq!(found, [http, https, http2], "{policy} over {mesh}");
    }
}

#[test]
fn retry_budgets_have_envoys_defaults() {
    for (budget, percent_thousandths, min_retry_concurrency) in
        [("{}", 20_000, 3), ("{percent: 50}", 50_000, 3), ("{minRetryConcurrency: 0}", 20_000, 0)]
    {
        let config = with(&format!("  trafficPolicy: {{retryBudget: {budget}}}"));
        let expected = RetryBudget { percent_thousandths, min_retry_concurrency };
        assert_eq!(cluster(&config, 80, "").bounds.retry_budget, Some(expected), "{budget}");
    }
}

/// tunnel, proxyProtocol and retryBudget are the service's unless the subset has its own; no port has any.
#[test]
fn what_goes_first_on_a_connection() {
    let config = with(
        "  trafficPolicy:
    tunnel: {targetHost: b.example.com, targetPort: 443}
    retryBudget: {percent: 1}
    portLevelSettings: [{port: {number: 443}, tls: {mode: SIMPLE}}]
  subsets:
  - name: inherits
  - {name: own, trafficPolicy: {tunnel: {protocol: POST, targetHost: '2001:db8::1', targetPort: 8443}}}
  - {name: proxied, trafficPolicy: {proxyProtocol: {version: V2}}}
  - {name: plain, trafficPolicy: {proxyProtocol: {}}}
",
    );
    let tunnel = |method, target: &str| Some(Tunnel { method, target: target.into() });
    for (subset, expected, proxy_protocol) in [
        ("", tunnel(TunnelMethod::Connect, "b.example.com:443"), None),
        ("inherits", tunnel(TunnelMethod::Connect, "b.example.com:443"), None),
        ("own", tunnel(TunnelMethod::Post, "[2001:db8::1]:8443"), None),
        ("proxied", None, Some(ProxyProtocol::V2)),
        ("plain", None, Some(ProxyProtocol::V1)),
    ] {
        for port in [80, 443] {
            let cluster = cluster(&config, port, subset);
            assert_eq!(
                (&cluster.tunnel, cluster.proxy_protocol),
                (&expected, proxy_protocol),
                "{port} {subset}"
            );
            let percent = cluster.bounds.retry_budget.map(|budget| budget.percent_thousandths);
            assert_eq!(percent, Some(1000), "{port} {subset}");
        }
    }
}
