//! VirtualServices: where requests and connections go.

use std::time::Duration;

use interceptor_user::snapshot::{OutboundTrafficPolicy, RetryPolicy, RouteAction};

use crate::support::{Config, allow_any, compiled, in_namespace};

const ENTRIES: &str = "
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

fn with(virtual_services: &str) -> Config {
    compiled(&format!("{ENTRIES}{virtual_services}"), OutboundTrafficPolicy::RegistryOnly)
}

fn http(name: &str, hosts: &str, rest: &str) -> String {
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

fn check(config: &Config, rows: &[(&str, &str)]) {
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
            "Referenced host not found",
        ),
    ] {
        let config = with(&route(destinations));
        assert_eq!(config.ask("203.0.113.9:80 http GET http://a.example.com/"), expected, "{destinations}");
        let found = config.found();
        assert_eq!(found.contains("IST0101"), !finding.is_empty(), "{destinations}: {found}");
        assert!(found.contains(finding), "{destinations}: {found}");
    }
}

fn retries_of(config: &Config) -> (Option<Duration>, Option<RetryPolicy>, String) {
    let route = config.route("203.0.113.9:80 http GET http://a.example.com/status/1").expect("a route");
    let RouteAction::Forward(forward) = &route.action else { panic!("{route:?}") };
    (forward.timeout, forward.retries.as_deref().cloned(), forward.decorator_operation.to_string())
}

#[test]
fn timeouts_and_retries() {
    let route = |fields: &str| {
        with(&http(
            "vs",
            "a.example.com",
            &format!("  http: [{{{fields}, route: [{{destination: {{host: b.example.com}}}}]}}]"),
        ))
    };
    let (timeout, retries, _) = retries_of(&with(""));
    let defaults = retries.expect("retries");
    assert_eq!((timeout, defaults.attempts, defaults.per_try_timeout), (None, 2, None));
    assert_eq!(defaults.base_interval, Duration::from_millis(25));
    let on = &defaults.retry_on;
    assert!(on.connect_failure && on.refused_stream && !on.server_error && !on.reset && !on.gateway_error);
    assert_eq!((&on.grpc_statuses[..], &on.status_codes[..]), (&[14, 1][..], &[][..]));

    assert_eq!(retries_of(&route("timeout: 3s")).0, Some(Duration::from_secs(3)));
    assert_eq!(retries_of(&route("timeout: 3s")).1, Some(defaults.clone()));
    assert_eq!(retries_of(&route("timeout: 0s")).0, None);
    assert_eq!(retries_of(&route("retries: {attempts: 0}")).1, None);
    assert_eq!(
        retries_of(&route("retries: {attempts: 5}")).1,
        Some(RetryPolicy { attempts: 5, ..defaults.clone() })
    );
    let custom = retries_of(&route(
        "retries: {attempts: 1, perTryTimeout: 500ms, retryOn: '5xx,reset,503', backoff: 1s}",
    ));
    let custom = custom.1.expect("retries");
    assert_eq!((custom.attempts, custom.per_try_timeout), (1, Some(Duration::from_millis(500))));
    assert_eq!(custom.base_interval, Duration::from_secs(1));
    assert!(custom.retry_on.server_error && custom.retry_on.reset && !custom.retry_on.connect_failure);
    assert_eq!(custom.retry_on.status_codes, [503]);

    let mesh = in_namespace(ENTRIES, "defaultHttpRetryPolicy: {attempts: 7}", "default");
    assert_eq!(retries_of(&mesh).1, Some(RetryPolicy { attempts: 7, ..defaults }));
}

#[test]
fn decorator_operations() {
    for (fields, expected) in [
        ("route: [{destination: {host: b.example.com, port: {number: 8080}}}]", "b.example.com:8080/*"),
        (
            "match: [{uri: {prefix: /status}}], route: [{destination: {host: b.example.com}}]",
            "b.example.com:80/status*",
        ),
        (
            "match: [{uri: {exact: /status/1}}], route: [{destination: {host: b.example.com}}]",
            "b.example.com:80/status/1",
        ),
        (
            "match: [{uri: {regex: '/s.*'}}], route: [{destination: {host: b.example.com}}]",
            "b.example.com:80/s.*",
        ),
        (
            "route: [{destination: {host: b.example.com}, weight: 1}, {destination: {host: a.example.com}, weight: 1}]",
            "vs:80/*",
        ),
    ] {
        let config = with(&http("vs", "a.example.com", &format!("  http: [{{{fields}}}]")));
        assert_eq!(retries_of(&config).2, expected, "{fields}");
    }
    assert_eq!(retries_of(&with("")).2, "a.example.com:80/*");
}

#[test]
fn direct_responses() {
    let config = with(&http(
        "vs",
        "a.example.com",
        "  http: [{name: n, directResponse: {status: 503, body: {string: closed}}}]",
    ));
    check(&config, &[("203.0.113.9:80 http GET http://a.example.com/", "503 n")]);
    let route = config.route("203.0.113.9:80 http GET http://a.example.com/").expect("a route");
    let RouteAction::DirectResponse(response) = &route.action else { panic!("{route:?}") };
    assert_eq!(&response.body[..], b"closed");
    let config = with(&http(
        "vs",
        "a.example.com",
        "  http: [{name: n, directResponse: {status: 200, body: {bytes: 'aGVsbG8='}}}]",
    ));
    let route = config.route("203.0.113.9:80 http GET http://a.example.com/").expect("a route");
    let RouteAction::DirectResponse(response) = &route.action else { panic!("{route:?}") };
    assert_eq!(&response.body[..], b"hello");
}

#[test]
fn rewrites_headers_and_redirects() {
    let route = |fields: &str| {
        let config = with(&http("vs", "a.example.com", &format!("  http: [{{{fields}}}]")));
        config.route("203.0.113.9:80 http GET http://a.example.com/status/1").expect("a route").clone()
    };
    let to_b = "route: [{destination: {host: b.example.com}}]";
    for (fields, uri, expected) in [
        ("match: [{uri: {prefix: /status}}], rewrite: {uri: /s}", "/status/1?q", "/s/1?q"),
        ("match: [{uri: {exact: /status/1}}], rewrite: {uri: /s}", "/status/1?q", "/s?q"),
        ("match: [{uri: {regex: '/st.*'}}], rewrite: {uri: /s}", "/status/1", "/s"),
        ("rewrite: {uri: /s/}", "/status/1", "/s/status/1"),
        (
            "rewrite: {uriRegexRewrite: {match: '^/([a-z]+)/([0-9]+)$', rewrite: '/\\2/\\1$'}}",
            "/status/1",
            "/1/status$",
        ),
    ] {
        let route = route(&format!("{fields}, {to_b}"));
        let path = route.changes.as_ref().and_then(|changes| changes.path.as_ref()).expect("a rewrite");
        let rewritten = path.apply(&uri.parse().expect("a target")).expect("a target");
        assert_eq!(rewritten.to_string(), expected, "{fields}");
    }
    for (fields, expected) in [
        ("rewrite: {authority: x.com}", "x.com"),
        ("headers: {request: {set: {host: y.com}}}", "y.com"),
        ("headers: {request: {set: {':authority': z.com}}}", "z.com"),
    ] {
        let route = route(&format!("{fields}, {to_b}"));
        let authority =
            route.changes.as_ref().and_then(|changes| changes.authority.as_ref()).expect("an authority");
        assert_eq!(authority, expected, "{fields}");
    }
    // A single destination's headers follow the route's.
    let both = route(
        "headers: {request: {add: {a: '1'}, remove: [b]}, response: {set: {c: '1'}}}, \
         route: [{destination: {host: b.example.com}, headers: {request: {add: {a: '2'}}}}]",
    );
    let changes = both.changes.as_ref().expect("changes");
    let added: Vec<_> =
        changes.request.add.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(added, [("a", "1"), ("a", "2")]);
    assert_eq!((changes.request.remove.len(), changes.response.set.len()), (1, 1));
    assert_eq!(route(to_b).changes, None);

    for (fields, expected) in [
        ("redirect: {uri: /new}", "301 http://a.example.com/new?q"),
        ("redirect: {scheme: https, redirectCode: 308}", "308 https://a.example.com/old?q"),
        ("redirect: {authority: b.com, port: 443, scheme: https}", "301 https://b.com/old?q"),
        ("redirect: {authority: b.com, derivePort: FROM_REQUEST_PORT}", "301 http://b.com/old?q"),
        ("redirect: {authority: b.com, port: 8080}", "301 http://b.com:8080/old?q"),
    ] {
        let route = route(fields);
        let RouteAction::Redirect(redirect) = &route.action else { panic!("{route:?}") };
        let location = redirect.location("a.example.com", &"/old?q".parse().expect("a target"));
        assert_eq!(format!("{} {location}", redirect.status), expected, "{fields}");
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
