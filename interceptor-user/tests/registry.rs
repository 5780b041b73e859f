//! ServiceEntries in, the cluster that a connection gets out. Expectations are Istio's documented
//! behaviour, not what the code happens to do.

use std::net::IpAddr;

use interceptor_user::compile::{CompileSettings, compile};
use interceptor_user::resource::{World, parse};
use interceptor_user::snapshot::{Fallthrough, OutboundTrafficPolicy, RouteAction, Snapshot};

fn snapshot(yaml: &str, policy: OutboundTrafficPolicy) -> Snapshot {
    let parsed = parse(&"test.yaml".into(), yaml, &"default".into());
    assert!(parsed.refused.is_empty() && !parsed.unreadable, "{:?}", parsed.diagnostics);
    let resources = parsed.resources.into_iter().map(|resource| (resource.meta().key.clone(), resource));
    let world = World { resources: resources.collect(), ..World::default() };
    let settings = CompileSettings { outbound_traffic_policy: Some(policy), ..CompileSettings::default() };
    compile(&world, &settings).0
}

/// `http HOST` is answered by a route's cluster or status, `tls SNI` and `tcp` by a cluster.
fn ask(snapshot: &Snapshot, address: &str, port: u16, first_bytes: &str) -> String {
    let address: IpAddr = address.parse().expect("an address");
    let listener = snapshot.listener(address, port);
    let fallthrough = || match listener.fallthrough {
        Fallthrough::Passthrough => "PassthroughCluster".to_owned(),
        Fallthrough::BlackHole => "BlackHoleCluster".to_owned(),
    };
    let route = match first_bytes.split_once(' ') {
        Some(("http", host)) if listener.http.is_some() => {
            let table = listener.http.as_ref().expect("checked");
            let route = &table.virtual_host(host).routes[0];
            return match &route.action {
                RouteAction::Forward(forward) => forward.clusters[0].cluster.name.to_string(),
                RouteAction::DirectResponse(response) => response.status.to_string(),
                RouteAction::Passthrough => "PassthroughCluster".to_owned(),
            };
        }
        Some(("tls", sni)) => listener.tls_route(address, Some(sni)),
        Some(_) | None => listener.tcp_route(address),
    };
    route.map_or_else(fallthrough, |route| route.clusters[0].cluster.name.to_string())
}

const HTTPBIN: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: httpbin}
spec:
  hosts: [httpbin.org]
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 443, name: https, protocol: HTTPS}
  resolution: DNS
";

#[test]
fn a_service_entry_is_found_by_host_and_sni() {
    for (policy, other_http, other) in [
        (OutboundTrafficPolicy::AllowAny, "PassthroughCluster", "PassthroughCluster"),
        (OutboundTrafficPolicy::RegistryOnly, "502", "BlackHoleCluster"),
    ] {
        let snapshot = snapshot(HTTPBIN, policy);
        for (port, first_bytes, expected) in [
            (80, "http httpbin.org", "outbound|80||httpbin.org"),
            (80, "http HTTPBIN.org:80", "outbound|80||httpbin.org"),
            (80, "http other.org", other_http),
            (80, "tls httpbin.org", other),
            (443, "tls httpbin.org", "outbound|443||httpbin.org"),
            (443, "tls other.org", other),
            (443, "http httpbin.org", other),
            (8080, "http httpbin.org", other),
        ] {
            assert_eq!(
                ask(&snapshot, "203.0.113.1", port, first_bytes),
                expected,
                "{policy:?} {port} {first_bytes}"
            );
        }
    }
}
