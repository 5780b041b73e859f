//! Which parts of a compile a changed world concerns.

use crate::resource::{Kind, Resource, ResourceKey, World};

/// What has to be looked at again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) registry: bool,
    pub(super) rules: bool,
    pub(super) virtual_services: bool,
    /// A VirtualService with tls or tcp routes came, went or changed.
    pub(super) l4_routes: bool,
}

impl Changed {
    pub(super) const ALL: Self =
        Self { registry: true, rules: true, virtual_services: true, l4_routes: true };

    /// What is different between two worlds. Unchanged resources are the same `Arc`s mostly, so that this
    /// compares pointers.
    pub(super) fn between(before: &World, after: &World) -> Self {
        let mut changed = Self::default();
        let (mut old, mut new) = (before.resources.iter().peekable(), after.resources.iter().peekable());
        loop {
            // Most are the very same: then their keys need no comparing.
            if let (Some((_, one)), Some((_, other))) = (old.peek(), new.peek())
                && one.is(other)
            {
                old.next();
                new.next();
                continue;
            }
            let order = match (old.peek(), new.peek()) {
                (None, None) => return changed,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((old, _)), Some((new, _))) => old.cmp(new),
            };
            let gone = order.is_le().then(|| old.next()).flatten();
            let come = order.is_ge().then(|| new.next()).flatten();
            match (gone, come) {
                (Some((_, old)), Some((_, new))) if old == new => {}
                (None, None) => return changed,
                (gone, come) => {
                    gone.into_iter().chain(come).for_each(|(key, resource)| changed.note(key, resource))
                }
            }
        }
    }

    fn note(&mut self, key: &ResourceKey, resource: &Resource) {
        if let Resource::VirtualService(service) = resource {
            self.l4_routes |= !service.tls.is_empty() || !service.tcp.is_empty();
        }
        match key.kind {
            Kind::VirtualService => self.virtual_services = true,
            Kind::DestinationRule => self.rules = true,
            Kind::Gateway
            | Kind::Secret
            | Kind::Deployment
            | Kind::StatefulSet
            | Kind::DaemonSet
            | Kind::ReplicaSet
            | Kind::Job
            | Kind::CronJob => {}
            // They say who is seen by whom, and where it is.
            Kind::ServiceEntry
            | Kind::Sidecar
            | Kind::WorkloadEntry
            | Kind::WorkloadGroup
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::Pod
            | Kind::Namespace => *self = Self::ALL,
        }
    }
}
