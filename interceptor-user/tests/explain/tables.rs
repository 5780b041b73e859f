//! What a step says of one configuration: rows of YAML, target and the lines that must be there.

use http::Method;
use interceptor_user::compile::NodePaths;
use interceptor_user::explain::Spoken;

use crate::support::{Case, logged};

const HTTPBIN: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: httpbin}
spec:
  hosts: [httpbin.org]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
";

fn virtual_service(spec: &str) -> String {
    format!(
        "{HTTPBIN}---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v}}\nspec:\n  \
         hosts: [httpbin.org]\n{spec}"
    )
}

#[track_caller]
fn tells(case: &Case, target: &str, lines: &[&str]) {
    let text = case.ask(target).to_string();
    for line in lines {
        assert!(text.lines().any(|there| there.trim() == *line), "{line:?} is not in\n{text}");
    }
}

#[test]
fn a_rule_about_who_may_use_a_host_acts_at_gateways() {
    let rule = "annotations: {egress.interceptor.io/allow-from: ns/shop}";
    let case = Case::new(&HTTPBIN.replace("{name: httpbin}", &format!("{{name: httpbin, {rule}}}")));
    tells(
        &case,
        "http://httpbin.org/",
        &[
            "egress.interceptor.io/allow-from (ns/shop) is not asked here: it acts at an egress gateway, and this way leads \
             around it",
        ],
    );
}

#[test]
fn an_egress_proxy_takes_what_nobody_declared() {
    let case = Case::new(&format!(
        "{HTTPBIN}---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: proxy}}\nspec:\n  \
         hosts: [proxy.org]\n  ports: [{{number: 3128, name: tcp, protocol: TCP}}]\n  resolution: DNS\n---\n\
         apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: s}}\nspec:\n  outboundTrafficPolicy:\n    \
         mode: ALLOW_ANY\n    egressProxy: {{host: proxy.org, port: {{number: 3128}}}}\n"
    ));
    tells(
        &case,
        "http://unknown.net/",
        &[
            "virtual host  allow_any: no service on this port has unknown.net",
            "the policy is that of the client's Sidecar",
            "route         allow_any: to outbound|3128||proxy.org",
            "endpoints     every address of proxy.org:3128",
        ],
    );
    tells(
        &case,
        "tls://unknown.net:8443",
        &[
            "chain         TLS for unknown.net: no chain takes it, so that the policy decides (ALLOW_ANY): to the egress \
             proxy, whatever the address",
            "by Sidecar default/s spec.outboundTrafficPolicy (a.yaml:18:1)",
            "cluster       outbound|3128||proxy.org",
        ],
    );
    for (target, expected) in [
        ("http://unknown.net/", "outbound|3128||proxy.org allow_any - via_upstream"),
        ("tls://unknown.net:8443", "outbound|3128||proxy.org - - -"),
        ("tcp://192.0.2.1:7000", "outbound|3128||proxy.org - - -"),
        ("http://httpbin.org/", "outbound|80||httpbin.org default - via_upstream"),
    ] {
        assert_eq!(logged(&case.ask(target)), expected, "{target}");
    }
}

#[test]
fn routes_before_the_one_that_takes_it_say_what_they_want() {
    let case = Case::new(&virtual_service(
        "  http:
  - match: [{uri: {prefix: /anything}}, {method: {exact: POST}}]
    directResponse: {status: 418}
  - match: [{headers: {x-user: {regex: 'a.*'}}, port: 80}]
    directResponse: {status: 419}
  - match: [{queryParams: {debug: {exact: '1'}}}]
    directResponse: {status: 420}
  - name: rest
    route: [{destination: {host: httpbin.org}}]
",
    ));
    let where_ = |route: u8, line: u8, column: u8, condition: u8| {
        format!(
            "not VirtualService default/v spec.http[{route}].match[{condition}] (a.yaml:{line}:{column}): wants"
        )
    };
    tells(
        &case,
        "http://httpbin.org/get",
        &[
            "route         rest: to outbound|80||httpbin.org",
            "by VirtualService default/v spec.http[3] (a.yaml:22:5)",
            &format!("{} uri prefix \"/anything\"", where_(0, 16, 13, 0)),
            &format!("{} method exact \"POST\"", where_(0, 16, 41, 1)),
            &format!("{} headers x-user regex \"a.*\"", where_(1, 18, 13, 0)),
            &format!("{} queryParams debug exact \"1\"", where_(2, 20, 13, 0)),
        ],
    );
    // A status without a name of its own.
    let named = "client sees   420 from the proxy, with an empty body";
    tells(&case, "http://httpbin.org/get?debug=1", &[named]);
    for (case, expected) in [
        (case, "http://httpbin.org/anything/x -> - - - direct_response refused"),
        (
            Case::new(&virtual_service(
                "  http:\n  - match: [{method: {exact: POST}}]\n    directResponse: {status: 204}\n",
            ))
            .method(Method::POST),
            "http://httpbin.org/ -> - - - direct_response",
        ),
        (
            Case::new(&virtual_service(
                "  http:\n  - match: [{headers: {x: {exact: a}}}]\n    redirect: {uri: /b}\n",
            ))
            .header("x", "a"),
            "http://httpbin.org/ -> - - - direct_response",
        ),
        (
            Case::new(&virtual_service(
                "  http:\n  - match: [{uri: {exact: /a}}]\n    redirect: {uri: /b}\n",
            )),
            "http://httpbin.org/ -> - - NR route_not_found refused",
        ),
    ] {
        let (target, log) = expected.split_once(" -> ").unwrap();
        assert_eq!(logged(&case.ask(target)), log, "{target}");
    }
}

#[test]
fn rules_for_others_say_for_whom() {
    let case = || {
        Case::new(&virtual_service(
            "  gateways: [mesh, egress]
  http:
  - match: [{port: 8080}]
    directResponse: {status: 418}
  - match: [{gateways: [egress]}]
    directResponse: {status: 418}
  - match: [{sourceLabels: {app: cart}}]
    directResponse: {status: 202}
  - match: [{sourceNamespace: shop}]
    directResponse: {status: 418}
  - route: [{destination: {host: httpbin.org}}]
  - directResponse: {status: 418}
",
        ))
    };
    tells(
        &case(),
        "http://httpbin.org/",
        &[
            "not VirtualService default/v spec.http[0].match[0] (a.yaml:17:13): is for port 8080",
            "not VirtualService default/v spec.http[1].match[0] (a.yaml:19:13): is for gateways egress",
            "not VirtualService default/v spec.http[2].match[0] (a.yaml:21:13): is for clients with app=cart",
            "not VirtualService default/v spec.http[3].match[0] (a.yaml:23:13): is for clients in namespace shop",
        ],
    );
    let cart = case().client("default", &[("app", "cart")]).ask("http://httpbin.org/");
    assert_eq!(cart.outcomes[0].status, Some(202), "{cart}");
}

#[test]
fn a_subset_that_is_missing_is_told_with_the_rules_that_were_looked_at() {
    let route = "  http:\n  - route: [{destination: {host: httpbin.org, subset: v2}}]\n";
    let rule = "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: d}
spec:
  host: httpbin.org
  subsets: [{name: v1}]
";
    let without = Case::new(&virtual_service(route));
    tells(
        &without,
        "http://httpbin.org/",
        &[
            "cluster       outbound|80|v2|httpbin.org: there is no such cluster",
            "no DestinationRule of httpbin.org is seen from here that could have subset v2",
            "client sees   503 Service Unavailable from the proxy, with an empty body",
            "access log    cluster -, route -, flags NC, details cluster_not_found",
        ],
    );
    let with = Case::new(&format!("{}{rule}", virtual_service(route)));
    tells(
        &with,
        "http://httpbin.org/",
        &["DestinationRule default/d has no subset v2", "by DestinationRule default/d (a.yaml:18:1)"],
    );
    assert!(!with.ask("http://httpbin.org/").is_carried());

    let selecting = rule.replace("name: v1", "name: v2, labels: {version: two}");
    let endpoints = "  resolution: DNS\n  endpoints: [{address: a.org, labels: {version: one}}]\n";
    let nobody = format!("{}{selecting}", virtual_service(route)).replace("  resolution: DNS\n", endpoints);
    tells(
        &Case::new(&nobody),
        "http://httpbin.org/",
        &[
            "cluster       outbound|80|v2|httpbin.org: there is no such cluster",
            "the labels of subset v2 (version=two) select no endpoint of httpbin.org",
        ],
    );
}

#[test]
fn weights_are_shares_and_one_that_fails_counts() {
    let case = Case::new(&virtual_service(
        "  http:
  - route:
    - {destination: {host: httpbin.org}, weight: 90}
    - {destination: {host: other.org, port: {number: 80}}, weight: 10}
",
    ));
    let explanation = case.ask("http://httpbin.org/");
    assert_eq!(
        logged(&explanation),
        "outbound|80||httpbin.org - - via_upstream 90/100; - - NC cluster_not_found 10/100 refused"
    );
    assert!(!explanation.is_carried());
}

#[test]
fn endpoints_and_tls_that_cannot_be_are_told() {
    let entry = |spec: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: s}}\nspec:\n  hosts: [s.org]\n  \
             ports: [{{number: 80, name: http, protocol: HTTP}}]\n{spec}"
        )
    };
    let fixed = Case::new(&entry(
        "  resolution: STATIC\n  endpoints: [{address: 192.0.2.1}, {address: 192.0.2.2}]\n",
    ));
    tells(&fixed, "http://s.org/", &["endpoints     192.0.2.1:80, 192.0.2.2:80"]);
    let unix = Case::new(&entry(
        "  resolution: STATIC\n  endpoints: [{address: 'unix:///run/a.sock', weight: 2}, {address: 192.0.2.2}]\n",
    ));
    tells(
        &unix,
        "http://s.org/",
        &[
            "endpoints     unix:///run/a.sock (weight 2), 192.0.2.2:80 (weight 1)",
            "unix sockets are looked for in the mount namespace of the proxy, not in the workload's",
        ],
    );
    let mut refused = unix;
    refused.settings.unix_endpoints = NodePaths::Below(vec!["/run/others".into()]);
    tells(
        &refused,
        "http://s.org/",
        &[
            "endpoints     192.0.2.2:80",
            "not ServiceEntry default/s spec.endpoints[0].address (a.yaml:8:15): unix:///run/a.sock: \
             --allow-unix-endpoints does not allow it",
        ],
    );
    let nobody = Case::new(&entry("  resolution: STATIC\n"));
    assert_eq!(
        logged(&nobody.ask("http://s.org/")),
        "outbound|80||s.org default UH no_healthy_upstream refused"
    );
    let original = Case::new(&entry("  resolution: NONE\n"));
    tells(&original, "http://s.org/", &["endpoints     the address that was asked for, port 80"]);
    tells(&original.at("192.0.2.7"), "http://s.org/", &["endpoints     192.0.2.7:80"]);
    let rule = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec:\n  \
                host: s.org\n  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}\n";
    let explanation = Case::new(&format!("{}{rule}", entry("  resolution: DNS\n"))).ask("http://s.org/");
    let outcome = &explanation.outcomes[0];
    let flags = outcome.access_log.as_ref().map(|log| log.flags.to_string());
    assert_eq!((outcome.status, flags.as_deref()), (Some(503), Some("UF")), "{explanation}");
    assert!(explanation.to_string().contains("tls           asked for and not possible: "), "{explanation}");
}

#[test]
fn certificate_files_are_said_to_be_there_or_not() {
    let case = |tls: &str| {
        Case::new(&format!(
            "{HTTPBIN}---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: d}}\nspec:\n  \
             host: httpbin.org\n  trafficPolicy: {{tls: {{mode: {tls}}}}}\n"
        ))
    };
    for (tls, note) in [
        ("SIMPLE", "the request's Host, by the system's roots\nlimits"),
        ("SIMPLE, caCertificates: /etc/own.pem", "the files can't be used: no such file; where the proxy"),
        (
            "MUTUAL, clientCertificate: /etc/c.pem, privateKey: /etc/k.pem",
            "certificate is /etc/c.pem, with the key /etc/k.pem\n                the files are here and can be used;",
        ),
    ] {
        let explanation = case(tls).ask("http://httpbin.org/");
        let text = explanation.to_string();
        assert!(text.contains(note), "{tls}\n{text}");
        assert_eq!(explanation.is_carried(), !note.contains("can't be used:"), "{text}");
    }
    let unusable = || case("SIMPLE, caCertificates: /etc/own.pem");
    let body = "remote connection failure, transport failure reason: no such file";
    for (case, may_be_elsewhere) in [(unusable(), true), (unusable().of_proxy(), false)] {
        let explanation = case.ask("http://httpbin.org/");
        let text = explanation.to_string();
        let answer = "client sees   503 Service Unavailable from the proxy, with the body";
        assert!(text.lines().any(|line| line.contains(answer) && line.contains(body)), "{text}");
        assert!(!explanation.is_carried(), "{text}");
        let note = "this is the answer of a proxy on this machine, as that of exec; where it runs elsewhere";
        assert_eq!(text.contains(note), may_be_elsewhere, "{text}");
    }
}

#[test]
fn an_address_of_its_own_decides_where_the_connection_goes() {
    let yaml = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db}
spec:
  hosts: [db.example.com]
  addresses: [192.0.2.10]
  ports: [{number: 5432, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: range}
spec:
  hosts: [range.example.com]
  addresses: [10.0.0.0/8]
  ports: [{number: 5432, name: tcp, protocol: TCP}]
";
    let case = || Case::new(yaml);
    let rows = [
        (case(), "db.example.com:5432", "outbound|5432||db.example.com - - -"),
        (case(), "tcp://192.0.2.10:5432", "outbound|5432||db.example.com - - -"),
        (case(), "tcp://10.1.2.3:5432", "outbound|5432||range.example.com - - -"),
        (case(), "tcp://elsewhere:5432", "PassthroughCluster - - -"),
        (case().at("10.9.9.9"), "tcp://elsewhere:5432", "outbound|5432||range.example.com - - -"),
    ];
    for (case, target, expected) in rows {
        let explanation = case.ask(target);
        assert_eq!(logged(&explanation), expected, "{target}\n{explanation}");
    }
    tells(
        &case(),
        "tcp://elsewhere:5432",
        &[
            "the address matters: 10.0.0.0/8, 192.0.2.10 have a service of their own on this port; give --address to see",
        ],
    );
    tells(
        &case(),
        "db.example.com:5432",
        &["address       192.0.2.10, the address that ServiceEntry default/db gives db.example.com"],
    );
}

#[test]
fn what_the_kernel_leaves_alone_needs_no_listener() {
    let rows = [
        (
            "excludeOutboundPorts",
            "80",
            "a.org:80",
            "left alone: the port is one of the excluded outbound ports (80)",
        ),
        (
            "includeOutboundIPRanges",
            "",
            "a.org:80",
            "left alone: neither its port nor its IP range is included",
        ),
        (
            "includeOutboundIPRanges",
            "10.0.0.0/8",
            "10.1.1.1:80",
            "redirected to the proxy: the destination is in an included outbound IP range (10.0.0.0/8)",
        ),
        (
            "includeOutboundPorts",
            "80",
            "a.org:80",
            "redirected to the proxy: the port is one of the included outbound ports (80)",
        ),
        (
            "excludeOutboundPorts",
            "81",
            "127.0.0.1:80",
            "left alone: the destination is a loopback address (127.0.0.1)",
        ),
    ];
    for (name, value, target, expected) in rows {
        let explanation = Case::new(HTTPBIN).annotated(name, value).ask(target);
        assert_eq!(explanation.steps[0].decided, expected, "{name}={value} {target}");
        let is_left_alone = expected.starts_with("left alone");
        assert_eq!(logged(&explanation) == "nothing", is_left_alone, "{explanation}");
    }
    tells(
        &Case::new(HTTPBIN).annotated("excludeOutboundIPRanges", "10.0.0.0/8"),
        "http://httpbin.org/",
        &["an address in 10.0.0.0/8 would be left alone"],
    );
}

#[test]
fn a_request_that_no_route_is_asked_for() {
    let case = Case::new(HTTPBIN).header("host", "a b");
    assert_eq!(logged(&case.ask("http://httpbin.org/")), "- - DPE http1.codec_error refused");
    let case = Case::new(HTTPBIN).method(Method::CONNECT);
    assert_eq!(logged(&case.ask("http://httpbin.org/")), "- - NR route_not_found refused");
}

/// A path with dots is routed as what it means.
#[test]
fn the_path_is_the_one_that_routes_see() {
    let case = Case::new(&virtual_service(
        "  http:\n  - match: [{uri: {exact: /secret}}]\n    directResponse: {status: 403}\n",
    ));
    assert_eq!(case.ask("http://httpbin.org/public/../secret").outcomes[0].status, Some(403));
}

#[test]
fn bytes_that_are_not_http_on_a_port_that_is() {
    let case = Case::new(HTTPBIN).speaks(Spoken::Tcp);
    assert_eq!(logged(&case.ask("http://httpbin.org/")), "PassthroughCluster - - -");
}
