//! Findings about where gateways' routes lead: back, or to hosts whose rules nobody can fulfil.

use crate::support::{check, gateway, se, to, vs};

const GATEWAY: &str = "istio-egressgateway.istio-system.svc.cluster.local";

fn service(labels: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: istio-egressgateway, namespace: istio-system}}, spec: \
         {{clusterIP: 10.96.0.80, selector: {{{labels}}}, ports: [{{name: http2, port: 80}}, {{name: tls, port: 443}}, {{name: http-status, \
         port: 15021}}]}}}}\n"
    )
}

fn gw(servers: &str) -> String {
    gateway("gw", &format!("selector: {{istio: egressgateway}}, servers: [{servers}]"))
}

const HTTP: &str = "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}";

fn entry(spec: &str) -> String {
    se(
        "a",
        &format!(
            "hosts: [a.com], ports: [{{number: 80, name: http, protocol: HTTP}}, {{number: 443, name: tls, protocol: TLS}}], {spec}"
        ),
    )
}

#[test]
fn egr0126_routes_that_lead_back() {
    let all = |rules: &str, labels: &str| {
        let rule = vs("v", &format!("hosts: [a.com], gateways: [gw, mesh], {rules}"));
        format!("{}{}{rule}{}", gw(HTTP), entry("resolution: DNS"), service(labels))
    };
    let labels = "istio: egressgateway, app: istio-egressgateway";
    let (there, on) = (to(GATEWAY, 80), to("a.com", 80));
    let found = format!(
        "Error EGR0126 VirtualService default/v | {GATEWAY} | acts at Gateway default/gw; leads back to it: {GATEWAY} is Service \
         istio-system/istio-egressgateway; 503 (UH); match gateways: [mesh]"
    );
    // Meant for applications, and not saying so.
    let forgotten = format!("http: [{{match: [{{uri: {{prefix: /x}}}}], {there}}}, {{{on}}}]");
    check(&all(&forgotten, labels), &[&found]);
    let said =
        format!("http: [{{match: [{{gateways: [mesh]}}], {there}}}, {{match: [{{gateways: [gw]}}], {on}}}]");
    check(&all(&said, labels), &[]);
    let other_port = format!("http: [{{match: [{{port: 81}}], {there}}}, {{{on}}}]");
    check(&all(&other_port, labels), &[]);
    let hidden =
        format!("http: [{{match: [{{gateways: [gw]}}], {on}}}, {{match: [{{gateways: [mesh]}}], {there}}}]");
    check(&all(&hidden, labels), &[]);
    // Pods that are no gateway, and a port where it does not answer.
    check(&all(&forgotten, "app: other"), &[]);
    check(&all(&forgotten.replace(&there, &to(GATEWAY, 15021)), labels), &[]);
}

#[test]
fn egr0126_endpoints_that_are_the_gateways() {
    let all = |spec: &str| {
        let rule = vs("v", &format!("hosts: [a.com], gateways: [gw, mesh], http: [{{{}}}]", to("a.com", 80)));
        format!("{}{}{rule}{}", gw(HTTP), entry(spec), service("istio: egressgateway"))
    };
    let found = "Error EGR0126 VirtualService default/v | a.com | leads back to it: a.com is at Service istio-system/istio-egressgateway";
    check(&all("resolution: STATIC, endpoints: [{address: 10.96.0.80}]"), &[found]);
    check(&all(&format!("resolution: DNS, endpoints: [{{address: {GATEWAY}}}]")), &[found]);
    check(&all("resolution: STATIC, endpoints: [{address: 10.96.0.80}, {address: 192.0.2.1}]"), &[]);
    check(&all("resolution: STATIC, endpoints: [{address: 10.96.0.80, ports: {http: 8080}}]"), &[]);
}

#[test]
fn egr0126_routes_of_delegates() {
    let root =
        "hosts: [a.com], gateways: [gw, mesh], http: [{match: [{uri: {prefix: /x}}], delegate: {name: d}}]";
    let delegate = vs("d", &format!("http: [{{{}}}]", to(GATEWAY, 80)));
    check(
        &format!(
            "{}{}{}{delegate}{}",
            gw(HTTP),
            entry("resolution: DNS"),
            vs("v", root),
            service("istio: egressgateway")
        ),
        &[&format!("Error EGR0126 VirtualService default/d | {GATEWAY} | leads back to it")],
    );
}

/// With a rule of who may use its host.
fn ruled() -> String {
    entry("resolution: DNS").replace(
        "namespace: default}, spec: {hosts: [a.com]",
        "namespace: default, annotations: {egress.interceptor.io/allow-from: ns/shop}}, spec: {hosts: [a.com]",
    )
}

fn through(servers: &str, rules: &str) -> String {
    let rule = vs("v", &format!("hosts: [a.com], gateways: [gw, mesh], {rules}"));
    format!("{}{}{rule}", gw(servers), ruled())
}

#[test]
fn egr0127_nobody_shows_who_he_is() {
    let http = format!("http: [{{{}}}]", to("a.com", 80));
    let tls = format!("tls: [{{match: [{{sniHosts: [a.com]}}], {}}}]", to("a.com", 443));
    let found = |how: &str| {
        format!(
            "Warning EGR0127 ServiceEntry default/a | ns/shop | nobody who comes through servers[0] of Gateway default/gw; \
             ({how}); 403; UAEX; ISTIO_MUTUAL"
        )
    };
    let server = |protocol: &str, tls: &str| {
        format!("{{port: {{number: 443, name: tls, protocol: {protocol}}}, hosts: [a.com], tls: {{{tls}}}}}")
    };
    let files = "serverCertificate: /c, privateKey: /k, caCertificates: /ca";
    let mutual = server("HTTPS", &format!("mode: MUTUAL, {files}"));
    let mesh = server("HTTPS", "mode: ISTIO_MUTUAL");
    for (servers, rules, how) in [
        (HTTP.to_owned(), &http, "protocol HTTP"),
        (mutual, &http, "tls.mode MUTUAL"),
        (server("TLS", "mode: PASSTHROUGH"), &tls, "tls.mode PASSTHROUGH"),
    ] {
        check(&through(&servers, rules), &[&found(how)]);
    }
    check(&through(&mesh, &http), &[]);
    // Who comes in clear is refused, and others are not.
    check(&through(&format!("{HTTP}, {mesh}"), &http), &[]);
    // Clients name the host themselves.
    let auto = format!("{}{}", gw(&server("TLS", "mode: AUTO_PASSTHROUGH")), ruled());
    check(&auto, &[&found("tls.mode AUTO_PASSTHROUGH")]);
    // A host without a rule is for everybody.
    check(&through(HTTP, &http).replace("{egress.interceptor.io/allow-from: ns/shop}", "{}"), &[]);
}

#[test]
fn egr0125_nobody_can_be_named() {
    let auto = |hosts: &str| {
        let server = format!(
            "{{port: {{number: 443, name: tls, protocol: TLS}}, hosts: [{hosts}], tls: {{mode: AUTO_PASSTHROUGH}}}}"
        );
        format!("{}{}", gw(&server), entry("resolution: DNS"))
    };
    check(
        &auto("b.com"),
        &[
            "Warning EGR0125 Gateway default/gw | hosts | none that is declared has a host of this server; nobody listens",
        ],
    );
    for hosts in ["a.com", "'*.com'", "'*'", "b.com, a.com"] {
        check(&auto(hosts), &[]);
    }
}

#[test]
fn egr0128_no_gateway_leads_there() {
    let found = "Warning EGR0128 ServiceEntry default/a | ns/shop | no route of a gateway; keeps nobody out; lead the hosts through";
    let to_b = format!("http: [{{{}}}]", to("b.com", 80));
    let b = entry("resolution: DNS").replace("a.com", "b.com").replace("name: a,", "name: b,");
    check(&format!("{}{b}", through(HTTP, &to_b)), &[found]);
    let in_the_mesh = vs("v", &format!("hosts: [a.com], http: [{{{}}}]", to("a.com", 80)));
    let rule = vs("w", &format!("hosts: [b.com], gateways: [gw, mesh], {to_b}"));
    check(&format!("{}{}{b}{in_the_mesh}{rule}", gw(HTTP), ruled()), &[found]);
    // Gateways may be elsewhere.
    check(&ruled(), &[]);
}
