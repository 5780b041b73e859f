//! Where an egress gateway sends nothing: to itself, and where names that clients bring must not lead.

use crate::support::{Case, logged};

/// A service of each resolution.
const YAML: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: egress, namespace: istio-system}
spec:
  selector: {istio: egressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}
  - {port: {number: 81, name: tcp, protocol: TCP}, hosts: ['*']}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: through, namespace: istio-system}
spec:
  hosts: ['*']
  gateways: [egress]
  http:
  - {match: [{authority: {exact: own.test}}], route: [{destination: {host: own.test, port: {number: 80}}}]}
  - {match: [{authority: {exact: some.test}}], route: [{destination: {host: some.test, port: {number: 80}}}]}
  - {match: [{authority: {exact: service.test}}], route: [{destination: {host: istio-egressgateway.istio-system.svc.cluster.local, port: {number: 80}}}]}
  - {match: [{authority: {exact: named.test}}], route: [{destination: {host: named.test, port: {number: 80}}}]}
  - {match: [{authority: {exact: literal.test}}], rewrite: {authority: '169.254.169.254'}, route: [{destination: {host: '*.wild.test', port: {number: 80}}}]}
  - {route: [{destination: {host: '*.wild.test', port: {number: 80}}}]}
  tcp: [{route: [{destination: {host: own.test, port: {number: 80}}}]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: own, namespace: istio-system}
spec:
  hosts: [own.test]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 10.0.0.9}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: some, namespace: istio-system}
spec:
  hosts: [some.test]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 10.0.0.9}, {address: 192.0.2.1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: named, namespace: istio-system}
spec:
  hosts: [named.test]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: any, namespace: istio-system}
spec:
  hosts: ['*.wild.test']
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DYNAMIC_DNS
---
apiVersion: v1
kind: Service
metadata: {name: istio-egressgateway, namespace: istio-system}
spec: {clusterIP: 10.96.0.80, selector: {istio: egressgateway}, ports: [{name: http, port: 80}]}
";

#[test]
fn what_is_sent_nowhere() {
    let sent = |cluster: &str| format!("outbound|80||{cluster} - - via_upstream");
    let back = |cluster: &str| format!("outbound|80||{cluster} - UH no_healthy_upstream refused");
    let bad_name = "outbound|80||*.wild.test - DF dns_resolution_failure refused";
    let service = "istio-egressgateway.istio-system.svc.cluster.local";
    for (target, looked_up, expected) in [
        ("http://own.test/", None, back("own.test")),
        ("http://some.test/", None, sent("some.test")),
        ("http://service.test/", None, back(service)),
        ("http://named.test/", None, sent("named.test")),
        ("http://named.test/", Some("192.0.2.1"), sent("named.test")),
        ("http://named.test/", Some("10.0.0.9"), back("named.test")),
        ("http://named.test/", Some("10.96.0.80"), back("named.test")),
        // Only where the gateway answers.
        ("http://named.test/", Some("169.254.169.254"), sent("named.test")),
        ("http://a.wild.test/", None, sent("*.wild.test")),
        ("http://a.wild.test/", Some("192.0.2.1"), sent("*.wild.test")),
        ("http://a.wild.test/", Some("169.254.169.254"), bad_name.to_owned()),
        ("http://literal.test/", None, bad_name.to_owned()),
        ("tcp://any.test:81", None, "outbound|80||own.test - UH - refused".to_owned()),
    ] {
        let case = Case::new(YAML).at_gateway(&["10.0.0.9"]);
        let explanation = looked_up.into_iter().fold(case, Case::looked_up).ask(target);
        assert_eq!(logged(&explanation), expected, "{target} {looked_up:?}\n{explanation}");
    }
    // Nobody else's own address is known.
    let unknown = Case::new(YAML).at_gateway(&[]).ask("http://own.test/");
    assert_eq!(logged(&unknown), sent("own.test"));
}

/// AUTO_PASSTHROUGH: what a client chooses leads to no such address on any port, and gets no TLS of the cluster's.
#[test]
fn clusters_that_clients_choose() {
    let yaml = YAML.replace("  - {port: {number: 81,", "  - {port: {number: 443, name: auto, protocol: TLS}, hosts: ['*'], tls: {mode: AUTO_PASSTHROUGH}}\n  - {port: {number: 81,");
    for (sni, own, expected) in [
        ("outbound_.80_._.own.test", "10.0.0.9", "outbound|80||own.test - UH - refused"),
        ("outbound_.80_._.own.test", "10.0.0.8", "outbound|80||own.test - - -"),
        ("outbound_.80_._.named.test", "10.0.0.9", "outbound|80||named.test - - -"),
        // The other of its endpoints is chosen.
        ("outbound_.80_._.some.test", "10.0.0.9", "outbound|80||some.test - - -"),
        ("outbound_.80_._.lost.test", "10.0.0.9", "- - NR filter_chain_not_found refused"),
        ("own.test", "10.0.0.9", "- - NR filter_chain_not_found refused"),
    ] {
        let explanation = Case::new(&yaml).at_gateway(&[own]).named(sni).ask("https://any.test");
        assert_eq!(logged(&explanation), expected, "{sni}\n{explanation}");
    }
    let ask = |sni: &str| Case::new(&yaml).at_gateway(&[]).named(sni).ask("https://any.test").to_string();
    for (told, expected) in [
        (ask("outbound_.80_._.own.test"), "server        TLS, tls.mode AUTO_PASSTHROUGH, for *\n"),
        (
            ask("outbound_.80_._.own.test"),
            "tls           the client's own passes as it is, and none is added\n",
        ),
        (
            Case::new(&yaml)
                .at_gateway(&["10.0.0.9"])
                .named("outbound_.80_._.some.test")
                .ask("https://any.test")
                .to_string(),
            "nothing is sent there: 10.0.0.9:80 is where this gateway sends nothing\n",
        ),
        (
            ask("outbound_.80_._.lost.test"),
            "outbound_.80_._.lost.test is the name of no cluster that the gateway sees\n",
        ),
        (ask("own.test"), "server        none: no server of this port has own.test\n"),
    ] {
        assert!(told.contains(expected), "{expected:?} is not in\n{told}");
    }
}

#[test]
fn which_address_leads_back_is_told() {
    let told = Case::new(YAML).at_gateway(&["10.0.0.9"]).ask("http://own.test/").to_string();
    assert!(told.contains("nothing is sent there: 10.0.0.9:80 leads back to this gateway\n"), "{told}");
    let told = Case::new(YAML).at_gateway(&["10.0.0.9"]).ask("http://some.test/").to_string();
    assert!(told.contains("nothing is sent there: 10.0.0.9:80 leads back to this gateway\n"), "{told}");
}
