//! The endpoints of entries with a workloadSelector: WorkloadEntries and Pods of the same namespace. Also where
//! headless Services are.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::hash::HashMap;
use crate::resource::service_entry::{Resolution, WorkloadEntry as Endpoint};
use crate::resource::{Labels, Pod, Service, ServiceEntry, UnixPath, WorkloadEntry, World};

/// By namespace, each in the order of their names.
#[derive(Debug, Default)]
pub(super) struct Workloads<'a> {
    entries: HashMap<&'a str, Vec<&'a WorkloadEntry>>,
    pods: HashMap<&'a str, Vec<&'a Arc<Pod>>>,
    /// What EndpointSlices say, by namespace and name of the Service.
    slices: HashMap<(&'a str, &'a str), BTreeSet<IpAddr>>,
}

impl<'a> Workloads<'a> {
    pub(super) fn new(world: &'a World) -> Self {
        let mut workloads = Self::default();
        for entry in world.workload_entries() {
            workloads.entries.entry(entry.meta.namespace()).or_default().push(entry);
        }
        // One without an address takes no connections.
        for pod in world.pods().filter(|pod| !pod.addresses.is_empty()) {
            workloads.pods.entry(pod.meta.namespace()).or_default().push(pod);
        }
        for slice in world.endpoint_slices() {
            let Some(service) = &slice.service else { continue };
            let addresses = workloads.slices.entry((slice.meta.namespace(), service)).or_default();
            addresses.extend(&slice.addresses);
        }
        workloads
    }

    /// The addresses in the Service's EndpointSlices; `None` when it has none.
    pub(super) fn of_slices(&self, service: &Service) -> Option<Vec<IpAddr>> {
        let addresses = self.slices.get(&(&**service.meta.namespace(), &**service.meta.name()))?;
        Some(addresses.iter().copied().collect())
    }

    pub(super) fn pods(&self, namespace: &str) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.pods.get(namespace).into_iter().flatten().copied()
    }

    /// The entry with the endpoints that it selects.
    pub(super) fn fill(&self, entry: &Arc<ServiceEntry>) -> Arc<ServiceEntry> {
        let Some(wanted) = &entry.workload_selector else { return Arc::clone(entry) };
        let namespace = &**entry.meta.namespace();
        let of_entries = self.entries.get(namespace).into_iter().flatten();
        let of_entries =
            of_entries.map(|workload| &workload.endpoint).filter(|endpoint| has(&endpoint.labels, wanted));
        // Names can be looked up, where the entry looks up names; a unix socket has none.
        let by_name = matches!(entry.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
        let usable = |endpoint: &&Endpoint| match UnixPath::of_address(&endpoint.address) {
            Some(_) => entry.resolution == Resolution::Static,
            None => by_name || endpoint.address.parse::<IpAddr>().is_ok(),
        };
        let mut endpoints: Vec<Endpoint> = of_entries.filter(usable).cloned().collect();
        let pods = self.pods(namespace).filter(|pod| has(&pod.meta.labels, wanted));
        endpoints.extend(pods.filter_map(|pod| {
            let address = pod.addresses.first()?;
            Some(Endpoint { labels: pod.meta.labels.clone(), ..Endpoint::at(address.to_string().into()) })
        }));
        Arc::new(ServiceEntry { endpoints, ..(**entry).clone() })
    }
}

fn has(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}
