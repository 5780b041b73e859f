//! Compiles YAML and asks the snapshot what it does with a connection.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use interceptor_user::analysis::{Audience, find};
use interceptor_user::compile::{Client, CompileSettings, NodePaths, compile};
use interceptor_user::resource::{Diagnostic, Level, World, mesh_config, parse};
use interceptor_user::snapshot::{
    Fallthrough, OutboundTrafficPolicy, RequestFacts, Route, RouteAction, Snapshot, TcpRoute, WeightedCluster,
};

pub(crate) struct Config {
    pub(crate) snapshot: Snapshot,
    pub(crate) findings: Vec<Diagnostic>,
}

/// Reads and compiles; nothing may be refused.
pub(crate) fn compiled(yaml: &str, policy: OutboundTrafficPolicy) -> Config {
    let (world, findings) = world(yaml);
    let errors: Vec<_> = findings.iter().filter(|finding| finding.level == Level::Error).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    let settings = CompileSettings { outbound_traffic_policy: Some(policy), ..as_exec() };
    let (snapshot, more) = compile(&world, &settings);
    let told = find(&world, Audience::Client(&settings.client));
    Config { snapshot, findings: findings.into_iter().chain(more).chain(told).collect() }
}

pub(crate) fn allow_any(yaml: &str) -> Config {
    compiled(yaml, OutboundTrafficPolicy::AllowAny)
}

/// What a user writes for himself may name what he may open.
fn as_exec() -> CompileSettings {
    CompileSettings {
        unix_endpoints: NodePaths::Any,
        tls_files: NodePaths::Any,
        ..CompileSettings::default()
    }
}

/// For this client.
pub(crate) fn for_client(yaml: &str, client: Client) -> Config {
    let (world, findings) = world(yaml);
    let settings = CompileSettings { client, ..as_exec() };
    let (snapshot, more) = compile(&world, &settings);
    let told = find(&world, Audience::Client(&settings.client));
    Config { snapshot, findings: findings.into_iter().chain(more).chain(told).collect() }
}

/// With a MeshConfig and in a namespace.
pub(crate) fn in_namespace(yaml: &str, mesh: &str, namespace: &str) -> Config {
    for_client_of_mesh(yaml, mesh, Client::in_namespace(namespace))
}

/// With a MeshConfig and for a workload.
pub(crate) fn for_client_of_mesh(yaml: &str, mesh: &str, client: Client) -> Config {
    let (mut world, mut findings) = world(yaml);
    let (mesh, more) = mesh_config::parse(&"mesh.yaml".into(), mesh);
    findings.extend(more);
    world.mesh = mesh.unwrap_or_else(|| panic!("{findings:#?}"));
    let settings = CompileSettings { client, ..as_exec() };
    let (snapshot, more) = compile(&world, &settings);
    findings.extend(more);
    findings.extend(find(&world, Audience::Client(&settings.client)));
    Config { snapshot, findings }
}

pub(crate) fn world(yaml: &str) -> (World, Vec<Diagnostic>) {
    let parsed = parse(&"test.yaml".into(), yaml, &"default".into());
    (World { resources: parsed.resources.into_iter().collect(), ..World::default() }, parsed.diagnostics)
}

impl Config {
    /// `connection` is an address and port, then first bytes: `tcp`, `tls NAME`, `tls -` (no name), or a
    /// request, `http METHOD URL`, followed by lines of headers. The answer is a cluster (or several with
    /// weights) and the route's name, a status and the route's name, or `close`.
    #[track_caller]
    pub(crate) fn ask(&self, connection: &str) -> String {
        let mut lines = connection.lines();
        let first = lines.next().expect("a connection");
        let (destination, first_bytes) = first.split_once(' ').expect("a destination and first bytes");
        let destination: SocketAddr = destination.parse().expect("an address and port");
        let listener = self.snapshot.listener(destination.ip(), destination.port());
        let route = match *first_bytes.split(' ').collect::<Vec<_>>() {
            ["http", method, url] => {
                if listener.http_routes(destination.ip()).is_some() {
                    return self.request(destination, method, url, lines);
                }
                listener.tcp_route(destination.ip().into())
            }
            ["tls", "-"] => listener.tls_route(destination.ip().into(), None),
            ["tls", name] => listener.tls_route(destination.ip().into(), Some(name)),
            ["tcp"] => listener.tcp_route(destination.ip().into()),
            _ => panic!("unknown first bytes: {first_bytes}"),
        };
        match (route, &listener.fallthrough) {
            (Some(route), _) => opaque(route),
            (None, Fallthrough::EgressProxy(route)) => opaque(route),
            (None, Fallthrough::Passthrough) => "PassthroughCluster".into(),
            (None, Fallthrough::BlackHole) => "close".into(),
            (None, Fallthrough::NoFilterChain) => "close (no filter chain)".into(),
        }
    }

    /// The route that takes a request.
    #[track_caller]
    pub(crate) fn route(&self, connection: &str) -> Option<&Route> {
        let mut lines = connection.lines();
        let first: Vec<&str> = lines.next().expect("a connection").split(' ').collect();
        let [destination, "http", method, url] = first[..] else { panic!("not a request: {connection}") };
        self.find(destination.parse().expect("an address"), method, url, lines)
    }

    fn find<'a>(
        &self,
        destination: SocketAddr,
        method: &str,
        url: &str,
        headers: impl Iterator<Item = &'a str>,
    ) -> Option<&Route> {
        let listener = self.snapshot.listener(destination.ip(), destination.port());
        let table = listener.http.as_ref().expect("HTTP on this listener");
        let url = url.strip_prefix("http://").expect("an http URL");
        let (authority, path) = url.split_at(url.find('/').unwrap_or(url.len()));
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (if path.is_empty() { "/" } else { path }, None),
        };
        let mut map = HeaderMap::new();
        for header in headers {
            let (name, value) = header.split_once(": ").expect("a header");
            map.append(
                HeaderName::from_bytes(name.as_bytes()).expect("a name"),
                HeaderValue::from_str(value).expect("a value"),
            );
        }
        let request = RequestFacts { method, path, query, authority, scheme: "http", headers: &map };
        table.virtual_host(authority).route(&request)
    }

    fn request<'a>(
        &self,
        destination: SocketAddr,
        method: &str,
        url: &str,
        headers: impl Iterator<Item = &'a str>,
    ) -> String {
        let Some(route) = self.find(destination, method, url, headers) else { return "404".into() };
        let name = if route.name.is_empty() { "-" } else { &*route.name };
        match &route.action {
            RouteAction::Forward(forward) => format!("{} {name}", clusters(&forward.clusters)),
            RouteAction::DirectResponse(response) => format!("{} {name}", response.status),
            RouteAction::Redirect(redirect) => format!("{} {name}", redirect.status),
            RouteAction::Passthrough => format!("PassthroughCluster {name}"),
            RouteAction::Refused(refusal) => format!("{} {name}", refusal.status().as_u16()),
        }
    }

    /// The findings, one a line: level, resource, field, message.
    pub(crate) fn found(&self) -> String {
        shown(&self.findings)
    }
}

fn opaque(route: &TcpRoute) -> String {
    clusters(&route.clusters)
}

fn clusters(clusters: &[WeightedCluster]) -> String {
    let one = |weighted: &WeightedCluster| {
        let missing = if weighted.cluster.cluster.is_some() { "" } else { "(missing)" };
        format!("{}{missing}", weighted.cluster.name)
    };
    if let [only] = clusters {
        return one(only);
    }
    let each: Vec<_> =
        clusters.iter().map(|weighted| format!("{}*{}", one(weighted), weighted.weight)).collect();
    each.join(" + ")
}

pub(crate) fn shown(findings: &[Diagnostic]) -> String {
    let lines: Vec<_> = findings.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
