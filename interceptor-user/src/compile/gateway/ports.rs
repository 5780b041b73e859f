//! On which port a gateway listens for a server's: behind a Service, on the targetPort (Istio's resolvePorts).

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::compile::Client;
use crate::resource::service::{KubernetesPort, TargetPort};
use crate::resource::{EndpointSlice, Service, World};

/// The Services that lead to this gateway.
pub(super) struct Targets<'a> {
    world: &'a World,
    services: Vec<&'a Arc<Service>>,
}

/// The Services that lead to `client`: of its namespace, and selecting its labels.
pub(super) fn leading_to<'a>(world: &'a World, client: &Client) -> impl Iterator<Item = &'a Arc<Service>> {
    world.services().filter(|service| {
        *service.meta.namespace() == client.namespace
            && !service.selector.is_empty()
            && client.has_labels(&service.selector)
    })
}

pub(super) fn slices<'a>(
    world: &'a World,
    service: &Service,
) -> impl Iterator<Item = &'a Arc<EndpointSlice>> {
    world.endpoint_slices().filter(|slice| {
        slice.meta.namespace() == service.meta.namespace()
            && slice.service.as_ref() == Some(service.meta.name())
    })
}

impl<'a> Targets<'a> {
    pub(super) fn of(world: &'a World, client: &Client) -> Self {
        Self { world, services: leading_to(world, client).collect() }
    }

    /// Itself, when no Service has the port.
    pub(super) fn of_port(&self, number: u16) -> BTreeSet<u16> {
        let ports = self.services.iter().flat_map(|service| {
            let named = service.ports.iter().filter(|port| port.number == number);
            named.filter_map(|port| self.target(service, port))
        });
        let targets: BTreeSet<u16> = ports.collect();
        if targets.is_empty() { [number].into() } else { targets }
    }

    /// What a name stands for is in the Service's EndpointSlices; `None` when it isn't there (yet).
    fn target(&self, service: &Service, port: &KubernetesPort) -> Option<u16> {
        match &port.target_port {
            None => Some(port.number),
            Some(TargetPort::Number(number)) => Some(*number),
            Some(TargetPort::Name(_)) => {
                let ports = slices(self.world, service).flat_map(|slice| &slice.ports);
                ports.filter(|(name, _)| *name == port.name).map(|(_, number)| *number).next()
            }
        }
    }
}
