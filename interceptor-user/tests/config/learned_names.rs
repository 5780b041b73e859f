//! TCP services that share a port without addresses of their own, told apart by the names that the workload's DNS answers
//! gave the destination; beyond Istio, where the oldest takes the port.

use std::net::SocketAddr;
use std::sync::Arc;

use interceptor_user::compile::{Client, CompileSettings, compile};
use interceptor_user::resource::{ClientPolicy, Diagnostic, Level};
use interceptor_user::snapshot::decision::decide;
use interceptor_user::snapshot::{
    Decision, Destination, FirstBytes, OutboundTrafficPolicy, Snapshot, TcpRoute,
};

use crate::support::{shown, world};

fn entry(name: &str, year: u32, hosts: &str, port: u16, protocol: &str, more: &str) -> String {
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, creationTimestamp: '{year}-01-01T00:00:00Z'}}
spec:
  hosts: [{hosts}]
  ports: [{{number: {port}, name: p, protocol: {protocol}}}]
  resolution: DNS
{more}
"
    )
}

fn learned(policy: OutboundTrafficPolicy, strict: bool) -> CompileSettings {
    CompileSettings {
        outbound_traffic_policy: Some(policy),
        client: Client {
            policy: ClientPolicy { strict, ..ClientPolicy::default() },
            learned_names: true,
            ..Client::default()
        },
        ..CompileSettings::default()
    }
}

fn compiled(yaml: &str, settings: &CompileSettings) -> (Snapshot, Vec<Diagnostic>) {
    let (world, mut findings) = world(yaml);
    let (snapshot, more) = compile(&world, settings);
    findings.extend(more);
    (snapshot, findings)
}

/// Where opaque bytes to `destination`, or TLS with this SNI (`-` for none), go when it has these names.
fn ask(snapshot: &Snapshot, destination: &str, sni: Option<&str>, names: &[&str]) -> String {
    let destination: SocketAddr = destination.parse().unwrap();
    let names: Vec<Arc<str>> = names.iter().map(|name| Arc::from(*name)).collect();
    let first = match sni {
        None => FirstBytes::Opaque,
        Some(sni) => FirstBytes::Tls { sni: Some(sni).filter(|sni| *sni != "-") },
    };
    let listener = snapshot.listener(destination.ip(), destination.port());
    match decide(listener, Destination { address: destination.ip(), names: &names }, first) {
        Decision::Http(..) => "http".to_owned(),
        Decision::Route(route) => cluster(route),
        Decision::Passthrough => "PassthroughCluster".to_owned(),
        Decision::Refuse => "close".to_owned(),
        Decision::Terminate(_) => "terminate".to_owned(),
        Decision::NoFilterChain => "close (no filter chain)".to_owned(),
    }
}

fn cluster(route: &TcpRoute) -> String {
    route.clusters.iter().map(|weighted| weighted.cluster.name.to_string()).collect()
}

#[test]
fn names_tell_tcp_services_on_one_port_apart() {
    let yaml = entry("b", 2020, "older.test", 5432, "TCP", "")
        + &entry("a", 2021, "younger.test", 5432, "TCP", "")
        + &entry("c", 2022, "'*.wild.test'", 5432, "TCP", "").replace("DNS", "NONE");
    let (snapshot, findings) = compiled(&yaml, &learned(OutboundTrafficPolicy::RegistryOnly, false));
    for (names, expected) in [
        (&["younger.test"][..], "outbound|5432||younger.test"),
        (&["older.test"], "outbound|5432||older.test"),
        (&["a.wild.test"], "outbound|5432||*.wild.test"),
        // The last learned that says anything.
        (&["cname.test", "younger.test", "older.test"], "outbound|5432||younger.test"),
        (&[], "outbound|5432||older.test"),
        (&["stranger.test"], "outbound|5432||older.test"),
    ] {
        assert_eq!(ask(&snapshot, "203.0.113.9:5432", None, names), expected, "{names:?}");
        assert_eq!(ask(&snapshot, "[2001:db8::1]:5432", Some("-"), names), expected, "{names:?}");
    }
    let found = shown(&findings);
    assert!(findings.iter().all(|finding| finding.level != Level::Error), "{found}");
    assert!(
        found.contains(
            "default/a: spec.ports[0]: port 5432 of younger.test shares 0.0.0.0_5432 with older.test"
        ),
        "{found}"
    );
}

#[test]
fn without_learned_names_the_oldest_takes_the_port() {
    let yaml =
        entry("b", 2020, "older.test", 5432, "TCP", "") + &entry("a", 2021, "younger.test", 5432, "TCP", "");
    let (snapshot, findings) = compiled(&yaml, &CompileSettings::default());
    assert_eq!(ask(&snapshot, "203.0.113.9:5432", None, &["younger.test"]), "outbound|5432||older.test");
    let found = shown(&findings);
    assert!(
        found.contains("error: [EGR0110] ServiceEntry default/a") && found.contains("--capture-dns"),
        "{found}"
    );
}

#[test]
fn where_the_policy_is_strict_what_no_name_tells_is_refused() {
    let two =
        entry("b", 2020, "older.test", 5432, "TCP", "") + &entry("a", 2021, "younger.test", 5432, "TCP", "");
    let one = entry("b", 2020, "older.test", 5432, "TCP", "");
    for policy in [OutboundTrafficPolicy::AllowAny, OutboundTrafficPolicy::RegistryOnly] {
        let (snapshot, _) = compiled(&two, &learned(policy, true));
        for (names, expected) in [
            (&["younger.test"][..], "outbound|5432||younger.test"),
            (&["older.test"], "outbound|5432||older.test"),
            (&["stranger.test"], "close"),
            (&[], "close"),
        ] {
            assert_eq!(ask(&snapshot, "203.0.113.9:5432", None, names), expected, "{policy:?} {names:?}");
        }
        // There is nothing to tell apart.
        let (snapshot, _) = compiled(&one, &learned(policy, true));
        assert_eq!(ask(&snapshot, "203.0.113.9:5432", None, &[]), "outbound|5432||older.test");
    }
}

/// An address of its own, a range and an SNI go before a name.
#[test]
fn what_the_connection_says_itself_goes_first() {
    let yaml = entry("a", 2020, "first.test", 443, "TCP", "")
        + &entry("b", 2021, "second.test", 443, "TCP", "")
        + &entry("vip", 2021, "vip.test", 443, "TCP", "  addresses: [10.0.0.1]")
        + &entry("range", 2021, "range.test", 443, "TCP", "  addresses: [10.1.0.0/16]")
            .replace("DNS", "NONE")
        + &entry("tls", 2021, "tls.test", 443, "TLS", "");
    for strict in [false, true] {
        let (snapshot, findings) = compiled(&yaml, &learned(OutboundTrafficPolicy::AllowAny, strict));
        let found = shown(&findings);
        let second = ["second.test"];
        let none = if strict { "close" } else { "outbound|443||first.test" };
        for (destination, sni, names, expected) in [
            ("10.0.0.1:443", None, &second[..], "outbound|443||vip.test"),
            ("10.1.2.3:443", None, &second, "outbound|443||range.test"),
            ("203.0.113.9:443", None, &second, "outbound|443||second.test"),
            ("203.0.113.9:443", Some("tls.test"), &second, "outbound|443||tls.test"),
            ("203.0.113.9:443", Some("other.test"), &second, "outbound|443||second.test"),
            // No SNI: the learned name stands in for it.
            ("203.0.113.9:443", Some("-"), &["tls.test"], "outbound|443||tls.test"),
            ("203.0.113.9:443", Some("-"), &second, "outbound|443||second.test"),
            ("203.0.113.9:443", Some("-"), &[], none),
            ("203.0.113.9:443", None, &["tls.test"], none),
        ] {
            let got = ask(&snapshot, destination, sni, names);
            assert_eq!(got, expected, "strict {strict}: {destination} {sni:?} {names:?}\n{found}");
        }
    }
}

#[test]
fn server_first_protocols_share_a_port_with_each_other() {
    let yaml = entry("a", 2020, "one.test", 27017, "MONGO", "")
        + &entry("b", 2021, "three.test", 27017, "MONGO", "")
        + &entry("c", 2022, "three.test", 27017, "TCP", "");
    let (snapshot, findings) = compiled(&yaml, &learned(OutboundTrafficPolicy::AllowAny, false));
    for name in ["one.test", "three.test"] {
        let expected = format!("outbound|27017||{name}");
        assert_eq!(ask(&snapshot, "203.0.113.9:27017", None, &[name]), expected);
    }
    let found = shown(&findings);
    assert!(
        found.contains("error: [EGR0115] ServiceEntry default/c: spec.ports[0]: conflict happens"),
        "{found}"
    );
    assert!(!found.contains("error: [EGR0115] ServiceEntry default/b"), "{found}");
}

/// The same host twice is a conflict that no name resolves.
#[test]
fn one_host_of_two_entries_is_still_an_error() {
    let yaml =
        entry("b", 2020, "same.test", 5432, "TCP", "") + &entry("a", 2021, "same.test", 5432, "TCP", "");
    let (_, findings) = compiled(&yaml, &learned(OutboundTrafficPolicy::AllowAny, false));
    let found = shown(&findings);
    assert!(
        found.contains(
            "error: [EGR0110] ServiceEntry default/a: spec.ports[0]: port 5432 of same.test is left out"
        ),
        "{found}"
    );
}
