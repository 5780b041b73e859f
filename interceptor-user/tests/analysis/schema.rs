//! Findings about how things are written, and about files.

use crate::support::{check, host, se};

#[test]
fn ist0106_values() {
    check(
        &se("a", "hosts: [a.com], ports: [{number: 80, name: http, protocol: HTPP}], resolution: DNS"),
        &["Error IST0106 ServiceEntry default/a | HTPP | unsupported protocol: HTPP"],
    );
    check("---\na: [\n", &["Error IST0106  |  | not YAML"]);
    check(&host("a", "a.com"), &[]);
}

/// A wildcard can't be looked up.
#[test]
fn ist0106_wildcards_with_dns() {
    let wildcard = |resolution: &str| {
        se(
            "a",
            &format!(
                "hosts: ['*.a.com'], ports: [{{number: 443, name: tls, protocol: TLS}}], resolution: {resolution}"
            ),
        )
    };
    check(
        &wildcard("DNS"),
        &[
            "Error IST0106 ServiceEntry default/a | '*.a.com' | hosts must be FQDN; use resolution DYNAMIC_DNS (or NONE)",
        ],
    );
    check(&wildcard("NONE"), &[]);
    check(&wildcard("DYNAMIC_DNS"), &[]);
}

#[test]
fn ist0133_unknown_fields() {
    check(
        &se(
            "a",
            "hosts: [a.com], ports: [{number: 80, name: http, protocl: HTTP}], resolution: DNS, addresses: [10.0.0.1]",
        ),
        &[
            "Warning IST0133 ServiceEntry default/a | protocl | unknown field `protocl`; did you mean `protocol`?",
        ],
    );
}

#[test]
fn egr0118_what_is_not_read() {
    check(
        "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}\n",
        &["Info EGR0118  | { | ConfigMap c (v1) is not read here"],
    );
}

#[test]
fn egr0116_server_names_left_over() {
    let entry =
        se("a", "hosts: ['*.a.com'], ports: [{number: 443, name: tls, protocol: TLS}], resolution: NONE");
    let rule = |sni: &str| {
        crate::support::vs(
            "v",
            &format!(
                "hosts: ['*.a.com'], tls: [{{match: [{{sniHosts: [{sni}]}}], {}}}]",
                crate::support::to("'*.a.com'", 443)
            ),
        )
    };
    check(
        &format!("{entry}{}", rule("x.a.com")),
        &[
            "Warning EGR0116 VirtualService default/v | match | server names of *.a.com that no sniHosts names are treated as unknown; \"*.a.com\"",
        ],
    );
    check(&format!("{entry}{}", rule("'*.a.com'")), &[]);
    check(&format!("{entry}{}", rule("x.a.com, '*.a.com'")), &[]);
}

#[test]
fn ist0106_unix_sockets_that_cannot_be() {
    let with = |address: &str| {
        let ports = "ports: [{number: 80, name: http, protocol: HTTP}]";
        se(
            "a",
            &format!("hosts: [a.com], {ports}, resolution: STATIC, endpoints: [{{address: '{address}'}}]"),
        )
    };
    check(&with("unix://@a"), &[]);
    let note = "Info EGR0124 ServiceEntry default/a | 'unix:///run/a.sock' | unix:///run/a.sock is a socket of the node; \
                exec connects to it, an agent leaves it out; --allow-unix-endpoints";
    check(&with("unix:///run/a.sock"), &[note]);
    let too_long = format!("unix:///{}", "x".repeat(107));
    for (address, words) in [
        ("unix://run/a.sock", "is not an absolute path to a file; write unix:///path/to/socket"),
        (&too_long, "the path has 108 bytes and a unix socket's at most 107; use a shorter one"),
    ] {
        check(&with(address), &[&format!("Error IST0106 ServiceEntry default/a | {{ | {words}")]);
    }
}

/// Valid with Istio, and skipped all the same.
#[test]
fn egr0119_what_is_not_supported() {
    for kind in ["EnvoyFilter", "ProxyConfig"] {
        let expected = format!("Warning EGR0119  | {{ | {kind} e does not act here: skipped");
        check(&crate::support::istio(kind, "e", ""), &[&expected]);
    }
}
