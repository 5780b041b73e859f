//! Findings about Gateways, and VirtualServices behind them.

use crate::support::{check, found, gateway, host, se, to, vs};

fn server(number: u16, protocol: &str, hosts: &str, rest: &str) -> String {
    format!("{{port: {{number: {number}, name: p{number}, protocol: {protocol}}}, hosts: [{hosts}]{rest}}}")
}

fn gw(name: &str, servers: &[String]) -> String {
    gateway(name, &format!("selector: {{istio: egressgateway}}, servers: [{}]", servers.join(", ")))
}

/// Through the gateway, from applications on.
fn behind(block: &str) -> String {
    format!("{}{}", host("a", "a.com"), vs("v", &format!("hosts: [a.com], gateways: [gw, mesh], {block}")))
}

fn http_routes() -> String {
    format!("http: [{{{}}}]", to("a.com", 80))
}

fn tls_routes() -> String {
    format!("tls: [{{match: [{{sniHosts: [a.com]}}], {}}}]", to("a.com", 443))
}

const PASSTHROUGH: &str = ", tls: {mode: PASSTHROUGH}";
const ISTIO_MUTUAL: &str = ", tls: {mode: ISTIO_MUTUAL}";

#[test]
fn egr0111_terminated_tls_with_http_routes() {
    let on = |protocol: &str| {
        format!("{}{}", gw("gw", &[server(443, protocol, "a.com", ISTIO_MUTUAL)]), behind(&http_routes()))
    };
    check(
        &on("TLS"),
        &[
            "Error EGR0111 Gateway default/gw | TLS | protocol TLS with tls.mode ISTIO_MUTUAL takes tcp routes only; VirtualService default/v; refused; protocol: HTTPS",
        ],
    );
    check(&on("HTTPS"), &[]);
    let tcp = behind(&format!("tcp: [{{match: [{{gateways: [gw]}}], {}}}]", to("a.com", 443)));
    check(&format!("{}{tcp}", gw("gw", &[server(443, "TLS", "a.com", ISTIO_MUTUAL)])), &[]);
}

#[test]
fn egr0112_other_blocks() {
    for (protocol, tls, block, words) in [
        (
            "TLS",
            PASSTHROUGH,
            http_routes(),
            "http routes for a server of protocol TLS with tls.mode PASSTHROUGH, which takes tls routes; sniHosts",
        ),
        (
            "HTTPS",
            ISTIO_MUTUAL,
            tls_routes(),
            "tls routes for a server of protocol HTTPS with tls.mode ISTIO_MUTUAL, which takes http routes; PASSTHROUGH",
        ),
        ("HTTP", "", tls_routes(), "tls routes for a server of protocol HTTP, which takes http routes"),
        ("TCP", "", http_routes(), "which takes tcp routes"),
        ("TLS", ", tls: {mode: AUTO_PASSTHROUGH}", tls_routes(), "which takes no routes; name the cluster"),
    ] {
        let yaml = format!("{}{}", gw("gw", &[server(443, protocol, "a.com", tls)]), behind(&block));
        check(&yaml, &[&format!("Error EGR0112 VirtualService default/v | {{ | {words}")]);
    }
    check(
        &format!("{}{}", gw("gw", &[server(443, "TLS", "a.com", PASSTHROUGH)]), behind(&tls_routes())),
        &[],
    );
    // Another server of the gateway uses them.
    let both = gw("gw", &[server(443, "TLS", "a.com", PASSTHROUGH), server(80, "HTTP", "a.com", "")]);
    check(&format!("{both}{}", behind(&http_routes())), &[]);
    // They are for applications only.
    let mesh_only =
        behind(&format!("http: [{{match: [{{gateways: [mesh]}}], {}}}], {}", to("a.com", 80), tls_routes()));
    check(&format!("{}{mesh_only}", gw("gw", &[server(443, "TLS", "a.com", PASSTHROUGH)])), &[]);
}

#[test]
fn egr0113_resolution_none() {
    let none = se("a", "hosts: [a.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: NONE");
    let rule = |gateways: &str| {
        vs(
            "v",
            &format!(
                "hosts: [a.com], gateways: [gw, mesh], http: [{{match: [{{gateways: [{gateways}]}}], {}}}]",
                to("a.com", 80)
            ),
        )
    };
    let servers = gw("gw", &[server(80, "HTTP", "a.com", "")]);
    check(
        &format!("{servers}{none}{}", rule("gw")),
        &[
            "Error EGR0113 VirtualService default/v | a.com | resolution NONE in ServiceEntry default/a; 503 (UH); resolution DNS",
        ],
    );
    check(&format!("{servers}{none}{}", rule("mesh")), &[]);
    check(&format!("{servers}{}{}", host("a", "a.com"), rule("gw")), &[]);
}

#[test]
fn egr0117_ports() {
    check(
        &gw("gw", &[server(80, "HTTP", "a.com", ""), "{port: {number: 80, name: other, protocol: HTTPS}, hosts: [b.com], tls: {mode: ISTIO_MUTUAL}}".into()]),
        &["Error EGR0117 Gateway default/gw | HTTPS | port 80 is HTTPS here and HTTP in servers[0]"],
    );
    let twice = |host: &str| {
        format!(
            "{{port: {{number: 443, name: other, protocol: TLS}}, hosts: [{host}], tls: {{mode: PASSTHROUGH}}}}"
        )
    };
    check(
        &gw("gw", &[server(443, "TLS", "a.com", PASSTHROUGH), twice("a.com")]),
        &["Error EGR0117 Gateway default/gw | hosts | duplicate host a.com on port 443; servers[0]"],
    );
    check(&gw("gw", &[server(443, "TLS", "a.com", PASSTHROUGH), twice("b.com")]), &[]);
}

#[test]
fn ist0101_gateways() {
    let bound = |name: &str| {
        format!(
            "{}{}",
            host("a", "a.com"),
            vs("v", &format!("hosts: [a.com], gateways: [{name}, mesh], {}", http_routes()))
        )
    };
    let servers = gw("infra/gw", &[server(80, "HTTP", "a.com", "")]);
    for name in ["gw", "./gw", "other/gw"] {
        check(
            &format!("{servers}{}", bound(name)),
            &[&format!(
                "Error IST0101 VirtualService default/v | {name} | Referenced gateway not found: \"{name}\""
            )],
        );
    }
    for name in ["infra/gw", "gw.infra.svc.cluster.local"] {
        check(&format!("{servers}{}", bound(name)), &[]);
    }
}

#[test]
fn ist0132_hosts() {
    let with =
        |hosts: &str| format!("{}{}", gw("gw", &[server(80, "HTTP", hosts, "")]), behind(&http_routes()));
    check(
        &with("b.com, other/a.com"),
        &[
            "Warning IST0132 VirtualService default/v | gw | host [a.com] defined in VirtualService default/v not found in Gateway default/gw; 404",
        ],
    );
    for hosts in ["a.com", "'*'", "'*.com'", "default/a.com", "./a.com", "'*/*'"] {
        check(&with(hosts), &[]);
    }
}

#[test]
fn ist0138_certificates() {
    let one = |name: &str, credential: &str, host: &str| {
        gw(
            name,
            &[server(443, "HTTPS", host, &format!(", tls: {{mode: SIMPLE, credentialName: {credential}}}"))],
        )
    };
    check(
        &format!("{}{}", one("g", "c", "a.com"), one("h", "c", "b.com")),
        &[
            "Warning IST0138 Gateway default/h | tls | Duplicate certificate in multiple gateways [default/h default/g]; HTTP/2",
        ],
    );
    check(&format!("{}{}", one("g", "c", "a.com"), one("h", "d", "b.com")), &[]);
    let elsewhere = one("h", "c", "b.com").replace("egressgateway", "other");
    check(&format!("{}{elsewhere}", one("g", "c", "a.com")), &[]);
}

#[test]
fn ist0140_subsets_of_others() {
    let subset = crate::support::dr("r", "host: a.com, subsets: [{name: s}]");
    let other = |subset: &str| {
        vs(
            "w",
            &format!(
                "hosts: [a.com], http: [{{route: [{{destination: {{host: a.com, port: {{number: 80}}{subset}}}}}]}}]"
            ),
        )
    };
    let at_gateway = vs("v", &format!("hosts: [a.com], gateways: [gw], {}", http_routes()));
    let base =
        format!("{}{}{subset}{at_gateway}", gw("gw", &[server(80, "HTTP", "a.com", "")]), host("a", "a.com"));
    check(
        &format!("{base}{}", other(", subset: s")),
        &[
            "Warning IST0140 VirtualService default/v | a.com | Subset in virtual service default/w has no effect on ingress gateway default/v requests",
        ],
    );
    check(&format!("{base}{}", other("")), &[]);
}

#[test]
fn ist0145_conflicting_gateways() {
    let one = |name: &str, number: u16, hosts: &str| gw(name, &[server(number, "HTTP", hosts, "")]);
    check(
        &format!("{}{}", one("g", 80, "a.com"), one("h", 80, "'*.com'")),
        &[
            "Error IST0145 Gateway default/h | hosts | Conflict with gateways default/g (workload selector istio=egressgateway, port 80, hosts *.com)",
        ],
    );
    check(&format!("{}{}", one("g", 80, "a.com"), one("h", 80, "b.com")), &[]);
    check(&format!("{}{}", one("g", 80, "a.com"), one("h", 8080, "a.com")), &[]);
    check(&format!("{}{}", one("g", 80, "x/a.com"), one("h", 80, "y/a.com")), &[]);
    let elsewhere = one("h", 80, "a.com").replace("egressgateway", "other");
    check(&format!("{}{elsewhere}", one("g", 80, "a.com")), &[]);
}

#[test]
fn ist0165_internal_gateways() {
    let bound = |name: &str| {
        format!(
            "{}{}",
            host("a", "a.com"),
            vs("v", &format!("hosts: [a.com], gateways: [{name}, mesh], {}", http_routes()))
        )
    };
    check(
        &bound("infra/x-istio-autogenerated-k8s-gateway-http"),
        &[
            "Warning IST0165 VirtualService default/v | infra/x-istio-autogenerated-k8s-gateway-http | should not reference internal gateway",
        ],
    );
    let servers = gw("infra/gw", &[server(80, "HTTP", "a.com", "")]);
    check(&format!("{servers}{}", bound("infra/gw")), &[]);
}

/// What Istio's webhook refuses.
#[test]
fn ist0106_gateways() {
    for (servers, words) in [
        (server(443, "HTTPS", "a.com", ""), "server must have TLS settings for HTTPS/TLS protocols"),
        (server(443, "HTTPS", "a.com", ", tls: {mode: SIMPLE}"), "SIMPLE TLS requires a server certificate"),
        (
            server(443, "HTTPS", "a.com", ", tls: {mode: ISTIO_MUTUAL, credentialName: x}"),
            "ISTIO_MUTUAL TLS cannot have",
        ),
        (server(80, "HTTP", "a*b", ""), "invalid host a*b"),
        (server(80, "HTTP", "", ""), "at least one host"),
        (server(80, "HTPT", "a.com", ""), "unsupported protocol: HTPT"),
        (
            format!("{}, {}", server(80, "HTTP", "a.com", ""), server(80, "HTTP", "b.com", "")),
            "port names in servers must be unique: duplicate name p80",
        ),
    ] {
        let found = crate::support::found(&gateway("gw", &format!("servers: [{servers}]")), "");
        assert!(
            found.iter().any(|finding| finding.code == Some("IST0106") && finding.message.contains(words)),
            "{servers}: {found:#?}"
        );
    }
}

/// Of clients' certificates, versions and suites nothing is dropped in silence: it acts, or it is told.
#[test]
fn tls_settings_that_cannot_act_are_told() {
    const FILES: &str = "serverCertificate: /c.pem, privateKey: /k.pem";
    for (tls, expected) in [
        (format!("mode: SIMPLE, {FILES}"), None),
        (
            format!("mode: MUTUAL, {FILES}, caCertificates: /ca.pem, caCrl: /crl.pem, subjectAltNames: [spiffe://a/b]"),
            None,
        ),
        (
            "mode: SIMPLE, tlsCertificates: [{serverCertificate: /c.pem, privateKey: /k.pem}], minProtocolVersion: TLSV1_3"
                .into(),
            None,
        ),
        ("mode: MUTUAL, credentialName: a, caCertCredentialName: b".into(), None),
        ("mode: ISTIO_MUTUAL, subjectAltNames: [spiffe://a/b]".into(), None),
        (format!("mode: SIMPLE, {FILES}, subjectAltNames: [a]"), Some("about certificates of clients")),
        (format!("mode: SIMPLE, {FILES}, caCrl: /crl.pem"), Some("caCrl is about certificates of clients")),
        (format!("mode: SIMPLE, {FILES}, minProtocolVersion: TLSV1_1"), Some("nothing below TLS 1.2 is")),
        (format!("mode: SIMPLE, {FILES}, maxProtocolVersion: TLSV1_0"), Some("nothing below TLS 1.2 is")),
        (
            format!("mode: SIMPLE, {FILES}, minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2"),
            Some("minProtocolVersion is above maxProtocolVersion"),
        ),
        (
            format!("mode: SIMPLE, {FILES}, cipherSuites: [AES128-SHA, ECDHE-RSA-AES128-GCM-SHA256]"),
            Some("cipher suite AES128-SHA is not available, left out; there are ECDHE-ECDSA-AES128-GCM-SHA256"),
        ),
        (
            format!("mode: MUTUAL, {FILES}, caCertificates: /ca.pem, verifyCertificateHash: ['12:34']"),
            Some("64 hex digits"),
        ),
        (
            format!("mode: MUTUAL, {FILES}, caCertificates: /ca.pem, verifyCertificateSpki: [abc]"),
            Some("SHA-256 of a public key in base64"),
        ),
        (format!("mode: SIMPLE, {FILES}, subjectAltName: a"), Some("unknown field `subjectAltName`")),
        (
            format!("mode: SIMPLE, {FILES}, tlsCertificates: [{{serverCertificate: /c, privateKey: /k}}]"),
            Some("not both"),
        ),
        ("mode: ISTIO_MUTUAL, caCrl: /crl.pem".into(), Some("cannot have associated certificates")),
    ] {
        let yaml = gw("gw", &[server(443, "HTTPS", "a.com", &format!(", tls: {{{tls}}}"))]);
        let said: Vec<String> = found(&yaml, "").iter().map(|finding| finding.message.clone()).collect();
        match expected {
            None => assert_eq!(said, [] as [&str; 0], "{tls}"),
            Some(words) => assert!(said.iter().any(|said| said.contains(words)), "{tls}: {said:#?}"),
        }
    }
}
