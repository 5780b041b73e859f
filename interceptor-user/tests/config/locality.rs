//! localityLbSetting: which endpoints a client of a place uses first, and how much of it each place gets.

use interceptor_user::compile::{Client, CompileSettings, compile};
use interceptor_user::resource::{Level, mesh_config};
use interceptor_user::snapshot::{ClusterName, Discovery, Placement};

use crate::support::world;

const ENDPOINTS: &str = "
  endpoints:
  - {address: 10.0.0.1, locality: r1/z1/a}
  - {address: 10.0.0.2, locality: r1/z1/b, weight: 3}
  - {address: 10.0.0.3, locality: r1/z2}
  - {address: 10.0.0.4, locality: r2/z1, labels: {v: '1'}}
  - {address: 10.0.0.5, locality: r3, labels: {v: '2'}}
  - {address: 10.0.0.6}
";

fn yaml(resolution: &str, policy: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: se}}
spec:
  hosts: [a.example.com]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: {resolution}
{ENDPOINTS}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: dr}}
spec: {{host: a.example.com, trafficPolicy: {{{policy}}}}}
"
    )
}

fn client(locality: &str, labels: &[(&str, &str)]) -> Client {
    let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Client { locality: locality.into(), labels, ..Client::default() }
}

/// The endpoints by the last part of their address, and where they are.
fn placed(policy: &str, client: Client) -> Vec<(u8, Placement)> {
    let placed = |resolution| {
        let (world, findings) = world(&yaml(resolution, policy));
        assert!(findings.iter().all(|finding| finding.level != Level::Error), "{findings:#?}");
        let settings = CompileSettings { client: client.clone(), ..CompileSettings::default() };
        let (snapshot, _) = compile(&world, &settings);
        let cluster = snapshot.clusters[&ClusterName::outbound(80, "", "a.example.com")].clone();
        let addresses: Vec<String> = match &cluster.discovery {
            Discovery::Static(endpoints) => endpoints
                .iter()
                .map(|endpoint| endpoint.address.ip().expect("an address").to_string())
                .collect(),
            Discovery::StrictDns(targets) => targets.iter().map(|target| target.host.to_string()).collect(),
            Discovery::OriginalDst { .. } | Discovery::LogicalDns(_) | Discovery::DynamicDns { .. } => {
                panic!("{:?}", cluster.discovery)
            }
        };
        let number = |address: String| address.rsplit('.').next().unwrap().parse().unwrap();
        let placements = cluster.placements.iter().copied().chain(std::iter::repeat(Placement::default()));
        addresses.into_iter().map(number).zip(placements).collect()
    };
    let of_addresses: Vec<(u8, Placement)> = placed("STATIC");
    assert_eq!(of_addresses, placed("DNS"));
    of_addresses
}

fn priorities(policy: &str, client: Client) -> Vec<u32> {
    let placed = placed(policy, client);
    assert!(placed.iter().all(|(_, placement)| (placement.locality, placement.weight) == (0, 1)));
    placed.iter().map(|(_, placement)| placement.priority).collect()
}

#[test]
fn the_nearest_come_first() {
    for (locality, expected) in [
        // Subzone, zone, region, elsewhere; levels that nobody is at are not counted.
        ("r1/z1/a", [0, 1, 2, 3, 3, 3]),
        ("r1/z1/b", [1, 0, 2, 3, 3, 3]),
        ("r1/z2", [1, 1, 0, 2, 2, 2]),
        ("r1", [0, 0, 0, 1, 1, 1]),
        ("r2/z1/x", [1, 1, 1, 0, 1, 1]),
        ("r9", [0, 0, 0, 0, 0, 0]),
        // Nowhere is where endpoints without locality are.
        ("", [1, 1, 1, 1, 1, 0]),
    ] {
        assert_eq!(priorities("outlierDetection: {}", client(locality, &[])), expected, "{locality}");
    }
}

#[test]
fn without_outlier_detection_or_switched_off_all_are_alike() {
    for policy in [
        "loadBalancer: {simple: RANDOM}",
        "loadBalancer: {localityLbSetting: {failover: [{from: r1, to: r2}]}}",
        "outlierDetection: {}, loadBalancer: {localityLbSetting: {enabled: false}}",
        "loadBalancer: {localityLbSetting: {enabled: false, distribute: [{from: '*', to: {r1: 100}}]}}",
        "loadBalancer: {localityLbSetting: {distribute: [{from: r7, to: {r1: 100}}]}}",
    ] {
        assert_eq!(priorities(policy, client("r1/z1/a", &[])), [0; 6], "{policy}");
    }
}

#[test]
fn failover_leads_to_a_region() {
    let policy = |failover: &str| {
        format!("outlierDetection: {{}}, loadBalancer: {{localityLbSetting: {{failover: [{failover}]}}}}")
    };
    for (failover, expected) in [
        ("{from: r1, to: r3}", [0, 1, 2, 4, 3, 4]),
        ("{from: r2, to: r3}", [0, 1, 2, 3, 3, 3]),
        ("{from: r1, to: r2}, {from: r1, to: r3}", [0, 1, 2, 3, 4, 4]),
    ] {
        assert_eq!(priorities(&policy(failover), client("r1/z1/a", &[])), expected, "{failover}");
    }
}

#[test]
fn failover_priority_compares_labels() {
    let policy = |labels: &str, more: &str| {
        format!(
            "outlierDetection: {{}}, loadBalancer: {{localityLbSetting: {{failoverPriority: [{labels}]{more}}}}}"
        )
    };
    let region = "topology.kubernetes.io/region";
    let zone = "topology.kubernetes.io/zone";
    let at_home = client("r1/z2", &[("v", "1")]);
    for (labels, more, expected) in [
        // The label alone; where they are does not count.
        ("v".to_owned(), "", [1, 1, 1, 0, 1, 1]),
        ("v=2".to_owned(), "", [1, 1, 1, 1, 0, 1]),
        (format!("{region}, {zone}"), "", [1, 1, 0, 2, 2, 2]),
        // The first that differs decides.
        (format!("v, {region}"), "", [2, 2, 2, 1, 2, 2]),
        // With `failover` the place decides among those of equal labels.
        ("v".to_owned(), ", failover: [{from: r1, to: r3}]", [2, 2, 1, 0, 3, 4]),
    ] {
        let levels: std::collections::BTreeSet<_> = expected.iter().collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|level| u32::try_from(levels.iter().position(|known| *known == level).unwrap()).unwrap())
            .collect();
        assert_eq!(priorities(&policy(&labels, more), at_home.clone()), expected, "{labels}{more}");
    }
    // Nothing is known of the client.
    assert_eq!(priorities(&policy("v", ""), client("", &[])), [0; 6]);
}

#[test]
fn distribute_shares_by_place() {
    let policy = |distribute: &str| {
        format!("outlierDetection: {{}}, loadBalancer: {{localityLbSetting: {{distribute: [{distribute}]}}}}")
    };
    for (distribute, locality, expected) in [
        // By the weights of the endpoints where several localities share: 80 × 1/4 and 80 × 3/4.
        ("{from: r1/*, to: {r1/z1/*: 80, r2: 20}}", "r1/z1/a", &[(1, 20), (2, 60), (4, 20)][..]),
        ("{from: '*', to: {r1/z1/b: 100}}", "", &[(2, 100)]),
        (
            "{from: r1, to: {r1/z2: 70, '*': 30}}",
            "r1/z9",
            &[(1, 5), (2, 13), (3, 70), (4, 5), (5, 5), (6, 5)],
        ),
        // The first that fits.
        ("{from: r2, to: {r1: 100}}, {from: r1/z1, to: {r3: 100}}", "r1/z1/a", &[(5, 100)]),
        // None of the places has an endpoint.
        ("{from: r1, to: {r7: 100}}", "r1", &[]),
    ] {
        let placed = placed(&policy(distribute), client(locality, &[]));
        let shares: Vec<_> = placed.iter().map(|(number, placement)| (*number, placement.weight)).collect();
        assert_eq!(shares, expected, "{distribute}");
        assert!(placed.iter().all(|(_, placement)| placement.priority == 0));
        let mut localities: Vec<_> = placed.iter().map(|(_, placement)| placement.locality).collect();
        localities.sort_unstable();
        localities.dedup();
        assert_eq!(localities.len(), placed.len(), "{distribute}");
    }
}

#[test]
fn a_clients_label_says_where_it_is() {
    let labelled = client("r2/z1", &[("istio-locality", "r1.z1.a")]);
    assert_eq!(priorities("outlierDetection: {}", labelled), [0, 1, 2, 3, 3, 3]);
}

#[test]
fn mistakes_are_named_in_istios_words() {
    let found = |setting: &str, level| -> Vec<String> {
        let policy = format!("loadBalancer: {{localityLbSetting: {{{setting}}}}}");
        let (_, findings) = world(&yaml("STATIC", &policy));
        findings.into_iter().filter(|finding| finding.level == level).map(|finding| finding.message).collect()
    };
    for (setting, expected) in [
        (
            "distribute: [{from: r1, to: {r1: 100}}], failover: [{from: r1, to: r2}]",
            "can not simultaneously specify 'distribute' and 'failover'",
        ),
        (
            "failover: [{from: r1, to: r2}], failoverPriority: [topology.kubernetes.io/region]",
            "can not simultaneously set 'failover' and topology label 'topology.kubernetes.io/region' in \
             'failover_priority'",
        ),
        ("distribute: [{from: r1, to: {r1: 0, r2: 100}}]", "locality weight must be in range [1, 100]"),
        ("distribute: [{from: r1, to: {r1: 50, r2: 40}}]", "total locality weight 90 != 100"),
        (
            "distribute: [{from: r1, to: {r1: 50, r1/z1: 50}}]",
            "locality r1/z1 overlap with previous specified ones",
        ),
        (
            "distribute: [{from: r1, to: {'*': 50, r1: 50}}]",
            "locality r1 overlap with previous specified ones",
        ),
        (
            "distribute: [{from: 'r*/z', to: {r1: 100}}]",
            "locality r*/z wildcard '*' number can not exceed 1 and must be in the end",
        ),
        (
            "distribute: [{from: r1//a, to: {r1: 100}}]",
            "locality r1//a must not contain empty region/zone/subzone info",
        ),
        ("failover: [{from: r1, to: r1}]", "locality lb failover settings must specify different regions"),
        ("failover: [{from: r1/z, to: r2}]", "locality lb failover only specify region"),
        ("failover: [{from: '*', to: r2}]", "locality lb failover region should not contain '*' wildcard"),
    ] {
        let errors = found(setting, Level::Error);
        assert!(matches!(&errors[..], [error] if error == expected), "{setting}: {errors:?}");
    }
    let warnings = found("failover: [{from: r1, to: r2}]", Level::Warning);
    assert!(
        warnings
            .iter()
            .any(|warning| warning.contains("outlier detection policy must be provided for failover"))
    );
}

/// MeshConfig's holds where no rule has its own, which then holds as a whole.
#[test]
fn the_mesh_has_a_setting_for_all() {
    let priorities = |mesh: &str, policy: &str| -> Vec<u32> {
        let (mut world, findings) = world(&yaml("STATIC", policy));
        assert!(findings.is_empty(), "{findings:#?}");
        let (mesh, findings) = mesh_config::parse(&"mesh.yaml".into(), mesh);
        assert!(findings.is_empty(), "{findings:#?}");
        world.mesh = mesh.expect("a configuration");
        let settings = CompileSettings { client: client("r1/z1/a", &[]), ..CompileSettings::default() };
        let cluster =
            compile(&world, &settings).0.clusters[&ClusterName::outbound(80, "", "a.example.com")].clone();
        cluster.placements.iter().map(|placement| placement.priority).collect()
    };
    let nearest = [0, 1, 2, 3, 3, 3];
    let (r3_first, off) =
        ("localityLbSetting: {failover: [{from: r1, to: r3}]}", "localityLbSetting: {enabled: false}");
    assert_eq!(priorities("{}", "outlierDetection: {}"), nearest);
    assert_eq!(priorities(r3_first, "outlierDetection: {}"), [0, 1, 2, 4, 3, 4]);
    assert!(priorities(off, "outlierDetection: {}").is_empty());
    let own = "outlierDetection: {}, loadBalancer: {localityLbSetting: {enabled: true}}";
    assert_eq!(priorities(off, own), nearest);
    assert_eq!(priorities(r3_first, own), nearest);
}
