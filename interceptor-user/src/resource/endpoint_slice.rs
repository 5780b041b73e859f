//! EndpointSlice of Kubernetes (discovery.k8s.io): at which addresses a Service is. A headless Service's clients call them
//! directly; a gateway listens on the ports that its Service leads to, and knows its like by them.

use std::net::IpAddr;
use std::sync::Arc;

use super::meta::Meta;
use super::object::Object;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    pub meta: Meta,
    /// The Service of its namespace that it is for.
    pub service: Option<Arc<str>>,
    /// Whether ready or not: whoever calls one of them means the Service.
    pub addresses: Vec<IpAddr>,
    /// By the Service's names for them, empty for a single port without one.
    pub ports: Vec<(Arc<str>, u16)>,
}

const SERVICE_NAME: &str = "kubernetes.io/service-name";

pub(super) fn read(meta: Meta, root: &Object<'_>) -> EndpointSlice {
    let endpoints = root.list("endpoints", |item| Some(item.object()?.open_quietly().texts("addresses")));
    // Those of addressType FQDN are names.
    let addresses = endpoints.iter().flatten().filter_map(|text| text.parse().ok()).collect();
    let ports = root.list("ports", |item| {
        let port = item.object()?.open_quietly();
        Some((port.text("name").unwrap_or_else(|| "".into()), port.get("port")?.port()?))
    });
    EndpointSlice { ports, service: meta.labels.get(SERVICE_NAME).cloned(), addresses, meta }
}
