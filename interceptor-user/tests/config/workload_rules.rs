//! DestinationRules for some workloads, and what holds where no rule says anything.

use std::time::Duration;

use interceptor_user::compile::Client;
use interceptor_user::snapshot::{Cluster, ClusterName, LoadBalancer};

use crate::support::{Config, for_client_of_mesh};

const ENTRY: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: se, namespace: service}
spec:
  hosts: [a.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 81, name: alt, protocol: HTTP}]
  resolution: DNS
---
";

fn client(labels: &[(&str, &str)]) -> Client {
    let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Client { labels, ..Client::in_namespace("client") }
}

/// A rule that is told by its connect timeout.
fn rule(namespace: &str, seconds: u64, host: &str, more: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: dr{seconds}, namespace: {namespace}}}\n\
         spec: {{host: '{host}', {more} trafficPolicy: {{connectionPool: {{tcp: {{connectTimeout: {seconds}s}}}}}}}}\n---\n"
    )
}

fn cluster(config: &Config, port: u16) -> &Cluster {
    &config.snapshot.clusters[&ClusterName::outbound(port, "", "a.example.com")]
}

#[test]
fn a_rule_with_a_selector_is_for_the_workloads_of_its_namespace() {
    let app = "workloadSelector: {matchLabels: {app: x}},";
    let host = "a.example.com";
    let own = rule("client", 1, host, "");
    let selected = rule("client", 2, host, app);
    let other_label = rule("client", 3, host, "workloadSelector: {matchLabels: {app: y}},");
    let everybodys = rule("service", 4, host, "");
    for (what, rules, labels, expected) in [
        ("it goes before one for all", own.clone() + &selected, &[("app", "x"), ("b", "c")][..], 2),
        ("whatever their order", selected.clone() + &own, &[("app", "x")], 2),
        ("not for others", own.clone() + &selected, &[("app", "z")], 1),
        ("nor without labels", own.clone() + &selected, &[], 1),
        ("another's", own.clone() + &other_label, &[("app", "x")], 1),
        ("then the next namespace is asked", selected.clone() + &everybodys, &[("app", "z")], 4),
        ("it goes before the service's", selected.clone() + &everybodys, &[("app", "x")], 2),
        ("of another namespace it is for nobody here", rule("service", 5, host, app), &[("app", "x")], 10),
        (
            "even when it is exported",
            rule("service", 5, host, "workloadSelector: {matchLabels: {app: x}}, exportTo: ['*'],"),
            &[("app", "x")],
            10,
        ),
    ] {
        let config = for_client_of_mesh(&format!("{ENTRY}{rules}"), "{}", client(labels));
        assert_eq!(cluster(&config, 80).connect_timeout, Duration::from_secs(expected), "{what}");
    }
}

#[test]
fn it_is_kept_apart_from_those_for_all() {
    let with_subset = |name: &str, subset: &str, more: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: client}}\n\
             spec: {{host: a.example.com, {more} subsets: [{{name: {subset}}}]}}\n---\n"
        )
    };
    let yaml = format!(
        "{ENTRY}{}{}",
        with_subset("all", "s1", ""),
        with_subset("some", "s2", "workloadSelector: {matchLabels: {app: x}},")
    );
    let subsets = |labels: &[(&str, &str)]| {
        let config = for_client_of_mesh(&yaml, "{}", client(labels));
        ["s1", "s2"].map(|subset| {
            config.snapshot.clusters.contains_key(&ClusterName::outbound(80, subset, "a.example.com"))
        })
    };
    assert_eq!(subsets(&[]), [true, false]);
    assert_eq!(subsets(&[("app", "x")]), [false, true]);
}

#[test]
fn the_mesh_says_what_holds_where_rules_say_nothing() {
    let mesh = "
defaultTrafficPolicy:
  loadBalancer: {simple: RANDOM}
  connectionPool: {tcp: {connectTimeout: 7s}}
";
    let rule = |policy: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: dr, namespace: client}}\nspec: \
             {{host: a.example.com, trafficPolicy: {policy}}}\n"
        )
    };
    for (policy, port, balancer, seconds) in [
        ("", 80, LoadBalancer::Random, 7),
        ("{loadBalancer: {simple: ROUND_ROBIN}}", 80, LoadBalancer::RoundRobin, 7),
        ("{connectionPool: {tcp: {connectTimeout: 3s}}}", 80, LoadBalancer::Random, 3),
        // A port's settings replace everything.
        (
            "{portLevelSettings: [{port: {number: 80}, connectionPool: {tcp: {connectTimeout: 3s}}}]}",
            80,
            LoadBalancer::LeastRequest,
            3,
        ),
        (
            "{portLevelSettings: [{port: {number: 80}, connectionPool: {tcp: {connectTimeout: 3s}}}]}",
            81,
            LoadBalancer::Random,
            7,
        ),
    ] {
        let rules = if policy.is_empty() { String::new() } else { rule(policy) };
        let config = for_client_of_mesh(&format!("{ENTRY}{rules}"), mesh, client(&[]));
        let cluster = cluster(&config, port);
        assert_eq!(cluster.load_balancer, balancer, "{policy} {port}");
        assert_eq!(cluster.connect_timeout, Duration::from_secs(seconds), "{policy} {port}");
    }
}
