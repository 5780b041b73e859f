//! VirtualServices that leave routes to others.

use std::time::Duration;

use interceptor_user::snapshot::{OutboundTrafficPolicy, RouteAction};

use crate::support::{Config, compiled, in_namespace};

const ENTRIES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ab}
spec:
  hosts: [a.example.com, b.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 8080, name: http-alt, protocol: HTTP}]
  resolution: DNS
---
";

const TO_B: &str = "route: [{destination: {host: b.example.com}}]";

/// `name` may have a namespace before it: `other/name`.
fn virtual_service(name: &str, spec: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: {namespace}}}
spec:
{spec}
---"
    )
}

fn root(http: &str) -> String {
    virtual_service("root", &format!("  hosts: [a.example.com]\n  http: [{http}]"))
}

fn delegate(name: &str, rest: &str) -> String {
    virtual_service(name, rest)
}

fn with(resources: &[String]) -> Config {
    compiled(&format!("{ENTRIES}{}", resources.concat()), OutboundTrafficPolicy::RegistryOnly)
}

fn check(config: &Config, rows: &[(&str, &str)]) {
    for (request, expected) in rows {
        assert_eq!(config.ask(&format!("203.0.113.9:{request}")), *expected, "{request}\n{}", config.found());
    }
}

#[test]
fn a_delegates_routes_stand_in_the_roots_place() {
    let config = with(&[
        root(
            "{name: first, match: [{uri: {prefix: /api}, name: m}], delegate: {name: api}}, {name: rest, directResponse: {status: 404}}",
        ),
        delegate(
            "api",
            &format!(
                "  http: [{{name: v1, match: [{{uri: {{prefix: /api/v1}}, name: n}}], {TO_B}}}, {{directResponse: {{status: 410}}}}]"
            ),
        ),
    ]);
    check(
        &config,
        &[
            ("80 http GET http://a.example.com/api/v1/x", "outbound|80||b.example.com first-v1.m-n"),
            // What a delegate takes without condition is taken under the root's.
            ("80 http GET http://a.example.com/api/v2", "410 first.m"),
            ("80 http GET http://a.example.com/other", "404 rest"),
        ],
    );
    assert_eq!(config.found(), "");
}

#[test]
fn what_is_not_found_leaves_out_its_route_only() {
    let rest = "{name: rest, directResponse: {status: 404}}";
    let of_others = format!("  hosts: [b.example.com]\n  http: [{{{TO_B}}}]");
    for (to, other, expected) in [
        ("{name: gone}", String::new(), "delegate VirtualService default/gone not found"),
        (
            "{name: api, namespace: far}",
            delegate("api", &format!("  http: [{{{TO_B}}}]")),
            "delegate VirtualService far/api not found",
        ),
        ("{name: full}", virtual_service("full", &of_others), "VirtualService default/full has hosts"),
        (
            "{name: api, namespace: far}",
            delegate("far/api", &format!("  exportTo: ['.']\n  http: [{{{TO_B}}}]")),
            "delegate VirtualService far/api is not exported to namespace default",
        ),
        (
            "{name: api, namespace: far}",
            delegate("far/api", &format!("  exportTo: [near]\n  http: [{{{TO_B}}}]")),
            "delegate VirtualService far/api is not exported to namespace default",
        ),
    ] {
        let config = with(&[root(&format!("{{delegate: {to}}}, {rest}")), other]);
        check(&config, &[("80 http GET http://a.example.com/", "404 rest")]);
        assert!(
            config.found().contains(&format!(
                "error: [IST0101] VirtualService default/root: spec.http[0].delegate: {expected}"
            )),
            "{}",
            config.found()
        );
    }
}

#[test]
fn a_delegate_is_seen_by_its_root_whatever_the_client() {
    for export_to in ["", "  exportTo: ['*']\n", "  exportTo: [home]\n"] {
        let yaml = format!(
            "{ENTRIES}{}{}",
            virtual_service(
                "home/root",
                "  hosts: [a.example.com]\n  http: [{delegate: {name: api, namespace: far}}]"
            ),
            delegate("far/api", &format!("{export_to}  http: [{{{TO_B}}}]")),
        );
        let config = in_namespace(&yaml, "{}", "elsewhere");
        check(&config, &[("80 http GET http://a.example.com/", "outbound|80||b.example.com -")]);
        assert_eq!(config.found(), "", "{export_to}");
    }
}

#[test]
fn matches_are_those_of_both_or_conflict() {
    // What becomes of `/a/b` with header `x: 1` on port 80, from a root and a delegate with these matches.
    for (of_root, of_delegate, acts) in [
        ("", "", true),
        ("{uri: {prefix: /a}}", "", true),
        ("", "{uri: {prefix: /a}}", true),
        ("{uri: {prefix: /a}}", "{uri: {prefix: /a/b}}", true),
        ("{uri: {prefix: /a}}", "{uri: {exact: /a/b}}", true),
        ("{uri: {exact: /a/b}}", "{uri: {exact: /a/b}}", true),
        ("{uri: {prefix: /a/b/c}}", "{uri: {prefix: /a}}", false),
        ("{uri: {exact: /a/b}}", "{uri: {prefix: /a}}", false),
        ("{uri: {exact: /a/b}}", "{uri: {exact: /a}}", false),
        ("{uri: {regex: '/a.*'}}", "{uri: {prefix: /a}}", false),
        ("{uri: {prefix: /a}}", "{uri: {regex: '/a.*'}}", false),
        ("{uri: {regex: '/a.*'}}", "{uri: {regex: '/a.*'}}", false),
        ("{uri: {regex: '/a.*'}}", "{headers: {x: {exact: '1'}}}", true),
        ("{uri: {prefix: /a}}", "{headers: {x: {exact: '1'}}}", true),
        ("{headers: {x: {exact: '1'}}}", "{headers: {x: {exact: '1'}}}", true),
        ("{headers: {x: {exact: '1'}}}", "{headers: {x: {exact: '2'}}}", false),
        ("{headers: {x: {}}}", "{headers: {x: {exact: '1'}}}", false),
        ("{withoutHeaders: {y: {exact: '1'}}}", "{withoutHeaders: {y: {exact: '2'}}}", false),
        ("{withoutHeaders: {y: {}}}", "{uri: {prefix: /a}}", true),
        ("{withoutHeaders: {x: {}}}", "{uri: {prefix: /a}}", false),
        ("{queryParams: {q: {exact: '1'}}}", "{queryParams: {q: {exact: '2'}}}", false),
        ("{queryParams: {q: {exact: '1'}}}", "{uri: {prefix: /a}}", false),
        ("{method: {exact: GET}}", "{method: {exact: GET}, uri: {prefix: /a}}", true),
        ("{method: {exact: GET}}", "{method: {exact: PUT}}", false),
        ("{port: 80}", "{uri: {prefix: /a}}", true),
        ("{port: 80}", "{port: 8080}", false),
        ("{port: 8080}", "{uri: {prefix: /a}}", false),
        ("{uri: {prefix: /a}, ignoreUriCase: true}", "{uri: {prefix: /a}}", false),
        ("{uri: {prefix: /A}, ignoreUriCase: true}", "{uri: {prefix: /A}, ignoreUriCase: true}", true),
        ("{sourceNamespace: default}", "{sourceNamespace: default}", true),
        // A delegate must repeat its root's namespace.
        ("{sourceNamespace: default}", "{uri: {prefix: /a}}", false),
        ("{uri: {prefix: /a}}", "{sourceNamespace: default}", true),
        ("{uri: {prefix: /a}}", "{sourceNamespace: other}", false),
        ("{gateways: [mesh]}", "{uri: {prefix: /a}}", true),
        ("{gateways: [mesh]}", "{gateways: [mesh, gw]}", false),
        // Each of the delegate's needs one of the root's.
        ("{uri: {prefix: /a}}, {uri: {prefix: /x}}", "{uri: {prefix: /a/b}}", true),
        ("{uri: {prefix: /a}}", "{uri: {prefix: /a/b}}, {uri: {prefix: /x}}", false),
    ] {
        let of = |matches: &str| {
            if matches.is_empty() { String::new() } else { format!("match: [{matches}], ") }
        };
        let config = with(&[
            root(&format!("{{{}delegate: {{name: api}}}}, {{directResponse: {{status: 404}}}}", of(of_root))),
            delegate("api", &format!("  http: [{{{}{TO_B}}}]", of(of_delegate))),
        ]);
        let expected = if acts { "outbound|80||b.example.com -" } else { "404 -" };
        let answer = config.ask("203.0.113.9:80 http GET http://a.example.com/a/b\nx: 1");
        assert_eq!(answer, expected, "{of_root} / {of_delegate}\n{}", config.found());
    }
}

#[test]
fn a_conflict_is_told_where_it_can_be_mended() {
    let config = with(&[
        root("{match: [{uri: {exact: /a}}], delegate: {name: api}}"),
        delegate("api", &format!("  http: [{{{TO_B}}}, {{match: [{{uri: {{prefix: /b}}}}], {TO_B}}}]")),
    ]);
    let expected = "warning: [EGR0123] VirtualService default/api: spec.http[1].match: conflicts with the match of \
                    VirtualService default/root (http[0])";
    assert!(config.found().contains(expected), "{}", config.found());
}

#[test]
fn what_the_delegate_does_not_say_the_root_says() {
    let of_root = "timeout: 3s, retries: {attempts: 7}, rewrite: {authority: r.test}, \
                   headers: {request: {set: {x-from: root}}}, mirror: {host: a.example.com}, \
                   mirrorPercentage: {value: 50}, corsPolicy: {allowOrigin: [root]}, \
                   fault: {abort: {httpStatus: 500, percentage: {value: 1}}}";
    let of_delegate = "timeout: 5s, retries: {attempts: 9}, rewrite: {authority: d.test}, \
                       headers: {request: {set: {x-from: delegate}}}, mirror: {host: b.example.com}, \
                       mirrorPercentage: {value: 25}, corsPolicy: {allowOrigin: [delegate]}, \
                       fault: {abort: {httpStatus: 501, percentage: {value: 1}}}, ";
    for (of_delegate, who, seconds, attempts, authority, status, mirror) in [
        ("", "root", 3, 7, "r.test", 500, ("outbound|80||a.example.com", 500_000)),
        (of_delegate, "delegate", 5, 9, "d.test", 501, ("outbound|80||b.example.com", 250_000)),
        // Each part on its own.
        (
            "mirror: {host: b.example.com}, timeout: 5s, ",
            "root",
            5,
            7,
            "r.test",
            500,
            ("outbound|80||b.example.com", 500_000),
        ),
    ] {
        let config = with(&[
            root(&format!("{{{of_root}, delegate: {{name: api}}}}")),
            delegate("api", &format!("  http: [{{{of_delegate}{TO_B}}}]")),
        ]);
        let route = config.route("203.0.113.9:80 http GET http://a.example.com/").expect("a route");
        let changes = route.changes.as_ref().expect("changes");
        assert_eq!(changes.request.set[0].1, who);
        assert_eq!(changes.authority.as_ref().unwrap(), authority);
        let RouteAction::Forward(forward) = &route.action else { panic!("{route:?}") };
        assert_eq!(forward.timeout, Some(Duration::from_secs(seconds)));
        assert_eq!(forward.retries.as_ref().unwrap().attempts, attempts);
        assert!(forward.cors.as_ref().unwrap().allows(who));
        let (abort, _) = forward.fault.as_ref().unwrap().abort.unwrap();
        assert_eq!(format!("{abort:?}"), format!("Http({status})"));
        let mirrors: Vec<_> =
            forward.mirrors.iter().map(|mirror| (mirror.cluster.name.to_string(), mirror.share.0)).collect();
        assert_eq!(mirrors, [(mirror.0.to_owned(), mirror.1)]);
    }
    // Zero is none, and said.
    let config = with(&[
        root("{timeout: 3s, delegate: {name: api}}"),
        delegate("api", &format!("  http: [{{timeout: 0s, {TO_B}}}]")),
    ]);
    let route = config.route("203.0.113.9:80 http GET http://a.example.com/").expect("a route");
    let RouteAction::Forward(forward) = &route.action else { panic!("{route:?}") };
    assert_eq!(forward.timeout, None);
}

#[test]
fn findings_name_the_delegate_that_they_are_about() {
    let config = with(&[
        root("{delegate: {name: api}}"),
        delegate(
            "api",
            "  http: [{directResponse: {status: 200}, match: [{uri: {exact: /}}]}, {route: [{destination: {host: gone.test}}]}]",
        ),
        delegate("idle", &format!("  http: [{{{TO_B}}}]")),
    ]);
    let found = config.found();
    assert!(
        found.contains(
            "VirtualService default/api: spec.http[1].route.destination: Referenced host not found"
        ),
        "{found}"
    );
    assert!(
        found.contains("warning: [EGR0121] VirtualService default/idle: spec.hosts: no hosts: only another"),
        "{found}"
    );
    assert!(!found.contains("default/api: spec.hosts"), "{found}");
}
