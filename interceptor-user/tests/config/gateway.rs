//! The listeners of an egress gateway: which servers are its own, which block of VirtualServices each uses, and where what
//! comes goes. Expectations are Istio's (core/gateway.go, pilot/pkg/model/gateway.go), but where it is said.

use std::sync::Arc;

use interceptor_user::analysis::{Audience, Flags, find};
use interceptor_user::compile::{Client, CompileSettings, Compiler, NodePaths, Role};
use interceptor_user::snapshot::Discovery;

use crate::support::{Config, allow_any, world};

const ENTRIES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: hosts}
spec:
  hosts: [a.example.com, b.example.com, c.example.com]
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 443, name: tls, protocol: TLS}
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: tcp}
spec: {hosts: [a.example.com], ports: [{number: 5432, name: tcp, protocol: TCP}], resolution: DNS}
---
";

fn settings() -> CompileSettings {
    let labels = [("istio".into(), "egressgateway".into()), ("app".into(), "gw".into())].into();
    CompileSettings {
        client: Client { labels, ..Client::in_namespace("istio-system") },
        role: Role::Gateway { own_addresses: ["10.0.0.9".parse().unwrap()].into() },
        unix_endpoints: NodePaths::Any,
        tls_files: NodePaths::Any,
        ..CompileSettings::default()
    }
}

/// As the gateway with labels istio=egressgateway,app=gw in istio-system compiles it, with what the analysis tells.
pub(crate) fn gateway(yaml: &str) -> Config {
    let (world, mut findings) = world(&format!("{ENTRIES}{yaml}"));
    let (snapshot, more) = Compiler::new(settings()).compile(&Arc::new(world.clone()));
    findings.extend(more);
    findings.extend(find(&world, Audience::Mesh(Flags::default())));
    Config { snapshot, findings }
}

/// A Gateway with these servers, and the VirtualServices.
pub(crate) fn with(servers: &str, virtual_services: &str) -> Config {
    gateway(&format!("{}{virtual_services}", gateway_of("gw", servers)))
}

pub(crate) fn gateway_of(name: &str, servers: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec:\n  \
         selector: {{istio: egressgateway}}\n  servers:\n{servers}\n---\n"
    )
}

pub(crate) fn virtual_service(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"
    )
}

/// `http` to a host.
pub(crate) fn http(name: &str, hosts: &str, host: &str) -> String {
    virtual_service(
        name,
        &format!(
            "{{hosts: [{hosts}], gateways: [gw], http: [{{route: [{{destination: {{host: {host}, port: {{number: 80}}}}}}]}}]}}"
        ),
    )
}

pub(crate) fn check(config: &Config, rows: &[(&str, &str)]) {
    for (connection, expected) in rows {
        assert_eq!(config.ask(connection), *expected, "{connection}\n{}", config.found());
    }
}

const HTTP: &str =
    "  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [a.example.com, '*.b.example.com']}";
pub(crate) const PASSTHROUGH: &str = "  - {port: {number: 443, name: tls, protocol: TLS}, hosts: [a.example.com, '*.sub.example.com'], tls: {mode: PASSTHROUGH}}";

/// Asked at the gateway's own address, which is all that it knows of a connection's destination.
#[test]
fn http_goes_by_host_to_what_is_bound_to_the_gateway() {
    let rules = [
        virtual_service(
            "both",
            "{hosts: [a.example.com, c.example.com], gateways: [gw, mesh], http: [
               {match: [{gateways: [mesh], port: 80}], route: [{destination: {host: elsewhere.example.com}}]},
               {match: [{gateways: [gw], port: 8000}], route: [{destination: {host: elsewhere.example.com}}]},
               {match: [{gateways: [gw], port: 80, uri: {prefix: /v1}}], route: [{destination: {host: b.example.com, port: {number: 80}}}]},
               {name: rest, match: [{gateways: [default/gw], port: 80}], route: [{destination: {host: a.example.com, port: {number: 80}}}]}]}",
        ),
        virtual_service("mesh-only", "{hosts: [x.b.example.com], http: [{route: [{destination: {host: b.example.com}}]}]}"),
        http("wide", "'*.example.com'", "c.example.com"),
    ];
    let config = with(HTTP, &rules.concat());
    check(
        &config,
        &[
            ("10.0.0.9:80 http GET http://a.example.com/", "outbound|80||a.example.com rest"),
            ("10.0.0.9:80 http GET http://a.example.com:8080/v1/x", "outbound|80||b.example.com -"),
            // The wide one meets the server's *.b.example.com; c.example.com is no server's.
            ("10.0.0.9:80 http GET http://x.b.example.com/", "outbound|80||c.example.com -"),
            ("10.0.0.9:80 http GET http://b.example.com/", "404"),
            ("10.0.0.9:80 http GET http://c.example.com/", "404"),
            ("10.0.0.9:80 tcp", "close (no filter chain)"),
            ("10.0.0.9:80 tls a.example.com", "close (no filter chain)"),
            ("10.0.0.9:8000 tcp", "close (no filter chain)"),
        ],
    );
}

#[test]
fn routes_of_several_virtual_services_add_up() {
    let rules = [
        http("a-all", "a.example.com", "a.example.com"),
        virtual_service(
            "b-some",
            "{hosts: [a.example.com], gateways: [./gw], http: [{name: some, match: [{uri: {exact: /b}}], \
             route: [{destination: {host: b.example.com, port: {number: 80}}}]}]}",
        ),
    ];
    let config = with(HTTP, &rules.concat());
    check(
        &config,
        &[
            ("10.0.0.9:80 http GET http://a.example.com/", "outbound|80||a.example.com -"),
            // Though it comes later, because the older one takes everything.
            ("10.0.0.9:80 http GET http://a.example.com/b", "outbound|80||b.example.com some"),
        ],
    );
}

#[test]
fn names_of_gateways() {
    let of = |reference: &str| {
        let rule = format!(
            "{{hosts: [a.example.com], gateways: ['{reference}'], http: [{{route: [{{destination: {{host: a.example.com, port: {{number: 80}}}}}}]}}]}}"
        );
        with(HTTP, &virtual_service("vs", &rule)).ask("10.0.0.9:80 http GET http://a.example.com/")
    };
    for reference in ["gw", "./gw", "default/gw", "gw.default.svc.cluster.local"] {
        assert_eq!(of(reference), "outbound|80||a.example.com -", "{reference}");
    }
    for reference in ["other", "istio-system/gw", "mesh"] {
        assert_eq!(of(reference), "404", "{reference}");
    }
}

#[test]
fn a_servers_namespace_is_that_of_virtual_services() {
    let in_shop = |host: &str| {
        let servers = format!("  - {{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['{host}']}}");
        let rule = http("vs", "a.example.com", "a.example.com")
            .replace("metadata: {name: vs}", "metadata: {name: vs, namespace: shop}")
            .replace("gateways: [gw]", "gateways: [default/gw]");
        with(&servers, &rule).ask("10.0.0.9:80 http GET http://a.example.com/")
    };
    for (host, expected) in [
        ("*/a.example.com", "outbound|80||a.example.com -"),
        ("shop/a.example.com", "outbound|80||a.example.com -"),
        ("shop/*", "outbound|80||a.example.com -"),
        ("./a.example.com", "404"),
        ("other/a.example.com", "404"),
    ] {
        assert_eq!(in_shop(host), expected, "{host}");
    }
}

#[test]
fn what_is_not_exported_to_the_gateway_does_not_act() {
    let exported = |to: &str| {
        let rule = http("vs", "a.example.com", "a.example.com")
            .replace("spec: {", &format!("spec: {{exportTo: ['{to}'], "));
        with(HTTP, &rule).ask("10.0.0.9:80 http GET http://a.example.com/")
    };
    assert_eq!(exported("*"), "outbound|80||a.example.com -");
    assert_eq!(exported("istio-system"), "outbound|80||a.example.com -");
    assert_eq!(exported("."), "404");
}

/// sourceLabels and sourceNamespace are about the gateway itself there; and count for nothing beside `gateways`.
#[test]
fn source_conditions_are_about_the_gateway() {
    let matching = |condition: &str| {
        let rule = format!(
            "{{hosts: [a.example.com], gateways: [gw], http: [{{match: [{{{condition}}}], route: [{{destination: {{host: a.example.com, port: {{number: 80}}}}}}]}}]}}"
        );
        with(HTTP, &virtual_service("vs", &rule)).ask("10.0.0.9:80 http GET http://a.example.com/")
    };
    for (condition, expected) in [
        ("sourceLabels: {app: gw}", "outbound|80||a.example.com -"),
        ("sourceLabels: {app: cart}", "404"),
        ("sourceNamespace: istio-system", "outbound|80||a.example.com -"),
        ("sourceNamespace: shop", "404"),
        ("sourceNamespace: shop, gateways: [gw]", "outbound|80||a.example.com -"),
    ] {
        assert_eq!(matching(condition), expected, "{condition}");
    }
}

#[test]
fn tcp_goes_by_port_alone() {
    let servers = "  - {port: {number: 5432, name: tcp, protocol: TCP}, hosts: [a.example.com]}\n  \
                   - {port: {number: 5433, name: other, protocol: TCP}, hosts: [a.example.com]}";
    let rule = "{hosts: [a.example.com], gateways: [gw, mesh], tcp: [
               {match: [{gateways: [mesh], port: 5432}], route: [{destination: {host: elsewhere.example.com}}]},
               {match: [{gateways: [gw], port: 5432, destinationSubnets: [192.0.2.0/24]}], route: [{destination: {host: a.example.com, port: {number: 5432}}}]}]}";
    let config = with(servers, &virtual_service("tcp", rule));
    check(
        &config,
        &[
            // A subnet of the application's destination means nothing at the gateway.
            ("10.0.0.9:5432 tcp", "outbound|5432||a.example.com"),
            ("10.0.0.9:5432 tls a.example.com", "outbound|5432||a.example.com"),
        ],
    );
    assert!(!config.snapshot.by_port.contains_key(&5433), "nobody listens where nothing leads on");
    assert!(config.found().contains("has a tcp route for its hosts on port 5433"), "{}", config.found());
}

#[test]
fn only_gateways_that_select_it_are_its_own() {
    let selecting = |selector: &str| {
        let gateway = gateway_of("gw", HTTP).replace("{istio: egressgateway}", selector);
        !gateway_config_is_empty(&gateway)
    };
    fn gateway_config_is_empty(yaml: &str) -> bool {
        gateway(yaml).snapshot.by_port.is_empty()
    }
    assert!(
        selecting("{istio: egressgateway}")
            && selecting("{app: gw, istio: egressgateway}")
            && selecting("{}")
    );
    assert!(!selecting("{istio: ingressgateway}") && !selecting("{istio: egressgateway, app: other}"));
}

/// The oldest Gateway's come first; names decide among those without an age.
#[test]
fn servers_of_several_gateways_share_a_port() {
    let second = "  - {port: {number: 80, name: http, protocol: HTTP2}, hosts: [c.example.com]}";
    let clash = "  - {port: {number: 80, name: tls, protocol: TLS}, hosts: [c.example.com], tls: {mode: PASSTHROUGH}}";
    let other = gateway_of("z-clash", clash).replace("{istio: egressgateway}", "{app: gw}");
    let yaml = [
        gateway_of("gw", HTTP),
        gateway_of("gx", second),
        other,
        http("vs", "a.example.com", "a.example.com"),
        http("vs-x", "c.example.com", "c.example.com").replace("gateways: [gw]", "gateways: [gx]"),
        http("vs-y", "c.example.com", "b.example.com"),
    ];
    let config = gateway(&yaml.concat());
    check(
        &config,
        &[
            ("10.0.0.9:80 http GET http://a.example.com/", "outbound|80||a.example.com -"),
            ("10.0.0.9:80 http GET http://c.example.com/", "outbound|80||c.example.com -"),
            ("10.0.0.9:80 tls c.example.com", "close (no filter chain)"),
        ],
    );
    let found = config.found();
    assert!(
        found.contains("Gateway default/z-clash") && found.contains("port 80 of the gateway is HTTP already"),
        "{found}"
    );
}

#[test]
fn a_service_translates_ports() {
    let service = |ports: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: egress, namespace: istio-system}}\n\
             spec: {{clusterIP: 10.96.0.9, selector: {{app: gw}}, ports: {ports}}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: egress-1, namespace: istio-system, labels: {{kubernetes.io/service-name: egress}}}}\n\
             addressType: IPv4\nendpoints: [{{addresses: [10.0.0.8]}}]\nports: [{{name: http2, port: 8081}}]\n---\n"
        )
    };
    let rule = virtual_service(
        "vs",
        "{hosts: [a.example.com], gateways: [gw], http: [{match: [{port: 80}], route: [{destination: {host: a.example.com, port: {number: 80}}}]}]}",
    );
    for (ports, listens) in [
        ("[{name: http2, port: 80, targetPort: 8080}]", 8080),
        ("[{name: http2, port: 80, targetPort: http}]", 8081),
        ("[{name: http2, port: 80}]", 80),
        ("[{name: other, port: 81, targetPort: 8080}]", 80),
    ] {
        let config = with(HTTP, &(service(ports) + &rule));
        let open: Vec<u16> = config.snapshot.by_port.keys().copied().collect();
        assert_eq!(open, [listens], "{ports}");
        // The match's port is the server's.
        let asked = config.ask(&format!("10.0.0.9:{listens} http GET http://a.example.com/"));
        assert_eq!(asked, "outbound|80||a.example.com -", "{ports}");
    }
    // Another namespace's Service leads nowhere near.
    let elsewhere = service("[{name: http2, port: 80, targetPort: 8080}]").replace("istio-system", "shop");
    assert!(with(HTTP, &(elsewhere + &rule)).snapshot.by_port.contains_key(&80));
}

#[test]
fn a_server_may_ask_for_an_address() {
    let server = |bind: &str| HTTP.replace("hosts:", &format!("bind: '{bind}', hosts:"));
    let config = with(&server("10.0.0.9"), "");
    let open: Vec<_> =
        config.snapshot.by_address.keys().map(|(address, port)| format!("{address}:{port}")).collect();
    assert_eq!((open, config.snapshot.by_port.len()), (vec!["10.0.0.9:80".to_owned()], 0));
    assert!(with(&server("0.0.0.0"), "").snapshot.by_port.contains_key(&80));
    let refused = with(&server("unix:///run/gw.sock"), "");
    assert!(
        refused.snapshot.by_port.is_empty() && refused.found().contains("IP addresses alone"),
        "{}",
        refused.found()
    );
}

#[test]
fn plain_http_is_sent_to_https_where_the_server_says_so() {
    let servers = "  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [a.example.com, c.example.com], tls: {httpsRedirect: true}}\n  \
                   - {port: {number: 80, name: other, protocol: HTTP}, hosts: [b.example.com]}";
    let rules = [http("a", "a.example.com", "a.example.com"), http("b", "b.example.com", "b.example.com")];
    let config = with(servers, &rules.concat());
    check(
        &config,
        &[
            ("10.0.0.9:80 http GET http://a.example.com/x", "301 -"),
            // Without routes of its own, too.
            ("10.0.0.9:80 http GET http://c.example.com/", "301 -"),
            ("10.0.0.9:80 http GET http://b.example.com/", "outbound|80||b.example.com -"),
            ("10.0.0.9:80 http GET http://d.example.com/", "404"),
        ],
    );
}

/// Istio has no endpoint for resolution NONE at a gateway: there is no original destination but the gateway.
#[test]
fn what_keeps_its_destination_is_looked_up_by_name() {
    let entry = |host: &str, rest: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: none}}\nspec: {{hosts: ['{host}'], \
             ports: [{{number: 443, name: tls, protocol: TLS, targetPort: 8443}}], {rest}}}\n---\n"
        )
    };
    let discovery = |host: &str, rest: &str| {
        let config = gateway(&entry(host, rest));
        let name = format!("outbound|443||{host}");
        let cluster = config.snapshot.clusters.values().find(|cluster| *cluster.name.0 == *name);
        cluster.map(|cluster| cluster.discovery.clone())
    };
    let is_dynamic = |found| matches!(found, Some(Discovery::DynamicDns { port: Some(8443) }));
    assert!(is_dynamic(discovery("*.wild.example.com", "resolution: NONE")));
    assert!(is_dynamic(discovery("*.wild.example.com", "resolution: DYNAMIC_DNS")));
    let Some(Discovery::StrictDns(targets)) = discovery("d.example.com", "resolution: NONE") else {
        panic!()
    };
    assert_eq!((&*targets[0].host, targets[0].port), ("d.example.com", 8443));
    let Some(Discovery::Static(endpoints)) =
        discovery("d.example.com", "addresses: [192.0.2.1], resolution: NONE")
    else {
        panic!()
    };
    assert_eq!(endpoints[0].address.to_string(), "192.0.2.1:8443");
}

#[test]
fn what_leads_back_to_the_gateway_is_off_limits() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: egress, namespace: istio-system}\n\
         spec: {clusterIP: 10.96.0.9, externalIPs: [192.0.2.8], selector: {app: gw}, ports: [{name: http2, port: 80}]}\n\
         status: {loadBalancer: {ingress: [{hostname: lb.example.com}, {ip: 192.0.2.9}, {ip: '2001:db8::9'}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {name: egress-1, namespace: istio-system, labels: {kubernetes.io/service-name: egress}}\n\
         addressType: IPv4\nendpoints: [{addresses: [10.0.0.8]}]\nports: [{name: http2, port: 8081}]\n---\n";
    let config = gateway(service);
    let cluster = config.snapshot.clusters.values().next().unwrap();
    let off_limits = cluster.off_limits.as_ref().unwrap();
    // Its own, its Service's (its load balancer's among them), another replica's.
    for address in ["10.0.0.9", "10.96.0.9", "192.0.2.8", "192.0.2.9", "2001:db8::9", "10.0.0.8"] {
        assert!(off_limits.has(address.parse().unwrap()), "{address}");
    }
    assert!(!off_limits.has("10.0.0.7".parse().unwrap()));
}

/// A compile after another answers what one from nothing would.
#[test]
fn changes_are_taken_up() {
    let texts = [
        with_all("a.example.com", "10.96.0.9"),
        with_all("b.example.com", "10.96.0.9"),
        with_all("b.example.com", "10.96.0.10"),
        String::new(),
        with_all("a.example.com", "10.96.0.10"),
    ];
    fn with_all(host: &str, cluster_ip: &str) -> String {
        let service = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: egress, namespace: istio-system}}\n\
             spec: {{clusterIP: {cluster_ip}, selector: {{app: gw}}, ports: [{{name: http2, port: 80}}]}}\n---\n"
        );
        format!("{ENTRIES}{}{service}{}", gateway_of("gw", HTTP), http("vs", "a.example.com", host))
    }
    let mut compiler = Compiler::new(settings());
    for text in texts {
        let (world, _) = world(&text);
        let (snapshot, findings) = compiler.compile(&Arc::new(world.clone()));
        assert!(
            (snapshot, findings) == Compiler::new(settings()).compile(&Arc::new(world.clone())),
            "{text}"
        );
    }
}

#[test]
fn what_only_proxies_say_is_not_taken_from_clients() {
    assert!(gateway("").snapshot.mesh.proxy_headers.is_edge);
    assert!(!allow_any("").snapshot.mesh.proxy_headers.is_edge);
}
