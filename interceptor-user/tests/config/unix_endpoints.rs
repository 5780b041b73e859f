//! Unix sockets of the node are endpoints where they were allowed.

use std::path::PathBuf;
use std::sync::Arc;

use interceptor_user::compile::{Client, CompileSettings, Compiler, NodePaths, compile};
use interceptor_user::resource::Diagnostic;
use interceptor_user::snapshot::{ClusterName, Discovery, Snapshot};

use crate::support::{shown, world};

const ENTRY: &str = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: se, namespace: shop}
spec:
  hosts: [a.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints:
  - {address: 'unix:///run/docker.sock', labels: {version: v1}}
  - {address: 'unix:///run/sidecars/../docker.sock'}
  - {address: 'unix:///run/sidecars/a.sock'}
  - {address: 'unix://@docker'}
  - {address: 10.0.0.1}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: dr, namespace: shop}
spec: {host: a.example.com, subsets: [{name: v1, labels: {version: v1}}]}
";

const SELECTED: &str = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: vms, namespace: shop}
spec:
  hosts: [vms.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  workloadSelector: {labels: {app: vm}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: local, namespace: shop}
spec: {address: 'unix:///run/containerd/containerd.sock', labels: {app: vm}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: unselected, namespace: shop}
spec: {address: 'unix:///run/docker.sock', labels: {app: other}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: remote, namespace: shop}
spec: {address: 10.0.0.2, labels: {app: vm}}
";

fn settings(unix_endpoints: NodePaths) -> CompileSettings {
    CompileSettings { client: Client::in_namespace("shop"), unix_endpoints, ..CompileSettings::default() }
}

fn below(directory: &str) -> NodePaths {
    NodePaths::Below(vec![PathBuf::from(directory)])
}

fn endpoints(snapshot: &Snapshot, subset: &str, host: &str) -> Vec<String> {
    let cluster = snapshot.clusters.get(&ClusterName::outbound(80, subset, host)).expect("a cluster");
    let Discovery::Static(endpoints) = &cluster.discovery else { panic!("{:?}", cluster.discovery) };
    endpoints.iter().map(|endpoint| endpoint.address.written()).collect()
}

fn refused(findings: &[Diagnostic]) -> Vec<&Diagnostic> {
    findings.iter().filter(|finding| finding.code == Some("EGR0124")).collect()
}

#[test]
fn paths_are_used_where_they_were_allowed() {
    let (docker, around, sidecar) =
        ("unix:///run/docker.sock", "unix:///run/sidecars/../docker.sock", "unix:///run/sidecars/a.sock");
    let (own, address) = ("unix://@docker", "10.0.0.1:80");
    let world = world(ENTRY).0;
    for (allowed, all, of_subset) in [
        (NodePaths::Any, &[docker, around, sidecar, own, address][..], &[docker][..]),
        (below("/run/sidecars"), &[sidecar, own, address], &[]),
        (below("/run"), &[docker, sidecar, own, address], &[docker]),
        (NodePaths::default(), &[own, address], &[]),
    ] {
        let (snapshot, findings) = compile(&world, &settings(allowed));
        assert_eq!(endpoints(&snapshot, "", "a.example.com"), all);
        // Nobody is left, and the cluster stands: 503, not another way out.
        assert_eq!(endpoints(&snapshot, "v1", "a.example.com"), of_subset);
        assert_eq!(refused(&findings).len(), 5 - all.len());
    }
}

#[test]
fn what_is_left_out_is_told_where_it_stands() {
    let (snapshot, findings) = compile(&world(ENTRY).0, &settings(below("/run/sidecars")));
    let told = shown(&findings);
    assert!(
        told.starts_with(
            "test.yaml:9:5: error: [EGR0124] ServiceEntry shop/se: spec.endpoints[0].address: \
             unix:///run/docker.sock is a socket of the node, and --allow-unix-endpoints allows /run/sidecars; "
        ),
        "{told}"
    );
    assert!(told.contains("the endpoint is left out") && told.contains("start the agent with"), "{told}");
    assert!(!snapshot.clusters.is_empty());

    let (snapshot, findings) = compile(&world(SELECTED).0, &settings(NodePaths::default()));
    let told = shown(&findings);
    assert_eq!(refused(&findings).len(), 1, "{told}");
    assert!(
        told.contains("WorkloadEntry shop/local: spec.address: unix:///run/containerd/containerd.sock"),
        "{told}"
    );
    assert!(told.contains("allows nothing"), "{told}");
    assert_eq!(endpoints(&snapshot, "", "vms.example.com"), ["10.0.0.2:80"]);
}

#[test]
fn who_does_not_see_an_entry_is_not_told_of_its_endpoints() {
    let hidden = ENTRY.replace("spec:\n  hosts", "spec:\n  exportTo: ['.']\n  hosts");
    let other = CompileSettings { client: Client::in_namespace("other"), ..CompileSettings::default() };
    assert_eq!(refused(&compile(&world(&hidden).0, &other).1), [] as [&Diagnostic; 0]);
    assert_eq!(refused(&compile(&world(ENTRY).0, &other).1).len(), 3);
}

#[test]
fn a_compile_that_reuses_the_one_before_tells_the_same() {
    let mut compiler = Compiler::new(settings(NodePaths::default()));
    let (first, of_first) = compiler.compile(&Arc::new(world(ENTRY).0));
    let more = format!(
        "{ENTRY}---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: vs, namespace: shop}}\n\
         spec: {{hosts: [a.example.com], http: [{{timeout: 1s, route: [{{destination: {{host: a.example.com}}}}]}}]}}\n"
    );
    let (second, of_second) = compiler.compile(&Arc::new(world(&more).0));
    assert_eq!(refused(&of_first), refused(&of_second));
    assert_eq!(endpoints(&first, "", "a.example.com"), endpoints(&second, "", "a.example.com"));
}
