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
            "DestinationRule default/wide: DestinationRule default/mine has a more specific host, or the same host and \
             another exportTo or selector",
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
