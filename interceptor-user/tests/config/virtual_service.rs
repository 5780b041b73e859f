//! VirtualServices: where requests and connections go.

use interceptor_user::snapshot::OutboundTrafficPolicy;

use crate::support::{Config, allow_any, compiled};

pub(crate) const ENTRIES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ab}
spec:
  hosts: [a.example.com, b.example.com, x.sub.example.com]
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 8080, name: http-alt, protocol: HTTP}
  - {number: 443, name: https, protocol: HTTPS}
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: single}
spec:
  hosts: [single.example.com]
  ports: [{number: 9999, name: http, protocol: HTTP}]
  resolution: DNS
---
";

pub(crate) fn with(virtual_services: &str) -> Config {
    compiled(&format!("{ENTRIES}{virtual_services}"), OutboundTrafficPolicy::RegistryOnly)
}

pub(crate) fn http(name: &str, hosts: &str, rest: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}}}
spec:
  hosts: [{hosts}]
{rest}
---"
    )
}

pub(crate) fn check(config: &Config, rows: &[(&str, &str)]) {
    for (connection, expected) in rows {
        assert_eq!(config.ask(connection), *expected, "{connection}");
    }
}

#[test]
fn matches() {
    let config = with(&http(
        "vs",
        "a.example.com",
        "
  http:
  - name: exact
    match: [{uri: {exact: /exact}}]
    route: [{destination: {host: b.example.com}}]
  - name: case
    match: [{uri: {prefix: /Case}, ignoreUriCase: true}]
    route: [{destination: {host: b.example.com}}]
  - name: regex
    match: [{uri: {regex: '/r[0-9]+'}}]
    route: [{destination: {host: b.example.com}}]
  - name: both
    match: [{name: one, method: {exact: POST}, uri: {prefix: /m}}, {name: two, method: {regex: 'P.*'}, uri: {prefix: /n}}]
    route: [{destination: {host: b.example.com}}]
  - name: header
    match: [{headers: {x-user: {prefix: ann}, x-any: {}}}]
    route: [{destination: {host: b.example.com}}]
  - name: without
    match: [{uri: {prefix: /w}, withoutHeaders: {x-skip: {}}}]
    route: [{destination: {host: b.example.com}}]
  - name: query
    match: [{queryParams: {v: {exact: '2'}}}]
    route: [{destination: {host: b.example.com}}]
  - name: authority
    match: [{authority: {exact: 'a.example.com:81'}}]
    route: [{destination: {host: b.example.com}}]
  - name: port
    match: [{port: 8080}]
    route: [{destination: {host: b.example.com}}]
  - name: scheme
    match: [{scheme: {exact: https}}]
    route: [{destination: {host: b.example.com}}]
  - name: last
    match: [{uri: {prefix: /last}}]
    route: [{destination: {host: b.example.com}}]",
    ));
    let b80 = |name: &str| format!("outbound|80||b.example.com {name}");
    for (request, expected) in [
        ("80 http GET http://a.example.com/exact", b80("exact")),
        ("80 http GET http://a.example.com/exact?q=1", b80("exact")),
        ("80 http GET http://a.example.com/exact/more", "404".into()),
        ("80 http GET http://a.example.com/cASE/x", b80("case")),
        ("80 http GET http://a.example.com/r12", b80("regex")),
        ("80 http GET http://a.example.com/r12/x", "404".into()),
        ("80 http POST http://a.example.com/m", b80("both.one")),
        ("80 http GET http://a.example.com/m", "404".into()),
        ("80 http PUT http://a.example.com/n", b80("both.two")),
        ("80 http GET http://a.example.com/h\nx-user: anna\nx-any: 1", b80("header")),
        ("80 http GET http://a.example.com/h\nx-user: anna", "404".into()),
        // Several headers of a name are one value.
        ("80 http GET http://a.example.com/h\nx-user: bob\nx-user: anna\nx-any: 1", "404".into()),
        ("80 http GET http://a.example.com/h\nx-user: anna\nx-user: bob\nx-any: 1", b80("header")),
        ("80 http GET http://a.example.com/w", b80("without")),
        ("80 http GET http://a.example.com/w\nx-skip: 1", "404".into()),
        ("80 http GET http://a.example.com/q?a=1&v=2", b80("query")),
        ("80 http GET http://a.example.com/q?v=22", "404".into()),
        ("80 http GET http://a.example.com/q?v=1&v=2", "404".into()),
        ("80 http GET http://a.example.com:81/", b80("authority")),
        ("80 http GET http://a.example.com/", "404".into()),
        ("80 http GET http://a.example.com/last", b80("last")),
        ("8080 http GET http://a.example.com/", "outbound|8080||b.example.com port".into()),
        // Other hosts keep their own route.
        ("80 http GET http://b.example.com/", "outbound|80||b.example.com default".into()),
    ] {
        assert_eq!(config.ask(&format!("203.0.113.9:{request}")), expected, "{request}");
    }
}

#[test]
fn only_where_mesh_is_meant() {
    let route = "route: [{destination: {host: b.example.com}}]";
    for (gateways, condition, applies) in [
        ("", "", true),
        ("gateways: []", "", true),
        ("gateways: [mesh]", "", true),
        ("gateways: [my-gateway, mesh]", "", true),
        ("gateways: [my-gateway]", "", false),
        ("gateways: [istio-system/my-gateway]", "", false),
        ("gateways: [my-gateway, mesh]", "match: [{gateways: [mesh]}]", true),
        ("gateways: [my-gateway, mesh]", "match: [{gateways: [my-gateway]}]", false),
        ("", "match: [{sourceLabels: {app: x}}]", false),
        // With gateways, labels and namespace of an HTTP match are not looked at.
        ("", "match: [{gateways: [mesh], sourceLabels: {app: x}, sourceNamespace: elsewhere}]", true),
        ("", "match: [{sourceNamespace: default}]", true),
        ("", "match: [{sourceNamespace: elsewhere}]", false),
        ("", "match: [{port: 8080}]", false),
    ] {
        let config = with(&http(
            "vs",
            "a.example.com",
            &format!(
                "  {gateways}\n  http: [{{{condition}{} {route}}}]",
                if condition.is_empty() { "" } else { "," }
            ),
        ));
        let expected =
            if applies { "outbound|80||b.example.com -" } else { "outbound|80||a.example.com default" };
        assert_eq!(
            config.ask("203.0.113.9:80 http GET http://a.example.com/"),
            expected,
            "{gateways} {condition}"
        );
    }
}

#[test]
fn the_most_specific_host_wins_then_the_oldest() {
    let to_b = "  http: [{name: NAME, route: [{destination: {host: b.example.com}}]}]";
    let vs = |name: &str, hosts: &str| http(name, hosts, &to_b.replace("NAME", name));
    let on_80 = to_b.replace("name: NAME", "name: exact-1, match: [{port: 80}]");
    let config = with(
        &[
            vs("all", "'*.example.com'"),
            vs("sub", "'*.sub.example.com'"),
            vs("exact-2", "a.example.com"),
            http("exact-1", "a.example.com", &on_80),
        ]
        .concat(),
    );
    check(
        &config,
        &[
            ("203.0.113.9:80 http GET http://a.example.com/", "outbound|80||b.example.com exact-1"),
            ("203.0.113.9:80 http GET http://b.example.com/", "outbound|80||b.example.com all"),
            ("203.0.113.9:80 http GET http://x.sub.example.com/", "outbound|80||b.example.com sub"),
            // The oldest has no routes there: nobody else is asked.
            ("203.0.113.9:8080 http GET http://a.example.com/", "outbound|8080||a.example.com default"),
            // A wildcard that matches services does not make hosts known that nobody declared.
            ("203.0.113.9:80 http GET http://new.example.com/", "502 block_all"),
        ],
    );
    assert!(
        config.found().contains("[IST0109] VirtualService default/exact-2: spec.hosts[0]"),
        "{}",
        config.found()
    );
}

#[test]
fn hosts_that_nobody_declared_act_on_port_80_only() {
    let vs = http(
        "vs",
        "nobody.example.org, '*.nowhere.org'",
        "  http: [{name: n, route: [{destination: {host: b.example.com}}]}]",
    );
    check(
        &with(&vs),
        &[
            ("203.0.113.9:80 http GET http://nobody.example.org/", "outbound|80||b.example.com n"),
            ("203.0.113.9:80 http GET http://x.nowhere.org/", "outbound|80||b.example.com n"),
            ("203.0.113.9:8080 http GET http://nobody.example.org/", "502 block_all"),
        ],
    );
}

#[test]
fn destinations() {
    let route = |route: &str| http("vs", "a.example.com", &format!("  http: [{{name: n, route: {route}}}]"));
    for (destinations, expected, finding) in [
        ("[{destination: {host: b.example.com}}]", "outbound|80||b.example.com n", ""),
        ("[{destination: {host: b.example.com}, weight: 0}]", "outbound|80||b.example.com n", ""),
        (
            "[{destination: {host: b.example.com, port: {number: 8080}}}]",
            "outbound|8080||b.example.com n",
            "",
        ),
        // A single port needs no naming.
        ("[{destination: {host: single.example.com}}]", "outbound|9999||single.example.com n", ""),
        (
            "[{destination: {host: a.example.com}, weight: 1}, {destination: {host: b.example.com}, weight: 3}]",
            "outbound|80||a.example.com*1 + outbound|80||b.example.com*3 n",
            "",
        ),
        (
            "[{destination: {host: a.example.com}}, {destination: {host: b.example.com}, weight: 3}]",
            "outbound|80||b.example.com n",
            "",
        ),
        (
            "[{destination: {host: unknown.example.com}}]",
            "outbound|80||unknown.example.com(missing) n",
            "Referenced host not found: \"unknown.example.com\"",
        ),
        (
            "[{destination: {host: b.example.com, port: {number: 81}}}]",
            "outbound|81||b.example.com(missing) n",
            "Referenced host:port not found: \"b.example.com:81\"",
        ),
        (
            "[{destination: {host: b.example.com, subset: v1}}]",
            "outbound|80|v1|b.example.com(missing) n",
            "Referenced host+subset in destinationrule not found: \"b.example.com+v1\"",
        ),
        // A short name is a service of the rule's namespace.
        (
            "[{destination: {host: short}}]",
            "outbound|80||short.default.svc.cluster.local(missing) n",
            "requests get 503 (NC); if the cluster has this Service, give its YAML, too",
        ),
    ] {
        let config = with(&route(destinations));
        assert_eq!(config.ask("203.0.113.9:80 http GET http://a.example.com/"), expected, "{destinations}");
        let found = config.found();
        assert_eq!(found.contains("IST0101"), !finding.is_empty(), "{destinations}: {found}");
        assert!(found.contains(finding), "{destinations}: {found}");
    }
}

#[test]
fn tls_routes_replace_the_services_own() {
    let config = with(&http(
        "vs",
        "a.example.com, b.example.com",
        "
  tls:
  - match: [{port: 443, sniHosts: [a.example.com]}]
    route: [{destination: {host: b.example.com, port: {number: 443}}}]
  - match: [{port: 8443, sniHosts: [b.example.com]}]
    route: [{destination: {host: a.example.com}}]",
    ));
    check(
        &config,
        &[
            ("203.0.113.9:443 tls a.example.com", "outbound|443||b.example.com"),
            // b matches a TLS route of another port only, but the VirtualService has one for 443.
            ("203.0.113.9:443 tls x.sub.example.com", "outbound|443||x.sub.example.com"),
            ("203.0.113.9:443 tls other", "close"),
        ],
    );
}

/// Istio's host.Name.Matches is symmetric: a VirtualService for one host of a wildcard applies to it.
#[test]
fn one_host_of_a_wildcard() {
    let entry = |hosts: &str, name: &str| {
        format!(
            "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec:
  hosts: [{hosts}]
  ports:
  - {{number: 80, name: http, protocol: HTTP}}
  - {{number: 443, name: tls, protocol: TLS}}
  - {{number: 5432, name: tcp, protocol: TCP}}
---"
        )
    };
    let tls = |sni: &str| {
        format!(
            "
  http: [{{name: by-http, route: [{{destination: {{host: other.test}}}}]}}]
  tls: [{{match: [{{sniHosts: [{sni}]}}], route: [{{destination: {{host: other.test}}}}]}}]
  tcp: [{{match: [{{port: 5432}}], route: [{{destination: {{host: other.test}}}}]}}]"
        )
    };
    let entries = entry("'*.wiki.test'", "wiki") + &entry("other.test", "z-other").replace("5432", "5433");
    let entries = entries + "\n";
    let other = "outbound|443||other.test";
    let with = |virtual_services: &str| allow_any(&format!("{entries}{virtual_services}"));

    let exact = with(&http("vs", "en.wiki.test", &tls("en.wiki.test")));
    check(
        &exact,
        &[
            ("203.0.113.9:443 tls en.wiki.test", other),
            // Istio's replacement is whole.
            ("203.0.113.9:443 tls de.wiki.test", "PassthroughCluster"),
            ("203.0.113.9:443 tls other.test", other),
            ("203.0.113.9:80 http GET http://en.wiki.test/", "outbound|80||other.test by-http"),
            ("203.0.113.9:80 http GET http://de.wiki.test/", "outbound|80||*.wiki.test default"),
            ("203.0.113.9:5432 tcp", "outbound|5432||other.test(missing)"),
        ],
    );
    assert!(!exact.found().contains("port 80"), "{}", exact.found());
    let more_http = entry("'*.wiki.test'", "wiki")
        .replace("  - {number: 443", "  - {number: 8080, name: h, protocol: HTTP}\n  - {number: 443");
    let more_http = allow_any(&format!("{more_http}{}", http("vs", "en.wiki.test", &tls("en.wiki.test"))));
    assert!(
        more_http.found().contains("the http routes act on port 80, and not on 8080;"),
        "{}",
        more_http.found()
    );
    let left_over = "server names of *.wiki.test that no sniHosts names";
    assert!(exact.found().contains(left_over), "{}", exact.found());

    let deeper = with(&http("vs", "'*.en.wiki.test'", &tls("'*.en.wiki.test'")));
    check(
        &deeper,
        &[
            ("203.0.113.9:443 tls m.en.wiki.test", other),
            ("203.0.113.9:443 tls en.wiki.test", "PassthroughCluster"),
        ],
    );

    let kept = tls("en.wiki.test").replace(
        "  tls: [",
        "  tls: [{match: [{sniHosts: ['*.wiki.test']}], route: [{destination: {host: '*.wiki.test'}}]}, ",
    );
    let kept = with(&http("vs", "'*.wiki.test'", &kept));
    check(
        &kept,
        &[
            ("203.0.113.9:443 tls en.wiki.test", other),
            ("203.0.113.9:443 tls de.wiki.test", "outbound|443||*.wiki.test"),
        ],
    );
    assert!(!kept.found().contains(left_over), "{}", kept.found());

    let elsewhere = with(&http("vs", "en.wiki.example", &tls("en.wiki.example")));
    check(&elsewhere, &[("203.0.113.9:443 tls en.wiki.test", "outbound|443||*.wiki.test")]);
}

#[test]
fn tcp_routes() {
    let yaml = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: se}
spec:
  hosts: [db.example.com]
  addresses: [10.0.0.1]
  ports: [{number: 5432, name: tcp, protocol: TCP}, {number: 5433, name: tcp2, protocol: TCP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: vs}
spec:
  hosts: [db.example.com]
  tcp:
  - match: [{port: 5432}]
    route:
    - {destination: {host: db.example.com, port: {number: 5433}}, weight: 9}
    - {destination: {host: db.example.com}, weight: 1}
";
    let config = allow_any(yaml);
    check(
        &config,
        &[
            ("10.0.0.1:5432 tcp", "outbound|5433||db.example.com*9 + outbound|5432||db.example.com*1"),
            ("10.0.0.1:5433 tcp", "outbound|5433||db.example.com"),
            ("10.0.0.2:5432 tcp", "PassthroughCluster"),
        ],
    );
}

#[test]
fn a_virtual_service_bound_to_gateways_only_is_pointed_out() {
    let config = with(&http(
        "vs",
        "a.example.com",
        "  gateways: [egress]\n  http: [{route: [{destination: {host: b.example.com}}]}]",
    ));
    assert!(config.found().contains("bound only to gateways (egress)"), "{}", config.found());
}

#[test]
fn no_resolution_and_another_port_is_pointed_out() {
    let config = allow_any(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: se}
spec:
  hosts: [a.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: https, protocol: HTTPS}]
  resolution: NONE
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: vs}
spec:
  hosts: [a.example.com]
  http: [{route: [{destination: {host: a.example.com, port: {number: 443}}}]}]
",
    );
    assert!(config.found().contains("resolution NONE and no targetPort"), "{}", config.found());
}
