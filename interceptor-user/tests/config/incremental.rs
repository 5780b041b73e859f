//! Compiling one change after another gives what compiling everything afresh gives.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use interceptor_user::compile::{Client, CompileSettings, Compiler, compile};
use interceptor_user::resource::{Resource, World, mesh_config, parse};
use interceptor_user::snapshot::ClusterName;
use proptest::prelude::*;

const HOSTS: [&str; 4] = ["a.example.com", "b.example.com", "*.example.com", "x.other.org"];
const DESTINATIONS: [&str; 4] = ["a.example.com", "b.example.com", "gone.example.com", "x.other.org"];
const NAMESPACES: [&str; 3] = ["default", "other", "istio-system"];

/// Those of entries that are found by their names, one of them also a Service's name for short.
const NAMES: [&str; 8] = [
    "a.example.com",
    "b.example.com",
    "c.example.com",
    "a.example.com",
    "web.default.svc.cluster.local",
    "web.other",
    "10.0.0.1",
    "*.example.com",
];

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
            "Named" => {
                let has_one = [7, 11, 12].contains(&(three % 13));
                let hosts = if one / 16 % 4 > 0 || has_one { "{1}" } else { "{1}, {2}" };
                let hosts = hosts.replace("{1}", &format!("'{}'", NAMES[one % 8]));
                let hosts = hosts.replace("{2}", &format!("'{}'", NAMES[two % 8]));
                let resolution = match two / 8 % 4 {
                    0 => "NONE",
                    3 => "STATIC, workloadSelector: {labels: {v: two}}",
                    1 | 2 if hosts.contains('*') => "NONE",
                    1 => "DNS",
                    _ => "STATIC, endpoints: [{address: 192.0.2.1, labels: {v: two}}, {address: 192.0.2.2}]",
                };
                let ports = [
                    "{number: 80, name: http, protocol: HTTP}",
                    "{number: 80, name: http, protocol: HTTP}",
                    "{number: 443, name: tls, protocol: TLS}",
                    "{number: 80, name: http, protocol: HTTP}, {number: 443, name: https, protocol: HTTPS}",
                    "{number: 80, name: http, protocol: HTTP}, {number: 443, name: https, protocol: HTTPS}",
                    "{number: 8080, name: http2, protocol: HTTP2}, {number: 443, name: https, protocol: HTTPS}",
                    "{number: 80, name: http, protocol: HTTP}, {number: 8080, name: http-8080, protocol: HTTP}",
                    "{number: 8080, name: http-8080, protocol: HTTP}, {number: 80, name: udp, protocol: UDP}",
                    "{number: 8080, name: http-8080, protocol: HTTP}",
                    "{number: 443, name: http, protocol: HTTP}",
                    "{number: 80, name: http, protocol: HTTP}, {number: 9090, name: http-9090, protocol: HTTP}",
                    "{number: 80, name: mysql, protocol: MYSQL}",
                    "{number: 8080, name: auto}",
                ][three % 13];
                let addresses = ["", "", "", "", "addresses: [10.0.0.1], "][three / 13 % 5];
                let addresses = if hosts.contains('*') { "" } else { addresses };
                let export_to = ["", "", "", "exportTo: ['.'], ", "exportTo: [default], "][four % 5];
                let names = ["", "subjectAltNames: [s.example.com], "][four / 5 % 2];
                format!(
                    "{{hosts: [{hosts}], {export_to}{names}{addresses}ports: [{ports}], resolution: {resolution}}}"
                )
            }
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
                let hosts = if one / 64 == 3 && one % 4 < 3 {
                    format!("'{host}', 'x.other.org'")
                } else {
                    format!("'{host}'")
                };
                let route = format!("route: [{{destination: {{host: {destination}{subset}}}}}]");
                let only = ["", ", sourceLabels: {app: cart}", ", sourceLabels: {app: other}"][four % 3];
                // Those of a name are delegated to, or not.
                let delegate =
                    format!("delegate: {{name: n{}, namespace: {}}}", two % 3, NAMESPACES[four % 3]);
                match three % 6 {
                    0 => format!("{{hosts: [{hosts}], http: [{{{rest}, {route}}}]}}"),
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
                let policy = [
                    "",
                    "outboundTrafficPolicy: {mode: REGISTRY_ONLY}, ",
                    "outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: a.example.com, port: {number: 80}}}, ",
                ][three % 3];
                let egress =
                    if four % 3 == 0 { String::new() } else { format!("egress: [{{hosts: [{hosts}]}}]") };
                format!("{{{selector}{policy}{egress}}}")
            }
            "Namespace" => {
                let policy = ["REGISTRY_ONLY", "strict", "ALLOW_ANY,strict", "nonsense"][one % 4];
                return format!(
                    "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {}, annotations: {{egress.interceptor.io/policy: '{policy}'}}}}\n",
                    NAMESPACES[self.namespace % 3]
                );
            }
            "WorkloadEntry" => format!("{{address: 192.0.2.{}, labels: {{v: two}}}}", one % 8),
            "Service" => {
                let ports =
                    ["{port: 80, name: http}", "{port: 8080, name: http}, {port: 9000, name: tcp}"][one % 2];
                return format!(
                    "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: {}}}\nspec: {{clusterIP: 10.1.0.{}, \
                     ports: [{ports}]}}\n",
                    NAMESPACES[self.namespace % 3],
                    two % 3,
                );
            }
            kind => panic!("{kind}"),
        };
        let (name, namespace) = (self.name, NAMESPACES[self.namespace % 3]);
        let kind = if self.kind == "Named" { "ServiceEntry" } else { self.kind };
        let created = ["", "", ", creationTimestamp: '2024-01-01T00:00:00Z'"][four / 8 % 3];
        format!(
            "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: n{name}, namespace: {namespace}{created}}}\n\
             spec: {spec}\n",
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

/// Mostly what is followed without looking at all the rest: entries that are found by name, http routes that stay with their
/// hosts, and rules.
fn named() -> impl Strategy<Value = Written> {
    let kind = prop_oneof![6 => Just("Named"), 3 => Just("VirtualService"), 4 => Just("DestinationRule")];
    let named =
        (kind, 0..4_usize, 0..2_usize, any::<[u8; 4]>()).prop_map(|(kind, name, namespace, shape)| {
            let mut shape = shape.map(usize::from);
            match kind {
                // Each has its own host, and http routes alone.
                "VirtualService" => {
                    (shape[0], shape[2]) = (name + shape[0] / 64 * 64, shape[2] / 6 * 6);
                    return Written { kind, name: name + 10 * namespace, namespace: 0, shape };
                }
                "DestinationRule" if shape[0] % 4 == 2 && shape[1] > 50 => shape[0] += 1,
                _ => {}
            }
            Written { kind, name, namespace, shape }
        });
    let kind = prop_oneof![2 => Just("Service"), 1 => Just("WorkloadEntry"), 1 => Just("Sidecar")];
    let services = (kind, 0..2_usize, any::<[u8; 4]>()).prop_map(|(kind, namespace, shape)| Written {
        kind,
        name: 0,
        namespace,
        shape: shape.map(usize::from),
    });
    prop_oneof![24 => named, 2 => services, 1 => written()]
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

/// Whether a change is compiled with the one after it, as files that are saved together are.
fn with_the_next() -> impl Strategy<Value = bool> {
    proptest::bool::weighted(0.25)
}

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
        changes in proptest::collection::vec((change(), with_the_next()), 1..24),
        learned_names in any::<bool>(),
        is_cart in any::<bool>(),
    ) {
        let labels = is_cart.then(|| ("app".into(), "cart".into()));
        let client = Client { labels: labels.into_iter().collect(), learned_names, ..Client::default() };
        let settings = CompileSettings { client, ..CompileSettings::default() };
        let mut compiler = Compiler::new(settings.clone());
        let mut world = World::default();
        let last = changes.len() - 1;
        for (position, (change, with_the_next)) in changes.into_iter().enumerate() {
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
            if with_the_next && position < last {
                continue;
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

/// Changes that were followed without compiling everything, and all.
static FOLLOWED: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

proptest! {
    #![proptest_config(ProptestConfig { cases: 384, failure_persistence: None, ..ProptestConfig::default() })]
    /// Where mostly what is found by name changes, one at a time or some at once.
    fn named_ones_are_the_same_as_all_afresh(
        at_first in proptest::collection::vec(named(), 0..6),
        sidecar in proptest::option::weighted(0.15, any::<[u8; 4]>()),
        changes in proptest::collection::vec((named(), 0..8_u8, with_the_next()), 1..16),
        is_cart in any::<bool>(),
        enforced in prop_oneof![9 => Just(false), 1 => Just(true)],
        mesh in prop_oneof![6 => Just("{}"), 1 => proptest::sample::select(&MESHES)],
    ) {
        let labels = is_cart.then(|| ("app".into(), "cart".into()));
        let client = Client { labels: labels.into_iter().collect(), enforced, ..Client::default() };
        let settings = CompileSettings { client, ..CompileSettings::default() };
        let mut compiler = Compiler::new(settings.clone());
        let mut world = world(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: always, \
             creationTimestamp: '2025-01-01T00:00:00Z'}\nspec: {hosts: \
             [always.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: \
             tls, protocol: TLS}, {number: 8080, name: http-8080, protocol: HTTP}]}\n",
        );
        world.mesh = mesh_config::parse(&"mesh.yaml".into(), mesh).0.unwrap();
        world.resources.extend(at_first.iter().map(Written::resource));
        let sidecar = sidecar.map(|[one, _, three, four]| [usize::from(one), 0, usize::from(three), usize::from(four)]);
        let sidecar = sidecar.map(|shape| Written { kind: "Sidecar", name: 0, namespace: 0, shape });
        world.resources.extend(sidecar.iter().map(Written::resource));
        let mut last = at_first.into_iter().last();
        let (mut before, _) = compiler.compile(&Arc::new(world.clone()));
        let end = changes.len() - 1;
        for (position, (written, what, with_the_next)) in changes.into_iter().enumerate() {
            let shape = written.shape;
            // Often it is the one before, with something of it changed.
            let written = match last {
                Some(last) if what > 4 => {
                    let mut again = last.shape;
                    again[usize::from(what) - 4] = shape[usize::from(what) - 4];
                    Written { shape: again, ..last }
                }
                Some(_) | None => written,
            };
            let resource = written.resource();
            if what == 0 {
                world.resources.remove(&resource.meta().key);
            } else {
                world.resources.insert(resource);
            }
            last = Some(written.clone());
            if with_the_next && position < end {
                continue;
            }
            let (snapshot, findings) = compiler.compile(&Arc::new(world.clone()));
            let (expected, expected_findings) = compile(&world, &settings);
            prop_assert_eq!(&snapshot, &expected, "{:?} {:#?}", written, world.resources.keys().collect::<Vec<_>>());
            prop_assert_eq!(findings, expected_findings);
            let is_followed = Arc::ptr_eq(&snapshot.virtual_outbound, &before.virtual_outbound);
            FOLLOWED[0].fetch_add(usize::from(is_followed), Ordering::Relaxed);
            FOLLOWED[1].fetch_add(1, Ordering::Relaxed);
            before = snapshot;
        }
    }
}

/// Most changes are followed: else the test above would say nothing.
#[test]
fn what_is_followed_is_the_same_as_all_afresh() {
    named_ones_are_the_same_as_all_afresh();
    let [followed, all] = [&FOLLOWED[0], &FOLLOWED[1]].map(|count| count.load(Ordering::Relaxed));
    assert!(all > 500 && followed * 3 > all, "{followed} of {all}");
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
