//! Whatever the resources and the target: the outcome that is explained is the one that the snapshot's lookups give.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use interceptor_user::explain::Spoken;
use interceptor_user::snapshot::{
    Fallthrough, RequestFacts, RouteAction, Snapshot, TcpRoute, WeightedCluster,
};
use proptest::prelude::*;

use crate::support::{Case, logged};

/// What the snapshot says, by its own lookups.
fn asked(snapshot: &Snapshot, destination: SocketAddr, spoken: Spoken, host: &str, path: &str) -> String {
    let listener = snapshot.listener(destination.ip(), destination.port());
    let route = match spoken {
        Spoken::Http => match listener.http_routes(destination.ip()) {
            Some(table) => {
                let headers = HeaderMap::new();
                let facts = RequestFacts {
                    method: "GET",
                    path,
                    query: None,
                    authority: host,
                    scheme: "http",
                    headers: &headers,
                };
                let Some(route) = table.virtual_host(host).route(&facts) else {
                    return "- - NR route_not_found refused".into();
                };
                let name = if route.name.is_empty() { "-" } else { &*route.name };
                return match &route.action {
                    RouteAction::Forward(forward) => {
                        each(&forward.clusters, |cluster, exists| match exists {
                            true => format!("{cluster} {name} - via_upstream"),
                            false => format!("- {name} NC cluster_not_found"),
                        })
                    }
                    RouteAction::DirectResponse(direct) => {
                        let refused = if direct.status < 400 { "" } else { " refused" };
                        format!("- {name} - direct_response{refused}")
                    }
                    RouteAction::Redirect(_) => format!("- {name} - direct_response"),
                    RouteAction::Passthrough => format!("PassthroughCluster {name} - via_upstream"),
                    RouteAction::Refused(refusal) => format!("- {name} UAEX {} refused", refusal.details()),
                };
            }
            None => listener.tcp_route(destination.ip().into()),
        },
        Spoken::Tls => listener.tls_route(destination.ip().into(), Some(host)),
        Spoken::Tcp => listener.tcp_route(destination.ip().into()),
    };
    match (route, &listener.fallthrough) {
        (Some(route), _) => opaque(route),
        (None, Fallthrough::EgressProxy(route)) => opaque(route),
        (None, Fallthrough::Passthrough) => "PassthroughCluster - - -".into(),
        (None, Fallthrough::BlackHole) => "BlackHoleCluster - UH - refused".into(),
        (None, Fallthrough::NoFilterChain) => "- - NR filter_chain_not_found refused".into(),
    }
}

fn opaque(route: &TcpRoute) -> String {
    each(&route.clusters, |cluster, exists| match exists {
        true => format!("{cluster} - - -"),
        false => "- - NC -".into(),
    })
}

fn each(clusters: &[WeightedCluster], shown: impl Fn(&str, bool) -> String) -> String {
    let total: u32 = clusters.iter().map(|weighted| weighted.weight).sum();
    let each = clusters.iter().map(|weighted| {
        let exists = weighted.cluster.cluster.is_some();
        let share = if clusters.len() > 1 { format!(" {}/{total}", weighted.weight) } else { String::new() };
        let refused = if exists { "" } else { " refused" };
        format!("{}{share}{refused}", shown(&weighted.cluster.name.0, exists))
    });
    each.collect::<Vec<_>>().join("; ")
}

const HOSTS: [&str; 4] = ["a.example.com", "b.example.com", "*.example.com", "other.org"];
const ADDRESSES: [&str; 4] = ["10.0.0.1", "10.0.0.0/8", "10.1.0.0/16", "192.0.2.1"];
const PROTOCOLS: [&str; 6] = ["HTTP", "HTTPS", "TLS", "TCP", "GRPC", ""];

prop_compose! {
    fn entry()(
        host in 0..HOSTS.len(),
        port in 80..83_u16,
        protocol in 0..PROTOCOLS.len(),
        address in proptest::option::of(0..ADDRESSES.len()),
        own in any::<bool>(),
    ) -> String {
        let addresses = address.map(|index| format!("addresses: ['{}'], ", ADDRESSES[index])).unwrap_or_default();
        let protocol = match PROTOCOLS[protocol] {
            "" => String::new(),
            name => format!(", protocol: {name}"),
        };
        let export = if own { ", exportTo: ['.']" } else { "" };
        format!(
            "hosts: ['{}'], {addresses}ports: [{{number: {port}, name: p{protocol}}}], resolution: NONE{export}",
            HOSTS[host],
        )
    }
}

prop_compose! {
    fn virtual_service()(
        host in 0..HOSTS.len(),
        destination in 0..HOSTS.len(),
        port in 80..83_u16,
        other in proptest::option::of(80..83_u16),
        action in 0..4_u8,
        exact in any::<bool>(),
    ) -> String {
        let to = HOSTS[destination].replace('*', "c");
        let single = format!("{{destination: {{host: {to}, port: {{number: {port}}}}}, weight: 1}}");
        let second = other
            .map(|port| format!(", {{destination: {{host: other.org, port: {{number: {port}}}}}, weight: 2}}"))
            .unwrap_or_default();
        let action = match action {
            0 => "redirect: {uri: /x}".to_owned(),
            1 => "directResponse: {status: 418}".to_owned(),
            _ => format!("route: [{single}{second}]"),
        };
        let kind = if exact { "exact" } else { "prefix" };
        let condition = format!("match: [{{uri: {{{kind}: /a}}}}], ");
        format!("hosts: ['{}'], http: [{{{condition}{action}}}], tcp: [{{route: [{single}]}}]", HOSTS[host])
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn what_is_explained_is_what_happens(
        entries in proptest::collection::vec((entry(), any::<bool>()), 0..6),
        services in proptest::collection::vec(virtual_service(), 0..3),
        registry_only in any::<bool>(),
        asked_for in proptest::collection::vec(
            (0..4_usize, 80..84_u16, 0..3_u8, 0..5_usize, prop_oneof![Just("/"), Just("/a"), Just("/a/b")]),
            1..8,
        ),
    ) {
        let mut yaml = String::new();
        let mut add = |kind: &str, name: String, namespace: &str, spec: &str| {
            yaml += &format!(
                "---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
                 spec: {{{spec}}}\n"
            );
        };
        for (index, (spec, is_elsewhere)) in entries.iter().enumerate() {
            add("ServiceEntry", format!("s{index}"), if *is_elsewhere { "elsewhere" } else { "default" }, spec);
        }
        for (index, spec) in services.iter().enumerate() {
            add("VirtualService", format!("v{index}"), "default", spec);
        }
        for (host, port, spoken, address, path) in asked_for {
            let host = HOSTS[host].replace('*', "wild");
            let spoken = [Spoken::Http, Spoken::Tls, Spoken::Tcp][usize::from(spoken)];
            let address: IpAddr =
                ["10.0.0.1", "10.1.2.3", "10.9.9.9", "192.0.2.1", "203.0.113.7"][address].parse().unwrap();
            let case = Case::new(&yaml).speaks(spoken).at(&address.to_string());
            let case = if registry_only { case.registry_only() } else { case };
            let explanation = case.ask(&format!("http://{host}:{port}{path}"));
            let expected = asked(&case.snapshot(), SocketAddr::new(address, port), spoken, &host, path);
            prop_assert_eq!(logged(&explanation), expected, "{}\n{}", yaml, explanation);
        }
    }
}
