//! `interceptor agent` with real pods: cgroups as the kubelet lays them out, processes in network namespaces.

mod around;
mod asked;
mod capture_dns;
mod churn;
mod container;
mod descriptors;
mod enforced;
mod enrolment;
mod full;
mod identity;
mod interfaces;
mod kubernetes;
mod load;
mod many;
mod race;
mod restart;
mod silent;
mod tls_files;
mod unix_endpoints;
mod upgrade;
mod vanished;

/// A ServiceEntry, which makes port 80 one that speaks HTTP.
const HTTPBIN: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: httpbin, namespace: shop}\n\
    spec: {hosts: [httpbin.org], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}\n";
