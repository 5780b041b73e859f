//! A Kubernetes Service as the registry has it: an entry for `name.namespace.svc.cluster.local`.

use std::net::IpAddr;
use std::sync::Arc;

use super::workloads::Workloads;
use crate::resource::service::{KubernetesPort, ServiceType};
use crate::resource::service_entry::{AddressRange, Location, Resolution, ServicePort, WorkloadEntry};
use crate::resource::{Kind, Labels, Position, Service, ServiceEntry, Spanned};

const DOMAIN: &str = "svc.cluster.local";

pub(super) fn entry(service: &Service, workloads: &Workloads<'_>) -> ServiceEntry {
    let position = service.meta.origin.position;
    let host: Arc<str> = format!("{}.{}.{DOMAIN}", service.meta.name(), service.meta.namespace()).into();
    let address = |address: &IpAddr| {
        let prefix_len = if address.is_ipv4() { 32 } else { 128 };
        Spanned { value: AddressRange { address: *address, prefix_len }, position }
    };
    let of_slices = workloads.of_slices(service).filter(|_| service.headless);
    let nobody_is_there = of_slices.as_ref().is_some_and(Vec::is_empty);
    let addresses = match &service.kind {
        ServiceType::ExternalName(_) => Vec::new(),
        // Its pods are called by their own addresses.
        ServiceType::ClusterIp if service.headless => {
            let addresses = of_slices.unwrap_or_else(|| selected(service, workloads));
            addresses.iter().map(address).collect()
        }
        ServiceType::ClusterIp => service.cluster_ips.iter().map(address).collect(),
    };
    let (resolution, endpoints) = match &service.kind {
        ServiceType::ExternalName(name) => (Resolution::Dns, vec![endpoint(Arc::clone(name), position)]),
        // Without an address it would take every connection of its ports.
        ServiceType::ClusterIp if nobody_is_there => (Resolution::Static, Vec::new()),
        ServiceType::ClusterIp if service.headless => (Resolution::None, Vec::new()),
        ServiceType::ClusterIp => match service.cluster_ips.first() {
            // kube-proxy, or what stands for it, chooses the pod.
            Some(address) => (Resolution::Static, vec![endpoint(address.to_string().into(), position)]),
            None => (Resolution::Dns, vec![endpoint(Arc::clone(&host), position)]),
        },
    };
    ServiceEntry {
        refused: false,
        meta: service.meta.clone(),
        hosts: vec![Spanned { value: host, position }],
        addresses,
        ports: service.ports.iter().map(port).collect(),
        resolution,
        endpoints,
        workload_selector: None,
        export_to: service.export_to.clone(),
        subject_alt_names: Vec::new(),
        location: Location::Internal,
        allocated_addresses: Vec::new(),
    }
}

/// The addresses of the pods that are known, where no EndpointSlice tells: in files that people wrote.
fn selected(service: &Service, workloads: &Workloads<'_>) -> Vec<IpAddr> {
    let pods = workloads.pods(service.meta.namespace());
    let selected =
        pods.filter(|pod| !service.selector.is_empty() && has(&pod.meta.labels, &service.selector));
    selected.flat_map(|pod| pod.addresses.iter().copied()).collect()
}

fn has(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// Whom `targetPort` names is kube-proxy's business.
fn port(port: &KubernetesPort) -> ServicePort {
    let KubernetesPort { name, number, protocol, target_port: _, position } = port;
    ServicePort {
        number: *number,
        name: Arc::clone(name),
        protocol: *protocol,
        target_port: None,
        position: *position,
    }
}

fn endpoint(address: Arc<str>, position: Position) -> WorkloadEntry {
    WorkloadEntry { position, ..WorkloadEntry::at(address) }
}

pub(super) fn is_kubernetes(entry: &ServiceEntry) -> bool {
    entry.meta.key.kind == Kind::Service
}

/// The shorter names that a client in `namespace` may use for the same Service.
pub(super) fn aliases(entry: &ServiceEntry, namespace: &str) -> Vec<String> {
    if !is_kubernetes(entry) {
        return Vec::new();
    }
    let (name, home) = (entry.meta.name(), entry.meta.namespace());
    let mut aliases = vec![format!("{name}.{home}.svc"), format!("{name}.{home}")];
    if **home == *namespace {
        aliases.push(name.to_string());
    }
    aliases
}
