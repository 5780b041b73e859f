//! What a client sees: exportTo, and the Sidecar that its namespace or the mesh has for it (Istio's
//! pilot/pkg/model/sidecar.go).

use std::net::IpAddr;
use std::sync::Arc;

use super::findings::Findings;
use super::{Client, CompileSettings, Role};
use crate::resource::mesh_config::OutboundTrafficPolicyMode;
use crate::resource::service_entry::{Protocol, ServiceEntry};
use crate::resource::sidecar::{CaptureMode, EgressHost, EgressListener};
use crate::resource::{Level, MeshConfig, Sidecar, VirtualService, World, host};

/// The view of one client.
#[derive(Debug)]
pub(crate) struct Scope<'a> {
    pub(super) client: &'a Client,
    mesh: &'a MeshConfig,
    /// `None`: everything that is exported.
    pub(crate) sidecar: Option<Arc<Sidecar>>,
    /// Those that may be meant for the client, too: see [`Sidecar::is_for_unknown`].
    doubtful: Vec<Arc<Sidecar>>,
}

/// How a service comes into a client's view.
#[derive(Clone, Copy, Debug)]
pub(super) struct Import<'a> {
    /// `None` without a Sidecar that names hosts.
    pub(super) listener: Option<&'a EgressListener>,
}

impl<'a> Scope<'a> {
    pub(crate) fn new(world: &'a World, client: &'a Client) -> Self {
        let sidecar = sidecar_of(world, client).cloned();
        let is_own = |sidecar: &Sidecar| *sidecar.meta.namespace() == client.namespace;
        let has_own = sidecar.as_deref().is_some_and(is_own);
        let may_be_for_all = |sidecar: &Sidecar| {
            !has_own
                && sidecar.workload_selector.is_none()
                && *sidecar.meta.namespace() == world.mesh.root_namespace
        };
        let doubtful = world.sidecars().filter(|sidecar| sidecar.is_for_unknown);
        let doubtful =
            doubtful.filter(|sidecar| is_own(sidecar) || may_be_for_all(sidecar)).cloned().collect();
        Self { client, mesh: &world.mesh, sidecar, doubtful }
    }

    /// The Sidecar whose outboundTrafficPolicy counts, if it has one.
    pub(crate) fn sidecar_of_policy(&self) -> Option<&Sidecar> {
        let blocks = |sidecar: &&Arc<Sidecar>| {
            sidecar.outbound_traffic_policy == Some(OutboundTrafficPolicyMode::RegistryOnly)
        };
        self.doubtful.iter().find(blocks).or(self.sidecar.as_ref()).map(|sidecar| &**sidecar)
    }

    /// The view of whoever a snapshot is made for. No Sidecar acts on a gateway.
    pub(crate) fn of(world: &'a World, settings: &'a CompileSettings) -> Self {
        match settings.role {
            Role::Workload => Self::new(world, &settings.client),
            Role::Gateway { .. } => {
                Self { client: &settings.client, mesh: &world.mesh, sidecar: None, doubtful: Vec::new() }
            }
        }
    }

    /// Tells what its Sidecar says that can't act here.
    pub(super) fn report(&self, findings: &Findings) {
        if let Some(sidecar) = &self.sidecar {
            report(sidecar, findings);
        }
    }

    pub(super) fn namespace(&self) -> &Arc<str> {
        &self.client.namespace
    }

    /// The listeners that bring in what is not exported to everybody alike; none: everything.
    fn listeners(&self) -> &[EgressListener] {
        self.sidecar.as_ref().map(|sidecar| &*sidecar.egress).unwrap_or_default()
    }

    pub(crate) fn is_exported(&self, entry: &ServiceEntry) -> bool {
        let export_to = entry.export_to.or(&self.mesh.default_service_export_to);
        export_to.reaches(entry.meta.namespace(), self.namespace())
    }

    /// The ways in which an exported service's host comes in; none when the Sidecar leaves it out.
    pub(super) fn imports(&self, namespace: &str, host: &str) -> Vec<Import<'_>> {
        if self.doubtful.iter().any(|sidecar| sidecar.leaves_out(namespace, host)) {
            return Vec::new();
        }
        let listeners = self.listeners();
        if listeners.is_empty() {
            return vec![Import { listener: None }];
        }
        let bringing = listeners.iter().filter(|listener| listener.brings(namespace, host));
        bringing.map(|listener| Import { listener: Some(listener) }).collect()
    }

    /// The Sidecar that leaves an exported service's host out.
    pub(crate) fn left_out_by(&self, namespace: &str, host: &str) -> Option<&Sidecar> {
        self.sidecars().find(|sidecar| sidecar.leaves_out(namespace, host))
    }

    /// The Sidecar that leaves an exported VirtualService out.
    pub(crate) fn hides_virtual_service(&self, service: &VirtualService) -> Option<&Sidecar> {
        self.sidecars().find(|sidecar| !brings_virtual_service(sidecar, service))
    }

    /// Whether a Sidecar leaves anything out.
    pub(super) fn narrows(&self) -> bool {
        self.sidecars().any(|sidecar| !sidecar.egress.is_empty())
    }

    /// Whether everything that is exported is seen.
    pub(super) fn is_open(&self) -> bool {
        self.doubtful.is_empty() && !self.narrows()
    }

    fn sidecars(&self) -> impl Iterator<Item = &Sidecar> {
        self.doubtful.iter().chain(&self.sidecar).map(|sidecar| &**sidecar)
    }

    /// The ports with a listener of their own, whose HTTP is that listener's alone.
    pub(super) fn ports_with_listeners(&self) -> Vec<u16> {
        let unbound = self.listeners().iter().filter(|listener| bind(listener).is_none());
        unbound.filter_map(|listener| Some(listener.port.as_ref()?.number)).collect()
    }

    pub(crate) fn sees_virtual_service(&self, service: &VirtualService) -> bool {
        let home = service.meta.namespace();
        let export_to = service.export_to.or(&self.mesh.default_virtual_service_export_to);
        export_to.reaches(home, self.namespace())
            && self.sidecars().all(|sidecar| brings_virtual_service(sidecar, service))
    }
}

fn brings_virtual_service(sidecar: &Sidecar, service: &VirtualService) -> bool {
    // Either may be the wider one.
    let brings = |wanted: &EgressHost| {
        let overlaps = |own: &Arc<str>| host::matches(&wanted.host, own) || host::matches(own, &wanted.host);
        wanted.is_of(service.meta.namespace()) && service.hosts.iter().any(|own| overlaps(&own.value))
    };
    sidecar.egress.is_empty() || sidecar.egress.iter().any(|listener| listener.hosts.iter().any(brings))
}

/// The oldest of the client's namespace whose selector matches, else the oldest there without one, else
/// the oldest without one in the root namespace.
fn sidecar_of<'a>(world: &'a World, client: &Client) -> Option<&'a Arc<Sidecar>> {
    let oldest = |namespace: &str, fits: &dyn Fn(&Sidecar) -> bool| {
        let candidates = world.sidecars().filter(|sidecar| !sidecar.is_for_unknown);
        let candidates = candidates.filter(|sidecar| **sidecar.meta.namespace() == *namespace);
        candidates.filter(|sidecar| fits(sidecar)).min_by_key(|sidecar| sidecar.meta.age_order())
    };
    let selects = |sidecar: &Sidecar| {
        sidecar.workload_selector.as_ref().is_some_and(|labels| client.has_labels(labels))
    };
    let is_for_all = |sidecar: &Sidecar| sidecar.workload_selector.is_none();
    oldest(&client.namespace, &selects)
        .or_else(|| oldest(&client.namespace, &is_for_all))
        .or_else(|| oldest(&world.mesh.root_namespace, &is_for_all))
}

/// What a Sidecar says that can't act here.
fn report(sidecar: &Sidecar, findings: &Findings) {
    for (index, listener) in sidecar.egress.iter().enumerate() {
        let loopback = listener.bind.is_some_and(|bind| bind.is_loopback());
        if listener.capture_mode == CaptureMode::None || loopback {
            let message = "connections that applications make to a listener of the proxy itself (captureMode NONE, or \
                           bind to loopback) are not taken over here: the hosts are known, the listener is not opened";
            let field = format!("spec.egress[{index}]");
            findings.coded(
                "EGR0119",
                &sidecar.meta,
                Level::Warning,
                listener.position,
                &field,
                message.into(),
            );
        }
    }
}

/// Where a listener is; every address without one.
fn bind(listener: &EgressListener) -> Option<IpAddr> {
    listener.bind.filter(|address| !address.is_unspecified())
}

impl Import<'_> {
    pub(super) fn port(&self) -> Option<u16> {
        Some(self.listener?.port.as_ref()?.number)
    }

    pub(super) fn bind(&self) -> Option<IpAddr> {
        bind(self.listener?)
    }

    /// The protocol that the listener declares for its port.
    pub(super) fn protocol(&self) -> Option<Protocol> {
        let protocol = self.listener?.port.as_ref()?.protocol;
        Some(protocol).filter(|protocol| *protocol != Protocol::Auto)
    }
}
