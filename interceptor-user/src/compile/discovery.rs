//! Where the endpoints of a cluster come from: the service's resolution, and what of its endpoints a subset
//! selects.

use std::net::SocketAddr;
use std::sync::Arc;

use super::NodePaths;
use super::registry::Service;
use super::unix_endpoints;
use crate::resource::service_entry::{Resolution, ServicePort, WorkloadEntry};
use crate::resource::{Labels, UnixPath};
use crate::snapshot::{Discovery, DnsTarget, Endpoint, Placement};

/// Endpoints that have all of `labels`, and where each is, as `place` has it. `None` when the name of no
/// endpoint is known: no cluster then.
pub(super) fn of(
    (service, port): (&Service, &ServicePort),
    labels: Option<&Labels>,
    allowed: &NodePaths,
    place: impl FnOnce(&[&WorkloadEntry]) -> Vec<Option<Placement>>,
) -> Option<(Discovery, Vec<Placement>)> {
    let entry = &service.entry;
    let default_port = port.target_port.unwrap_or(port.number);
    let port_of = |endpoint: &WorkloadEntry| endpoint.ports.get(&port.name).copied().unwrap_or(default_port);
    let selected = |endpoint: &&WorkloadEntry| {
        labels.is_none_or(|labels| labels.iter().all(|(key, value)| endpoint.labels.get(key) == Some(value)))
    };
    let endpoints: Vec<&WorkloadEntry> = entry
        .endpoints
        .iter()
        .filter(selected)
        .filter(|endpoint| unix_endpoints::allows(allowed, &endpoint.address))
        .collect();
    let is_empty = endpoints.is_empty();
    let placements = place(&endpoints);
    let placed = endpoints.into_iter().zip(placements);
    let placed = placed.filter_map(|(endpoint, placement)| Some((endpoint, placement?)));

    let address = |(endpoint, placement): (&WorkloadEntry, Placement)| {
        let address = match UnixPath::of_address(&endpoint.address) {
            Some(path) => path.ok()?.into(),
            None => SocketAddr::new(endpoint.address.parse().ok()?, port_of(endpoint)).into(),
        };
        Some((Endpoint { address, weight: endpoint.weight }, placement))
    };
    let target = |(endpoint, placement): (&WorkloadEntry, Placement)| {
        let (host, weight) = (Arc::clone(&endpoint.address), endpoint.weight);
        (DnsTarget { host, port: port_of(endpoint), weight }, placement)
    };
    let is_its_own_endpoint = entry.endpoints.is_empty() && entry.workload_selector.is_none();
    let own_name = (is_its_own_endpoint && labels.is_none()).then(|| {
        let host = Arc::clone(&service.host);
        (DnsTarget { host, port: default_port, weight: 1 }, Placement::default())
    });
    Some(match entry.resolution {
        Resolution::None => (Discovery::OriginalDst { port: port.target_port }, Vec::new()),
        Resolution::Static => {
            let (endpoints, placements) = placed.filter_map(address).unzip();
            (Discovery::Static(endpoints), unless_alike(placements))
        }
        Resolution::Dns => {
            if is_empty && own_name.is_none() {
                return None;
            }
            let (mut targets, placements): (Vec<_>, Vec<_>) = placed.map(target).chain(own_name).unzip();
            targets.shrink_to_fit();
            (Discovery::StrictDns(targets), unless_alike(placements))
        }
        Resolution::DnsRoundRobin => {
            let (target, _) = placed.map(target).chain(own_name).next()?;
            (Discovery::LogicalDns(target), Vec::new())
        }
        Resolution::DynamicDns => (Discovery::DynamicDns { port: Some(default_port) }, Vec::new()),
    })
}

/// Nothing where all are in one place, as is usual.
fn unless_alike(placements: Vec<Placement>) -> Vec<Placement> {
    let alike = placements.iter().all(|placement| *placement == Placement::default());
    if alike { Vec::new() } else { placements }
}
