//! Findings about pods, Services, secrets, annotations and Sidecars.

use crate::support::{check, dr, gateway, host, istio, to, vs};

pub(crate) fn service(name: &str, spec: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{spec}}}}}\n"
    )
}

fn pod(name: &str, metadata: &str, spec: &str) -> String {
    format!("---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}{metadata}}}, spec: {{{spec}}}}}\n")
}

pub(crate) fn labelled(name: &str, labels: &str) -> String {
    pod(name, &format!(", labels: {{{labels}}}"), "containers: []")
}

fn deployment(metadata: &str, template: &str) -> String {
    format!(
        "---\n{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: d{metadata}}}, spec: {{template: {{metadata: \
         {{{template}}}, spec: {{containers: [{{name: c}}]}}}}}}}}\n"
    )
}

fn annotated(name: &str, value: &str) -> String {
    format!("annotations: {{{name}: '{value}'}}")
}

const EXCLUDE: &str = "traffic.sidecar.istio.io/excludeOutboundIPRanges";
const ALPHA: &str =
    "Info IST0136 Deployment default/d | traffic.sidecar.istio.io/excludeOutboundIPRanges | alpha-phase";

/// Findings about annotations are at the value; these ask for the key.
fn at_value(expected: &str, value: &str) -> String {
    expected.replace(&format!("| {EXCLUDE} |"), &format!("| '{value}' |"))
}

#[test]
fn ist0107_misplaced() {
    check(
        &deployment(&format!(", {}", annotated(EXCLUDE, "10.0.0.0/8")), ""),
        &[
            "Warning IST0107 Deployment default/d | '10.0.0.0/8' | can only be applied to Pod; reaches no pod; spec.template.metadata.annotations",
        ],
    );
    check(&deployment("", &annotated(EXCLUDE, "10.0.0.0/8")), &[&at_value(ALPHA, "10.0.0.0/8")]);
    check(
        &deployment(&format!(", {}", annotated("egress.interceptor.io/policy", "strict")), ""),
        &["Warning IST0107 Deployment default/d | 'strict' | Pod, Namespace"],
    );
    check(&deployment("", &annotated("egress.interceptor.io/policy", "strict")), &[]);
}

#[test]
fn ist0108_unknown() {
    check(
        &deployment("", &annotated("traffic.sidecar.istio.io/excludeOutboundIPRange", "10.0.0.0/8")),
        &[&format!(
            "Warning IST0108 Deployment default/d | '10.0.0.0/8' | Unknown annotation; did you mean {EXCLUDE}?"
        )],
    );
    check(&deployment("", &annotated("example.com/excludeOutboundIPRange", "10.0.0.0/8")), &[]);
}

#[test]
fn own_names_that_nothing_reads_are_errors() {
    for (name, mend) in [
        ("enforced", "did you mean egress.interceptor.io/enforce?"),
        ("Enforce", "did you mean egress.interceptor.io/enforce?"),
        ("allowfrom", "did you mean egress.interceptor.io/allow-from?"),
        ("capture_dns", "did you mean egress.interceptor.io/capture-dns?"),
        ("something", "there are egress.interceptor.io/allow-from"),
    ] {
        let name = format!("egress.interceptor.io/{name}");
        let expected = |kind: &str, said: &str| {
            format!("Error IST0108 {kind} | 'x' | Unknown {said}: {name}; no effect; {mend}")
        };
        let annotation = annotated(&name, "x");
        check(
            &pod("p", &format!(", {annotation}"), "containers: []"),
            &[&expected("Pod default/p", "annotation")],
        );
        check(&deployment("", &annotation), &[&expected("Deployment default/d", "annotation")]);
        let label = annotation.replace("annotations", "labels");
        check(&deployment("", &label), &[&expected("Deployment default/d", "label")]);
    }
    for name in ["enforce", "policy", "capture-dns", "allow-from"] {
        let name = format!("egress.interceptor.io/{name}");
        let expected = format!(
            "Error IST0107 Pod default/p | 'gateway' | Misplaced label: {name} is an annotation; move it to metadata.annotations"
        );
        check(&labelled("p", &format!("{name}: 'gateway'")), &[&expected]);
    }
    check(
        &deployment("", &annotated("egress.interceptor.io/allow-from", "ns/a")),
        &["Error IST0107 Deployment default/d | 'ns/a' | can only be applied to ServiceEntry"],
    );
}

#[test]
fn enroll_is_a_label_or_an_annotation_of_pods_and_a_label_of_namespaces() {
    const ENROLL: &str = "egress.interceptor.io/enroll";
    let annotation = |value: &str| annotated(ENROLL, value);
    let label = |value: &str| annotated(ENROLL, value).replace("annotations", "labels");
    let of_pod = |metadata: &str| pod("p", &format!(", {metadata}"), "containers: []");
    for value in ["enabled", "true", "disabled", "false"] {
        for metadata in [annotation(value), label(value)] {
            check(&of_pod(&metadata), &[]);
            check(&deployment("", &metadata), &[]);
        }
    }
    check(
        &of_pod(&annotation("yes")),
        &[
            "Warning IST0125 Pod default/p | 'yes' | expected enabled, true, disabled or false; the namespace decides",
        ],
    );
    check(&of_pod(&label("yes")), &["Warning IST0125 Pod default/p | 'yes' | Invalid label"]);
    check(
        &deployment(&format!(", {}", annotation("enabled")), ""),
        &[
            "Error IST0107 Deployment default/d | 'enabled' | can only be applied to Pod; move it to spec.template.metadata.annotations",
        ],
    );
    check(
        &deployment(&format!(", {}", label("enabled")), ""),
        &[
            "Warning IST0107 Deployment default/d | 'enabled' | reaches no pod; move it to spec.template.metadata.labels",
        ],
    );
    check(&deployment(&format!(", {}", label("enabled")), &label("enabled")), &[]);
    let namespace =
        |metadata: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, {metadata}}}\n");
    check(&namespace(&label("intercepted")), &[]);
    check(
        &namespace(&annotation("enabled")),
        &["Error IST0107 Namespace shop | 'enabled' | is a label; move it to metadata.labels"],
    );
}

#[test]
fn egr0119_annotations_that_do_not_act() {
    let machines = "virtual machine; not taken over; keep Istio's proxy";
    for (name, words, stage) in [
        (
            "traffic.sidecar.istio.io/kubevirtInterfaces",
            machines,
            "Info IST0135 Deployment default/d | 'eth1' | deprecated",
        ),
        (
            "istio.io/reroute-virtual-interfaces",
            machines,
            "Info IST0136 Deployment default/d | 'eth1' | alpha-phase",
        ),
    ] {
        let expected =
            format!("Warning EGR0119 Deployment default/d | 'eth1' | {name} does not act here; {words}");
        check(&deployment("", &annotated(name, "eth1")), &[&expected, stage]);
        check(&deployment("", &annotated(name, "")), &[&stage.replace("'eth1'", "''")]);
    }
}

#[test]
fn ist0107_who_may_use_a_host_is_for_service_entries() {
    check(
        &pod(
            "p",
            &format!(", {}", annotated("egress.interceptor.io/allow-from", "ns/shop")),
            "containers: []",
        ),
        &["Error IST0107 Pod default/p | 'ns/shop' | applied to ServiceEntry; keeps nobody out"],
    );
}

#[test]
fn ist0125_invalid() {
    for (value, words) in [
        ("10.10.0.4", "write 10.10.0.4/32"),
        ("10.0.0.0/8,", "extra comma"),
        ("example.com", "not an IP range"),
    ] {
        check(
            &deployment("", &annotated(EXCLUDE, value)),
            &[&format!(
                "Warning IST0125 Deployment default/d | '{value}' | Invalid annotation {EXCLUDE}; {words}; refuses to create the pod"
            )],
        );
    }
    check(
        &deployment("", &annotated("traffic.sidecar.istio.io/excludeInterfaces", "a/b")),
        &[
            "Warning IST0125 Deployment default/d | 'a/b' | is not the name of a network interface; refuses to create the pod",
        ],
    );
    check(
        &pod(
            "p",
            &format!(", {}", annotated("egress.interceptor.io/policy", "registry_only")),
            "containers: []",
        ),
        &["Error IST0125 Pod default/p | 'registry_only' | did you mean `REGISTRY_ONLY`?"],
    );
    check(
        &pod("p", &format!(", {}", annotated("egress.interceptor.io/enforce", "gatewy")), "containers: []"),
        &["Error IST0125 Pod default/p | 'gatewy' | did you mean `gateway`?"],
    );
    check(
        &pod("p", &format!(", {}", annotated("egress.interceptor.io/capture-dns", "ture")), "containers: []"),
        &["Warning IST0125 Pod default/p | 'ture' | did you mean `true`?; it changes nothing"],
    );
    check(
        &deployment(&format!(", {}", annotated("egress.interceptor.io/capture-dns", "true")), ""),
        &["Warning IST0107 Deployment default/d | 'true' | Pod, Namespace"],
    );
}

#[test]
fn ist0135_deprecated() {
    let inject = annotated("sidecar.istio.io/inject", "true");
    check(
        &pod("p", &format!(", {inject}"), "containers: []"),
        &[
            "Info IST0135 Pod default/p | 'true' | deprecated in favor of the \"sidecar.istio.io/inject\" label",
        ],
    );
    check(
        &pod("p", &format!(", {inject}, labels: {{sidecar.istio.io/inject: 'true'}}"), "containers: []"),
        &[],
    );
}

#[test]
fn ist0136_alpha() {
    check(&deployment("", &annotated(EXCLUDE, "10.0.0.0/8")), &[&at_value(ALPHA, "10.0.0.0/8")]);
    check(&deployment("", &annotated("proxy.istio.io/config", "{}")), &[]);
}

#[test]
fn ist0144_user_1337() {
    check(
        &pod(
            "p",
            "",
            "securityContext: {runAsUser: 1337}, containers: [{name: c, securityContext: {runAsUser: 1337}}]",
        ),
        &[
            "Warning IST0144 Pod default/p | 1337 | User ID (UID) 1337",
            "Warning IST0144 Pod default/p | 1337 | User ID (UID) 1337",
        ],
    );
    check(
        &pod(
            "p",
            "",
            "securityContext: {runAsUser: 1338}, containers: [{name: istio-proxy, securityContext: {runAsUser: 1337}}]",
        ),
        &[],
    );
}

#[test]
fn ist0110_sidecars_for_one_workload() {
    let sidecar = |name: &str, labels: &str| {
        istio(
            "Sidecar",
            name,
            &format!("workloadSelector: {{labels: {{{labels}}}}}, egress: [{{hosts: ['*/*']}}]"),
        )
    };
    let pods = labelled("p", "app: x, v: one");
    check(
        &format!("{pods}{}{}", sidecar("a", "app: x"), sidecar("b", "v: one")),
        &[
            "Error IST0110 Sidecar default/b | b | The Sidecars [a b] in namespace \"default\" select the same workload pod \"p\"; Sidecar default/a (f.yaml:4:1) comes first",
        ],
    );
    check(&format!("{pods}{}{}", sidecar("a", "app: x"), sidecar("x/b", "v: one")), &[]);
    check(
        &format!("{pods}{}{}{}", labelled("q", "app: y"), sidecar("a", "app: x"), sidecar("b", "app: y")),
        &[],
    );
}

#[test]
fn ist0111_sidecars_for_all() {
    let sidecar = |name: &str| istio("Sidecar", name, "egress: [{hosts: ['*/*']}]");
    check(
        &format!("{}{}", sidecar("a"), sidecar("b")),
        &[
            "Error IST0111 Sidecar default/b | b | The Sidecars [a b] in namespace \"default\" have no workload selector; never acts",
        ],
    );
    check(&format!("{}{}", sidecar("a"), sidecar("x/b")), &[]);
}

#[test]
fn ist0101_an_egress_proxy_that_is_not_there() {
    let with = |proxy: &str, egress: &str| {
        let policy = format!("outboundTrafficPolicy: {{mode: ALLOW_ANY, egressProxy: {{{proxy}}}}}");
        format!("{}{}", host("proxy", "proxy.com"), istio("Sidecar", "a", &format!("{egress}{policy}")))
    };
    let proxy = "host: proxy.com, port: {number: 80}";
    for egress in ["", "egress: [{hosts: ['./proxy.com']}], ", "egress: [{hosts: ['other/*', '*/*.com']}], "]
    {
        check(&with(proxy, egress), &[]);
    }
    for (proxy, egress, words) in [
        ("host: nobody.com, port: {number: 80}", "", "has host nobody.com; 503 (NC); declare its host"),
        ("host: proxy.com, port: {number: 81}", "", "proxy.com has no port 81"),
        (proxy, "egress: [{hosts: ['other/*']}], ", "the Sidecar's egress hosts leave proxy.com out"),
    ] {
        let yaml = with(proxy, egress);
        check(&yaml, &[&format!("Error IST0101 Sidecar default/a | egressProxy | {words}")]);
    }
    let with_subset = with(&format!("{proxy}, subset: v1"), "");
    check(
        &with_subset,
        &[
            "Error IST0101 Sidecar default/a | v1 | host+subset in destinationrule not found: \"proxy.com+v1\"; 503 (NC); add the subset",
        ],
    );
    let rule = istio("DestinationRule", "d", "host: proxy.com, subsets: [{name: v1}]");
    check(&format!("{with_subset}{rule}"), &[]);
}

#[test]
fn ist0101_selectors() {
    let sidecar = istio("Sidecar", "a", "workloadSelector: {labels: {app: x}}, egress: [{hosts: ['*/*']}]");
    check(
        &format!("{sidecar}{}", labelled("p", "app: y")),
        &[
            "Error IST0101 Sidecar default/a | labels | Referenced selector not found: \"app=x\"; acts on nobody",
        ],
    );
    check(&format!("{sidecar}{}", labelled("p", "app: x")), &[]);
    // Without any pod in the input nobody knows.
    check(&sidecar, &[]);
    let gateway = gateway(
        "g",
        "selector: {istio: e}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]",
    );
    check(
        &format!("{gateway}{}", labelled("p", "istio: f")),
        &[
            "Error IST0101 Gateway default/g | selector | Referenced selector not found: \"istio=e\"; nobody listens",
        ],
    );
    check(&format!("{gateway}{}", labelled("p", "istio: e")), &[]);
}

#[test]
fn ist0167_ambient() {
    let sidecar = istio("Sidecar", "a", "workloadSelector: {labels: {app: x}}, egress: [{hosts: ['*/*']}]");
    check(
        &format!("{sidecar}{}", labelled("p", "app: x, istio.io/dataplane-mode: ambient")),
        &["Warning IST0167 Sidecar default/a | a | selected workload is in ambient mode"],
    );
    let namespace = "---\n{apiVersion: v1, kind: Namespace, metadata: {name: default, labels: {istio.io/dataplane-mode: ambient}}}\n";
    check(
        &format!("{namespace}{sidecar}{}", labelled("p", "app: x")),
        &["Warning IST0167 Sidecar default/a | a | ambient"],
    );
    check(&format!("{namespace}{sidecar}{}", labelled("p", "app: x, istio.io/dataplane-mode: none")), &[]);
}

#[test]
fn egr0114_outbound_policy_without_mode() {
    let sidecar = |policy: &str| {
        istio("Sidecar", "a", &format!("egress: [{{hosts: ['*/*']}}], outboundTrafficPolicy: {policy}"))
    };
    check(&sidecar("{}"), &["Warning EGR0114 Sidecar default/a | { | means REGISTRY_ONLY; ALLOW_ANY"]);
    check(&sidecar("{mode: ALLOW_ANY}"), &[]);
}

#[test]
fn ist0118_port_names() {
    let named = |port: &str| service("s", &format!("ports: [{{port: 8080, {port}}}]"));
    for port in ["name: web", "name: httpx", "appProtocol: example.com/x"] {
        check(
            &named(port),
            &["Info IST0118 Service default/s | PLACE | naming convention of Istio port; first bytes"
                .replace(
                    "PLACE",
                    match port {
                        "name: web" => "web",
                        "name: httpx" => "httpx",
                        _ => "{",
                    },
                )
                .as_str()],
        );
    }
    for port in [
        "name: http",
        "name: http-web",
        "name: tcp-db",
        "name: web, appProtocol: http",
        "name: dns, protocol: UDP",
    ] {
        check(&named(port), &[]);
    }
    check(&service("kube-system/s", "ports: [{port: 8080, name: web}]"), &[]);
}

#[test]
fn ist0150_external_names() {
    let external = |port: &str| {
        service(
            "s",
            &format!("type: ExternalName, externalName: a.com, ports: [{{port: 8080, name: {port}}}]"),
        )
    };
    for port in ["web", "tcp"] {
        check(
            &external(port),
            &[&format!(
                "Warning IST0150 Service default/s | {port} | Port name for ExternalName service is invalid"
            )],
        );
    }
    check(&external("http"), &[]);
}

#[test]
fn egr0101_services() {
    check(
        &service("s", "clusterIP: None, ports: [{port: 443, name: http-web}]"),
        &["Error EGR0101 Service default/s | http-web | plain HTTP"],
    );
    check(&service("s", "ports: [{port: 443, name: http-web}]"), &[]);
    check(&service("s", "clusterIP: None, ports: [{port: 443, name: https-web}]"), &[]);
}

/// Services of Kubernetes are hosts, too.
#[test]
fn services_are_destinations() {
    let rule = |host: &str| vs("v", &format!("hosts: [a.com], http: [{{{}}}]", to(host, 80)));
    let yaml = |destination: &str| {
        format!(
            "{}{}{}{}",
            host("a", "a.com"),
            service("web", "ports: [{port: 80, name: http}]"),
            rule(destination),
            dr("r", "host: web")
        )
    };
    for destination in ["web", "web.default.svc.cluster.local"] {
        check(&yaml(destination), &[]);
    }
    check(
        &yaml("wep"),
        &[
            "Error IST0101 VirtualService default/v | wep | Referenced host not found: \"wep.default.svc.cluster.local\"",
        ],
    );
}

#[test]
fn ist0173_pods() {
    let base = |labels: &str| {
        format!(
            "{}{}{}",
            service("web", "selector: {app: web}, ports: [{port: 80, name: http}]"),
            labelled("p", labels),
            dr("r", "host: web, subsets: [{name: s, labels: {v: one}}]")
        )
    };
    check(
        &base("app: web, v: two"),
        &[
            "Error IST0173 DestinationRule default/r | labels | subset s selects no endpoint of web.default.svc.cluster.local",
        ],
    );
    check(&base("app: web, v: one"), &[]);
    // Nobody knows the pods of the Service.
    check(&base("app: other"), &[]);
}
