//! What an egress gateway does with what comes to it.

use interceptor_user::explain::Spoken;

use crate::support::{Case, logged};

const YAML: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: egress, namespace: istio-system}
spec:
  selector: {istio: egressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [httpbin.org]}
  - {port: {number: 443, name: tls, protocol: TLS}, hosts: [httpbin.org, unrouted.org], tls: {mode: PASSTHROUGH}}
  - {port: {number: 443, name: ends, protocol: HTTPS}, hosts: ['*.ends.org'], tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k}}
  - {port: {number: 443, name: clash, protocol: HTTP}, hosts: ['*']}
  - {port: {number: 444, name: alone, protocol: HTTPS}, hosts: [alone.org], tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k}}
  - {port: {number: 25, name: tcp, protocol: TCP}, hosts: ['*']}
  - {port: {number: 26, name: idle, protocol: TCP}, hosts: ['*']}
  - {port: {number: 81, name: redirect, protocol: HTTP}, hosts: [httpbin.org], tls: {httpsRedirect: true}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: other, namespace: istio-system}
spec:
  selector: {istio: other}
  servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: through, namespace: istio-system}
spec:
  hosts: [httpbin.org]
  gateways: [egress, mesh]
  http:
  - {match: [{gateways: [mesh]}], route: [{destination: {host: istio-egressgateway.istio-system.svc.cluster.local}}]}
  - {match: [{gateways: [egress], port: 443}], route: [{destination: {host: httpbin.org, port: {number: 443}}}]}
  - {match: [{gateways: [egress]}], route: [{destination: {host: httpbin.org, port: {number: 80}}}]}
  tls:
  - {match: [{gateways: [egress], sniHosts: [httpbin.org]}], route: [{destination: {host: httpbin.org, port: {number: 443}}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: mesh-only, namespace: istio-system}
spec:
  hosts: [httpbin.org]
  http: [{route: [{destination: {host: httpbin.org, port: {number: 80}}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ends, namespace: istio-system}
spec:
  hosts: [a.ends.org, alone.org, redirected.org]
  gateways: [egress]
  http:
  - {match: [{scheme: {exact: https}}], route: [{destination: {host: httpbin.org, port: {number: 80}}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: mail, namespace: istio-system}
spec:
  hosts: ['*']
  gateways: [egress]
  tcp: [{match: [{port: 25}], route: [{destination: {host: httpbin.org, port: {number: 443}}}]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: httpbin, namespace: istio-system}
spec:
  hosts: [httpbin.org]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]
  resolution: DNS
---
apiVersion: v1
kind: Service
metadata: {name: istio-egressgateway, namespace: istio-system}
spec: {clusterIP: 10.96.0.80, selector: {istio: egressgateway}, ports: [{name: http2, port: 80, targetPort: 8080}]}
";

fn case() -> Case {
    Case::new(YAML).at_gateway(&[])
}

#[track_caller]
fn check(case: Case, target: &str, expected: &[&str]) {
    let told = case.ask(target).to_string();
    for part in expected {
        assert!(told.contains(part), "{part:?} is not in\n{told}");
    }
    assert!(!told.contains("kernel") && !told.contains("policy"), "{told}");
}

#[test]
fn each_step_names_its_resource() {
    check(
        case(),
        "http://httpbin.org/headers",
        &[
            "http://httpbin.org/headers at the gateway of namespace istio-system with labels istio=egressgateway\n",
            "address       any of the gateway's\n",
            "listener      0.0.0.0_8080: the gateway listens on 8080, where its Service sends port 80\n",
            "server        HTTP, for httpbin.org\n                by Gateway istio-system/egress spec.servers[0] (a.yaml:8:5)\n",
            "chain         HTTP: requests are routed by Host, in route table http.8080\n",
            "virtual host  httpbin.org:80: it has httpbin.org\n                by VirtualService istio-system/through spec.hosts[0] (a.yaml:28:11)",
            "by VirtualService istio-system/through spec.http[2].match[0] ",
            "not VirtualService istio-system/through spec.http[0].match[0] (a.yaml:31:14): is for gateways mesh\n",
            "not VirtualService istio-system/through spec.http[1].match[0] (a.yaml:32:14): is for port 443\n",
            "not VirtualService istio-system/mesh-only spec.hosts[0] (a.yaml:41:11): bound to mesh: none of them has a server on \
             this port of the gateway\n",
            "client sees   what the server answers, through the proxy\n",
        ],
    );
    check(
        case(),
        "https://httpbin.org",
        &[
            "listener      0.0.0.0_443: the gateway listens on port 443\n",
            "server        TLS, tls.mode PASSTHROUGH, for httpbin.org, unrouted.org\n                by Gateway istio-system/egress \
             spec.servers[1]",
            "not Gateway istio-system/egress spec.servers[2] (a.yaml:10:5): is for *.ends.org\n",
            "not Gateway istio-system/egress spec.servers[3] (a.yaml:11:5): left out: the port is TLS already",
            "chain         TLS for httpbin.org: its server name has a chain\n                by VirtualService \
             istio-system/through spec.tls[0].match[0]",
        ],
    );
    check(
        case(),
        "https://a.ends.org/x",
        &[
            "server        HTTPS, tls.mode SIMPLE, for *.ends.org\n",
            "its TLS ends here (mode SIMPLE), and the requests in it are routed by Host, in route table https.443.ends.egress.istio-system",
            "by VirtualService istio-system/ends spec.http[0].match[0] ",
        ],
    );
}

#[test]
fn what_nobody_takes_is_told_with_why() {
    check(
        case(),
        "http://example.com/",
        &[
            "server        none: no server of this port has example.com\n",
            "virtual host  blackhole:80: no VirtualService for the servers of this port has example.com\n",
        ],
    );
    check(
        case(),
        "https://unrouted.org",
        &[
            "no VirtualService of its Gateway has routes for unrouted.org",
            "the connection is reset before the handshake",
        ],
    );
    check(
        case().speaks(Spoken::Http),
        "http://httpbin.org:443/",
        &["server        none: the servers of this port take TLS alone\n", "the connection is reset\n"],
    );
    check(
        case(),
        "tcp://any.org:26",
        &[
            "listener      none: nothing that comes to port 26 would go anywhere",
            "by Gateway istio-system/egress spec.servers[6]",
        ],
    );
    check(
        case(),
        "http://httpbin.org:8081/",
        &[
            "listener      none: no server of this gateway has port 8081\n",
            "client sees   the connection is refused: nobody listens\n",
        ],
    );
    let mut other = case();
    other.settings.client.labels.clear();
    check(
        other,
        "http://httpbin.org/",
        &[
            "not Gateway istio-system/egress spec.servers[0] (a.yaml:8:5): its selector istio=egressgateway is not of this gateway's labels",
        ],
    );
}

/// A target, a port if it is another, a server name if there is one, and the log that is foretold.
#[test]
fn the_log_is_foretold() {
    let to_80 = "outbound|80||httpbin.org - - via_upstream";
    for (target, port, sni, expected) in [
        ("http://httpbin.org/", None, None, to_80),
        ("http://httpbin.org/", Some(8080), None, to_80),
        ("http://httpbin.org:8443/", Some(80), None, to_80),
        ("http://example.com/", None, None, "- - NR route_not_found refused"),
        ("https://httpbin.org/", Some(80), None, "- - DPE http1.codec_error refused"),
        ("tcp://httpbin.org:80", None, None, "- - DPE http1.codec_error refused"),
        ("https://httpbin.org", None, None, "outbound|443||httpbin.org - - -"),
        ("https://192.0.2.1", None, None, "- - NR filter_chain_not_found refused"),
        ("https://192.0.2.1", None, Some("httpbin.org"), "outbound|443||httpbin.org - - -"),
        ("https://a.ends.org", None, None, to_80),
        ("https://b.ends.org", None, None, "- - NR route_not_found refused"),
        // The request is in TLS: the port has nothing else, or a server name is given.
        ("http://alone.org/", Some(444), None, to_80),
        ("http://a.ends.org/", Some(443), Some("x.ends.org"), to_80),
        ("http://a.ends.org/", Some(443), None, to_80),
        ("http://x.org/", Some(443), None, "- - NR filter_chain_not_found refused"),
        ("tcp://alone.org:444", None, None, "- - DPE http1.codec_error refused"),
        ("tcp://any.org:25", None, None, "outbound|443||httpbin.org - - -"),
        ("http://any.org:25/", None, None, "outbound|443||httpbin.org - - -"),
        ("http://httpbin.org:81/", None, None, "- - - direct_response"),
        ("http://httpbin.org:82/", None, None, "nothing refused"),
    ] {
        let case = port.into_iter().fold(case(), Case::on_port);
        let case = sni.into_iter().fold(case, Case::named);
        let explanation = case.ask(target);
        assert_eq!(logged(&explanation), expected, "{target} {port:?} {sni:?}\n{explanation}");
    }
}

/// A server of one address alone goes before those of all.
#[test]
fn an_address_of_its_own_has_servers_of_its_own() {
    let yaml = YAML.replace(
        "  - {port: {number: 25,",
        "  - {port: {number: 25, name: bound, protocol: HTTP}, bind: 10.0.0.9, hosts: [httpbin.org]}\n  - {port: {number: 25,",
    );
    let case = |address: &str| Case::new(&yaml).at_gateway(&[address]).at(address);
    assert_eq!(
        logged(&case("10.0.0.9").ask("http://httpbin.org:25/")),
        "outbound|80||httpbin.org - - via_upstream"
    );
    assert_eq!(logged(&case("10.0.0.8").ask("http://httpbin.org:25/")), "outbound|443||httpbin.org - - -");
    check(
        case("10.0.0.9"),
        "http://httpbin.org:25/",
        &["address       10.0.0.9, as asked\n", "10.0.0.9_25: the gateway"],
    );
}
