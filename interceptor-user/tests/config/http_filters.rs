//! VirtualServices: delegates, faults, mirrors, CORS, and what single destinations change.

use std::time::Duration;

use interceptor_user::snapshot::{
    AbortStatus, Forward, HeaderChanges, Mirror, OutboundTrafficPolicy, PathRewrite, RouteAction, Share,
};

use crate::support::{Config, compiled};

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

const TO_A: &str = "route: [{destination: {host: a.example.com}}]";

fn with(resources: &[String]) -> Config {
    compiled(&format!("{ENTRIES}{}", resources.join("---")), OutboundTrafficPolicy::RegistryOnly)
}

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
"
    )
}

fn route(parts: &str) -> Config {
    let spec = format!("  hosts: [a.example.com]\n  http: [{{{parts}, {TO_A}}}]");
    with(&[virtual_service("vs", &spec)])
}

fn forward(config: &Config) -> &Forward {
    let route = config.route("203.0.113.9:80 http GET http://a.example.com/").expect("a route");
    let RouteAction::Forward(forward) = &route.action else { panic!("{route:?}") };
    forward
}

#[test]
fn faults() {
    let second = Duration::from_secs(1);
    for (fault, delay, abort) in [
        ("{delay: {fixedDelay: 1s, percentage: {value: 100}}}", Some((second, Share(1_000_000))), None),
        ("{delay: {fixedDelay: 1s, percentage: {value: 0.1}}}", Some((second, Share(1_000))), None),
        ("{delay: {fixedDelay: 1s, percent: 5}}", Some((second, Share(50_000))), None),
        (
            "{delay: {fixedDelay: 1s, percent: 5, percentage: {value: 7}}}",
            Some((second, Share(70_000))),
            None,
        ),
        (
            "{delay: {fixedDelay: 1s, percentage: {value: 100}}, abort: {httpStatus: 503, percentage: {value: 50}}}",
            Some((second, Share(1_000_000))),
            Some((AbortStatus::Http(503), Share(500_000))),
        ),
        (
            "{abort: {grpcStatus: UNAVAILABLE, percentage: {value: 0.0001}}}",
            None,
            Some((AbortStatus::Grpc(14), Share(1))),
        ),
        (
            "{abort: {grpcStatus: OK, percentage: {value: 1}}}",
            None,
            Some((AbortStatus::Grpc(0), Share(10_000))),
        ),
        // Nobody is meant.
        ("{abort: {httpStatus: 503}}", None, None),
        ("{delay: {fixedDelay: 1s}}", None, None),
        ("{delay: {fixedDelay: 1s, percentage: {value: 0}}}", None, None),
        ("{delay: {fixedDelay: 1s, percentage: {}}}", None, None),
    ] {
        let config = route(&format!("fault: {fault}"));
        let compiled = forward(&config).fault.as_ref();
        assert_eq!(compiled.and_then(|fault| fault.delay), delay, "{fault}");
        assert_eq!(compiled.and_then(|fault| fault.abort), abort, "{fault}");
        assert_eq!(compiled.is_some(), delay.is_some() || abort.is_some(), "{fault}");
    }
}

#[test]
fn mirrors() {
    let shown = |mirror: &Mirror| {
        let missing = if mirror.cluster.cluster.is_some() { "" } else { "(missing)" };
        format!("{}{missing}*{}", mirror.cluster.name, mirror.share.0)
    };
    for (mirror, expected) in [
        ("mirror: {host: b.example.com}", "outbound|80||b.example.com*1000000"),
        (
            "mirror: {host: b.example.com, port: {number: 8080}}, mirrorPercentage: {value: 12.5}",
            "outbound|8080||b.example.com*125000",
        ),
        ("mirror: {host: b.example.com}, mirrorPercent: 10", "outbound|80||b.example.com*100000"),
        ("mirror: {host: b.example.com}, mirror_percent: 20", "outbound|80||b.example.com*200000"),
        ("mirror: {host: b.example.com}, mirrorPercentage: {value: 0}", ""),
        ("mirror: {host: b.example.com}, mirrorPercent: 0", ""),
        (
            "mirrors: [{destination: {host: b.example.com}}, {destination: {host: a.example.com}, percentage: {value: 1}}]",
            "outbound|80||b.example.com*1000000 outbound|80||a.example.com*10000",
        ),
        ("mirrors: [{destination: {host: b.example.com}, percentage: {value: 0}}]", ""),
        ("mirror: {host: gone.example.com}", "outbound|80||gone.example.com(missing)*1000000"),
    ] {
        let config = route(mirror);
        let mirrors: Vec<_> = forward(&config).mirrors.iter().map(shown).collect();
        assert_eq!(mirrors.join(" "), expected, "{mirror}");
        let is_missing =
            config.found().contains("[IST0101] VirtualService default/vs: spec.http[0].mirror: ");
        assert_eq!(is_missing, expected.contains("missing"), "{}", config.found());
    }
}

#[test]
fn cors() {
    let config = route(
        "corsPolicy: {allowOrigins: [{exact: 'https://a.test'}, {prefix: 'https://b.'}, {regex: '.*\\.c\\.test'}], \
         allowMethods: [GET, PUT], allowHeaders: [x-one, x-two], exposeHeaders: [x-seen], maxAge: 1h, \
         allowCredentials: true, unmatchedPreflights: IGNORE}",
    );
    let cors = forward(&config).cors.as_ref().expect("a policy");
    for (origin, allowed) in [
        ("https://a.test", true),
        ("https://a.test:81", false),
        ("https://b.test", true),
        ("https://x.c.test", true),
        ("https://x.c.test.evil", false),
    ] {
        assert_eq!(cors.allows(origin), allowed, "{origin}");
    }
    let text =
        |value: &Option<http::HeaderValue>| value.as_ref().map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(text(&cors.allow_methods).as_deref(), Some("GET,PUT"));
    assert_eq!(text(&cors.allow_headers).as_deref(), Some("x-one,x-two"));
    assert_eq!(text(&cors.expose_headers).as_deref(), Some("x-seen"));
    assert_eq!(text(&cors.max_age).as_deref(), Some("3600"));
    assert!(cors.allow_credentials && !cors.forward_unmatched_preflights);

    for (policy, any) in [("{allowOrigin: ['*']}", true), ("{allowOrigin: [x]}", false), ("{}", false)] {
        let config = route(&format!("corsPolicy: {policy}"));
        let cors = forward(&config).cors.as_ref().expect("a policy");
        assert_eq!(cors.allows("https://anybody.test"), any, "{policy}");
        assert_eq!(cors.allow_methods, None, "{policy}");
        assert!(cors.forward_unmatched_preflights && !cors.allow_credentials, "{policy}");
    }
}

#[test]
fn a_destination_of_several_changes_its_own_requests() {
    let spec = "
  hosts: [a.example.com]
  http:
  - headers: {request: {set: {x-route: r}}}
    route:
    - destination: {host: a.example.com}
      weight: 1
      headers: {request: {set: {host: other.test, x-a: '1'}}, response: {remove: [x-gone]}}
    - destination: {host: b.example.com}
      weight: 1
";
    let config = with(&[virtual_service("vs", spec)]);
    let clusters = &forward(&config).clusters;
    let changes = clusters[0].changes.as_ref().expect("changes of the first");
    let pair = |name: &str, value: &str| (name.parse().unwrap(), value.parse().unwrap());
    let request = HeaderChanges { set: vec![pair("x-a", "1")], ..HeaderChanges::default() };
    assert_eq!(changes.request, request);
    assert_eq!(changes.response.remove, ["x-gone"]);
    assert_eq!(changes.authority.as_ref().unwrap(), "other.test");
    assert_eq!(clusters[1].changes, None);
    let route = config.route("203.0.113.9:80 http GET http://a.example.com/").expect("a route");
    assert_eq!(route.changes.as_ref().unwrap().request.set, [pair("x-route", "r")]);
    assert!(!config.found().contains("headers"), "{}", config.found());
}

#[test]
fn redirects_of_a_prefix() {
    let redirect = |condition: &str, uri: &str| {
        let spec = format!(
            "  hosts: [a.example.com]\n  http: [{{{condition} redirect: {{{uri}, redirectCode: 302}}}}]"
        );
        let config = with(&[virtual_service("vs", &spec)]);
        let found = config.route("203.0.113.9:80 http GET http://a.example.com/old/x").expect("a route");
        let RouteAction::Redirect(redirect) = &found.action else { panic!("{found:?}") };
        redirect.path.clone()
    };
    let prefix = |bytes| Some(PathRewrite::Prefix { bytes, replacement: "/new".into() });
    let whole = || Some(PathRewrite::Whole("/new".into()));
    for (condition, uri, expected) in [
        ("match: [{uri: {prefix: /old}}],", "uriPrefix: /new", prefix(4)),
        ("", "uriPrefix: /new", prefix(1)),
        ("match: [{uri: {exact: /old/x}}],", "uriPrefix: /new", whole()),
        ("match: [{uri: {prefix: /old}}],", "uri: /new", whole()),
        ("", "authority: b.test", None),
    ] {
        assert_eq!(redirect(condition, uri), expected, "{condition} {uri}");
    }
}

#[test]
fn retries_and_timeouts() {
    let policy = |parts: &str| forward(&route(parts)).retries.as_deref().cloned();
    let per_try = |parts: &str| policy(parts).expect("retries").per_try_timeout;
    let one = Some(Duration::from_secs(1));
    for (parts, expected) in [
        ("retries: {attempts: 1, perTryTimeout: 1s}", one),
        ("timeout: 2s, retries: {attempts: 1, perTryTimeout: 1s}", one),
        // The timeout of all tries is each try's, too.
        ("timeout: 1s, retries: {attempts: 1, perTryTimeout: 1s}", None),
        ("timeout: 1s, retries: {attempts: 1, perTryTimeout: 2s}", None),
        ("timeout: 0s, retries: {attempts: 1, perTryTimeout: 1s}", one),
        ("timeout: 1s, retries: {attempts: 1}", None),
    ] {
        assert_eq!(per_try(parts), expected, "{parts}");
    }
    assert_eq!(forward(&route("timeout: 0s")).timeout, None);

    let on = |words: &str| policy(&format!("retries: {{attempts: 1, retryOn: '{words}'}}")).unwrap().retry_on;
    assert!(on("envoy-ratelimited").rate_limited && !on("5xx").rate_limited);
    assert_eq!(on("retriable-status-codes,503,429").status_codes, [503, 429]);
    assert_eq!(on("retriable-headers,http3-post-connect-failure"), Default::default());
    let all = "cancelled,deadline-exceeded,resource-exhausted,internal,unavailable";
    assert_eq!(on(all).grpc_statuses, [1, 4, 8, 13, 14]);
    let ignoring =
        |text: &str| policy(&format!("retries: {{attempts: 1{text}}}")).unwrap().avoid_previous_hosts;
    assert!(ignoring("") && ignoring(", retryIgnorePreviousHosts: true"));
    assert!(!ignoring(", retryIgnorePreviousHosts: false"));
}

#[test]
fn paths_are_normal_as_the_mesh_has_it() {
    use interceptor_user::snapshot::PathNormalization::{self, Base, DecodeAndMergeSlashes, MergeSlashes};
    for (mesh, expected) in [
        ("{}", Base),
        ("{pathNormalization: {}}", Base),
        ("{pathNormalization: {normalization: DEFAULT}}", Base),
        ("{pathNormalization: {normalization: BASE}}", Base),
        ("{pathNormalization: {normalization: NONE}}", PathNormalization::None),
        ("{pathNormalization: {normalization: MERGE_SLASHES}}", MergeSlashes),
        ("{pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}}", DecodeAndMergeSlashes),
    ] {
        let config = crate::support::in_namespace(ENTRIES, mesh, "default");
        assert_eq!(config.snapshot.mesh.path_normalization, expected, "{mesh}");
    }
}
