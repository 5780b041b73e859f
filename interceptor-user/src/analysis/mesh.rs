//! The world as rules ask about it: which services have a host, who sees what, which rule holds for whom.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::Audience;
use super::findings::{Findings, about};
use super::workloads::{self, Workload};
use crate::compile::Client;
use crate::compile::destination_rules::DestinationRules;
use crate::compile::registry::{backwards, by_backwards};
use crate::hash::HashMap;
use crate::resource::service_entry::{Protocol, Resolution};
use crate::resource::{
    DestinationRule, ExportTo, Meta, Position, Resource, Service as KubernetesService, ServiceEntry,
    VirtualService, World, code, host,
};

/// One host of a ServiceEntry, or a Service of Kubernetes.
#[derive(Debug)]
pub(super) struct Service<'a> {
    pub(super) host: Arc<str>,
    pub(super) meta: &'a Meta,
    pub(super) export_to: &'a ExportTo,
    pub(super) ports: Rc<[Port]>,
    pub(super) source: Source<'a>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Source<'a> {
    Entry(&'a ServiceEntry),
    Kubernetes(&'a KubernetesService),
}

#[derive(Clone, Debug)]
pub(super) struct Port {
    pub(super) number: u16,
    pub(super) protocol: Protocol,
    pub(super) has_target: bool,
    pub(super) position: Position,
}

impl<'a> Service<'a> {
    pub(super) fn entry(&self) -> Option<&'a ServiceEntry> {
        match self.source {
            Source::Entry(entry) => Some(entry),
            Source::Kubernetes(_) => None,
        }
    }

    /// Whether connections go where the application wanted them.
    pub(super) fn keeps_destination(&self) -> bool {
        self.entry().is_some_and(|entry| entry.resolution == Resolution::None)
    }

    pub(super) fn port(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Whether clients in a namespace see it.
    pub(super) fn is_seen_from(&self, namespace: &str) -> bool {
        self.export_to.reaches(self.meta.namespace(), namespace)
    }
}

/// How long the suffixes are that wildcards have.
#[derive(Debug, Default)]
struct Wildcards(Vec<usize>);

impl Wildcards {
    fn add(&mut self, host: &str) {
        let Some(suffix) = host.strip_prefix('*').filter(|suffix| !suffix.is_empty()) else { return };
        // The longest first.
        if let Err(place) = self.0.binary_search_by(|known| suffix.len().cmp(known)) {
            self.0.insert(place, suffix.len());
        }
    }

    /// The wildcards that may be there and stand for a name, less at least its first bytes; the longest first.
    fn covering(&self, name: &str, from: usize) -> impl Iterator<Item = String> {
        let starts = self.0.iter().filter_map(|length| name.len().checked_sub(*length));
        let suffixes = starts.filter(move |start| *start >= from).filter_map(|start| name.get(start..));
        suffixes.map(|suffix| format!("*{suffix}"))
    }
}

/// Everything that rules look things up in. Services and VirtualServices by age.
#[derive(Debug)]
pub(super) struct Mesh<'a> {
    pub(super) world: &'a World,
    pub(super) audience: Audience<'a>,
    pub(super) services: Vec<Service<'a>>,
    by_host: HashMap<Arc<str>, Vec<usize>>,
    wildcards: Wildcards,
    /// Hosts spelled backwards, so that those with a common end stand together. Made when a wildcard asks.
    backwards: OnceCell<BTreeMap<String, Vec<usize>>>,
    /// Those bound to mesh.
    pub(super) virtual_services: Vec<&'a VirtualService>,
    virtual_services_by_host: HashMap<&'a str, Vec<usize>>,
    virtual_service_wildcards: Wildcards,
    virtual_services_backwards: OnceCell<BTreeMap<String, Vec<usize>>>,
    client: Client,
    rules: OnceCell<DestinationRules>,
    rules_by_host: HashMap<&'a str, Vec<&'a DestinationRule>>,
    pub(super) workloads: Vec<Workload<'a>>,
}

impl<'a> Mesh<'a> {
    pub(super) fn new(world: &'a World, audience: Audience<'a>) -> Self {
        let mesh = &world.mesh;
        let is_seen = |export_to: &ExportTo, meta: &Meta| is_seen(audience, export_to, meta);
        let mut entries: Vec<&ServiceEntry> = world
            .service_entries()
            .map(|entry| &**entry)
            .filter(|entry| is_seen(entry.export_to.or(&mesh.default_service_export_to), &entry.meta))
            .collect();
        entries.sort_by_key(|entry| entry.meta.age_order());
        let mut virtual_services: Vec<&VirtualService> = world
            .virtual_services()
            .map(|service| &**service)
            .filter(|service| service.binds_mesh())
            .filter(|service| {
                is_seen(service.export_to.or(&mesh.default_virtual_service_export_to), &service.meta)
            })
            .collect();
        virtual_services.sort_by_key(|service| service.meta.age_order());
        let mut virtual_services_by_host: HashMap<&str, Vec<usize>> = HashMap::default();
        let mut virtual_service_wildcards = Wildcards::default();
        for (index, service) in virtual_services.iter().enumerate() {
            for host in &service.hosts {
                virtual_services_by_host.entry(&host.value).or_default().push(index);
                virtual_service_wildcards.add(&host.value);
            }
        }
        let client = match audience {
            Audience::Mesh(_) => Client::in_namespace(&world.mesh.root_namespace),
            Audience::Client(client) => client.clone(),
        };
        let mut mesh = Self {
            world,
            audience,
            services: Vec::new(),
            by_host: HashMap::default(),
            wildcards: Wildcards::default(),
            backwards: OnceCell::new(),
            virtual_services,
            virtual_services_by_host,
            virtual_service_wildcards,
            virtual_services_backwards: OnceCell::new(),
            client,
            rules: OnceCell::new(),
            rules_by_host: HashMap::default(),
            workloads: workloads::of(world),
        };
        for rule in world.destination_rules() {
            mesh.rules_by_host.entry(&rule.host).or_default().push(rule);
        }
        for entry in entries {
            let ports = entry.ports.iter().map(|port| Port {
                number: port.number,
                protocol: port.protocol,
                has_target: port.target_port.is_some(),
                position: port.position,
            });
            let ports: Rc<[Port]> = ports.collect();
            for host in &entry.hosts {
                mesh.add(Service {
                    host: Arc::clone(&host.value),
                    meta: &entry.meta,
                    export_to: entry.export_to.or(&world.mesh.default_service_export_to),
                    ports: Rc::clone(&ports),
                    source: Source::Entry(entry),
                });
            }
        }
        for service in world.services() {
            let default = &world.mesh.default_service_export_to;
            let export_to = service.export_to.or(default);
            if is_seen(export_to, &service.meta) {
                mesh.add(kubernetes(service, export_to));
            }
        }
        mesh
    }

    /// Whether the audience sees a resource.
    pub(super) fn is_seen(&self, export_to: &ExportTo, meta: &Meta) -> bool {
        is_seen(self.audience, export_to, meta)
    }

    fn add(&mut self, service: Service<'a>) {
        let index = self.services.len();
        self.by_host.entry(Arc::clone(&service.host)).or_default().push(index);
        self.wildcards.add(&service.host);
        self.services.push(service);
    }

    /// Who sees a VirtualService.
    pub(super) fn export_of(&self, service: &'a VirtualService) -> (&'a ExportTo, &'a Meta) {
        (service.export_to.or(&self.world.mesh.default_virtual_service_export_to), &service.meta)
    }

    /// The services of exactly this host.
    pub(super) fn of_host(&self, host: &str) -> impl Iterator<Item = &Service<'a>> {
        self.by_host.get(host).into_iter().flatten().filter_map(|index| self.services.get(*index))
    }

    /// Those of them that clients in a namespace see.
    pub(super) fn seen_from<'b>(
        &'b self,
        namespace: &'b str,
        host: &str,
    ) -> impl Iterator<Item = &'b Service<'a>> {
        self.of_host(host).filter(move |service| service.is_seen_from(namespace))
    }

    /// The services whose host `pattern` (a name, or `*.example.com`) matches.
    pub(super) fn matching<'b>(&'b self, pattern: &'b str) -> impl Iterator<Item = &'b Service<'a>> {
        let exact = if pattern.starts_with('*') { None } else { self.by_host.get(pattern) };
        let wildcard = pattern.strip_prefix('*').map(|suffix| {
            let end = backwards(suffix);
            let hosts = || self.services.iter().map(|service| [&*service.host]);
            let from = self.backwards.get_or_init(|| by_backwards(hosts())).range(end.clone()..);
            from.take_while(move |(host, _)| host.starts_with(&*end)).flat_map(|(_, indices)| indices)
        });
        let indices = exact.into_iter().flatten().chain(wildcard.into_iter().flatten());
        let services = indices.filter_map(|index| self.services.get(*index));
        services.filter(move |service| host::matches(pattern, &service.host))
    }

    /// The services whose wildcard covers a name.
    pub(super) fn covering(&self, name: &str) -> impl Iterator<Item = &Service<'a>> {
        let wildcards = self.wildcards.covering(name, 1);
        wildcards.flat_map(|wildcard| self.of_host(&wildcard).collect::<Vec<_>>())
    }

    /// A declared host that begins with this label.
    pub(super) fn host_beginning_with(&self, label: &str) -> Option<&Arc<str>> {
        let begins = |host: &str| host.strip_prefix(label).is_some_and(|rest| rest.starts_with('.'));
        self.services.iter().map(|service| &service.host).find(|host| begins(host))
    }

    /// The VirtualServices bound to mesh with exactly this host, the oldest first.
    pub(super) fn virtual_services_of(
        &self,
        host: &str,
    ) -> impl Iterator<Item = &'a VirtualService> + use<'a, '_> {
        let indices = self.virtual_services_by_host.get(host).into_iter().flatten();
        indices.filter_map(|index| self.virtual_services.get(*index).copied())
    }

    /// The VirtualServices bound to mesh whose host, perhaps with a wildcard, covers this one.
    pub(super) fn virtual_services_covering(&self, name: &str) -> Vec<&'a VirtualService> {
        let from = usize::from(name.starts_with('*'));
        let wildcards = self.virtual_service_wildcards.covering(name, 1 + from);
        let wildcards =
            wildcards.flat_map(|wildcard| self.virtual_services_of(&wildcard).collect::<Vec<_>>());
        distinct(self.virtual_services_of(name).chain(wildcards))
    }

    /// For TLS and TCP: those, and when this one is a wildcard, all with a host that it covers (Istio's
    /// Name.Matches asks both ways).
    pub(super) fn virtual_services_matching(&self, name: &str) -> Vec<&'a VirtualService> {
        let covered = name.strip_prefix('*').map(|suffix| {
            let end = backwards(suffix);
            let hosts =
                || self.virtual_services.iter().map(|service| service.hosts.iter().map(|host| &*host.value));
            let from =
                self.virtual_services_backwards.get_or_init(|| by_backwards(hosts())).range(end.clone()..);
            from.take_while(move |(host, _)| host.starts_with(&*end)).flat_map(|(_, indices)| indices)
        });
        let covered =
            covered.into_iter().flatten().filter_map(|index| self.virtual_services.get(*index).copied());
        distinct(self.virtual_services_covering(name).into_iter().chain(covered))
    }

    /// Which rule each service gets.
    pub(super) fn rules(&self) -> &DestinationRules {
        self.rules.get_or_init(|| DestinationRules::new(self.world, &self.client))
    }

    /// The DestinationRules with exactly this host, of any namespace.
    pub(super) fn rules_of_host(&self, host: &str) -> impl Iterator<Item = &'a DestinationRule> {
        self.rules_by_host.get(host).into_iter().flatten().copied()
    }

    /// A Service's host, while the input has no Service at all: nobody can tell what the cluster has.
    pub(super) fn may_be_elsewhere(&self, host: &str) -> bool {
        host.ends_with(".svc.cluster.local") && self.world.services().next().is_none()
    }

    /// Who is asked, for messages: `no ServiceEntry or Service …`.
    pub(super) fn nobody(&self) -> &'static str {
        match self.audience {
            Audience::Mesh(_) => "no ServiceEntry or Service",
            Audience::Client(_) => "no ServiceEntry or Service that is seen from here",
        }
    }
}

/// Each once, the oldest first.
fn distinct<'a>(services: impl Iterator<Item = &'a VirtualService>) -> Vec<&'a VirtualService> {
    let mut services: Vec<_> = services.collect();
    services.sort_by_key(|service| service.meta.age_order());
    services.dedup_by_key(|service| std::ptr::from_ref(*service));
    services
}

fn is_seen(audience: Audience<'_>, export_to: &ExportTo, meta: &Meta) -> bool {
    match audience {
        Audience::Mesh(_) => true,
        Audience::Client(client) => export_to.reaches(meta.namespace(), &client.namespace),
    }
}

fn kubernetes<'a>(service: &'a KubernetesService, export_to: &'a ExportTo) -> Service<'a> {
    let ports = service.ports.iter().map(|port| Port {
        number: port.number,
        protocol: port.protocol,
        has_target: port.target_port.is_some(),
        position: port.position,
    });
    Service {
        host: format!("{}.{}.svc.cluster.local", service.meta.name(), service.meta.namespace()).into(),
        meta: &service.meta,
        export_to,
        ports: ports.collect(),
        source: Source::Kubernetes(service),
    }
}

/// Whether some namespace sees both.
pub(super) fn overlap(a: (&ExportTo, &Meta), b: (&ExportTo, &Meta)) -> bool {
    match (reach(a), reach(b)) {
        (None, None) => true,
        (None, Some(names)) | (Some(names), None) => !names.is_empty(),
        (Some(a), Some(b)) => a.iter().any(|name| b.contains(name)),
    }
}

/// The namespaces that see it; `None` for all.
fn reach<'a>((export_to, meta): (&'a ExportTo, &'a Meta)) -> Option<Vec<&'a str>> {
    match export_to {
        ExportTo::Unset | ExportTo::All => None,
        ExportTo::Only { own, namespaces } => {
            let own = own.then_some(&**meta.namespace());
            Some(namespaces.iter().map(|name| &**name).chain(own).collect())
        }
    }
}

/// What is not exported to the client's namespace does not act, and people who wrote it may wonder why.
pub(super) fn check_visible(world: &World, namespace: &str, findings: &mut Findings) {
    let mesh = &world.mesh;
    for resource in world.resources.values() {
        let export_to = match resource {
            Resource::ServiceEntry(entry) => entry.export_to.or(&mesh.default_service_export_to),
            // Its roots see a delegate, whatever the client.
            Resource::VirtualService(service) if service.is_delegate() => continue,
            Resource::VirtualService(service) => {
                service.export_to.or(&mesh.default_virtual_service_export_to)
            }
            Resource::DestinationRule(rule) => rule.export_to.or(&mesh.default_destination_rule_export_to),
            Resource::Gateway(_)
            | Resource::Sidecar(_)
            | Resource::WorkloadEntry(_)
            | Resource::WorkloadGroup(_)
            | Resource::Service(_)
            | Resource::EndpointSlice(_)
            | Resource::Pod(_)
            | Resource::PodTemplate(_)
            | Resource::Namespace(_)
            | Resource::Secret(_) => continue,
        };
        let meta = resource.meta();
        if !export_to.reaches(meta.namespace(), namespace) {
            let message = format!("not exported to namespace {namespace}, where the client is");
            findings.push(about(&code::EGR0108, meta, "spec.exportTo", message).effect("does not act"));
        }
    }
}
