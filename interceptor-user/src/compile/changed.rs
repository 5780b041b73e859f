//! Which parts of a compile a changed world concerns.

use std::sync::Arc;

use crate::resource::virtual_service::HttpAction;
use crate::resource::{DestinationRule, Kind, Resource, ServiceEntry, VirtualService, World};

/// What has to be looked at again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) entries: Vec<Turned<ServiceEntry>>,
    pub(super) destination_rules: Vec<Turned<DestinationRule>>,
    /// Something else than these and routes.
    pub(super) others: bool,
    pub(super) registry: bool,
    pub(super) rules: bool,
    pub(super) virtual_services: VirtualServiceChanges,
    /// A VirtualService with tls or tcp routes came, went or changed.
    pub(super) l4_routes: bool,
}

/// A resource as it was, and as it is.
pub(super) type Turned<T> = (Option<Arc<T>>, Option<Arc<T>>);

/// What has become of VirtualServices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum VirtualServiceChanges {
    /// Mostly of none.
    Routes {
        /// These are otherwise now, and it concerns nothing but their own http routes.
        replaced: Vec<Replaced>,
        /// These came, went, or are about another host, and it concerns nothing but the http routes of these hosts.
        turned: Vec<Turned<VirtualService>>,
    },
    Any,
}

/// A VirtualService as it was, and as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replaced {
    pub(super) old: Arc<VirtualService>,
    pub(super) new: Arc<VirtualService>,
}

impl Default for VirtualServiceChanges {
    fn default() -> Self {
        Self::Routes { replaced: Vec::new(), turned: Vec::new() }
    }
}

impl Changed {
    pub(super) const ALL: Self = Self {
        entries: Vec::new(),
        destination_rules: Vec::new(),
        others: true,
        registry: true,
        rules: true,
        virtual_services: VirtualServiceChanges::Any,
        l4_routes: true,
    };

    /// What is different between two worlds.
    pub(super) fn between(before: &World, after: &World) -> Self {
        let mut changed = Self::default();
        before.resources.changes(&after.resources, |gone, come| {
            if changed.routed(gone, come) || changed.turned(gone, come) {
                return;
            }
            gone.into_iter().chain(come).for_each(|resource| changed.note(resource));
        });
        changed
    }

    /// Takes up what has become of a VirtualService, where it concerns http routes alone.
    fn routed(&mut self, gone: Option<&Resource>, come: Option<&Resource>) -> bool {
        let VirtualServiceChanges::Routes { replaced, turned } = &mut self.virtual_services else {
            return false;
        };
        if let Some(of_routes) = gone.zip(come).and_then(|(gone, come)| Replaced::of(gone, come)) {
            replaced.push(of_routes);
            return true;
        }
        let one_of = |resource: Option<&Resource>| resource.map(of_one_host);
        // The one that is not there is as good as one that is followed.
        match (one_of(gone), one_of(come)) {
            (Some(None), _) | (_, Some(None)) => false,
            (gone, come) => {
                turned.push((gone.flatten(), come.flatten()));
                true
            }
        }
    }

    /// Takes up what has become of an entry or a rule.
    #[expect(clippy::wildcard_enum_match_arm, reason = "one kind each")]
    fn turned(&mut self, gone: Option<&Resource>, come: Option<&Resource>) -> bool {
        let entry = |resource: &Resource| match resource {
            Resource::ServiceEntry(entry) => Some(Arc::clone(entry)),
            _ => None,
        };
        let rule = |resource: &Resource| match resource {
            Resource::DestinationRule(rule) => Some(Arc::clone(rule)),
            _ => None,
        };
        match gone.or(come) {
            Some(Resource::ServiceEntry(_)) => {
                self.registry = true;
                self.entries.push((gone.and_then(entry), come.and_then(entry)));
                true
            }
            Some(Resource::DestinationRule(_)) => {
                self.rules = true;
                self.destination_rules.push((gone.and_then(rule), come.and_then(rule)));
                true
            }
            _ => false,
        }
    }

    fn note(&mut self, resource: &Resource) {
        if let Resource::VirtualService(service) = resource {
            self.l4_routes |= !service.tls.is_empty() || !service.tcp.is_empty();
        }
        match resource.meta().key.kind {
            Kind::VirtualService => {
                self.others = true;
                self.virtual_services = VirtualServiceChanges::Any;
            }
            // What has become of one is known.
            Kind::ServiceEntry | Kind::DestinationRule => {}
            Kind::Gateway
            | Kind::Secret
            | Kind::Deployment
            | Kind::StatefulSet
            | Kind::DaemonSet
            | Kind::ReplicaSet
            | Kind::Job
            | Kind::CronJob => {}
            // They say who is seen by whom, and where it is.
            Kind::Sidecar
            | Kind::WorkloadEntry
            | Kind::WorkloadGroup
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::Pod
            | Kind::Namespace => *self = Self::ALL,
        }
    }
}

impl Replaced {
    /// `None` where it concerns more than http routes: who sees it, to which hosts it applies, what delegates to it.
    fn of(gone: &Resource, come: &Resource) -> Option<Self> {
        let (Resource::VirtualService(old), Resource::VirtualService(new)) = (gone, come) else {
            return None;
        };
        let same_hosts =
            || old.hosts.iter().map(|host| &host.value).eq(new.hosts.iter().map(|host| &host.value));
        let of_routes = old.meta.creation_timestamp == new.meta.creation_timestamp
            && old.gateways == new.gateways
            && old.export_to == new.export_to
            && same_hosts()
            && [old, new].into_iter().all(|service| is_plain(service));
        of_routes.then(|| Self { old: Arc::clone(old), new: Arc::clone(new) })
    }
}

/// Whether it has nothing but http routes of its own.
fn is_plain(service: &VirtualService) -> bool {
    let is_delegate = |action: &HttpAction| matches!(action, HttpAction::Delegate { .. });
    let delegates = service.is_delegate() || service.http.iter().any(|route| is_delegate(&route.action));
    !delegates && service.tls.is_empty() && service.tcp.is_empty()
}

/// A VirtualService with nothing but http routes for a single host without wildcard.
fn of_one_host(resource: &Resource) -> Option<Arc<VirtualService>> {
    let Resource::VirtualService(service) = resource else { return None };
    let is_one = matches!(&service.hosts[..], [host] if !host.value.starts_with('*'));
    (is_one && is_plain(service)).then(|| Arc::clone(service))
}
