//! Which labels of a client anything looks at. Clients that differ in others only get the same snapshot.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Client;
use crate::resource::World;

/// The label that says where a client is, whatever resources there are.
pub(super) const LOCALITY: &str = "istio-locality";

/// The names of the labels by which resources of a world tell clients apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientLabels(BTreeSet<Arc<str>>);

impl ClientLabels {
    pub fn of(world: &World) -> Self {
        let mut names: BTreeSet<Arc<str>> = [LOCALITY.into()].into();
        let sidecars = world.sidecars().filter_map(|sidecar| sidecar.workload_selector.as_ref());
        let rules = world.destination_rules().filter_map(|rule| rule.workload_selector.as_ref());
        names.extend(sidecars.chain(rules).flat_map(|labels| labels.keys().cloned()));
        for service in world.virtual_services() {
            let http = service.http.iter().flat_map(|route| &route.matches).map(|matched| &matched.source);
            let tls = service.tls.iter().flat_map(|route| &route.matches).map(|matched| &matched.source);
            let tcp = service.tcp.iter().flat_map(|route| &route.matches).map(|matched| &matched.source);
            names.extend(http.chain(tls).chain(tcp).flat_map(|source| source.labels.keys().cloned()));
        }
        Self(names)
    }

    /// The client without the labels that nothing looks at.
    #[must_use]
    pub fn reduce(&self, client: &Client) -> Client {
        let mut client = client.clone();
        client.labels.retain(|name, _| self.0.contains(name));
        client
    }
}
