//! Services that may lead out of the cluster although they have an address inside: those of whose endpoints somebody says
//! what they are. Where the egress gateway is enforced they are no way.
//!
//! Kubernetes finds a Service's endpoints by its selector, among pods, whose addresses their authors don't choose. Who may
//! write Endpoints or EndpointSlices can put any address beside them, or into a Service without a selector.

use std::collections::HashSet;

use crate::resource::World;

/// On every slice, by whoever keeps it up. Its controller removes a slice that only pretends to be one of its own.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";

/// The API server's own Service, which has no selector: the server itself says where it is.
const API_SERVER: (&str, &str) = ("default", "kubernetes");

/// Namespaces and names of such Services.
#[derive(Debug, Default)]
pub(super) struct HandMade<'a>(HashSet<(&'a str, &'a str)>);

impl<'a> HandMade<'a> {
    pub(super) fn of(world: &'a World) -> Self {
        let without_selector = world.services().filter(|service| service.selector.is_empty());
        let without_selector =
            without_selector.map(|service| (&**service.meta.namespace(), &**service.meta.name()));
        let slices = world.endpoint_slices().filter(|slice| {
            slice.meta.labels.get(MANAGED_BY).is_none_or(|managed_by| **managed_by != *CONTROLLER)
        });
        let with_slices =
            slices.filter_map(|slice| Some((&**slice.meta.namespace(), &**slice.service.as_ref()?)));
        Self(without_selector.chain(with_slices).filter(|service| *service != API_SERVER).collect())
    }

    pub(super) fn has(&self, namespace: &str, name: &str) -> bool {
        self.0.contains(&(namespace, name))
    }
}
