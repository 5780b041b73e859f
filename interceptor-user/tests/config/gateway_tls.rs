//! TLS at an egress gateway: what passes through by its server name, and what of what ends there.

use interceptor_user::snapshot::decision::decide;
use interceptor_user::snapshot::{Decision, FirstBytes, RequestFacts, RouteAction, Then};
use interceptor_user::tables::{ListenerFilter, listeners};

use crate::gateway::{PASSTHROUGH, check, gateway, gateway_of, http, virtual_service, with};
use crate::support::Config;

#[test]
fn tls_that_passes_through_goes_by_server_name() {
    let rules = [
        virtual_service(
            "tls",
            "{hosts: [a.example.com, b.example.com, '*.sub.example.com'], gateways: [gw, mesh], tls: [
               {match: [{gateways: [mesh], port: 443, sniHosts: [a.example.com]}], route: [{destination: {host: elsewhere.example.com}}]},
               {match: [{gateways: [gw], port: 443, sniHosts: [a.example.com, b.example.com]}], route: [{destination: {host: a.example.com, port: {number: 443}}}]},
               {match: [{gateways: [gw], port: 443, sniHosts: ['*.sub.example.com']}], route: [{destination: {host: c.example.com, port: {number: 443}}}]}]}",
        ),
        http("http", "a.example.com", "b.example.com"),
    ];
    let config = with(PASSTHROUGH, &rules.concat());
    check(
        &config,
        &[
            ("10.0.0.9:443 tls a.example.com", "outbound|443||a.example.com"),
            ("10.0.0.9:443 tls x.sub.example.com", "outbound|443||c.example.com"),
            // No server has it: unlike in Istio, a name that a rule adds to those of its hosts does not get in.
            ("10.0.0.9:443 tls b.example.com", "close (no filter chain)"),
            ("10.0.0.9:443 tls -", "close (no filter chain)"),
            ("10.0.0.9:443 tcp", "close (no filter chain)"),
            ("10.0.0.9:443 http GET http://a.example.com/", "close (no filter chain)"),
        ],
    );
}

#[test]
fn of_two_tls_servers_with_a_host_the_first_has_it() {
    let second = PASSTHROUGH
        .replace("a.example.com, ", "c.example.com, a.example.com, ")
        .replace(", '*.sub.example.com'", "");
    let tls = |name: &str, gateway: &str, host: &str, to: &str| {
        virtual_service(
            name,
            &format!(
                "{{hosts: [{host}], gateways: [{gateway}], tls: [{{match: [{{sniHosts: [{host}]}}], route: [{{destination: {{host: {to}, port: {{number: 443}}}}}}]}}]}}"
            ),
        )
    };
    let yaml = [
        gateway_of("gw", PASSTHROUGH),
        gateway_of("gx", &second).replace("{istio: egressgateway}", "{app: gw}"),
        tls("first", "gw", "a.example.com", "a.example.com"),
        tls("second", "gx", "a.example.com", "b.example.com"),
        tls("third", "gx", "c.example.com", "c.example.com"),
    ];
    let config = gateway(&yaml.concat());
    check(
        &config,
        &[
            ("10.0.0.9:443 tls a.example.com", "outbound|443||a.example.com"),
            ("10.0.0.9:443 tls c.example.com", "close (no filter chain)"),
        ],
    );
    assert!(
        config.found().contains("a.example.com is another server's of port 443 already"),
        "{}",
        config.found()
    );
}

/// What is inside TLS that ends at the gateway: the route table, or the clusters.
fn inside(config: &Config, sni: Option<&str>) -> String {
    let listener = config.snapshot.listener("10.0.0.9".parse().unwrap(), 443);
    match decide(listener, std::net::IpAddr::from([10, 0, 0, 9]), FirstBytes::Tls { sni }) {
        Decision::Terminate(chain) => match &chain.then {
            Then::Http(table) => {
                let headers = http::HeaderMap::new();
                let (method, path, authority) = ("GET", "/", sni.unwrap_or("a.example.com"));
                let facts =
                    RequestFacts { method, path, query: None, authority, scheme: "https", headers: &headers };
                let route = table.virtual_host(authority).route(&facts).map(|route| &route.action);
                let to = match route {
                    Some(RouteAction::Forward(forward)) => forward.clusters[0].cluster.name.to_string(),
                    Some(_) => "other".to_owned(),
                    None => "404".to_owned(),
                };
                format!("{} {}: {to}", chain.tls.mode.name(), table.name)
            }
            Then::Tcp(route) => format!("{}: {}", chain.tls.mode.name(), route.clusters[0].cluster.name),
        },
        Decision::Route(route) => route.clusters[0].cluster.name.to_string(),
        Decision::NoFilterChain => "close (no filter chain)".into(),
        Decision::Http(..) | Decision::Passthrough | Decision::Refuse => "what no gateway does".into(),
    }
}

#[test]
fn tls_that_ends_here_uses_http_or_tcp_routes_by_the_servers_protocol() {
    let tls = "tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k}";
    let servers = format!(
        "  - {{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: [a.example.com], {tls}}}\n  \
         - {{port: {{number: 443, name: tls, protocol: TLS}}, hosts: [b.example.com], {tls}}}\n  \
         - {{port: {{number: 443, name: mutual, protocol: HTTPS}}, hosts: ['*'], tls: {{mode: ISTIO_MUTUAL}}}}\n  \
         - {{port: {{number: 443, name: passes, protocol: TLS}}, hosts: [c.example.com], tls: {{mode: PASSTHROUGH}}}}"
    );
    let rules = [
        http("a", "a.example.com", "a.example.com"),
        virtual_service(
            "b",
            "{hosts: [b.example.com, c.example.com], gateways: [gw], http: [{route: [{destination: {host: c.example.com, port: {number: 80}}}]}], \
             tcp: [{route: [{destination: {host: b.example.com, port: {number: 443}}}]}], \
             tls: [{match: [{sniHosts: [c.example.com]}], route: [{destination: {host: c.example.com, port: {number: 443}}}]}]}",
        ),
    ];
    let config = with(&servers, &rules.concat());
    for (sni, expected) in [
        (Some("a.example.com"), "SIMPLE https.443.https.gw.default: outbound|80||a.example.com"),
        (Some("b.example.com"), "SIMPLE: outbound|443||b.example.com"),
        (Some("c.example.com"), "outbound|443||c.example.com"),
        (Some("d.example.com"), "ISTIO_MUTUAL https.443.mutual.gw.default: 404"),
        (None, "ISTIO_MUTUAL https.443.mutual.gw.default: outbound|80||a.example.com"),
    ] {
        assert_eq!(inside(&config, sni), expected, "{sni:?} {}", config.found());
    }
    let shown: Vec<String> = listeners(&config.snapshot, &ListenerFilter::default())
        .into_iter()
        .filter(|row| row.port == Some(443))
        .map(|row| format!("{} {}", row.condition, row.destination))
        .collect();
    for row in [
        "SNI: a.example.com; TLS: SIMPLE Route: https.443.https.gw.default",
        "SNI: *; TLS: ISTIO_MUTUAL Route: https.443.mutual.gw.default",
    ] {
        assert!(shown.iter().any(|shown| shown == row), "{shown:?}");
    }
    // No identity is given.
    assert!(
        config.found().contains("[EGR0104] Gateway default/gw: spec.servers[2].tls"),
        "{}",
        config.found()
    );
}

/// protocol TLS takes tcp routes: with http routes alone nothing listens, and the analysis says what to write.
#[test]
fn terminated_tls_with_http_routes_alone_is_not_listened_to() {
    let servers = "  - {port: {number: 443, name: tls, protocol: TLS}, hosts: [a.example.com], tls: {mode: ISTIO_MUTUAL}}";
    let config = with(servers, &http("a", "a.example.com", "a.example.com"));
    assert!(config.snapshot.by_port.is_empty());
    let found = config.found();
    assert!(
        found.contains("[EGR0111]") && found.contains("protocol: HTTPS") && !found.contains("[EGR0125]"),
        "{found}"
    );
}
