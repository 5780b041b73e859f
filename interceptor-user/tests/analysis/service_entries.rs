//! Findings about ServiceEntries.

use crate::support::{check, check_in, host, se};

fn port(number: u16, protocol: &str) -> String {
    format!("{{number: {number}, name: p{number}, protocol: {protocol}}}")
}

fn entry(name: &str, hosts: &str, ports: &[String], rest: &str) -> String {
    se(name, &format!("hosts: [{hosts}], ports: [{}], {rest}", ports.join(", ")))
}

#[test]
fn egr0101_http_on_443() {
    let on_443 = |rest: &str| entry("a", "a.com", &[port(443, "HTTP")], rest);
    check(
        &on_443("resolution: DNS"),
        &["Error EGR0101 ServiceEntry default/a | HTTP | plain HTTP; HTTPS of applications; protocol HTTPS"],
    );
    check(&on_443("resolution: DNS, addresses: [10.0.0.1]"), &[]);
    check(&entry("a", "a.com", &[port(443, "HTTPS"), port(8443, "HTTP")], "resolution: DNS"), &[]);
}

#[test]
fn egr0102_udp() {
    check(
        &entry("a", "a.com", &[port(53, "UDP")], "resolution: DNS, addresses: [10.0.0.1]"),
        &["Info EGR0102 ServiceEntry default/a | UDP | not intercepted; does nothing"],
    );
    check(&entry("a", "a.com", &[port(53, "TCP")], "resolution: DNS, addresses: [10.0.0.1]"), &[]);
}

#[test]
fn egr0103_no_endpoints() {
    let http = [port(80, "HTTP")];
    check(
        &entry("a", "a.com", &http, "resolution: STATIC"),
        &["Warning EGR0103 ServiceEntry default/a | STATIC | nobody to send to; 503"],
    );
    check(&entry("a", "a.com", &http, "resolution: STATIC, endpoints: [{address: 10.0.0.1}]"), &[]);
    check(&entry("a", "a.com", &http, "resolution: DNS"), &[]);
}

#[test]
fn egr0110_tcp_on_one_port() {
    let tcp = |name: &str, host: &str, rest: &str| {
        entry(name, host, &[port(5432, "TCP")], &format!("resolution: DNS, {rest}"))
    };
    let older = "Warning IST0134 ServiceEntry default/a | { | 5432";
    check(
        &format!("{}{}", tcp("a", "a.com", ""), tcp("b", "b.com", "")),
        &[
            older,
            "Error EGR0110 ServiceEntry default/b | { | also that of a.com of ServiceEntry default/a (f.yaml:2:1); \
             none ever reaches ServiceEntry default/b; addresses",
            "Warning IST0134 ServiceEntry default/b | { | addresses are required",
        ],
    );
    let own = |address: &str| format!("addresses: [{address}]");
    check(&format!("{}{}", tcp("a", "a.com", &own("10.0.0.1")), tcp("b", "b.com", &own("10.0.0.2"))), &[]);
    check(
        &format!("{}{}", tcp("a", "a.com", &own("10.0.0.1")), tcp("b", "b.com", &own("10.0.0.1"))),
        &["Error EGR0110 ServiceEntry default/b | { | default/a"],
    );
    // Nobody sees both.
    let own_only = "exportTo: [.]";
    check(
        &format!("{}{}", tcp("x/a", "a.com", own_only), tcp("y/b", "b.com", own_only)),
        &[
            "Warning IST0134 ServiceEntry x/a | { | addresses",
            "Warning IST0134 ServiceEntry y/b | { | addresses",
        ],
    );
    // Told apart by name, or by Host.
    for protocol in ["HTTPS", "HTTP"] {
        let one = |name: &str, host: &str| entry(name, host, &[port(8443, protocol)], "resolution: DNS");
        check(&format!("{}{}", one("a", "a.com"), one("b", "b.com")), &[]);
    }
}

#[test]
fn egr0115_server_first() {
    let mongo = entry("a", "a.com", &[port(27017, "MONGO")], "resolution: DNS");
    let http = |number| entry("b", "b.com", &[port(number, "HTTP")], "resolution: DNS");
    check(
        &format!("{mongo}{}", http(27017)),
        &["Error EGR0115 ServiceEntry default/b | { | well known port; a.com of ServiceEntry default/a"],
    );
    check(&format!("{mongo}{}", http(80)), &[]);
}

#[test]
fn ist0134_addresses() {
    for protocol in ["TCP", "tcp", "''"] {
        check(
            &entry("a", "a.com", &[port(9000, protocol)], "resolution: DNS"),
            &[
                "Warning IST0134 ServiceEntry default/a | { | addresses are required; port 9000 takes every connection",
            ],
        );
    }
    for protocol in ["HTTP", "TLS", "MONGO"] {
        check(&entry("a", "a.com", &[port(9000, protocol)], "resolution: DNS"), &[]);
    }
    check(&entry("a", "a.com", &[port(9000, "TCP")], "resolution: DNS, addresses: [10.0.0.1]"), &[]);
    let allocated = "---\n{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: a}, spec: {hosts: [a.com], \
                     ports: [{number: 9000, name: x, protocol: TCP}], resolution: DNS}, status: {addresses: [{value: \
                     240.240.0.1}]}}\n";
    check(allocated, &[]);
}

/// Where Istio answers the pods' DNS it gives such entries addresses.
#[test]
fn ist0134_depends_on_what_the_mesh_does_with_dns() {
    let tcp = entry("a", "a.com", &[port(9000, "TCP")], "resolution: DNS");
    let mesh = |metadata: &str| format!("defaultConfig: {{proxyMetadata: {{{metadata}}}}}");
    for both in [
        "ISTIO_META_DNS_CAPTURE: 'true', ISTIO_META_DNS_AUTO_ALLOCATE: 'true'",
        "ISTIO_META_DNS_CAPTURE: 'true', PILOT_ENABLE_IP_AUTOALLOCATE: 'true'",
    ] {
        check_in(&mesh(both), &tcp, &[]);
    }
    for one in ["ISTIO_META_DNS_CAPTURE: 'true'", "ISTIO_META_DNS_AUTO_ALLOCATE: 'true'"] {
        check_in(&mesh(one), &tcp, &["Warning IST0134 ServiceEntry default/a | { | addresses"]);
    }
}

#[test]
fn ist0177_protocols() {
    let on_9000 = |name: &str, protocol: &str, rest: &str| {
        entry(name, "a.com", &[port(9000, protocol)], &format!("resolution: DNS, {rest}"))
    };
    check(
        &format!("{}{}", on_9000("a", "HTTP", ""), on_9000("b", "HTTPS", "")),
        &[
            "Warning IST0177 ServiceEntry default/b | { | host a.com port 9000 has protocol HTTPS here and HTTP in ServiceEntry \
             default/a (f.yaml:2:1)",
        ],
    );
    check(&format!("{}{}", on_9000("a", "HTTP", ""), on_9000("b", "http", "")), &[]);
    check(
        &format!("{}{}", on_9000("x/a", "HTTP", "exportTo: [.]"), on_9000("y/b", "HTTPS", "exportTo: [.]")),
        &[],
    );
    check(&format!("{}{}", host("a", "a.com"), host("b", "b.com")), &[]);
}

#[test]
fn ist0127_selectors() {
    let entry =
        entry("a", "a.com", &[port(80, "HTTP")], "resolution: STATIC, workloadSelector: {labels: {app: x}}");
    check(
        &entry,
        &["Warning IST0127 ServiceEntry default/a | labels | No matching workloads; app=x; 503 (UH); YAML"],
    );
    let workload = |labels: &str| {
        format!(
            "---\n{{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {{name: w}}, spec: {{address: 10.0.0.1, \
             labels: {{{labels}}}}}}}\n"
        )
    };
    check(&format!("{entry}{}", workload("app: x")), &[]);
    check(
        &format!("{entry}{}", workload("app: y")),
        &["Warning IST0127 ServiceEntry default/a | labels | correct the labels"],
    );
}
