//! Findings about VirtualServices.

use crate::support::{check, dr, host, se, to, vs};

fn http(host: &str, rules: &str) -> String {
    vs("v", &format!("hosts: [{host}], http: [{rules}]"))
}

#[test]
fn egr0106_bound_to_gateways_only() {
    let bound = |gateways: &str| {
        let gateway = crate::support::gateway(
            "gw",
            "servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]",
        );
        format!(
            "{}{gateway}{}",
            host("a", "a.com"),
            vs("v", &format!("hosts: [a.com], gateways: [{gateways}], http: [{{{}}}]", to("a.com", 80)))
        )
    };
    check(
        &bound("gw"),
        &[
            "Warning EGR0106 VirtualService default/v | a.com | bound only to gateways (gw); don't follow it; add `mesh`",
        ],
    );
    check(&bound("gw, mesh"), &[]);
    // Nobody is called `*`, and bound to mesh it would be refused.
    check(&bound("gw").replace("hosts: [a.com], gateways", "hosts: ['*'], gateways"), &[]);
    let other = vs("w", &format!("hosts: [a.com], http: [{{{}}}]", to("a.com", 80)));
    check(&format!("{}{other}", bound("gw")), &[]);
}

#[test]
fn egr0107_unknown_hosts() {
    let route = to("a.com", 80);
    check(
        &format!("{}{}", host("a", "a.com"), http("b.com", &format!("{{{route}}}"))),
        &[
            "Warning EGR0107 VirtualService default/v | b.com | no ServiceEntry or Service has host b.com; port 80 only",
        ],
    );
    let wildcard = se(
        "w",
        "hosts: ['*.b.com'], ports: [{number: 80, name: http, protocol: HTTP}, {number: 8080, name: alt, protocol: HTTP}], \
         resolution: NONE",
    );
    check(
        &format!("{}{wildcard}{}", host("a", "a.com"), http("x.b.com", &format!("{{{route}}}"))),
        &[
            "Warning EGR0107 VirtualService default/v | x.b.com | only a wildcard covers it; not on 8080; declare x.b.com",
        ],
    );
    check(&format!("{}{}", host("a", "a.com"), http("a.com", &format!("{{{route}}}"))), &[]);
    check(&format!("{}{}", host("a", "a.com"), http("'*.com'", &format!("{{{route}}}"))), &[]);
}

#[test]
fn egr0109_port_is_kept() {
    let none = |target: &str| {
        se(
            "a",
            &format!(
                "hosts: [a.com], ports: [{{number: 80, name: http, protocol: HTTP}}, {{number: 443, name: tls, protocol: HTTPS{target}}}], resolution: NONE"
            ),
        )
    };
    let rule = http("a.com", &format!("{{match: [{{port: 80}}], {}}}", to("a.com", 443)));
    check(
        &format!("{}{rule}", none("")),
        &[
            "Error EGR0109 VirtualService default/v | 443 | resolution NONE and no targetPort; port 80 keep; never reach 443; targetPort: 443",
        ],
    );
    check(&format!("{}{rule}", none(", targetPort: 443")), &[]);
    check(&format!("{}{rule}", host("a", "a.com")), &[]);
    check(
        &format!("{}{}", none(""), http("a.com", &format!("{{match: [{{port: 80}}], {}}}", to("a.com", 80)))),
        &[],
    );
}

#[test]
fn ist0101_hosts_and_ports() {
    let with = |destination: &str| {
        format!(
            "{}{}",
            host("a", "a.com"),
            http("a.com", &format!("{{route: [{{destination: {{{destination}}}}}]}}"))
        )
    };
    check(
        &with("host: b.com, port: {number: 80}"),
        &[
            "Error IST0101 VirtualService default/v | b.com | Referenced host not found: \"b.com\"; 503 (NC); ServiceEntry",
        ],
    );
    check(
        &with("host: b, port: {number: 80}"),
        &["Error IST0101 VirtualService default/v | b | \"b.default.svc.cluster.local\"; short one"],
    );
    check(
        &with("host: a.com, port: {number: 81}"),
        &[
            "Error IST0101 VirtualService default/v | 81 | Referenced host:port not found: \"a.com:81\"; 80, 443",
        ],
    );
    check(&with("host: a.com, port: {number: 443}"), &[]);
    for block in [
        "tls: [{match: [{port: 443, sniHosts: [a.com]}], route: [{destination: {host: b.com, port: {number: 443}}}]}]",
        "tcp: [{route: [{destination: {host: b.com, port: {number: 443}}}]}]",
    ] {
        check(
            &format!("{}{}", host("a", "a.com"), vs("v", &format!("hosts: [a.com], {block}"))),
            &["Error IST0101 VirtualService default/v | b.com | Referenced host not found"],
        );
    }
}

#[test]
fn ist0101_mirrors_and_delegates() {
    let a = to("a.com", 80);
    check(
        &format!(
            "{}{}",
            host("a", "a.com"),
            http("a.com", &format!("{{{a}, mirror: {{host: b.com, port: {{number: 80}}}}}}"))
        ),
        &[
            "Error IST0101 VirtualService default/v | b.com | Referenced mirror host not found: \"b.com\"; nothing is mirrored",
        ],
    );
    check(
        &format!(
            "{}{}",
            host("a", "a.com"),
            http(
                "a.com",
                &format!("{{{a}, mirrors: [{{destination: {{host: a.com, port: {{number: 81}}}}}}]}}")
            )
        ),
        &["Error IST0101 VirtualService default/v | 81 | Referenced host:port not found"],
    );
    let root = http("a.com", "{delegate: {name: d}}");
    let delegate = |rest: &str| vs("d", &format!("http: [{{{a}}}]{rest}"));
    let base = format!("{}{root}", host("a", "a.com"));
    check(
        &base,
        &[
            "Error IST0101 VirtualService default/v | d | Referenced delegate not found: \"default/d\"; left out",
        ],
    );
    check(&format!("{base}{}", delegate("")), &[]);
    check(
        &format!("{base}{}", delegate(", exportTo: [elsewhere]")),
        &[
            "Error IST0101 VirtualService default/v | d | VirtualService default/d (f.yaml:6:1) is not exported to namespace default",
        ],
    );
    check(
        &format!(
            "{base}{}",
            delegate(", hosts: [a.com], gateways: [mesh]")
                .replace("hosts: [a.com], gateways: [mesh]", "hosts: [b.a.com]")
        ),
        &[
            "Error IST0101 VirtualService default/v | d | has hosts, so that it is no delegate",
            "Warning EGR0107 VirtualService default/d | b.a.com | no ServiceEntry or Service has host b.a.com",
        ],
    );
}

#[test]
fn egr0121_delegates_that_nobody_uses() {
    let delegate = vs("d", &format!("http: [{{{}}}]", to("a.com", 80)));
    check(
        &format!("{}{delegate}", host("a", "a.com")),
        &["Warning EGR0121 VirtualService default/d | spec | no hosts; none does; give it hosts"],
    );
    check(&format!("{}{delegate}{}", host("a", "a.com"), http("a.com", "{delegate: {name: d}}")), &[]);
}

#[test]
fn egr0123_delegates_that_match_more_than_their_root() {
    let delegate = |uri: &str| vs("d", &format!("http: [{{match: [{{uri: {uri}}}], {}}}]", to("a.com", 80)));
    let root = http("a.com", "{match: [{uri: {prefix: /a}}], delegate: {name: d}}");
    check(
        &format!("{}{root}{}", host("a", "a.com"), delegate("{prefix: /b}")),
        &[
            "Warning EGR0123 VirtualService default/d | match | conflicts with the match of VirtualService default/v (http[0]); (f.yaml:4:1); left out there; special case",
        ],
    );
    for right in ["{prefix: /a/b}", "{exact: /a}"] {
        check(&format!("{}{root}{}", host("a", "a.com"), delegate(right)), &[]);
    }
}

/// Clients of the rule's namespace must see what it leads to.
#[test]
fn ist0101_visibility() {
    let hidden = se(
        "other/b",
        "hosts: [b.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS, exportTo: [.]",
    );
    let rule = http("a.com", &format!("{{{}}}", to("b.com", 80)));
    check(
        &format!("{}{hidden}{rule}", host("a", "a.com")),
        &[
            "Error IST0101 VirtualService default/v | b.com | ServiceEntry other/b (f.yaml:4:1) has it and is not exported to namespace default",
        ],
    );
    let shown = hidden.replace("exportTo: [.]", "exportTo: [default]");
    check(&format!("{}{shown}{rule}", host("a", "a.com")), &[]);
    let wildcard =
        se("w", "hosts: ['*.b.com'], ports: [{number: 80, name: http, protocol: HTTP}], resolution: NONE");
    check(
        &format!("{}{wildcard}{}", host("a", "a.com"), http("a.com", &format!("{{{}}}", to("x.b.com", 80)))),
        &["Error IST0101 VirtualService default/v | x.b.com | only *.b.com of ServiceEntry default/w"],
    );
}

#[test]
fn ist0101_subsets_by_the_real_order() {
    let rule = "{route: [{destination: {host: a.com, port: {number: 80}, subset: s}}]}";
    let base = format!("{}{}", host("svc/a", "a.com"), http("a.com", rule));
    let subset = |name: &str, rest: &str| dr(name, &format!("host: a.com, subsets: [{{name: s}}]{rest}"));
    let not_found = "Error IST0101 VirtualService default/v | s | Referenced host+subset in destinationrule not found: \"a.com+s\"; 503 (NC)";
    check(&base, &[&format!("{not_found}; add a DestinationRule for a.com")]);
    // The client's namespace, the service's, the root namespace.
    for place in ["default/r", "svc/r", "istio-system/r"] {
        check(&format!("{base}{}", subset(place, "")), &[]);
    }
    check(
        &format!("{base}{}", subset("elsewhere/r", "")),
        &[&format!("{not_found}; DestinationRule elsewhere/r (f.yaml:6:1) has it; move it")],
    );
    check(&format!("{base}{}", subset("svc/r", ", exportTo: [.]")), &[&format!("{not_found}; svc/r")]);
    // The first that is found holds, whatever it lacks.
    check(
        &format!("{base}{}{}", subset("svc/r", ""), dr("default/own", "host: a.com")),
        &[&format!("{not_found}; clients of namespace default get DestinationRule default/own")],
    );
}

#[test]
fn ist0112_ports_by_name() {
    let with = |host_of_rule: &str, matched: &str| {
        http(host_of_rule, &format!("{{{matched}route: [{{destination: {{host: a.com}}}}]}}"))
    };
    let eight =
        se("b", "hosts: [b.com], ports: [{number: 8080, name: http, protocol: HTTP}], resolution: DNS");
    check(
        &format!("{}{eight}{}", host("a", "a.com"), with("b.com", "")),
        &[
            "Error IST0112 VirtualService default/v | a.com | exposes multiple ports [80 443]; no port 8080; 503 (NC)",
        ],
    );
    // The port of the connection is one of the destination's.
    check(
        &format!("{}{}", host("a", "a.com"), with("a.com", "")),
        &[
            "Warning IST0112 VirtualService default/v | a.com | exposes multiple ports; which the destination has",
        ],
    );
    check(
        &format!("{}{eight}{}", host("a", "a.com"), http("a.com", "{route: [{destination: {host: b.com}}]}")),
        &[],
    );
}

#[test]
fn ist0109_same_host() {
    let one =
        |name: &str, rest: &str| vs(name, &format!("hosts: [a.com], http: [{{{}}}]{rest}", to("a.com", 80)));
    check(
        &format!("{}{}{}", host("a", "a.com"), one("v", ""), one("w", "")),
        &[
            "Error IST0109 VirtualService default/w | a.com | The VirtualServices default/v,default/w associated with mesh gateway \
             define the same host a.com; this one is not asked; merge",
        ],
    );
    check(
        &format!("{}{}{}", host("a", "a.com"), one("x/v", ", exportTo: [.]"), one("y/w", ", exportTo: [.]")),
        &[],
    );
    check(
        &format!("{}{}{}", host("a", "a.com"), one("x/v", ", exportTo: [y]"), one("y/w", ", exportTo: [.]")),
        &["Error IST0109 VirtualService y/w | a.com | x/v,y/w"],
    );
    let wildcard = vs("w", &format!("hosts: ['*.com'], http: [{{{}}}]", to("a.com", 80)));
    check(&format!("{}{}{wildcard}", host("a", "a.com"), one("v", "")), &[]);
}

#[test]
fn ist0130_unreachable_rules() {
    let a = to("a.com", 80);
    let rules = |first: &str, second: &str| {
        format!("{}{}", host("a", "a.com"), http("a.com", &format!("{{{first}{a}}}, {{{second}{a}}}")))
    };
    check(
        &rules("", "match: [{uri: {prefix: /x}}], "),
        &[
            "Warning IST0130 VirtualService default/v | { | VirtualService rule #1 not used (route without matches defined before",
        ],
    );
    for (first, second) in [
        ("{uri: {prefix: /}}", "{uri: {prefix: /x}}"),
        ("{uri: {prefix: /x}}", "{uri: {exact: /xy}, method: {exact: GET}}"),
        ("{uri: {prefix: /x}}, {uri: {prefix: /y}}", "{uri: {exact: /y}}, {uri: {exact: /x}}"),
        ("{port: 80}", "{port: 80}"),
        ("{uri: {regex: '/a.*'}}", "{uri: {exact: /ab}}"),
        ("{headers: {x: {exact: '1'}}}", "{headers: {x: {exact: '1'}, y: {exact: '2'}}}"),
    ] {
        check(
            &rules(&format!("match: [{first}], "), &format!("match: [{second}], ")),
            &[
                "Warning IST0130 VirtualService default/v | { | rule #1 not used (all matches used by prior rules; remove it, or move it up",
            ],
        );
    }
    for (first, second) in [
        ("{uri: {prefix: /x}}", "{uri: {prefix: /}}"),
        ("{uri: {prefix: /x}, method: {exact: GET}}", "{uri: {prefix: /x}}"),
        ("{port: 80}", "{uri: {prefix: /}}"),
        ("{gateways: [mesh], port: 80}", "{gateways: [gw], port: 80}"),
        ("{withoutHeaders: {x: {}}}", "{uri: {prefix: /}}"),
        ("{sourceLabels: {app: x}}", "{uri: {prefix: /}}"),
        ("{uri: {exact: /x}, ignoreUriCase: true}", "{uri: {exact: /y}}"),
    ] {
        let yaml = rules(&format!("match: [{first}], "), &format!("match: [{second}], "));
        let found = crate::support::found(&yaml, "");
        assert!(!found.iter().any(|finding| finding.code == Some("IST0130")), "{first} {second}: {found:#?}");
    }
    let tls = |first: &str, second: &str| {
        let rule = |sni: &str| format!("{{match: [{{sniHosts: [{sni}]}}], {}}}", to("a.com", 443));
        let entry =
            se("w", "hosts: ['*.a.com'], ports: [{number: 443, name: tls, protocol: TLS}], resolution: NONE");
        format!(
            "{}{entry}{}",
            host("a", "a.com"),
            vs("v", &format!("hosts: ['*.a.com'], tls: [{}, {}]", rule(first), rule(second)))
        )
    };
    check(&tls("'*.a.com'", "x.a.com"), &["Warning IST0130 VirtualService default/v | { | rule #1 not used"]);
    check(&tls("x.a.com", "'*.a.com'"), &[]);
}

#[test]
fn ist0131_repeated_matches() {
    let a = to("a.com", 80);
    check(
        &format!(
            "{}{}",
            host("a", "a.com"),
            http(
                "a.com",
                &format!(
                    "{{name: first, match: [{{uri: {{prefix: /x}}}}], {a}}}, {{match: [{{uri: {{prefix: /y}}}}, {{uri: {{prefix: /xz}}}}], {a}}}"
                )
            )
        ),
        &[
            "Info IST0131 VirtualService default/v | { | VirtualService rule #1 match #1 is not used (duplicate/overlapping match in rule \"first\")",
        ],
    );
}
