//! loadBalancer and outlierDetection: what becomes of them, and what is refused.

use std::time::Duration;

use http::HeaderName;
use interceptor_user::resource::Level;
use interceptor_user::snapshot::{
    Cluster, ClusterName, Discovery, HashCookie, HashKey, LoadBalancer, OutlierDetection, Warmup,
};

use crate::support::{Config, allow_any, world};

const ENTRY: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: se}
spec:
  hosts: [a.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 81, name: other, protocol: HTTP}]
  resolution: DNS
---
";

fn yaml(policy: &str) -> String {
    format!(
        "{ENTRY}
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: dr}}
spec: {{host: a.example.com, trafficPolicy: {{{policy}}}}}
"
    )
}

fn cluster(config: &Config, port: u16) -> &Cluster {
    &config.snapshot.clusters[&ClusterName::outbound(port, "", "a.example.com")]
}

/// The words of errors, or of warnings.
fn found(policy: &str, level: Level) -> Vec<String> {
    let (_, findings) = world(&yaml(policy));
    findings.into_iter().filter(|finding| finding.level == level).map(|finding| finding.message).collect()
}

#[test]
fn load_balancers() {
    use LoadBalancer::{LeastRequest, Maglev, Random, RingHash, RoundRobin};
    for (settings, expected) in [
        ("{}", LeastRequest),
        ("{simple: UNSPECIFIED}", LeastRequest),
        ("{simple: LEAST_CONN}", LeastRequest),
        ("{simple: LEAST_REQUEST}", LeastRequest),
        ("{simple: ROUND_ROBIN}", RoundRobin),
        ("{simple: RANDOM}", Random),
        ("{consistentHash: {useSourceIp: true}}", RingHash { minimum_size: 1024 }),
        ("{consistentHash: {useSourceIp: true, minimumRingSize: 2048}}", RingHash { minimum_size: 2048 }),
        ("{consistentHash: {useSourceIp: true, ringHash: {}}}", RingHash { minimum_size: 1024 }),
        (
            "{consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 7}}}",
            RingHash { minimum_size: 7 },
        ),
        (
            "{consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: '9'}}}",
            RingHash { minimum_size: 9 },
        ),
        ("{consistentHash: {useSourceIp: true, maglev: {tableSize: 65537}}}", Maglev { table_size: 65537 }),
        (
            "{consistentHash: {useSourceIp: true, maglev: {tableSize: 4999999}}}",
            Maglev { table_size: 4_999_999 },
        ),
    ] {
        let config = allow_any(&yaml(&format!("loadBalancer: {settings}")));
        assert_eq!(cluster(&config, 80).load_balancer, expected, "{settings}");
    }
    let config = allow_any(&yaml("loadBalancer: {simple: PASSTHROUGH}"));
    assert_eq!(cluster(&config, 80).discovery, Discovery::OriginalDst { port: None });
}

#[test]
fn hash_keys() {
    let cookie = |made_with: Option<&str>| {
        Some(HashKey::Cookie(HashCookie { name: "user".into(), made_with: made_with.map(Into::into) }))
    };
    for (key, expected) in [
        ("httpHeaderName: X-User", Some(HashKey::Header(HeaderName::from_static("x-user")))),
        ("useSourceIp: true", Some(HashKey::SourceIp)),
        ("useSourceIp: false", None),
        ("httpQueryParameterName: q", Some(HashKey::QueryParameter("q".into()))),
        ("httpCookie: {name: user}", cookie(None)),
        ("httpCookie: {name: user, ttl: 0s}", cookie(Some("; HttpOnly"))),
        ("httpCookie: {name: user, ttl: 1h}", cookie(Some("; Max-Age=3600; HttpOnly"))),
        ("httpCookie: {name: user, path: /a, ttl: 90s}", cookie(Some("; Max-Age=90; Path=/a; HttpOnly"))),
        (
            "httpCookie: {name: user, ttl: 1s, attributes: [{name: SameSite, value: Strict}, {name: Secure}]}",
            cookie(Some("; Max-Age=1; SameSite=Strict; Secure; HttpOnly")),
        ),
    ] {
        let config = allow_any(&yaml(&format!("loadBalancer: {{consistentHash: {{{key}}}}}")));
        assert_eq!(cluster(&config, 80).hash_key, expected, "{key}");
    }
}

#[test]
fn warmups() {
    let warmup = |seconds, minimum_share_thousandths, aggression_thousandths| {
        let duration = Duration::from_secs(seconds);
        Some(Warmup { duration, minimum_share_thousandths, aggression_thousandths })
    };
    for (settings, expected) in [
        ("{}", None),
        ("{warmupDurationSecs: 60s}", warmup(60, 100, 1000)),
        ("{warmup: {duration: 60s}}", warmup(60, 100, 1000)),
        ("{simple: ROUND_ROBIN, warmup: {duration: 60s, minimumPercent: 20}}", warmup(60, 200, 1000)),
        ("{warmup: {duration: 60s, minimumPercent: 0, aggression: 1.5}}", warmup(60, 0, 1500)),
        ("{simple: RANDOM, warmup: {duration: 60s}}", None),
        ("{consistentHash: {useSourceIp: true}, warmup: {duration: 60s}}", None),
    ] {
        let config = allow_any(&yaml(&format!("loadBalancer: {settings}")));
        assert_eq!(cluster(&config, 80).warmup, expected, "{settings}");
    }
}

#[test]
fn outlier_detection() {
    let default = OutlierDetection::default();
    assert_eq!(
        (default.consecutive_5xx, default.consecutive_gateway_errors, default.max_ejection_percent),
        (5, 0, 10)
    );
    assert_eq!(
        (default.interval, default.base_ejection_time),
        (Duration::from_secs(10), Duration::from_secs(30))
    );
    for (settings, expected) in [
        ("{}", default),
        ("{consecutive5xxErrors: 0}", OutlierDetection { consecutive_5xx: 0, ..default }),
        (
            "{consecutive5xxErrors: 7, consecutiveGatewayErrors: 3, interval: 1s, baseEjectionTime: 3m, \
             maxEjectionPercent: 100, minHealthPercent: 50}",
            OutlierDetection {
                consecutive_5xx: 7,
                consecutive_gateway_errors: 3,
                consecutive_local_origin_failures: None,
                interval: Duration::from_secs(1),
                base_ejection_time: Duration::from_secs(180),
                max_ejection_percent: 100,
                min_health_percent: 50,
            },
        ),
        // 0 can't be told from absent in Istio's API.
        ("{maxEjectionPercent: 0}", default),
        (
            "{splitExternalLocalOriginErrors: true}",
            OutlierDetection { consecutive_local_origin_failures: Some(5), ..default },
        ),
        (
            "{splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2}",
            OutlierDetection { consecutive_local_origin_failures: Some(2), ..default },
        ),
    ] {
        let config = allow_any(&yaml(&format!("outlierDetection: {settings}")));
        assert_eq!(cluster(&config, 80).outlier_detection, Some(expected), "{settings}");
    }
    assert_eq!(cluster(&allow_any(ENTRY), 80).outlier_detection, None);
}

#[test]
fn a_ports_settings_replace_everything() {
    let config = allow_any(&yaml(
        "loadBalancer: {consistentHash: {useSourceIp: true}}, outlierDetection: {}, portLevelSettings: \
         [{port: {number: 81}, connectionPool: {tcp: {connectTimeout: 1s}}}]",
    ));
    let shown = |port| {
        let cluster = cluster(&config, port);
        (cluster.load_balancer, cluster.hash_key.is_some(), cluster.outlier_detection.is_some())
    };
    assert_eq!(shown(80), (LoadBalancer::RingHash { minimum_size: 1024 }, true, true));
    assert_eq!(shown(81), (LoadBalancer::LeastRequest, false, false));
}

#[test]
fn mistakes_are_named_in_istios_words() {
    for (policy, expected) in [
        ("loadBalancer: {simple: LEAST, warmup: {duration: 1s}}", "`LEAST` is not one of"),
        (
            "loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}",
            "only one of `simple` or `consistentHash` can be set",
        ),
        ("loadBalancer: {consistentHash: {httpCookie: {ttl: 1s}}}", "name required for HttpCookie"),
        ("loadBalancer: {consistentHash: {httpCookie: {name: 'a;b'}}}", "can't be part of a cookie"),
        ("loadBalancer: {consistentHash: {httpHeaderName: 'a b'}}", "`a b` is no name of a header"),
        (
            "loadBalancer: {consistentHash: {httpHeaderName: a, useSourceIp: true}}",
            "only one of httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName can be set",
        ),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: 7, maglev: {tableSize: 7}}}",
            "only one of MinimumRingSize or Maglev/Ringhash can be specified",
        ),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {}, maglev: {tableSize: 7}}}",
            "only one of `ringHash` or `maglev` can be set",
        ),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 8388609}}}",
            "ring hash: minimum_ring_size (8388609) > maximum_ring_size (8388608)",
        ),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, maglev: {}}}",
            "tableSize must be set for maglev",
        ),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 5000011}}}",
            "tableSize must be less than 5000011 for maglev",
        ),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 65536}}}",
            "tableSize must be a prime number for maglev",
        ),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 121}}}",
            "tableSize must be a prime number for maglev",
        ),
        ("loadBalancer: {warmup: {minimumPercent: 5}}", "duration is required"),
        (
            "loadBalancer: {warmup: {duration: 1s, minimumPercent: 100.5}}",
            "minimumPercent value should be less than or equal to 100",
        ),
        (
            "loadBalancer: {warmup: {duration: 1s, aggression: 0.9}}",
            "aggression should be greater than or equal to 1",
        ),
        ("loadBalancer: {warmup: {duration: 1s, aggression: -1}}", "expected a number"),
        ("outlierDetection: {maxEjectionPercent: 101}", "percentage 101 is not in range 0..100"),
        ("outlierDetection: {minHealthPercent: -1}", "percentage -1 is not in range 0..100"),
        ("outlierDetection: {interval: 0s}", "duration must be greater than 1ms"),
        (
            "outlierDetection: {consecutiveLocalOriginFailures: 3}",
            "consecutive local origin failures is specified, but split external local origin errors is set to false",
        ),
    ] {
        let errors = found(policy, Level::Error);
        assert!(matches!(&errors[..], [error] if error.contains(expected)), "{policy}: {errors:?}");
    }
}

#[test]
fn what_has_no_effect_is_warned_of() {
    for (policy, expected) in [
        ("loadBalancer: {simple: RANDOM, warmup: {duration: 1s}}", "LEAST_REQUEST and ROUND_ROBIN only"),
        ("loadBalancer: {consistentHash: {}}", "nothing to hash"),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: 7}}",
            "consistent hash MinimumRingSize is deprecated",
        ),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 8388608}}}",
            "a ring has at most 1048576 entries here",
        ),
        ("outlierDetection: {consecutiveErrors: 7}", "outlier detection consecutive errors is deprecated"),
        ("outlierDetection: {consecutive5xErrors: 7}", "did you mean `consecutive5xxErrors`?"),
    ] {
        let warnings = found(policy, Level::Warning);
        assert!(matches!(&warnings[..], [warning] if warning.contains(expected)), "{policy}: {warnings:?}");
        assert_eq!(found(policy, Level::Error), Vec::<String>::new());
    }
}
