//! What is put into the cluster beside the agent.

use super::{AGENT, INSIDE, OUTSIDE, TAG};

/// The Secret that a DestinationRule names.
pub(super) const CREDENTIAL: &str = "outside";
/// A label of what was made because it was not there.
pub(super) const OWN: &str = "egress.interceptor.io/e2e";
/// Istio's kinds that the scenarios need.
pub(super) const KINDS: &[(&str, &str)] = &[
    ("serviceentries", "ServiceEntry"),
    ("virtualservices", "VirtualService"),
    ("destinationrules", "DestinationRule"),
];
/// A host that is registered, one that is not, and one that is reached over TLS.
pub(super) const REGISTERED: &str = "registered.e2e.test";
pub(super) const UNKNOWN: &str = "unknown.e2e.test";
pub(super) const SECURE: &str = "outside.e2e.test";

pub(super) fn namespace(name: &str, label: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels:\n    {label}\n")
}

pub(super) fn namespaces() -> String {
    [
        namespace(AGENT, "pod-security.kubernetes.io/enforce: privileged"),
        namespace(INSIDE, "egress.interceptor.io/enroll: enabled"),
        namespace(OUTSIDE, "egress.interceptor.io/enroll: disabled"),
    ]
    .join("---\n")
}

pub(super) fn crd(plural: &str, kind: &str) -> String {
    let singular = kind.to_lowercase();
    format!(
        "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: {plural}.networking.istio.io
  labels:
    {OWN}: \"true\"
spec:
  group: networking.istio.io
  scope: Namespaced
  names: {{plural: {plural}, singular: {singular}, kind: {kind}, listKind: {kind}List}}
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec: {{type: object, x-kubernetes-preserve-unknown-fields: true}}
"
    )
}

fn pod(namespace: &str, name: &str, node: &str, arguments: &str, more: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: interceptor-e2e:{TAG}
      imagePullPolicy: Never
      args: [{arguments}]
{more}"
    )
}

pub(super) fn server(node: &str) -> String {
    let probe = "      readinessProbe:\n        tcpSocket: {port: 443}\n        periodSeconds: 1\n";
    pod(OUTSIDE, "server", node, "serve", probe)
}

/// `arguments` come after `hold`: what it asks for in its first moment.
pub(super) fn client(node: &str, name: &str, arguments: &str) -> String {
    pod(INSIDE, name, node, &format!("hold{arguments}"), "")
}

fn service_entry(name: &str, host: &str, port: &str, address: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: {INSIDE}}}
spec:
  hosts: [{host}]
  ports: [{port}]
  resolution: STATIC
  endpoints: [{{address: {address}}}]
"
    )
}

pub(super) fn registered(address: &str) -> String {
    service_entry("registered", REGISTERED, "{number: 80, name: http, protocol: HTTP}", address)
}

pub(super) fn timeout() -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: timeout, namespace: {INSIDE}}}
spec:
  hosts: [{REGISTERED}]
  http: [{{timeout: 1s, route: [{{destination: {{host: {REGISTERED}}}}}]}}]
"
    )
}

/// `certificate` is the server's own, in PEM.
pub(super) fn tls_origination(address: &str, certificate: &str) -> String {
    let entry =
        service_entry("secure", SECURE, "{number: 80, name: http, protocol: HTTP, targetPort: 443}", address);
    let lines: Vec<String> = certificate.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "{entry}---
apiVersion: v1
kind: Secret
metadata: {{name: {CREDENTIAL}, namespace: {INSIDE}}}
stringData:
  ca.crt: |
{}---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: secure, namespace: {INSIDE}}}
spec:
  host: {SECURE}
  trafficPolicy:
    portLevelSettings:
      - port: {{number: 80}}
        tls: {{mode: SIMPLE, credentialName: {CREDENTIAL}, sni: {SECURE}}}
",
        lines.concat()
    )
}
