//! ServiceEntries: which connections they take.

use interceptor_user::snapshot::OutboundTrafficPolicy::{AllowAny, RegistryOnly};
use interceptor_user::snapshot::{ClusterName, Discovery, UpstreamProtocol};

use crate::support::{allow_any, compiled};

const SEVEN_PORTS: &str = "
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 81, name: auto}
  - {number: 82, name: tcp, protocol: TCP}
  - {number: 83, name: tls, protocol: TLS}
  - {number: 84, name: https, protocol: HTTPS}
  - {number: 85, name: grpc, protocol: GRPC}
  - {number: 86, name: http2, protocol: HTTP2}
";

/// Istio's own table of outbound traffic policies: calls to a host and an address that nobody declared.
#[test]
fn unknown_destinations_get_what_the_policy_says() {
    let head = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: se}
spec:
  hosts: [istio.io]
  resolution: DNS
";
    let with_vip = format!("{head}  addresses: [1.1.1.1]{SEVEN_PORTS}");
    let without_vip = format!("{head}{SEVEN_PORTS}");
    let (pass, close) = ("PassthroughCluster", "close");
    let (any, block) = ("PassthroughCluster allow_any", "502 block_all");
    let (se81, se82) = ("outbound|81||istio.io", "outbound|82||istio.io");
    // Port; HTTP, TLS and TCP without VIP; HTTP, TLS and TCP with VIP.
    for (policy, rows) in [
        (
            RegistryOnly,
            [
                (80, [block, close, close], [block, close, close]),
                (81, [block, se81, se81], [close, close, close]),
                (82, [se82, se82, se82], [close, close, close]),
                (83, [close, close, close], [close, close, close]),
                (84, [close, close, close], [close, close, close]),
                (85, [block, close, close], [block, close, close]),
                (86, [block, close, close], [block, close, close]),
                (99, [close, close, close], [close, close, close]),
            ],
        ),
        (
            AllowAny,
            [
                (80, [any, pass, pass], [any, pass, pass]),
                (81, [any, se81, se81], [pass, pass, pass]),
                (82, [se82, se82, se82], [pass, pass, pass]),
                (83, [pass, pass, pass], [pass, pass, pass]),
                (84, [pass, pass, pass], [pass, pass, pass]),
                (85, [any, pass, pass], [any, pass, pass]),
                (86, [any, pass, pass], [any, pass, pass]),
                (99, [pass, pass, pass], [pass, pass, pass]),
            ],
        ),
    ] {
        let configs = [compiled(&without_vip, policy), compiled(&with_vip, policy)];
        for (port, expected_without, expected_with) in rows {
            for (config, expected) in configs.iter().zip([expected_without, expected_with]) {
                for (first_bytes, expected) in ["http GET http://foo/", "tls foo", "tcp"].iter().zip(expected)
                {
                    let connection = format!("203.0.113.9:{port} {first_bytes}");
                    assert_eq!(config.ask(&connection), expected, "{policy:?} {connection}");
                }
            }
        }
    }
}

#[test]
fn known_destinations_get_their_cluster() {
    let yaml = format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: se}}
spec:
  hosts: [istio.io]
  addresses: [1.1.1.1]
  resolution: DNS
{SEVEN_PORTS}"
    );
    let config = compiled(&yaml, RegistryOnly);
    for (connection, expected) in [
        ("203.0.113.9:80 http GET http://istio.io/", "outbound|80||istio.io default"),
        ("203.0.113.9:80 http GET http://ISTIO.io:8080/", "outbound|80||istio.io default"),
        // The VIP is a name, too; the destination address counts for nothing with HTTP.
        ("203.0.113.9:80 http GET http://1.1.1.1/", "outbound|80||istio.io default"),
        ("1.1.1.1:80 http GET http://foo/", "502 block_all"),
        ("1.1.1.1:81 http GET http://foo/", "outbound|81||istio.io default"),
        ("1.1.1.1:81 tcp", "outbound|81||istio.io"),
        ("1.1.1.1:81 tls foo", "outbound|81||istio.io"),
        ("1.1.1.1:82 tcp", "outbound|82||istio.io"),
        ("1.1.1.1:82 http GET http://foo/", "outbound|82||istio.io"),
        ("1.1.1.1:83 tls istio.io", "outbound|83||istio.io"),
        // With an address of its own no server name is needed.
        ("1.1.1.1:83 tls -", "outbound|83||istio.io"),
        ("1.1.1.1:84 tls foo", "outbound|84||istio.io"),
        ("203.0.113.9:86 http GET http://istio.io/", "outbound|86||istio.io default"),
        ("1.1.1.1:99 tcp", "close"),
    ] {
        assert_eq!(config.ask(connection), expected, "{connection}");
    }
    let protocol = |port| config.snapshot.clusters[&ClusterName::outbound(port, "", "istio.io")].protocol;
    for (port, expected) in [
        (80, UpstreamProtocol::Http1),
        (81, UpstreamProtocol::Http1),
        (84, UpstreamProtocol::Http1),
        (85, UpstreamProtocol::Http2),
        (86, UpstreamProtocol::Http2),
    ] {
        assert_eq!(protocol(port), expected, "{port}");
    }
}

#[test]
fn server_names_and_wildcards() {
    let config = compiled(
        "
apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata: {name: exact}
spec:
  hosts: [a.example.com]
  ports: [{number: 443, name: tls, protocol: TLS}, {number: 80, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1alpha3
kind: ServiceEntry
metadata: {name: wildcard}
spec:
  hosts: ['*.example.com', '*.b.example.com']
  ports: [{number: 443, name: tls, protocol: HTTPS}, {number: 80, name: http, protocol: http}]
  resolution: NONE
",
        RegistryOnly,
    );
    for (connection, expected) in [
        ("203.0.113.9:443 tls a.example.com", "outbound|443||a.example.com"),
        ("203.0.113.9:443 tls A.Example.Com", "outbound|443||a.example.com"),
        ("203.0.113.9:443 tls x.example.com", "outbound|443||*.example.com"),
        ("203.0.113.9:443 tls x.b.example.com", "outbound|443||*.b.example.com"),
        ("203.0.113.9:443 tls example.com", "close"),
        ("203.0.113.9:443 tls -", "close"),
        ("203.0.113.9:443 http GET http://a.example.com/", "close"),
        ("203.0.113.9:80 http GET http://a.example.com/", "outbound|80||a.example.com default"),
        ("203.0.113.9:80 http GET http://b.example.com/", "outbound|80||*.example.com default"),
        ("203.0.113.9:80 http GET http://x.b.example.com/", "outbound|80||*.b.example.com default"),
        ("203.0.113.9:80 http GET http://example.com/", "502 block_all"),
    ] {
        assert_eq!(config.ask(connection), expected, "{connection}");
    }
}

#[test]
fn ranges_are_matched_before_names() {
    let config = compiled(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wide}
spec:
  hosts: [wide.example.com]
  addresses: [10.0.0.0/8, 'fd00::/8']
  ports: [{number: 9000, name: tcp, protocol: TCP}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: narrow}
spec:
  hosts: [narrow.example.com]
  addresses: [10.1.0.0/16]
  ports: [{number: 9000, name: tls, protocol: TLS}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: single}
spec:
  hosts: [single.example.com]
  addresses: [10.1.2.3/32]
  ports: [{number: 9000, name: tcp, protocol: TCP}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: named}
spec:
  hosts: [named.example.com]
  ports: [{number: 9000, name: tls, protocol: TLS}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: web}
spec:
  hosts: [web.example.com]
  ports: [{number: 9000, name: http, protocol: HTTP}]
  resolution: DNS
",
        RegistryOnly,
    );
    for (connection, expected) in [
        ("10.9.9.9:9000 tcp", "outbound|9000||wide.example.com"),
        ("[fd00::1]:9000 tcp", "outbound|9000||wide.example.com"),
        ("10.1.9.9:9000 tls narrow.example.com", "outbound|9000||narrow.example.com"),
        // The range is one service's, the name another's: nobody takes it.
        ("10.1.9.9:9000 tls named.example.com", "close"),
        ("10.1.9.9:9000 tcp", "close"),
        ("10.1.2.3:9000 tcp", "outbound|9000||single.example.com"),
        ("10.9.9.9:9000 http GET http://web.example.com/", "outbound|9000||wide.example.com"),
        ("10.1.9.9:9000 http GET http://web.example.com/", "close"),
        ("192.0.2.1:9000 http GET http://web.example.com/", "outbound|9000||web.example.com default"),
        ("192.0.2.1:9000 tls named.example.com", "outbound|9000||named.example.com"),
        ("192.0.2.1:9000 tcp", "close"),
    ] {
        assert_eq!(config.ask(connection), expected, "{connection}");
    }
}

#[test]
fn one_tcp_service_takes_a_port_and_the_other_is_named() {
    let config = allow_any(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: b, creationTimestamp: '2020-01-01T00:00:00Z'}
spec:
  hosts: [older.example.com]
  ports: [{number: 5432, name: tcp, protocol: TCP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a, creationTimestamp: '2021-01-01T00:00:00Z'}
spec:
  hosts: [younger.example.com]
  ports: [{number: 5432, name: tcp, protocol: TCP}]
  resolution: DNS
",
    );
    assert_eq!(config.ask("203.0.113.9:5432 tcp"), "outbound|5432||older.example.com");
    let found = config.found();
    assert!(
        found.contains("ServiceEntry default/a: spec.ports[0]: port 5432 of younger.example.com is left out")
            && found.contains("older.example.com of ServiceEntry default/b (test.yaml:2:1)"),
        "{found}"
    );
}

#[test]
fn http_and_tcp_share_a_port() {
    let config = compiled(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: web}
spec:
  hosts: [web.example.com]
  ports: [{number: 8000, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: raw}
spec:
  hosts: [raw.example.com]
  ports: [{number: 8000, name: tcp, protocol: TCP}]
  resolution: DNS
",
        RegistryOnly,
    );
    for (connection, expected) in [
        ("203.0.113.9:8000 http GET http://web.example.com/", "outbound|8000||web.example.com default"),
        ("203.0.113.9:8000 http GET http://foo/", "502 block_all"),
        ("203.0.113.9:8000 tcp", "outbound|8000||raw.example.com"),
        ("203.0.113.9:8000 tls foo", "outbound|8000||raw.example.com"),
    ] {
        assert_eq!(config.ask(connection), expected, "{connection}");
    }
}

#[test]
fn server_first_protocols_share_a_port_with_nobody() {
    let config = compiled(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a-mysql}
spec:
  hosts: [db.example.com]
  ports: [{number: 3306, name: mysql, protocol: MySQL}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: b-http}
spec:
  hosts: [web.example.com]
  ports: [{number: 3306, name: http, protocol: HTTP}]
  resolution: DNS
",
        RegistryOnly,
    );
    assert_eq!(config.ask("203.0.113.9:3306 tcp"), "outbound|3306||db.example.com");
    assert_eq!(
        config.ask("203.0.113.9:3306 http GET http://web.example.com/"),
        "outbound|3306||db.example.com"
    );
    let listener = config.snapshot.listener("203.0.113.9".parse().unwrap(), 3306);
    assert!(listener.server_first && listener.http.is_none());
    assert!(config.found().contains("conflict happens on a well known port"), "{}", config.found());
}

#[test]
fn endpoints_come_from_the_resolution() {
    let config = allow_any(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: none}
spec:
  hosts: [none.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 81, name: moved, protocol: HTTP, targetPort: 8081}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: static}
spec:
  hosts: [static.example.com]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  resolution: STATIC
  endpoints:
  - {address: 10.0.0.1, weight: 3}
  - {address: 'fd00::1', ports: {http: 9090}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: unix}
spec:
  hosts: [unix.example.com]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  resolution: STATIC
  endpoints:
  - {address: 'unix:///run/a.sock', weight: 3}
  - {address: 10.0.0.1}
  - {address: 'unix://@a'}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: dns}
spec:
  hosts: [dns.example.com]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: alias}
spec:
  hosts: [alias.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
  endpoints: [{address: one.internal}, {address: two.internal, ports: {http: 8080}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: robin}
spec:
  hosts: [robin.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS_ROUND_ROBIN
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: dynamic}
spec:
  hosts: ['*.dynamic.example.com']
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]
  resolution: DYNAMIC_DNS
",
    );
    let of = |port, host: &str| {
        format!("{:?}", config.snapshot.clusters[&ClusterName::outbound(port, "", host)].discovery)
    };
    for (port, host, expected) in [
        (80, "none.example.com", "OriginalDst { port: None }"),
        (81, "none.example.com", "OriginalDst { port: Some(8081) }"),
        (
            80,
            "static.example.com",
            "Static([Endpoint { address: 10.0.0.1:8080, weight: 3 }, Endpoint { address: [fd00::1]:9090, weight: 1 }])",
        ),
        (
            80,
            "unix.example.com",
            "Static([Endpoint { address: unix:///run/a.sock, weight: 3 }, Endpoint { address: 10.0.0.1:8080, weight: 1 }, \
             Endpoint { address: unix://@a, weight: 1 }])",
        ),
        (
            80,
            "dns.example.com",
            "StrictDns([DnsTarget { host: \"dns.example.com\", port: 8080, weight: 1 }])",
        ),
        (
            80,
            "alias.example.com",
            "StrictDns([DnsTarget { host: \"one.internal\", port: 80, weight: 1 }, \
             DnsTarget { host: \"two.internal\", port: 8080, weight: 1 }])",
        ),
        (
            80,
            "robin.example.com",
            "LogicalDns(DnsTarget { host: \"robin.example.com\", port: 80, weight: 1 })",
        ),
        (443, "*.dynamic.example.com", "DynamicDns { port: Some(443) }"),
    ] {
        assert_eq!(of(port, host), expected, "{host}");
    }
    assert!(matches!(
        config.snapshot.clusters[&ClusterName::outbound(80, "", "none.example.com")].discovery,
        Discovery::OriginalDst { .. }
    ));
}
