//! Whom an egress gateway lets in, and to which hosts.

use crate::support::{Case, logged};

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const STRANGER: &str = "spiffe://elsewhere/ns/shop/sa/cart";

/// A server for each mode, on ports of their own, all with the same hosts.
const YAML: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: egress, namespace: istio-system}
spec:
  selector: {istio: egressgateway}
  servers:
  - {port: {number: 80, name: clear, protocol: HTTP}, hosts: ['*']}
  - {port: {number: 81, name: simple, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k}}
  - port: {number: 82, name: mutual, protocol: HTTPS}
    hosts: ['*']
    tls: {mode: MUTUAL, serverCertificate: /c, privateKey: /k, caCertificates: /ca, subjectAltNames: [spiffe://cluster.local/ns/shop/sa/cart]}
  - {port: {number: 83, name: mesh, protocol: HTTPS}, hosts: ['*'], tls: {mode: ISTIO_MUTUAL}}
  - {port: {number: 84, name: bytes, protocol: TLS}, hosts: ['*'], tls: {mode: ISTIO_MUTUAL}}
  - {port: {number: 85, name: passes, protocol: TLS}, hosts: ['*'], tls: {mode: PASSTHROUGH}}
  - port: {number: 86, name: dns, protocol: HTTPS}
    hosts: ['*']
    tls: {mode: ISTIO_MUTUAL, subjectAltNames: [spiffe://cluster.local/ns/a/sa/b, cart.example]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: through, namespace: istio-system}
spec:
  hosts: [api.example, any.wild.example, api.wild.example, open.example]
  gateways: [egress]
  http:
  - {match: [{authority: {exact: api.example}}], route: [{destination: {host: api.example, port: {number: 80}}}]}
  - {match: [{authority: {exact: open.example}}], rewrite: {authority: api.wild.example}, route: [{destination: {host: '*.wild.example', port: {number: 80}}}]}
  - {route: [{destination: {host: '*.wild.example', port: {number: 80}}}]}
  tcp: [{route: [{destination: {host: api.example, port: {number: 80}}}]}]
  tls: [{match: [{sniHosts: [api.example]}], route: [{destination: {host: api.example, port: {number: 80}}}]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: api
  namespace: istio-system
  annotations:
    egress.interceptor.io/allow-from: ns/shop, ns/billing/sa/invoices
spec:
  hosts: [api.example, api.wild.example]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild, namespace: istio-system}
spec:
  hosts: ['*.wild.example']
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DYNAMIC_DNS
";

fn case() -> Case {
    let mut case = Case::new(YAML).at_gateway(&[]);
    case.settings.client.identity_dir = Some("/identity".into());
    case
}

#[test]
fn the_log_is_foretold_by_who_comes() {
    let (may, wild) =
        ("outbound|80||api.example - - via_upstream", "outbound|80||*.wild.example - - via_upstream");
    let denied = |cluster: &str| format!("{cluster} - - rbac_access_denied_matched_policy[none] refused");
    let not_api = denied("outbound|80||api.example");
    let failed = "- - DPE - refused";
    for (host, port, peer, expected) in [
        // Nobody can be let through who has not shown an identity of the mesh.
        ("api.example", 80, None, &*not_api),
        ("api.example", 81, None, &not_api),
        ("api.example", 81, Some(CART), &not_api),
        ("api.example", 82, Some(CART), &not_api),
        ("any.wild.example", 80, None, wild),
        ("any.wild.example", 82, Some(CART), wild),
        ("any.wild.example", 82, Some(STRANGER), failed),
        ("api.example", 83, Some(CART), may),
        ("api.example", 83, Some("spiffe://alias/ns/shop/sa/cart"), may),
        ("api.example", 83, Some("spiffe://cluster.local/ns/billing/sa/invoices"), may),
        ("api.example", 83, Some("spiffe://cluster.local/ns/billing/sa/other"), &not_api),
        ("api.example", 83, Some("spiffe://cluster.local/other"), &not_api),
        ("api.example", 83, Some(STRANGER), failed),
        ("any.wild.example", 83, Some("spiffe://cluster.local/ns/billing/sa/other"), wild),
        // The rule of the name that goes on, through another entry's cluster.
        ("api.wild.example", 83, Some(CART), wild),
        (
            "api.wild.example",
            83,
            Some("spiffe://cluster.local/ns/x/sa/y"),
            &denied("outbound|80||*.wild.example"),
        ),
        (
            "open.example",
            83,
            Some("spiffe://cluster.local/ns/x/sa/y"),
            &denied("outbound|80||*.wild.example"),
        ),
        ("api.example", 84, Some(CART), "outbound|80||api.example - - -"),
        (
            "api.example",
            84,
            Some("spiffe://cluster.local/ns/x/sa/y"),
            "outbound|80||api.example - UAEX - refused",
        ),
        // One of the names that are not the identity may be the certificate's.
        ("api.example", 86, Some(CART), may),
    ] {
        let case = peer.into_iter().fold(case(), Case::of_peer).on_port(port);
        let explanation = case.ask(&format!("http://{host}/"));
        assert_eq!(logged(&explanation), expected, "{host} {port} {peer:?}\n{explanation}");
    }
    let passed = case().on_port(85).ask("https://api.example");
    assert_eq!(logged(&passed), "outbound|80||api.example - UAEX - refused");
}

/// As far as it can be told.
#[test]
fn nobody_said_who_comes() {
    let explanation = case().on_port(83).ask("http://api.example/");
    let expected = "outbound|80||api.example - - via_upstream those whom the rule names; \
                    outbound|80||api.example - - rbac_access_denied_matched_policy[none] others refused";
    assert_eq!(logged(&explanation), expected);
    assert!(!explanation.is_carried());
}

/// An identity does not say which of its pods comes.
#[test]
fn labels_are_the_pods_own() {
    let labelled = YAML.replace("ns/billing/sa/invoices", "ns/billing/sa/invoices{app=x,tier=web}");
    let ask = |peer: &str| {
        let mut case = Case::new(&labelled).at_gateway(&[]);
        case.settings.client.identity_dir = Some("/identity".into());
        case.of_peer(peer).on_port(83).ask("http://api.example/")
    };
    let explanation = ask("spiffe://cluster.local/ns/billing/sa/invoices");
    let expected = "outbound|80||api.example - - via_upstream those whom the rule names; \
                    outbound|80||api.example - - rbac_access_denied_matched_policy[none] others refused";
    assert_eq!(logged(&explanation), expected, "{explanation}");
    let told = "access        spiffe://cluster.local/ns/billing/sa/invoices may use the host from those of its pods that have the \
                labels of the rule\n";
    assert!(explanation.to_string().contains(told), "{explanation}");
    let denied = "outbound|80||api.example - - rbac_access_denied_matched_policy[none] refused";
    assert_eq!(logged(&ask("spiffe://cluster.local/ns/billing/sa/other")), denied);
    assert_eq!(logged(&ask(CART)), "outbound|80||api.example - - via_upstream");
}

#[test]
fn what_is_asked_of_the_client_and_who_decides() {
    let told = |port, peer: &str| case().of_peer(peer).on_port(port).ask("http://api.example/").to_string();
    for (told, expected) in [
        (
            told(83, CART),
            &[
                "protocol      HTTP, by the target's scheme; in TLS: the client is said to show a certificate\n",
                "client        has to show an identity of the mesh\n                by Gateway istio-system/egress \
                 spec.servers[3].tls (a.yaml:13:5)\n                spiffe://cluster.local/ns/shop/sa/cart is let in\n",
                "access        spiffe://cluster.local/ns/shop/sa/cart may use the host\n                by ServiceEntry \
                 istio-system/api annotation egress.interceptor.io/allow-from (a.yaml:",
                "egress.interceptor.io/allow-from: ns/shop, ns/billing/sa/invoices\n",
            ][..],
        ),
        (
            told(83, STRANGER),
            &[
                "spiffe://elsewhere/ns/shop/sa/cart is refused: its trust domain is none of cluster.local, alias\n",
                "client sees   the TLS handshake fails with an alert (tls_handshake_trust_domain)\n",
            ],
        ),
        (
            told(82, STRANGER),
            &[
                "has to show a certificate that is signed by /ca\n",
                "subjectAltNames has not its name\n",
                "tls_handshake_name_mismatch",
            ],
        ),
        (
            told(81, CART),
            &[
                "client        is asked for no certificate\n",
                "to rules it is nobody\n",
                "only what tls.mode ISTIO_MUTUAL",
            ],
        ),
        (told(86, CART), &["is taken to have one of the other names\n"]),
    ] {
        for part in expected {
            assert!(told.contains(part), "{part:?} is not in\n{told}");
        }
    }
    // Where the gateway's own identity is not at hand.
    let told = Case::new(YAML).at_gateway(&[]).of_peer(CART).on_port(83).ask("http://api.example/");
    assert!(told.is_carried(), "{told}");
    for part in [
        "which this command was not given: mode ISTIO_MUTUAL needs an identity",
        "own trust domain is not known here",
    ] {
        assert!(told.to_string().contains(part), "{part:?} is not in\n{told}");
    }
}
