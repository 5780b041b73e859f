//! Every resource as written, and which kind is read by whom.

use std::sync::Arc;

use super::allow_from_annotation::ALLOW_FROM;
use super::decode::Field;
use super::destination_rule::{self, DestinationRule};
use super::endpoint_slice::{self, EndpointSlice};
use super::gateway::{self, Gateway};
use super::kind::{self, Kind};
use super::mesh_config::MeshConfig;
use super::meta::{self, Meta, ResourceKey};
use super::namespace::Namespace;
use super::object::Object;
use super::pod::{self, Pod, PodTemplate};
use super::resources::Resources;
use super::secret::{self, Secret};
use super::service::{self, Service};
use super::service_entry::{self, ServiceEntry};
use super::sidecar::{self, Sidecar};
use super::virtual_service::{self, VirtualService};
use super::workload_entry::{self, WorkloadEntry, WorkloadGroup};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    ServiceEntry(Arc<ServiceEntry>),
    VirtualService(Arc<VirtualService>),
    DestinationRule(Arc<DestinationRule>),
    Gateway(Arc<Gateway>),
    Sidecar(Arc<Sidecar>),
    WorkloadEntry(Arc<WorkloadEntry>),
    WorkloadGroup(Arc<WorkloadGroup>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    Pod(Arc<Pod>),
    /// Of a Deployment and its like.
    PodTemplate(Arc<PodTemplate>),
    Namespace(Arc<Namespace>),
    Secret(Arc<Secret>),
}

impl Resource {
    /// Whether it is the very same, not only alike.
    pub fn is(&self, other: &Self) -> bool {
        // Each has its own, in its Arc.
        std::ptr::eq(self.meta(), other.meta())
    }

    pub fn meta(&self) -> &Meta {
        match self {
            Self::ServiceEntry(resource) => &resource.meta,
            Self::VirtualService(resource) => &resource.meta,
            Self::DestinationRule(resource) => &resource.meta,
            Self::Gateway(resource) => &resource.meta,
            Self::Sidecar(resource) => &resource.meta,
            Self::WorkloadEntry(resource) => &resource.meta,
            Self::WorkloadGroup(resource) => &resource.meta,
            Self::Service(resource) => &resource.meta,
            Self::EndpointSlice(resource) => &resource.meta,
            Self::Pod(resource) => &resource.meta,
            Self::PodTemplate(resource) => &resource.meta,
            Self::Namespace(resource) => &resource.meta,
            Self::Secret(resource) => &resource.meta,
        }
    }
}

impl Resource {
    /// What stands for it while it can't be used as written and has no last good form: where leaving it out would send in
    /// clear what was to be TLS, or let through what was to be blocked.
    #[expect(clippy::wildcard_enum_match_arm, reason = "nothing else is made one")]
    pub(super) fn into_guard(mut self) -> Option<Self> {
        match &mut self {
            Self::Sidecar(sidecar) => Arc::make_mut(sidecar).refused = true,
            Self::ServiceEntry(entry) => {
                let has_rule = entry.meta.annotations.contains_key(ALLOW_FROM);
                Arc::make_mut(entry).refused = has_rule;
            }
            _ => {}
        }
        Some(self).filter(Self::is_guard)
    }

    /// Whether it is such a one.
    #[expect(clippy::wildcard_enum_match_arm, reason = "nothing else stands for what can't be used")]
    pub fn is_guard(&self) -> bool {
        match self {
            Self::DestinationRule(rule) => rule.refused,
            Self::Sidecar(sidecar) => sidecar.refused,
            Self::ServiceEntry(entry) => entry.refused,
            _ => false,
        }
    }

    /// What happens while one that is a guard can't be used as written, unless its code says it.
    #[expect(clippy::wildcard_enum_match_arm, reason = "nothing else says it")]
    pub(super) fn effect_of_mistakes(&self) -> Option<String> {
        match self {
            Self::Sidecar(sidecar) => Some(sidecar.effect_of_mistakes()),
            _ => None,
        }
    }
}

/// All that is configured: input to `compile`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    pub mesh: MeshConfig,
    pub resources: Resources,
}

/// The resources of each kind, by namespace and name.
#[expect(clippy::wildcard_enum_match_arm, reason = "each accessor wants one kind, whatever others come")]
impl World {
    /// They stand together in the map.
    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Resource> {
        let first = ResourceKey { kind, namespace: "".into(), name: "".into() };
        self.resources.starting_at(&first).take_while(move |resource| resource.meta().key.kind == kind)
    }

    /// Those that can be used as written.
    pub fn service_entries(&self) -> impl Iterator<Item = &Arc<ServiceEntry>> {
        self.all_service_entries().filter(|entry| !entry.refused)
    }

    /// The same, with those that only stand for their rules.
    pub fn all_service_entries(&self) -> impl Iterator<Item = &Arc<ServiceEntry>> {
        self.of_kind(Kind::ServiceEntry).filter_map(|resource| match resource {
            Resource::ServiceEntry(entry) => Some(entry),
            _ => None,
        })
    }

    pub fn virtual_services(&self) -> impl Iterator<Item = &Arc<VirtualService>> {
        self.of_kind(Kind::VirtualService).filter_map(|resource| match resource {
            Resource::VirtualService(service) => Some(service),
            _ => None,
        })
    }

    pub fn destination_rules(&self) -> impl Iterator<Item = &Arc<DestinationRule>> {
        self.of_kind(Kind::DestinationRule).filter_map(|resource| match resource {
            Resource::DestinationRule(rule) => Some(rule),
            _ => None,
        })
    }

    pub fn gateways(&self) -> impl Iterator<Item = &Arc<Gateway>> {
        self.of_kind(Kind::Gateway).filter_map(|resource| match resource {
            Resource::Gateway(gateway) => Some(gateway),
            _ => None,
        })
    }

    pub fn sidecars(&self) -> impl Iterator<Item = &Arc<Sidecar>> {
        self.of_kind(Kind::Sidecar).filter_map(|resource| match resource {
            Resource::Sidecar(sidecar) => Some(sidecar),
            _ => None,
        })
    }

    pub fn workload_entries(&self) -> impl Iterator<Item = &Arc<WorkloadEntry>> {
        self.of_kind(Kind::WorkloadEntry).filter_map(|resource| match resource {
            Resource::WorkloadEntry(entry) => Some(entry),
            _ => None,
        })
    }

    pub fn workload_groups(&self) -> impl Iterator<Item = &Arc<WorkloadGroup>> {
        self.of_kind(Kind::WorkloadGroup).filter_map(|resource| match resource {
            Resource::WorkloadGroup(group) => Some(group),
            _ => None,
        })
    }

    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.of_kind(Kind::Service).filter_map(|resource| match resource {
            Resource::Service(service) => Some(service),
            _ => None,
        })
    }

    pub fn endpoint_slices(&self) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.of_kind(Kind::EndpointSlice).filter_map(|resource| match resource {
            Resource::EndpointSlice(slice) => Some(slice),
            _ => None,
        })
    }

    pub fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.of_kind(Kind::Pod).filter_map(|resource| match resource {
            Resource::Pod(pod) => Some(pod),
            _ => None,
        })
    }

    pub fn pod_templates(&self) -> impl Iterator<Item = &Arc<PodTemplate>> {
        self.resources.values().filter_map(|resource| match resource {
            Resource::PodTemplate(template) => Some(template),
            _ => None,
        })
    }

    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<Namespace>> {
        self.of_kind(Kind::Namespace).filter_map(|resource| match resource {
            Resource::Namespace(namespace) => Some(namespace),
            _ => None,
        })
    }

    pub fn secrets(&self) -> impl Iterator<Item = &Arc<Secret>> {
        self.of_kind(Kind::Secret).filter_map(|resource| match resource {
            Resource::Secret(secret) => Some(secret),
            _ => None,
        })
    }
}

/// What a document's root is.
pub(super) enum Outcome<'a> {
    Resource(Resource),
    List(Vec<Field<'a>>),
    Refused(ResourceKey),
    /// Of a kind that is read, but which one is unknown. What must hold all the same.
    Nameless(Option<Resource>),
    Skipped,
}

/// Reads one resource, or tells that it is a list of them.
pub(super) fn read_root<'a>(root: &Object<'a>, file: &Arc<str>, namespace: &Arc<str>) -> Outcome<'a> {
    let (Some(api_version), Some(kind)) = (root.peek("apiVersion"), root.peek("kind")) else {
        explain_what_it_is_not(root);
        return Outcome::Skipped;
    };
    if kind.ends_with("List") && root.has("items") {
        return Outcome::List(root.list("items", Some));
    }
    let Some(kind) = kind::of(root, api_version, kind) else { return Outcome::Skipped };
    if kind.is_kubernetes() {
        return read_kubernetes(kind, root, file, namespace);
    }
    root.report_unknown();
    root.ignore(&["apiVersion", "kind"]);
    let status = root.get("status");
    let meta = meta::read(kind, root, file, namespace);
    if let Some(meta) = &meta {
        root.field().name_resource(meta.key.to_string().into());
    }
    root.ignore(&["spec"]);
    root.refuse_misplaced();
    let Some(meta) = meta else {
        // Its other mistakes are told, too.
        let read = read_spec(Meta::nameless(kind, root, file, namespace), root, status);
        let Outcome::Resource(resource @ Resource::Sidecar(_)) = read else { return Outcome::Nameless(None) };
        return Outcome::Nameless(resource.into_guard());
    };
    read_spec(meta, root, status)
}

fn read_spec<'a>(meta: Meta, root: &Object<'a>, status: Option<Field<'a>>) -> Outcome<'a> {
    let (key, kind) = (meta.key.clone(), meta.key.kind);
    let spec = root.require("spec").and_then(|field| field.object());
    let Some(spec) = spec else {
        return match kind {
            Kind::Sidecar => Outcome::Resource(Resource::Sidecar(Arc::new(Sidecar::unread(meta)))),
            Kind::ServiceEntry
            | Kind::VirtualService
            | Kind::DestinationRule
            | Kind::Gateway
            | Kind::WorkloadEntry
            | Kind::WorkloadGroup
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::Pod
            | Kind::Deployment
            | Kind::StatefulSet
            | Kind::DaemonSet
            | Kind::ReplicaSet
            | Kind::Job
            | Kind::CronJob
            | Kind::Namespace
            | Kind::Secret => Outcome::Refused(key),
        };
    };
    Outcome::Resource(match kind {
        Kind::ServiceEntry => Resource::ServiceEntry(Arc::new(service_entry::read(meta, &spec, status))),
        Kind::VirtualService => Resource::VirtualService(Arc::new(virtual_service::read(meta, &spec))),
        Kind::DestinationRule => match destination_rule::read(meta, &spec, root) {
            Some(rule) => Resource::DestinationRule(Arc::new(rule)),
            None => return Outcome::Refused(key),
        },
        Kind::Gateway => Resource::Gateway(Arc::new(gateway::read(meta, &spec))),
        Kind::Sidecar => Resource::Sidecar(Arc::new(sidecar::read(meta, &spec, root))),
        Kind::WorkloadEntry => match workload_entry::read(meta, &spec) {
            Some(entry) => Resource::WorkloadEntry(Arc::new(entry)),
            None => return Outcome::Refused(key),
        },
        Kind::WorkloadGroup => Resource::WorkloadGroup(Arc::new(workload_entry::read_group(meta, &spec))),
        Kind::Service
        | Kind::EndpointSlice
        | Kind::Pod
        | Kind::Deployment
        | Kind::StatefulSet
        | Kind::DaemonSet
        | Kind::ReplicaSet
        | Kind::Job
        | Kind::CronJob
        | Kind::Namespace
        | Kind::Secret => return Outcome::Skipped,
    })
}

/// Kubernetes' own kinds: what is not asked for is nobody's business, and what is wrong refuses nothing.
fn read_kubernetes<'a>(kind: Kind, root: &Object<'a>, file: &Arc<str>, namespace: &Arc<str>) -> Outcome<'a> {
    root.field().be_lenient();
    let Some(meta) = meta::read(kind, root, file, namespace) else { return Outcome::Skipped };
    root.field().name_resource(meta.key.to_string().into());
    let spec = root.get("spec").and_then(|field| field.object()).map(Object::open_quietly);
    let with_spec = |read: &dyn Fn(Meta, &Object<'_>) -> Resource| match &spec {
        Some(spec) => Outcome::Resource(read(meta.clone(), spec)),
        None => Outcome::Skipped,
    };
    match kind {
        Kind::Service => {
            with_spec(&|meta, spec| Resource::Service(Arc::new(service::read(meta, spec, root))))
        }
        Kind::EndpointSlice => {
            Outcome::Resource(Resource::EndpointSlice(Arc::new(endpoint_slice::read(meta, root))))
        }
        Kind::Pod => with_spec(&|meta, spec| Resource::Pod(Arc::new(pod::read(meta, spec, root)))),
        Kind::Deployment
        | Kind::StatefulSet
        | Kind::DaemonSet
        | Kind::ReplicaSet
        | Kind::Job
        | Kind::CronJob => {
            with_spec(&|meta, spec| Resource::PodTemplate(Arc::new(pod::read_template(meta, spec))))
        }
        Kind::Namespace => Outcome::Resource(Resource::Namespace(Arc::new(Namespace { meta }))),
        Kind::Secret => Outcome::Resource(Resource::Secret(Arc::new(secret::read(meta, root)))),
        Kind::ServiceEntry
        | Kind::VirtualService
        | Kind::DestinationRule
        | Kind::Gateway
        | Kind::Sidecar
        | Kind::WorkloadEntry
        | Kind::WorkloadGroup => Outcome::Skipped,
    }
}

fn explain_what_it_is_not(root: &Object<'_>) {
    // What a template leaves of a part that is turned off.
    if root.is_empty() {
        return;
    }
    // Without apiVersion and kind, as kustomize takes them.
    if ["resources", "bases", "patches", "patchesStrategicMerge"].iter().any(|name| root.has(name)) {
        root.field()
            .info(format!("a kustomization is not read here: skipped{}", kind::instead_of("Kustomization")));
        return;
    }
    let mesh_settings =
        ["outboundTrafficPolicy", "accessLogFile", "meshConfig", "global", "proxy", "defaultConfig"];
    if mesh_settings.iter().any(|name| root.has(name)) {
        root.field().warning(
            "this is no resource (it has no apiVersion and kind) but looks like mesh or Helm settings: skipped; \
             MeshConfig is given with --mesh-config, excluded and included ranges with --exclude-ip-ranges and \
             --include-ip-ranges",
        );
    } else {
        let missing = if root.has("kind") { "apiVersion" } else { "kind" };
        root.field().error(format!("expected a resource, but `{missing}` is missing"));
    }
}
