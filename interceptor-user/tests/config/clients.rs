//! Routes for some clients: sourceLabels and sourceNamespace, and who sees a VirtualService at all.

use std::sync::Arc;

use interceptor_user::compile::{Client, CompileSettings, compile};
use interceptor_user::resource::mesh_config;
use interceptor_user::snapshot::OutboundTrafficPolicy;

use crate::support::{Config, world};

const ENTRIES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ab}
spec:
  hosts: [a.example.com, b.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db}
spec:
  hosts: [db.example.com]
  addresses: [10.0.0.1]
  ports: [{number: 5432, name: tcp, protocol: TCP}]
  resolution: DNS
---
";

/// What a client in `namespace` with these labels (`app=web,tier=front`) gets.
fn for_client(virtual_services: &str, mesh: &str, namespace: &str, labels: &str) -> Config {
    let (mut world, mut findings) = world(&format!("{ENTRIES}{virtual_services}"));
    let (mesh, more) = mesh_config::parse(&"mesh.yaml".into(), mesh);
    findings.extend(more);
    world.mesh = mesh.unwrap_or_else(|| panic!("{findings:#?}"));
    let labels = labels.split(',').filter(|label| !label.is_empty()).map(|label| {
        let (name, value) = label.split_once('=').expect("a label");
        (Arc::from(name), Arc::from(value))
    });
    let settings = CompileSettings {
        client: Client { labels: labels.collect(), ..Client::in_namespace(namespace) },
        outbound_traffic_policy: Some(OutboundTrafficPolicy::RegistryOnly),
        ..CompileSettings::default()
    };
    let (snapshot, more) = compile(&world, &settings);
    findings.extend(more);
    Config { snapshot, findings }
}

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

const CLIENTS: [(&str, &str); 4] =
    [("default", ""), ("default", "app=web"), ("default", "app=web,tier=front"), ("shop", "app=api")];

#[test]
fn http_routes_for_some_clients() {
    // Which of CLIENTS a match means.
    for (condition, meant) in [
        ("{uri: {prefix: /}}", [true, true, true, true]),
        ("{sourceLabels: {app: web}}", [false, true, true, false]),
        ("{sourceLabels: {app: web, tier: front}}", [false, false, true, false]),
        ("{sourceLabels: {}}", [true, true, true, true]),
        ("{sourceNamespace: shop}", [false, false, false, true]),
        ("{sourceNamespace: default}", [true, true, true, false]),
        ("{sourceNamespace: default, sourceLabels: {app: web}}", [false, true, true, false]),
        ("{sourceNamespace: shop, sourceLabels: {app: web}}", [false, false, false, false]),
        // Either of two.
        ("{sourceNamespace: shop}, {sourceLabels: {tier: front}}", [false, false, true, true]),
        // Where gateways are named, labels and namespace are not looked at.
        ("{gateways: [mesh], sourceLabels: {app: none}, sourceNamespace: none}", [true, true, true, true]),
        ("{gateways: [gw], sourceLabels: {app: web}}", [false, false, false, false]),
    ] {
        let spec = format!(
            "  hosts: [a.example.com]\n  gateways: [mesh, gw]\n  http: [{{match: [{condition}], route: [{{destination: {{host: b.example.com}}}}]}}]"
        );
        for ((namespace, labels), meant) in CLIENTS.into_iter().zip(meant) {
            let config = for_client(&virtual_service("vs", &spec), "{}", namespace, labels);
            let expected =
                if meant { "outbound|80||b.example.com -" } else { "outbound|80||a.example.com default" };
            let answer = config.ask("203.0.113.9:80 http GET http://a.example.com/");
            assert_eq!(answer, expected, "{condition} for {namespace} {labels}");
        }
    }
}

#[test]
fn tls_and_tcp_routes_for_some_clients() {
    // There gateways, labels and namespace must all hold.
    for (condition, meant) in [
        ("sourceLabels: {app: web}", [false, true, true, false]),
        ("sourceNamespace: shop", [false, false, false, true]),
        ("sourceNamespace: default, sourceLabels: {tier: front}", [false, false, true, false]),
        ("gateways: [mesh], sourceLabels: {app: web}", [false, true, true, false]),
        ("gateways: [mesh], sourceNamespace: shop", [false, false, false, true]),
        ("gateways: [gw], sourceLabels: {app: web}", [false, false, false, false]),
    ] {
        let gateways = "  gateways: [mesh, gw]\n";
        let yaml = [
            virtual_service(
                "tls",
                &format!(
                    "  hosts: [a.example.com]\n{gateways}  tls: [{{match: [{{sniHosts: [a.example.com], {condition}}}], route: [{{destination: {{host: b.example.com}}}}]}}]"
                ),
            ),
            virtual_service(
                "tcp",
                &format!(
                    "  hosts: [db.example.com]\n{gateways}  tcp: [{{match: [{{{condition}}}], route: [{{destination: {{host: b.example.com, port: {{number: 443}}}}}}]}}]"
                ),
            ),
        ]
        .concat();
        for ((namespace, labels), meant) in CLIENTS.into_iter().zip(meant) {
            let config = for_client(&yaml, "{}", namespace, labels);
            for (connection, own) in [
                ("203.0.113.9:443 tls a.example.com", "outbound|443||a.example.com"),
                ("10.0.0.1:5432 tcp", "outbound|5432||db.example.com"),
            ] {
                let expected = if meant { "outbound|443||b.example.com" } else { own };
                assert_eq!(config.ask(connection), expected, "{condition} for {namespace} {labels}");
            }
        }
    }
}

#[test]
fn who_sees_a_virtual_service() {
    for (export_to, mesh, in_home, in_shop) in [
        ("", "{}", true, true),
        ("exportTo: []", "{}", true, true),
        ("exportTo: ['*']", "{}", true, true),
        ("exportTo: ['.']", "{}", true, false),
        ("exportTo: [shop]", "{}", false, true),
        ("exportTo: [., shop]", "{}", true, true),
        ("exportTo: ['~']", "{}", false, false),
        ("", "{defaultVirtualServiceExportTo: ['.']}", true, false),
        ("", "{defaultVirtualServiceExportTo: [shop]}", false, true),
        ("exportTo: ['*']", "{defaultVirtualServiceExportTo: ['.']}", true, true),
    ] {
        let spec = format!(
            "  {export_to}\n  hosts: [a.example.com]\n  http: [{{route: [{{destination: {{host: b.example.com}}}}]}}]"
        );
        for (namespace, seen) in [("home", in_home), ("shop", in_shop)] {
            let config = for_client(&virtual_service("home/vs", &spec), mesh, namespace, "");
            let expected =
                if seen { "outbound|80||b.example.com -" } else { "outbound|80||a.example.com default" };
            let answer = config.ask("203.0.113.9:80 http GET http://a.example.com/");
            assert_eq!(answer, expected, "{export_to} {mesh} in {namespace}");
        }
    }
}

#[test]
fn a_delegate_is_exported_as_the_mesh_says() {
    let yaml = [
        virtual_service(
            "home/root",
            "  hosts: [a.example.com]\n  exportTo: ['*']\n  http: [{delegate: {name: team, namespace: far}}]",
        ),
        virtual_service("far/team", "  http: [{route: [{destination: {host: b.example.com}}]}]"),
    ]
    .concat();
    for (mesh, expected) in [
        ("{}", "outbound|80||b.example.com -"),
        ("{defaultVirtualServiceExportTo: [home]}", "outbound|80||b.example.com -"),
        // The root has no route left, and the service its own.
        ("{defaultVirtualServiceExportTo: ['.']}", "outbound|80||a.example.com default"),
    ] {
        let config = for_client(&yaml, mesh, "default", "");
        assert_eq!(config.ask("203.0.113.9:80 http GET http://a.example.com/"), expected, "{mesh}");
    }
}

#[test]
fn the_oldest_wins_among_those_that_are_seen() {
    let to = |name: &str, created: &str, export_to: &str| {
        format!(
            "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: home, creationTimestamp: '{created}'}}
spec:
  exportTo: [{export_to}]
  hosts: [a.example.com]
  http: [{{name: {name}, route: [{{destination: {{host: b.example.com}}}}]}}]
---"
        )
    };
    let yaml = [
        to("a-newest", "2024-03-01T00:00:00Z", "'*'"),
        to("b-oldest", "2024-01-01T00:00:00Z", "home"),
        to("c-middle", "2024-02-01T00:00:00Z", "'*'"),
    ]
    .concat();
    for (namespace, expected) in [("home", "b-oldest"), ("shop", "c-middle")] {
        let config = for_client(&yaml, "{}", namespace, "");
        let answer = config.ask("203.0.113.9:80 http GET http://a.example.com/");
        assert_eq!(answer, format!("outbound|80||b.example.com {expected}"), "{namespace}");
    }
}
