//! What was looked at and lost: each with the reason.

use crate::support::Case;

fn resource(kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: \
         {spec}\n"
    )
}

fn entry(namespace: &str, name: &str, more: &str) -> String {
    let ports = "ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS";
    resource("ServiceEntry", namespace, name, &format!("{{hosts: [api.example.com], {ports}{more}}}"))
}

fn rule(namespace: &str, name: &str, host: &str, more: &str) -> String {
    resource(
        "DestinationRule",
        namespace,
        name,
        &format!("{{host: {host}, trafficPolicy: {{loadBalancer: {{simple: RANDOM}}}}{more}}}"),
    )
}

fn virtual_service(namespace: &str, name: &str, host: &str, more: &str) -> String {
    let route = "http: [{route: [{destination: {host: api.example.com}}]}]";
    resource("VirtualService", namespace, name, &format!("{{hosts: [{host}], {route}{more}}}"))
}

/// `not RESOURCE …: why`, without the places.
fn passed_over(case: &Case) -> Vec<String> {
    let explanation = case.ask("http://api.example.com/");
    let mut lost: Vec<String> = explanation
        .steps
        .iter()
        .flat_map(|step| &step.passed_over)
        .map(|lost| format!("{}: {}", lost.place.resource, lost.why))
        .collect();
    lost.dedup();
    lost
}

#[track_caller]
fn check(yaml: &[String], expected: &[&str]) {
    let lost = passed_over(&Case::new(&yaml.concat()));
    for line in expected {
        assert!(lost.iter().any(|there| there == line), "{line:?} is not in {lost:#?}");
    }
    assert_eq!(lost.is_empty(), expected.is_empty(), "{lost:#?}");
}

#[test]
fn service_entries() {
    check(&[entry("default", "a", "")], &[]);
    check(
        &[entry("default", "a", ""), entry("shop", "hidden", ", exportTo: ['.']")],
        &["ServiceEntry shop/hidden: not exported to namespace default"],
    );
    check(
        &[entry("default", "a", ""), entry("shop", "b", "")],
        &[
            "ServiceEntry shop/b: ServiceEntry default/a has api.example.com on port 80, too, and comes first: the client's \
           namespace, then age, then name",
        ],
    );
    let other_port =
        "{hosts: [api.example.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}";
    check(
        &[resource("ServiceEntry", "default", "tls", other_port)],
        &["ServiceEntry default/tls: has no port 80 (it has 443)"],
    );
}

#[test]
fn virtual_services() {
    let host = "api.example.com";
    check(
        &[
            entry("default", "a", ""),
            virtual_service("default", "v1", host, ""),
            virtual_service("default", "v2", host, ""),
            virtual_service("default", "wide", "'*.example.com'", ""),
            virtual_service("default", "gateway", host, ", gateways: [egress]"),
            virtual_service("shop", "hidden", host, ", exportTo: ['.']"),
        ],
        &[
            "VirtualService default/v2: VirtualService default/v1 has api.example.com, too, and comes first by age and \
             name: for HTTP no other is asked",
            "VirtualService default/wide: *.example.com is less specific than api.example.com of VirtualService default/v1",
            "VirtualService default/gateway: bound to gateways only (egress), mesh is not among them",
            "VirtualService shop/hidden: not exported to namespace default",
        ],
    );
}

#[test]
fn destination_rules() {
    let host = "api.example.com";
    check(
        &[
            entry("owner", "a", ""),
            rule("default", "mine", host, ""),
            rule("default", "wide", "'*.example.com'", ""),
            rule("owner", "theirs", host, ""),
            rule("istio-system", "root", host, ""),
            rule("elsewhere", "nobody", host, ""),
            rule("owner", "hidden", host, ", exportTo: ['.']"),
        ],
        &[
            "DestinationRule default/wide: DestinationRule default/mine has a more specific host",
            "DestinationRule owner/theirs: DestinationRule default/mine is in a namespace that is asked before owner; rules of \
             two namespaces are not merged",
            "DestinationRule istio-system/root: DestinationRule default/mine is in a namespace that is asked before \
             istio-system; rules of two namespaces are not merged",
            "DestinationRule elsewhere/nobody: namespace elsewhere is not asked: only the client's (default), the service's \
             (owner) and the root (istio-system) are",
            "DestinationRule owner/hidden: not exported to namespace default",
        ],
    );
}

#[test]
fn a_more_specific_rule_that_is_not_exported_ends_its_namespaces_turn() {
    check(
        &[
            entry("owner", "a", ""),
            rule("owner", "wide", "'*.example.com'", ""),
            rule("owner", "exact", "api.example.com", ", exportTo: ['.']"),
            rule("istio-system", "root", "api.example.com", ""),
        ],
        &[
            "DestinationRule owner/wide: DestinationRule owner/exact has a more specific host and is not exported to \
             namespace default, which ends the turn of namespace owner",
            "DestinationRule owner/exact: not exported to namespace default",
        ],
    );
}

#[test]
fn rules_with_selectors_go_before_those_for_all() {
    let host = "api.example.com";
    check(
        &[
            entry("default", "a", ""),
            rule("default", "all", host, ""),
            rule("default", "own", host, ", workloadSelector: {matchLabels: {}}"),
            rule("default", "cart", host, ", workloadSelector: {matchLabels: {app: cart}}"),
        ],
        &[
            "DestinationRule default/all: DestinationRule default/own has the same host and another exportTo or selector",
            "DestinationRule default/cart: its workloadSelector does not select the client",
        ],
    );
}

#[test]
fn a_client_in_the_root_namespace_is_first_asked_for_rules_of_its_own_alone() {
    let host = "api.example.com";
    let yaml = [
        entry("istio-system", "a", ""),
        rule("istio-system", "shared", host, ""),
        rule("istio-system", "own", host, ", exportTo: ['.']"),
    ];
    let lost = passed_over(&Case::new(&yaml.concat()).client("istio-system", &[]));
    let expected = "DestinationRule istio-system/shared: the client is in the root namespace istio-system, where rules that \
                    are exported to it alone, as DestinationRule istio-system/own, are asked first";
    assert_eq!(lost, [expected]);
}

#[test]
fn merged_rules_keep_the_first_policy_and_the_first_subset_of_a_name() {
    let old =
        "{host: api.example.com, trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v1}]}";
    let new = "{host: api.example.com, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}, subsets: [{name: v1}, {name: \
               v2}]}";
    let route = |subset: &str| {
        let to = format!("{{host: api.example.com, subset: {subset}}}");
        resource(
            "VirtualService",
            "default",
            "v",
            &format!("{{hosts: [api.example.com], http: [{{route: [{{destination: {to}}}]}}]}}"),
        )
    };
    let policy = "DestinationRule default/old comes first by age and name: its trafficPolicy holds";
    let subset = "DestinationRule default/old comes first by age and name: its subset v1 holds";
    for (to, by, not) in [
        ("v1", vec!["default/old"], vec![("spec.trafficPolicy", policy), ("spec.subsets[0]", subset)]),
        ("v2", vec!["default/old", "default/second"], vec![("spec.trafficPolicy", policy)]),
    ] {
        let yaml = [
            entry("default", "a", ""),
            resource("DestinationRule", "default", "old", old),
            resource("DestinationRule", "default", "second", new),
            route(to),
        ];
        let explanation = Case::new(&yaml.concat()).ask("http://api.example.com/");
        let step = explanation.steps.iter().find(|step| step.step == "cluster").unwrap();
        let deciders: Vec<&str> =
            step.by.iter().filter_map(|place| place.resource.strip_prefix("DestinationRule ")).collect();
        assert_eq!(deciders, by, "{explanation}");
        let lost: Vec<(&str, &str)> = step
            .passed_over
            .iter()
            .map(|lost| (lost.place.field.as_deref().unwrap_or_default(), &*lost.why))
            .collect();
        assert_eq!(lost, not, "{explanation}");
    }
}

fn sidecar(spec: &str) -> String {
    resource("Sidecar", "default", "narrow", spec)
}

#[test]
fn a_sidecar_that_leaves_something_out_is_the_reason() {
    let narrow = || sidecar("{egress: [{hosts: ['./*']}]}");
    check(
        &[entry("owner", "a", ""), narrow()],
        &[
            "ServiceEntry owner/a: none of the egress hosts of Sidecar default/narrow (a.yaml:7:1) brings it in",
        ],
    );
    let other = entry("default", "other", "").replace("api.example.com", "other.example.com");
    check(
        &[other, virtual_service("owner", "v", "api.example.com", ""), narrow()],
        &[
            "VirtualService owner/v: none of the egress hosts of Sidecar default/narrow (a.yaml:12:1) brings it in",
        ],
    );
}

#[test]
fn a_sidecar_that_sets_the_policy_is_named() {
    let yaml = sidecar("{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}");
    let text = Case::new(&yaml).ask("http://api.example.com/").to_string();
    for line in [
        "by Sidecar default/narrow spec.outboundTrafficPolicy (a.yaml:2:1)",
        "the policy is that of the client's Sidecar",
    ] {
        assert!(text.lines().any(|there| there.trim() == line), "{line:?} is not in\n{text}");
    }
    let text = Case::new(&sidecar("{}")).ask("http://api.example.com/").to_string();
    assert!(text.contains("the policy is that of Istio's default"), "{text}");
}
