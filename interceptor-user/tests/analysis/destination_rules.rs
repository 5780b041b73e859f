//! Findings about DestinationRules.

use crate::support::{check, dr, host, se, vs};

#[test]
fn egr0104_tls_that_cannot_be_made() {
    let rule = |tls: &str| {
        format!(
            "{}{}",
            host("a", "a.com"),
            dr(
                "r",
                &format!(
                    "host: a.com, trafficPolicy: {{portLevelSettings: [{{port: {{number: 80}}, tls: {{{tls}}}}}]}}"
                )
            )
        )
    };
    for (tls, words) in [
        (
            "mode: SIMPLE, credentialName: s",
            "credentialName s names a Kubernetes secret; never sent in clear; as files",
        ),
        ("mode: MUTUAL", "client certificate required"),
        ("mode: MUTUAL, clientCertificate: /c.pem", "private key required"),
        ("mode: ISTIO_MUTUAL", "needs an identity of the mesh; give --identity-dir DIR; use SIMPLE"),
    ] {
        check(&rule(tls), &[&format!("Error EGR0104 DestinationRule default/r | tls | {words}")]);
    }
    for tls in
        ["mode: SIMPLE", "mode: MUTUAL, clientCertificate: /c.pem, privateKey: /k.pem", "mode: DISABLE"]
    {
        check(&rule(tls), &[]);
    }
}

#[test]
fn egr0105_tls_inside_tls() {
    let wrapped = "TLS inside TLS; port 443; WRONG_VERSION_NUMBER; subset";
    let with = |policy: &str| format!("{}{}", host("a", "a.com"), dr("r", &format!("host: a.com, {policy}")));
    let expected = format!("Warning EGR0105 DestinationRule default/r | tls | {wrapped}");
    check(&with("trafficPolicy: {tls: {mode: SIMPLE}}"), &[&expected]);
    check(
        &with("trafficPolicy: {portLevelSettings: [{port: {number: 443}, tls: {mode: SIMPLE}}]}"),
        &[&expected],
    );
    let wildcard = dr("r", "host: '*.com', trafficPolicy: {tls: {mode: SIMPLE}}");
    check(&format!("{}{wildcard}", host("a", "a.com")), &[&expected]);
    for right in [
        "trafficPolicy: {portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE}}]}",
        "trafficPolicy: {tls: {mode: SIMPLE}, portLevelSettings: [{port: {number: 443}, tls: {mode: DISABLE}}]}",
        "subsets: [{name: s, trafficPolicy: {tls: {mode: SIMPLE}}}]",
        "trafficPolicy: {tls: {mode: DISABLE}}",
    ] {
        check(&with(right), &[]);
    }
    let plain = se("a", "hosts: [a.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS");
    check(&format!("{plain}{}", dr("r", "host: a.com, trafficPolicy: {tls: {mode: SIMPLE}}")), &[]);
}

/// What tls routes do with the applications' own TLS counts.
#[test]
fn egr0105_follows_tls_routes() {
    let base = |subset: &str| {
        format!(
            "{}{}{}",
            host("a", "a.com"),
            dr(
                "r",
                "host: a.com, trafficPolicy: {tls: {mode: SIMPLE}}, subsets: [{name: raw, trafficPolicy: {tls: {mode: DISABLE}}}]"
            ),
            vs(
                "v",
                &format!(
                    "hosts: [a.com], tls: [{{match: [{{port: 443, sniHosts: [a.com]}}], route: [{{destination: {{host: a.com, port: {{number: 443}}{subset}}}}}]}}]"
                )
            )
        )
    };
    check(&base(", subset: raw"), &[]);
    check(&base(""), &["Warning EGR0105 DestinationRule default/r | tls | TLS inside TLS"]);
}

#[test]
fn ist0128_ist0129_no_verification() {
    let with = |policy: &str| format!("{}{}", host("a", "a.com"), dr("r", &format!("host: a.com, {policy}")));
    check(
        &with("subsets: [{name: s, trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true}}}]"),
        &["Warning IST0128 DestinationRule default/r | true | not verified; anybody between"],
    );
    check(
        &with(
            "trafficPolicy: {portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE, insecureSkipVerify: true}}]}",
        ),
        &["Warning IST0129 DestinationRule default/r | true | at port 80 is not verified"],
    );
    // Without caCertificates the system's are used: Istio's analyzer still warns of that.
    check(&with("trafficPolicy: {portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE}}]}"), &[]);
}

#[test]
fn ist0173_subsets_without_endpoints() {
    let entry = |resolution: &str, endpoints: &str| {
        se(
            "a",
            &format!(
                "hosts: [a.com], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: {resolution}{endpoints}"
            ),
        )
    };
    let rule = |labels: &str| dr("r", &format!("host: a.com, subsets: [{{name: s, labels: {{{labels}}}}}]"));
    let endpoints = ", endpoints: [{address: 10.0.0.1, labels: {v: one}}]";
    check(
        &format!("{}{}", entry("STATIC", endpoints), rule("v: two")),
        &[
            "Error IST0173 DestinationRule default/r | labels | subset s selects no endpoint of a.com; v=two; 503",
        ],
    );
    // Labels of a ServiceEntry's endpoints count: Istio's analyzer looks at pods only.
    check(&format!("{}{}", entry("STATIC", endpoints), rule("v: one")), &[]);
    check(&format!("{}{}", entry("STATIC", endpoints), rule("topology.istio.io/network: x")), &[]);
    check(&format!("{}{}", entry("NONE", ""), rule("v: two")), &[]);
    check(&format!("{}{}", host("a", "a.com"), dr("r", "host: a.com, subsets: [{name: s}]")), &[]);
    check(
        &format!("{}{}", entry("DNS", ""), rule("v: two")),
        &["Error IST0173 DestinationRule default/r | labels | selects no endpoint"],
    );
}

#[test]
fn ist0174_unknown_hosts() {
    check(
        &format!("{}{}", host("a", "httpbin.org"), dr("istio-system/r", "host: httpbin")),
        &[
            "Warning IST0174 DestinationRule istio-system/r | httpbin | httpbin.istio-system.svc.cluster.local; the short name \
             `httpbin` means; did you mean httpbin.org?",
        ],
    );
    check(
        &format!("{}{}", host("a", "a.com"), dr("r", "host: b.com")),
        &[
            "Warning IST0174 DestinationRule default/r | b.com | no ServiceEntry or Service has host b.com; acts on nothing",
        ],
    );
    check(&format!("{}{}", host("a", "a.com"), dr("r", "host: '*.com'")), &[]);
    check(&format!("{}{}", host("a", "A.com"), dr("r", "host: a.COM")), &[]);
}

/// Of rules for one host, namespace and exportTo the first trafficPolicy stays and the first subset of each name.
#[test]
fn egr0122_parts_that_another_rule_has_already() {
    let entry = se("a", "hosts: [a.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS");
    let both = |first: &str, second: &str| {
        let rule = |name: &str, rest: &str| dr(name, &format!("host: a.com, {rest}"));
        format!("{entry}{}{}", rule("one", first), rule("two", second))
    };
    let lb = "trafficPolicy: {loadBalancer: {simple: RANDOM}}";
    let tls = "trafficPolicy: {tls: {mode: SIMPLE}}";
    let subset = |policy: &str| format!("subsets: [{{name: s{policy}}}]");
    let place = "DestinationRule default/one (f.yaml:4:1) is for the same host, namespace and exportTo";
    let is = |level: &str, underlined: &str, what: &str, effect: &str| {
        format!(
            "{level} EGR0122 DestinationRule default/two | {underlined} | {what} of this rule is left out; {place}; {effect}"
        )
    };
    let (clear, whole) = ("go in clear where this rule asks for TLS", "changes nothing");
    let policy = |level: &str, effect: &str| is(level, "trafficPolicy", "trafficPolicy", effect);
    let of_subset = |level: &str, effect: &str| is(level, "{", "subset s", effect);
    let on_port =
        |tls: &str| format!("trafficPolicy: {{portLevelSettings: [{{port: {{number: 80}}, {tls}}}]}}");
    for (first, second, expected) in [
        (lb.into(), tls.into(), Some(policy("Error", clear))),
        (lb.into(), on_port("tls: {mode: SIMPLE}"), Some(policy("Error", clear))),
        // TLS at the top does not reach a port with settings of its own.
        (
            "trafficPolicy: {tls: {mode: SIMPLE}, portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]}"
                .into(),
            tls.into(),
            Some(policy("Error", clear)),
        ),
        // A subset stays and loses what it inherited.
        (lb.into(), format!("{tls}, {}", subset("")), Some(policy("Error", clear))),
        (subset(""), subset(&format!(", {tls}")), Some(of_subset("Error", clear))),
        (subset(&format!(", {tls}")), subset(&format!(", {lb}")), Some(of_subset("Warning", whole))),
        (tls.into(), lb.into(), Some(policy("Warning", whole))),
        (tls.into(), "trafficPolicy: {tls: {mode: SIMPLE, sni: b.com}}".into(), Some(policy("Warning", whole))),
        (lb.into(), "trafficPolicy: {tls: {mode: DISABLE}}".into(), Some(policy("Warning", whole))),
        // Nothing is lost.
        (lb.into(), lb.into(), None),
        (tls.into(), tls.into(), None),
        (subset(""), tls.into(), None),
        (subset(""), subset(""), None),
        (lb.into(), format!("{tls}, exportTo: [.]"), None),
        (lb.into(), format!("{tls}, workloadSelector: {{matchLabels: {{app: a}}}}"), None),
    ] {
        check(&both(&first, &second), &expected.as_deref().into_iter().collect::<Vec<_>>());
    }
}
