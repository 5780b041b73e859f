//! Compiling one change after another gives what compiling everything afresh gives.

use std::sync::Arc;

use interceptor_user::compile::{Client, CompileSettings, Compiler, compile};
use interceptor_user::resource::{Resource, World, mesh_config, parse};
use interceptor_user::snapshot::ClusterName;
use proptest::prelude::*;

const HOSTS: [&str; 4] = ["a.example.com", "b.example.com", "*.example.com", "x.other.org"];
const DESTINATIONS: [&str; 4] = ["a.example.com", "b.example.com", "gone.example.com", "x.other.org"];
const NAMESPACES: [&str; 3] = ["default", "other", "istio-system"];

/// One resource, out of so few that they meet: `shape` chooses what it says.
#[derive(Clone, Debug)]
struct Written {
    kind: &'static str,
    name: usize,
    namespace: usize,
    shape: [usize; 4],
}

impl Written {
    fn yaml(&self) -> String {
        let [one, two, three, four] = self.shape;
        let (host, destination) = (HOSTS[one % 4], DESTINATIONS[two % 4]);
        let spec = match self.kind {
            "ServiceEntry" => {
                let resolution = ["DNS", "NONE", "STATIC"][two % 3];
                let resolution =
                    if host.starts_with('*') && resolution == "DNS" { "NONE" } else { resolution };
                let address = ["", "addresses: [10.0.0.1], ", "addresses: [10.0.0.0/8], "][three % 3];
                let address = if resolution == "DNS" && address.contains('/') { "" } else { address };
                let endpoints =
                    if resolution == "STATIC" { ", endpoints: [{address: 192.0.2.1}]" } else { "" };
                let port = [
                    "{number: 80, name: http, protocol: HTTP}",
                    "{number: 443, name: tls, protocol: TLS}",
                    "{number: 9000, name: tcp, protocol: TCP}",
                    "{number: 80, name: http, protocol: HTTP}, {number: 443, name: https, protocol: HTTPS}",
                    "{number: 80, name: auto}",
                    "{number: 9000, name: auto}",
                ][four % 6];
                format!(
                    "{{hosts: ['{host}'], {address}ports: [{port}], resolution: {resolution}{endpoints}}}"
                )
            }
            "VirtualService" => {
                let subset = ["", ", subset: s"][three % 2];
                let rest = [
                    "timeout: 1s",
                    "timeout: 2s",
                    "match: [{port: 80}]",
                    "match: [{uri: {prefix: /v1}}]",
                    "match: [{sourceLabels: {app: cart}}]",
                    "match: [{sourceLabels: {app: other}, port: 80}]",
                    "match: [{sourceNamespace: default}]",
                    "mirror: {host: x.other.org}",
                    "mirrors: [{destination: {host: b.example.com, subset: s}}, {destination: {host: gone.example.com}}]",
                ][four % 9];
                let route = format!("route: [{{destination: {{host: {destination}{subset}}}}}]");
                let only = ["", ", sourceLabels: {app: cart}", ", sourceLabels: {app: other}"][four % 3];
                // Those of a name are delegated to, or not.
                let delegate =
                    format!("delegate: {{name: n{}, namespace: {}}}", two % 3, NAMESPACES[four % 3]);
                match three % 6 {
                    0 => format!("{{hosts: ['{host}'], http: [{{{rest}, {route}}}]}}"),
                    1 => format!(
                        "{{hosts: ['{host}'], tls: [{{match: [{{sniHosts: ['{host}']{only}}}], {route}}}]}}"
                    ),
                    2 => format!(
                        "{{hosts: ['{host}'], tcp: [{{match: [{{port: 9000{only}}}], {route}}}, {{{route}}}], http: [{{{route}}}]}}"
                    ),
                    3 => format!(
                        "{{hosts: ['{host}'], http: [{{match: [{{uri: {{prefix: /v1}}}}], {delegate}}}, {{{route}}}]}}"
                    ),
                    4 => format!("{{http: [{{{rest}, {route}}}]}}"),
                    _ => format!("{{exportTo: ['.'], hosts: ['{host}'], http: [{{{rest}, {route}}}]}}"),
                }
            }
            "DestinationRule" => {
                let policy = [
                    "",
                    "trafficPolicy: {tls: {mode: SIMPLE}}, ",
                    "exportTo: ['.'], ",
                    "exportTo: ['.'], workloadSelector: {matchLabels: {app: cart}}, ",
                ][two % 4];
                let subsets = ["", "subsets: [{name: s}]", "subsets: [{name: t}, {name: s}]"][three % 3];
                format!("{{host: '{host}', {policy}{subsets}}}")
            }
            "Sidecar" => {
                let hosts = ["'*/*'", "./*", "'*/a.example.com'", "other/*"][one % 4];
                let selector = ["", "workloadSelector: {labels: {app: cart}}, "][two % 2];
                let policy = ["", ", outboundTrafficPolicy: {mode: REGISTRY_ONLY}"][three % 2];
                format!("{{{selector}egress: [{{hosts: [{hosts}]}}]{policy}}}")
            }
            "Namespace" => {
                let policy = ["REGISTRY_ONLY", "strict", "ALLOW_ANY,strict", "nonsense"][one % 4];
                return format!(
                    "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {}, annotations: {{egress.interceptor.io/policy: '{policy}'}}}}\n",
                    NAMESPACES[self.namespace % 3]
                );
            }
            kind => panic!("{kind}"),
        };
        let (name, namespace) = (self.name, NAMESPACES[self.namespace % 3]);
        format!(
            "apiVersion: networking.istio.io/v1\nkind: {}\nmetadata: {{name: n{name}, namespace: {namespace}}}\nspec: {spec}\n",
            self.kind
        )
    }

    fn resource(&self) -> Resource {
        let mut parsed = parse(&"f.yaml".into(), &self.yaml(), &"default".into());
        parsed.resources.pop().unwrap_or_else(|| panic!("{}{:#?}", self.yaml(), parsed.diagnostics))
    }
}

fn written() -> impl Strategy<Value = Written> {
    let kind = prop_oneof![
        4 => Just("ServiceEntry"), 5 => Just("VirtualService"), 3 => Just("DestinationRule"), 1 => Just("Sidecar"),
        1 => Just("Namespace"),
    ];
    (kind, 0..3_usize, 0..3_usize, any::<[u8; 4]>()).prop_map(|(kind, name, namespace, shape)| Written {
        kind,
        name,
        namespace,
        shape: shape.map(usize::from),
    })
}

/// What a change is.
#[derive(Clone, Debug)]
enum Change {
    Put(Written),
    Remove(Written),
    /// Another MeshConfig.
    Mesh(&'static str),
}

const MESHES: [&str; 7] = [
    "outboundTrafficPolicy: {mode: REGISTRY_ONLY}",
    "outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}",
    "defaultServiceExportTo: ['.']",
    "defaultVirtualServiceExportTo: ['.']",
    "{defaultDestinationRuleExportTo: ['.'], rootNamespace: other}",
    "{connectTimeout: 1s, defaultHttpRetryPolicy: {attempts: 5}}",
    "{}",
];

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        14 => written().prop_map(Change::Put),
        5 => written().prop_map(Change::Remove),
        1 => proptest::sample::select(&MESHES).prop_map(Change::Mesh),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]
    #[test]
    fn one_change_after_another_is_the_same_as_all_afresh(
        changes in proptest::collection::vec(change(), 1..24),
        learned_names in any::<bool>(),
        is_cart in any::<bool>(),
    ) {
        let labels = is_cart.then(|| ("app".into(), "cart".into()));
        let client = Client { labels: labels.into_iter().collect(), learned_names, ..Client::default() };
        let settings = CompileSettings { client, ..CompileSettings::default() };
        let mut compiler = Compiler::new(settings.clone());
        let mut world = World::default();
        for change in changes {
            match change {
                Change::Put(written) => {
                    let resource = written.resource();
                    world.resources.insert(resource);
                }
                Change::Remove(written) => {
                    world.resources.remove(&written.resource().meta().key);
                }
                Change::Mesh(text) => {
                    let (mesh, findings) = mesh_config::parse(&"mesh.yaml".into(), text);
                    world.mesh = mesh.unwrap_or_else(|| panic!("{findings:#?}"));
                }
            }
            let (snapshot, findings) = compiler.compile(&Arc::new(world.clone()));
            let (expected, expected_findings) = compile(&world, &settings);
            prop_assert_eq!(snapshot, expected, "{:#?}", world.resources.keys().collect::<Vec<_>>());
            prop_assert_eq!(findings, expected_findings);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    /// Where nothing but VirtualServices' http routes change, which is taken up without looking at all the rest.
    #[test]
    fn other_routes_are_the_same_as_all_afresh(
        entries in proptest::collection::vec((0..4_usize, 0..3_usize, 0..6_usize), 1..5),
        routes in proptest::collection::vec((0..3_usize, 0..4_usize, 0..9_usize), 1..16),
        is_cart in any::<bool>(),
    ) {
        let labels = is_cart.then(|| ("app".into(), "cart".into()));
        let client = Client { labels: labels.into_iter().collect(), ..Client::default() };
        let settings = CompileSettings { client, ..CompileSettings::default() };
        let mut compiler = Compiler::new(settings.clone());
        let mut world = World::default();
        for (name, (host, resolution, port)) in entries.into_iter().enumerate() {
            let shape = [host, resolution, 0, port];
            world.resources.insert(Written { kind: "ServiceEntry", name, namespace: 0, shape }.resource());
        }
        for (name, destination, rest) in routes {
            // Each has its own host, one of them a wildcard; its routes change.
            let shape = [name + 1, destination, 0, rest];
            world.resources.insert(Written { kind: "VirtualService", name, namespace: 0, shape }.resource());
            let (snapshot, findings) = compiler.compile(&Arc::new(world.clone()));
            let (expected, expected_findings) = compile(&world, &settings);
            prop_assert_eq!(snapshot, expected);
            prop_assert_eq!(findings, expected_findings);
        }
    }
}

fn world(yaml: &str) -> World {
    let parsed = parse(&"f.yaml".into(), yaml, &"default".into());
    World { resources: parsed.resources.into_iter().collect(), ..World::default() }
}

/// A piece that no change concerns is the same one, so that whoever compares it compares a pointer.
#[test]
fn what_did_not_change_stays_the_same_piece() {
    let entry = |name: &str, resolution: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec:\n  hosts: \
             [{name}.example.com]\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  resolution: {resolution}\n---\n"
        )
    };
    let mut compiler = Compiler::new(CompileSettings::default());
    let mut before = world(&(entry("a", "DNS") + &entry("b", "DNS")));
    let (old, _) = compiler.compile(&Arc::new(before.clone()));
    let changed = world(&entry("b", "NONE"));
    before.resources.extend(changed.resources.values().cloned());
    let (new, _) = compiler.compile(&Arc::new(before.clone()));

    let cluster = |host: &str| ClusterName::outbound(80, "", host);
    let same = |host: &str| Arc::ptr_eq(&old.clusters[&cluster(host)], &new.clusters[&cluster(host)]);
    assert_eq!([same("a.example.com"), same("b.example.com")], [true, false]);
    let host = |snapshot: &interceptor_user::snapshot::Snapshot, host: &str| {
        Arc::clone(snapshot.by_port[&80].http.as_ref().unwrap().virtual_host(host))
    };
    let same = |name: &str| Arc::ptr_eq(&host(&old, name), &host(&new, name));
    assert_eq!([same("a.example.com"), same("b.example.com")], [true, false]);
}
