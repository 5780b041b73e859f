//! AUTO_PASSTHROUGH at an egress gateway: server names that are clusters' own.

use std::sync::Arc;

use interceptor_user::compile::{Client, CompileSettings, Compiler, Role};

use crate::support::{Config, world};

const YAML: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: sites, namespace: shop}
spec:
  hosts: [a.example.com, b.example.com, tunnelled.example.com, other.org]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: hidden, namespace: shop}
spec:
  hosts: [hidden.example.com]
  exportTo: [.]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild, namespace: shop}
spec:
  hosts: ['*.wild.example.com']
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: DYNAMIC_DNS
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a, namespace: shop}
spec:
  host: a.example.com
  subsets: [{name: v1}]
  trafficPolicy: {tls: {mode: SIMPLE}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: tunnelled, namespace: shop}
spec:
  host: tunnelled.example.com
  trafficPolicy: {tls: {mode: SIMPLE}, tunnel: {protocol: CONNECT, targetHost: secret.example.org, targetPort: 443}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: elsewhere, namespace: shop}
spec:
  hosts: [b.example.com]
  gateways: [istio-system/egress]
  tls: [{match: [{sniHosts: [b.example.com]}], route: [{destination: {host: a.example.com, port: {number: 443}}}]}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: egress, namespace: istio-system}
spec:
  selector: {istio: egressgateway}
  servers:
  - {port: {number: 443, name: auto, protocol: TLS}, hosts: [HOSTS], tls: {mode: AUTO_PASSTHROUGH}}
";

fn gateway(hosts: &str) -> Config {
    let (world, mut findings) = world(&YAML.replace("HOSTS", hosts));
    let settings = CompileSettings {
        client: Client {
            labels: [("istio".into(), "egressgateway".into())].into(),
            ..Client::in_namespace("istio-system")
        },
        role: Role::Gateway { own_addresses: ["10.0.0.9".parse().unwrap()].into() },
        ..CompileSettings::default()
    };
    let (snapshot, more) = Compiler::new(settings).compile(&Arc::new(world));
    findings.extend(more);
    Config { snapshot, findings }
}

#[test]
fn a_server_name_is_a_clusters() {
    const CLOSED: &str = "close (no filter chain)";
    let config = gateway("'*.example.com'");
    assert_eq!(config.findings, [], "{}", config.found());
    for (name, expected) in [
        ("outbound_.443_._.a.example.com", "outbound|443||a.example.com"),
        ("outbound_.443_.v1_.a.example.com", "outbound|443|v1|a.example.com"),
        ("outbound_.80_._.b.example.com", "outbound|80||b.example.com"),
        ("OUTBOUND_.80_._.B.example.com", "outbound|80||b.example.com"),
        // No such port, subset or host; not the server's, not the gateway's to see, no single host.
        ("outbound_.444_._.a.example.com", CLOSED),
        ("outbound_.443_.v2_.a.example.com", CLOSED),
        ("outbound_.443_._.c.example.com", CLOSED),
        ("outbound_.443_._.other.org", CLOSED),
        ("outbound_.443_._.hidden.example.com", CLOSED),
        // The cluster's TLS is the one to the proxy, and the tunnel leads where its rule says.
        ("outbound_.443_._.tunnelled.example.com", CLOSED),
        ("outbound_.443_._.x.wild.example.com", CLOSED),
        ("outbound_.443_._.*.wild.example.com", CLOSED),
        // None of its form, whatever a VirtualService has.
        ("a.example.com", CLOSED),
        ("b.example.com", CLOSED),
        ("outbound_.443_.a.example.com", CLOSED),
        ("outbound|443||a.example.com", CLOSED),
        ("outbound_.0443_._.a.example.com", CLOSED),
        ("-", CLOSED),
    ] {
        assert_eq!(config.ask(&format!("10.0.0.9:443 tls {name}")), expected, "{name}");
    }
    assert_eq!(config.ask("10.0.0.9:443 tcp"), CLOSED);
}

#[test]
fn the_namespace_of_a_host_is_the_services() {
    let asked = |hosts| gateway(hosts).ask("10.0.0.9:443 tls outbound_.443_._.a.example.com");
    for hosts in ["'*'", "shop/*", "'*/a.example.com'", "shop/a.example.com"] {
        assert_eq!(asked(hosts), "outbound|443||a.example.com", "{hosts}");
    }
    for hosts in ["'./*'", "other/*", "b.example.com"] {
        assert_ne!(asked(hosts), "outbound|443||a.example.com", "{hosts}");
    }
}

#[test]
fn hosts_that_no_service_has_are_told() {
    let config = gateway("nobody.example.com");
    let found = config.found();
    for words in
        ["EGR0125", "no service that the gateway sees in namespace istio-system has a host of this server"]
    {
        assert!(found.contains(words), "{found}");
    }
    assert!(config.snapshot.by_port.is_empty(), "nobody listens");
}
