//! The tutorials' YAML, as it stands there: each block loads, and does what the tutorial shows.

use std::fs;

use interceptor_user::analysis::Audience;
use interceptor_user::resource::{Level, ParsedFile, World, parse};
use interceptor_user::snapshot::OutboundTrafficPolicy::{self, AllowAny, RegistryOnly};
use interceptor_user::snapshot::{RouteAction, TlsOriginationMode};

use crate::support::{Config, shown};

fn text(name: &str) -> String {
    let path = format!("{}/tests/data/seeds/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn loaded(name: &str) -> ParsedFile {
    parse(&format!("{name}.yaml").into(), &text(name), &"default".into())
}

fn compiled(names: &[&str], policy: OutboundTrafficPolicy) -> Config {
    let mut world = World::default();
    let mut findings = Vec::new();
    for name in names {
        let parsed = loaded(name);
        findings.extend(parsed.diagnostics);
        for resource in parsed.resources {
            world.resources.insert(resource);
        }
    }
    let settings = interceptor_user::compile::CompileSettings {
        outbound_traffic_policy: Some(policy),
        ..interceptor_user::compile::CompileSettings::default()
    };
    let (snapshot, more) = interceptor_user::compile::compile(&world, &settings);
    findings.extend(more);
    findings.extend(interceptor_user::analysis::find(&world, Audience::Client(&settings.client)));
    Config { snapshot, findings }
}

/// Every block loads; the resources that come out, and what is said about it.
#[test]
fn every_block_loads() {
    let rows: &[(&str, &[&str], &str)] = &[
        ("000-01", &["ServiceEntry default/external-google", "ServiceEntry default/external-httpbin"], ""),
        ("000-02", &["VirtualService default/httpbin-org"], ""),
        ("000-03", &["ServiceEntry default/apple-com"], ""),
        ("000-04", &["VirtualService default/apple-com"], ""),
        ("000-05", &["DestinationRule default/apple-com"], ""),
        ("001-01", &["ServiceEntry default/httpbin-ext"], "shell command"),
        ("001-02", &["ServiceEntry default/google"], "shell command"),
        ("002-01", &[], "warning: this is no resource"),
        ("002-02", &[], "warning: this is no resource"),
        ("002-03", &["ServiceEntry default/entry-x"], "shell command"),
        ("002-04", &["ServiceEntry default/entry-x"], "shell command"),
        (
            "002-05",
            &[
                "ServiceEntry default/entry-x",
                "VirtualService default/rewrite-port-for-entry",
                "DestinationRule default/originate-tls-for-entry",
            ],
            "shell command",
        ),
        ("002-06", &["ServiceEntry default/entry-x"], ""),
        (
            "002-07",
            &[
                "Gateway default/istio-egressgateway",
                "DestinationRule default/egressgateway-for-aliyun",
                "VirtualService default/aliyun-through-egress-gateway",
            ],
            "shell command",
        ),
        (
            "002-08",
            &[
                "Gateway default/istio-egressgateway",
                "DestinationRule default/egressgateway-for-aliyun",
                "VirtualService default/aliyun-through-egress-gateway",
                "DestinationRule default/originate-tls-for-aliyun",
            ],
            "shell command",
        ),
        ("002-09", &[], "warning: this is no resource"),
        ("003-01", &["ServiceEntry default/httpbin-with-egress"], "shell command"),
        (
            "003-02",
            &[
                "Gateway default/istio-egressgateway",
                "VirtualService default/direct-httpbin-through-egress-gateway",
            ],
            "shell command",
        ),
        (
            "003-03",
            &[
                "Gateway default/istio-egressgateway",
                "VirtualService default/direct-httpbin-through-egress-gateway",
            ],
            "shell command",
        ),
        (
            "003-04",
            &[
                "Gateway default/istio-egressgateway",
                "DestinationRule default/egressgateway-for-httpbin",
                "VirtualService default/direct-httpbin-through-egress-gateway",
                "DestinationRule default/originate-tls-for-httpbin",
            ],
            "shell command",
        ),
        // kubectl was told the namespace.
        ("003-05", &["DestinationRule istio-system/originate-mtls-for-httpbin"], "shell command"),
        ("004-01", &["Namespace istio-workload"], "shell command"),
    ];
    let directory = format!("{}/tests/data/seeds", env!("CARGO_MANIFEST_DIR"));
    assert_eq!(fs::read_dir(directory).unwrap().count(), rows.len(), "each block has a row");
    for (name, resources, said) in rows {
        let parsed = loaded(name);
        let keys: Vec<String> =
            parsed.resources.iter().map(|resource| resource.meta().key.to_string()).collect();
        let said_here = shown(&parsed.diagnostics);
        assert_eq!(keys, *resources, "{name}: {said_here}");
        assert!(parsed.refused.is_empty() && !parsed.unreadable, "{name}: {said_here}");
        assert!(
            parsed.diagnostics.iter().all(|finding| finding.level != Level::Error),
            "{name}: {said_here}"
        );
        assert!(said_here.contains(said), "{name}: {said_here}");
        assert!(!said.is_empty() || said_here.is_empty(), "{name}: {said_here}");
    }
}

#[test]
fn places_stay_right_inside_a_shell_command() {
    let parsed = loaded("001-01");
    assert_eq!(parsed.resources[0].meta().origin.to_string(), "001-01.yaml:2:1");
    let parsed = parse(
        &"x.yaml".into(),
        "  cat <<EOF | kubectl apply -f -\n  kind: X\n  a: [\n  EOF\n",
        &"default".into(),
    );
    assert!(shown(&parsed.diagnostics).contains("x.yaml:4:"), "{}", shown(&parsed.diagnostics));
}

#[test]
fn registered_hosts_have_their_cluster_and_others_pass() {
    let config = compiled(&["000-01"], AllowAny);
    for (connection, expected) in [
        ("203.0.113.9:80 http GET http://google.com/", "outbound|80||google.com default"),
        ("203.0.113.9:80 http GET http://httpbin.org/headers", "outbound|80||httpbin.org default"),
        ("203.0.113.9:80 http HEAD http://apple.com/", "PassthroughCluster allow_any"),
        ("203.0.113.9:443 tls www.google.com", "outbound|443||www.google.com"),
        ("203.0.113.9:443 tls apple.com", "PassthroughCluster"),
    ] {
        assert_eq!(config.ask(connection), expected, "{connection}");
    }
}

#[test]
fn only_what_is_registered() {
    let config = compiled(&["001-01", "001-02"], RegistryOnly);
    for (connection, expected) in [
        ("203.0.113.9:80 http GET http://httpbin.org/headers", "outbound|80||httpbin.org default"),
        ("203.0.113.9:443 tls www.google.com", "outbound|443||www.google.com"),
        ("203.0.113.9:443 tls edition.cnn.com", "close"),
        ("203.0.113.9:80 http GET http://edition.cnn.com/", "502 block_all"),
    ] {
        assert_eq!(config.ask(connection), expected, "{connection}");
    }
}

#[test]
fn timeout_of_three_seconds() {
    let config = compiled(&["000-01", "000-02"], AllowAny);
    let route = config.route("203.0.113.9:80 http HEAD http://httpbin.org/delay/5").expect("a route");
    let RouteAction::Forward(forward) = &route.action else { panic!("{route:?}") };
    assert_eq!(forward.timeout, Some(std::time::Duration::from_secs(3)));
    assert_eq!(&*forward.decorator_operation, "httpbin.org:80/*");
}

#[test]
fn tls_origination() {
    for (names, host, subset) in [
        (&["000-03", "000-04", "000-05"][..], "www.apple.com", "tls-origination"),
        (&["002-05"], "www.aliyun.com", "originate-tls"),
    ] {
        let config = compiled(names, RegistryOnly);
        let plain = format!("203.0.113.9:80 http GET http://{host}/");
        assert_eq!(config.ask(&plain), format!("outbound|443|{subset}|{host} -"));
        let route = config.route(&plain).expect("a route");
        let RouteAction::Forward(forward) = &route.action else { panic!("{route:?}") };
        let cluster = forward.clusters[0].cluster.cluster.as_ref().expect("a cluster");
        let tls = cluster.tls.as_ref().expect("TLS");
        assert_eq!((tls.mode, tls.impossible.as_deref()), (TlsOriginationMode::Simple, None));
        // Applications' own HTTPS is left alone.
        assert_eq!(config.ask(&format!("203.0.113.9:443 tls {host}")), format!("outbound|443||{host}"));
        let own =
            &config.snapshot.clusters[&interceptor_user::snapshot::ClusterName::outbound(443, "", host)];
        assert_eq!(own.tls, None);
    }
}

#[test]
fn the_wildcard_does_not_cover_its_parent() {
    let config = compiled(&["000-03", "000-04", "000-05"], AllowAny);
    assert_eq!(config.ask("203.0.113.9:80 http GET http://apple.com/"), "outbound|80||apple.com default");
}

#[test]
fn port_80_only() {
    let config = compiled(&["002-03"], RegistryOnly);
    for (connection, expected) in [
        ("203.0.113.9:80 http GET http://hbchen.com/", "outbound|80||hbchen.com default"),
        ("203.0.113.9:443 tls www.aliyun.com", "close"),
    ] {
        assert_eq!(config.ask(connection), expected, "{connection}");
    }
}

/// The gateway itself acts elsewhere; from here it is a service that nobody declared.
#[test]
fn through_an_egress_gateway() {
    let config = compiled(&["002-06", "002-07"], RegistryOnly);
    assert_eq!(
        config.ask("203.0.113.9:80 http GET http://www.aliyun.com/"),
        "outbound|80|aliyun|istio-egressgateway.istio-system.svc.cluster.local(missing) -"
    );
    let config = compiled(&["003-01", "003-03"], RegistryOnly);
    assert_eq!(
        config.ask("203.0.113.9:443 tls httpbin.org"),
        "outbound|443||istio-egressgateway.istio-system.svc.cluster.local(missing)"
    );
}

/// Seed 003's rule for `httpbin` in istio-system means a service of that name there.
#[test]
fn a_short_name_in_the_wrong_namespace_is_pointed_out() {
    let config = compiled(&["003-01", "003-05"], RegistryOnly);
    let found = config.found();
    assert!(
        found.contains("[IST0174]") && found.contains("httpbin.istio-system.svc.cluster.local"),
        "{found}"
    );
}
