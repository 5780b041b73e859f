//! The services that a client sees: one for each host of each visible ServiceEntry and Kubernetes Service.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use super::CompileSettings;
use super::kubernetes;
use super::scope::{Import, Scope};
use super::unix_endpoints;
use super::virtual_services::VirtualServices;
use super::workloads::Workloads;
use crate::hash::HashMap;
use crate::resource::service_entry::{AddressRange, Protocol, Resolution, ServicePort};
use crate::resource::{Diagnostic, ServiceEntry, VirtualService, World};
use crate::snapshot::Source;

/// One host of one entry, as the client sees it.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) host: Arc<str>,
    pub(super) entry: Arc<ServiceEntry>,
    /// The entry, as what is made of it names it.
    pub(super) source: Arc<Source>,
    listed: Listed,
    /// The address of the Sidecar's listener that brings it in.
    bind: Option<IpAddr>,
    /// Without addresses it takes whole ports.
    takes_ports: bool,
}

/// On which ports its connections are recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Listed {
    All,
    /// HTTP on these is another listener's.
    HttpNotOn(Vec<u16>),
    /// It is there as a VirtualService's destination only.
    Nowhere,
}

impl Service {
    pub(super) fn port(&self, number: u16) -> Option<&ServicePort> {
        self.entry.ports.iter().find(|port| port.number == number)
    }

    pub(super) fn is_listed_on(&self, port: &ServicePort) -> bool {
        match &self.listed {
            Listed::All => true,
            Listed::HttpNotOn(ports) => !(port.protocol.is_http() && ports.contains(&port.number)),
            Listed::Nowhere => false,
        }
    }

    /// The address that a Sidecar's listener gives it.
    pub(super) fn bound_to(&self) -> Option<IpAddr> {
        self.bind
    }

    /// Where connections to it are recognised.
    pub(super) fn binds(&self) -> Vec<Bind> {
        if let Some(address) = self.bind {
            let prefix_len = if address.is_ipv4() { 32 } else { 128 };
            return vec![Bind::Address(AddressRange { address, prefix_len })];
        }
        let declared = self.entry.addresses.iter().map(|range| match range.value {
            range if range.address.is_unspecified() => Bind::Any,
            range if range.is_single() => Bind::Address(range),
            range => Bind::Range(range),
        });
        let mut binds: Vec<Bind> = declared.collect();
        if binds.is_empty() {
            binds.extend(self.allocated().map(Bind::Address));
            binds.extend(self.takes_ports.then_some(Bind::Any));
        }
        binds
    }

    /// status.addresses, where there are no others.
    fn allocated(&self) -> impl Iterator<Item = AddressRange> {
        let of_host = self.entry.allocated_addresses.iter().filter(|allocated| {
            self.entry.addresses.is_empty() && allocated.host.as_ref().is_none_or(|host| *host == self.host)
        });
        of_host.map(|allocated| {
            let prefix_len = if allocated.address.is_ipv4() { 32 } else { 128 };
            AddressRange { address: allocated.address, prefix_len }
        })
    }

    /// Whether changes of it reach no further than [`super::patch`] follows them, when its hosts, ports and addresses stay:
    /// HTTP is found by name, and so is TLS without an address.
    pub(super) fn is_found_by_name(&self) -> bool {
        let binds = self.binds();
        self.entry.ports.iter().all(|port| {
            port.protocol.is_http()
                || port.protocol == Protocol::Udp
                || (port.protocol.is_tls() && binds == [Bind::Any])
        })
    }

    /// Whether connections to it are found as those to another form of it.
    pub(super) fn is_found_like(&self, other: &Self) -> bool {
        let (own, others) = (&*self.entry, &*other.entry);
        let protocols = |entry: &ServiceEntry| -> Vec<(u16, Protocol)> {
            entry.ports.iter().map(|port| (port.number, port.protocol)).collect()
        };
        let addresses = |entry: &ServiceEntry| -> Vec<AddressRange> {
            entry.addresses.iter().map(|range| range.value).collect()
        };
        own.meta.key == others.meta.key
            && own.meta.creation_timestamp == others.meta.creation_timestamp
            && protocols(own) == protocols(others)
            && addresses(own) == addresses(others)
            && own.allocated_addresses == others.allocated_addresses
            && (&self.listed, self.bind, self.takes_ports) == (&other.listed, other.bind, other.takes_ports)
    }

    pub(super) fn is_kubernetes(&self) -> bool {
        kubernetes::is_kubernetes(&self.entry)
    }

    /// The same when they don't.
    pub(super) fn is_plain(&self) -> bool {
        self.is_found_by_name()
            && !self.is_kubernetes()
            && self.entry.addresses.is_empty()
            && self.entry.allocated_addresses.is_empty()
            && self.listed == Listed::All
            && self.bind.is_none()
    }

    /// What a client in `namespace` may write instead of the host.
    pub(super) fn other_names(&self, namespace: &str) -> Vec<String> {
        let declared = self.entry.addresses.iter().map(|range| range.value);
        let addresses = declared.filter(AddressRange::is_single_host).chain(self.allocated());
        let mut names = kubernetes::aliases(&self.entry, namespace);
        names.extend(addresses.map(|address| address.to_string()));
        names
    }
}

/// How a service's connections are told from others by their destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bind {
    /// Not at all: every address on the port.
    Any,
    Address(AddressRange),
    Range(AddressRange),
}

/// The ports of services that share a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    pub(super) all: usize,
    pub(super) http: usize,
    pub(super) server_first: usize,
}

/// All visible services, those of the client's namespace first, then by age.
#[derive(Debug, Default)]
pub(super) struct Registry {
    pub(super) services: Vec<Arc<Service>>,
    by_host: HashMap<Arc<str>, Vec<Arc<Service>>>,
    /// How many take connections of each port, whatever the address.
    census: HashMap<u16, Census>,
    /// Hosts spelled backwards, so that those with a common end stand together. Made when a wildcard asks.
    backwards: OnceLock<BTreeMap<String, Vec<usize>>>,
    /// Endpoints that are left out of their services.
    pub(super) refused: Vec<Diagnostic>,
}

impl Registry {
    pub(super) fn new(
        (world, settings): (&World, &CompileSettings),
        scope: &Scope<'_>,
        virtual_services: &VirtualServices,
    ) -> Self {
        let entries = entries(world, scope);
        let refused =
            unix_endpoints::findings(&settings.unix_endpoints, world, |entry| scope.is_exported(entry));
        let mut registry = Self { refused, ..Self::default() };
        for entry in &entries {
            imported(entry, world, scope).into_iter().for_each(|service| registry.add(service));
        }
        if scope.narrows() {
            registry.add_destinations(&entries, virtual_services);
        }
        registry
    }

    /// What VirtualServices lead to has clusters, also when the Sidecar does not name it.
    fn add_destinations(&mut self, entries: &[Arc<ServiceEntry>], virtual_services: &VirtualServices) {
        let mut by_host: HashMap<&Arc<str>, &Arc<ServiceEntry>> = HashMap::default();
        for entry in entries {
            for host in &entry.hosts {
                by_host.entry(&host.value).or_insert(entry);
            }
        }
        let hosts = virtual_services.all.iter().flat_map(|service| destination_hosts(service));
        let mut wanted: Vec<&Arc<str>> = hosts.filter(|host| !self.by_host.contains_key(*host)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        for host in wanted {
            if let Some((host, entry)) = by_host.get_key_value(host) {
                self.add(Service {
                    host: Arc::clone(host),
                    entry: Arc::clone(entry),
                    source: Source::whole(&entry.meta.key),
                    listed: Listed::Nowhere,
                    bind: None,
                    takes_ports: false,
                });
            }
        }
    }

    fn add(&mut self, service: Service) {
        let service = Arc::new(service);
        self.count(&service, |count| *count += 1);
        let of_host = self.by_host.entry(Arc::clone(&service.host)).or_insert_with(|| Vec::with_capacity(1));
        of_host.push(Arc::clone(&service));
        self.services.push(service);
    }

    /// Puts an exported entry in the place of an older form of it, where no Sidecar narrows what is seen and neither selects
    /// workloads. Hosts of Kubernetes Services and `refused` are not looked at.
    pub(super) fn replace(
        &mut self,
        (old, new): (Option<&Arc<ServiceEntry>>, Option<&Arc<ServiceEntry>>),
        world: &World,
        scope: &Scope<'_>,
    ) {
        let place = |services: &[Arc<Service>], entry: &ServiceEntry| {
            services.partition_point(|known| order(&known.entry, scope) < order(entry, scope))
        };
        if let Some(old) = old {
            let is_old = |service: &Arc<Service>| service.entry.meta.key == old.meta.key;
            let first = place(&self.services, old);
            let others = self.services.iter().skip(first);
            let last = first + others.take_while(|service| is_old(service)).count();
            for service in self.services.splice(first..last, []).collect::<Vec<_>>() {
                self.count(&service, |count| *count -= 1);
                if let Entry::Occupied(mut of_host) = self.by_host.entry(Arc::clone(&service.host)) {
                    of_host.get_mut().retain(|service| !is_old(service));
                    if of_host.get().is_empty() {
                        of_host.remove();
                    }
                }
            }
        }
        if let Some(new) = new {
            let services: Vec<_> = imported(new, world, scope).into_iter().map(Arc::new).collect();
            for service in &services {
                self.count(service, |count| *count += 1);
                let of_host = self.by_host.entry(Arc::clone(&service.host)).or_default();
                let after = of_host.partition_point(|known| order(&known.entry, scope) <= order(new, scope));
                of_host.insert(after, Arc::clone(service));
            }
            let first = place(&self.services, new);
            self.services.splice(first..first, services);
        }
        self.backwards.take();
    }

    fn count(&mut self, service: &Service, mut note: impl FnMut(&mut usize)) {
        let is_any = |bind: &Bind| matches!(bind, Bind::Any | Bind::Range(_));
        let takes_any = service.bind.is_none() && service.binds().iter().any(is_any);
        for port in service.entry.ports.iter().filter(|port| service.is_listed_on(port)) {
            let is_http = port.protocol.is_http() && service.bind.is_none();
            let is_opaque = !port.protocol.is_http() && port.protocol != Protocol::Udp && takes_any;
            if !is_http && !is_opaque {
                continue;
            }
            let census = self.census.entry(port.number).or_default();
            note(&mut census.all);
            if is_http || port.protocol == Protocol::Auto {
                note(&mut census.http);
            }
            if port.protocol.is_server_first() {
                note(&mut census.server_first);
            }
        }
    }

    pub(super) fn census(&self, port: u16) -> Census {
        self.census.get(&port).copied().unwrap_or_default()
    }

    pub(super) fn hosts(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_host.keys()
    }

    /// The services of a host, the first having precedence.
    pub(super) fn of_host(&self, host: &str) -> impl Iterator<Item = &Service> {
        self.all_of_host(host).iter().map(|service| &**service)
    }

    /// The same.
    pub(super) fn all_of_host(&self, host: &str) -> &[Arc<Service>] {
        self.by_host.get(host).map_or(&[], |services| services)
    }

    /// The services whose host `pattern` (`*.example.com`) matches.
    pub(super) fn matching<'a>(&'a self, pattern: &'a str) -> impl Iterator<Item = &'a Service> {
        let end = backwards(pattern.trim_start_matches('*'));
        let from = end.clone();
        self.backwards()
            .range(from..)
            .take_while(move |(host, _)| host.starts_with(&*end))
            .flat_map(|(_, indices)| indices)
            .filter_map(|index| self.services.get(*index).map(|service| &**service))
            .filter(|service| crate::resource::host::matches(pattern, &service.host))
    }

    fn backwards(&self) -> &BTreeMap<String, Vec<usize>> {
        self.backwards.get_or_init(|| by_backwards(self.services.iter().map(|service| [&*service.host])))
    }

    /// The port of a single-port service, whatever entry declares it.
    pub(super) fn only_port(&self, host: &str) -> Option<u16> {
        let mut ports = self.of_host(host).flat_map(|service| &service.entry.ports).map(|port| port.number);
        let first = ports.next()?;
        ports.all(|port| port == first).then_some(first)
    }
}

/// What is exported to the client, in order of precedence. Of a host that is a Kubernetes Service, an
/// entry gives the subjectAltNames alone.
fn entries(world: &World, scope: &Scope<'_>) -> Vec<Arc<ServiceEntry>> {
    let workloads = Workloads::new(world);
    let exported = |entry: &ServiceEntry| scope.is_exported(entry);
    let of_kubernetes = world.services().map(|service| kubernetes::entry(service, &workloads));
    let mut of_kubernetes: Vec<ServiceEntry> = of_kubernetes.filter(|entry| exported(entry)).collect();
    let by_host: HashMap<Arc<str>, usize> = of_kubernetes
        .iter()
        .enumerate()
        .flat_map(|(index, entry)| entry.hosts.iter().map(move |host| (Arc::clone(&host.value), index)))
        .collect();
    let mut own: Vec<&Arc<ServiceEntry>> = world.service_entries().filter(|entry| exported(entry)).collect();
    own.sort_by_key(|entry| order(entry, scope));
    let mut entries = Vec::with_capacity(own.len() + of_kubernetes.len());
    for entry in own {
        let mut taken = entry.hosts.iter().filter_map(|host| by_host.get(&host.value)).peekable();
        if taken.peek().is_none() {
            entries.push(workloads.fill(entry));
            continue;
        }
        for index in taken {
            of_kubernetes[*index].subject_alt_names.extend(entry.subject_alt_names.iter().cloned());
        }
        let mut rest = (*workloads.fill(entry)).clone();
        rest.hosts.retain(|host| !by_host.contains_key(&host.value));
        entries.push(Arc::new(rest));
    }
    entries.extend(of_kubernetes.into_iter().map(Arc::new));
    entries.sort_by(|a, b| order(a, scope).cmp(&order(b, scope)));
    entries
}

/// The hosts of an entry that the scope brings in, each as it does.
fn imported(entry: &Arc<ServiceEntry>, world: &World, scope: &Scope<'_>) -> Vec<Service> {
    let mut services = Vec::with_capacity(entry.hosts.len());
    // Hosts that come in through the same listener share one entry.
    let mut trimmed: Vec<(u16, Option<Arc<ServiceEntry>>)> = Vec::new();
    let source = Source::whole(&entry.meta.key);
    for host in &entry.hosts {
        for import in scope.imports(entry.meta.namespace(), &host.value) {
            let (entry, listed) = match import.port() {
                None => {
                    let elsewhere = scope.ports_with_listeners();
                    let listed =
                        if elsewhere.is_empty() { Listed::All } else { Listed::HttpNotOn(elsewhere) };
                    (Some(Arc::clone(entry)), listed)
                }
                Some(port) => {
                    let known = trimmed.iter().find(|(known, _)| *known == port);
                    let of_port = known.map(|(_, entry)| entry.clone()).unwrap_or_else(|| {
                        let of_port = on_port(entry, &import, port);
                        trimmed.push((port, of_port.clone()));
                        of_port
                    });
                    (of_port, Listed::All)
                }
            };
            let Some(entry) = entry else { continue };
            let takes_ports = takes_ports(&entry, world);
            services.push(Service {
                host: Arc::clone(&host.value),
                entry,
                source: Arc::clone(&source),
                listed,
                bind: import.bind(),
                takes_ports,
            });
        }
    }
    services
}

/// The client's namespace first, then by age.
fn order<'a>(entry: &'a ServiceEntry, scope: &Scope<'_>) -> (bool, (Option<&'a str>, &'a str, &'a str)) {
    (entry.meta.namespace() != scope.namespace(), entry.meta.age_order())
}

/// An entry as a Sidecar's listener of one port brings it in; `None` when it has no such port.
fn on_port(entry: &Arc<ServiceEntry>, import: &Import<'_>, port: u16) -> Option<Arc<ServiceEntry>> {
    let mut port = entry.ports.iter().find(|own| own.number == port)?.clone();
    port.protocol = import.protocol().unwrap_or(port.protocol);
    Some(Arc::new(ServiceEntry { ports: vec![port], ..(**entry).clone() }))
}

/// Where a VirtualService leads.
fn destination_hosts(service: &VirtualService) -> impl Iterator<Item = &Arc<str>> {
    let tls = service.tls.iter().map(|route| &route.destinations);
    let tcp = service.tcp.iter().map(|route| &route.destinations);
    service.destination_hosts().chain(tls.chain(tcp).flatten().map(|destination| &destination.host))
}

/// A service without addresses takes every connection of its ports. Kubernetes' own have one, whether
/// it is known here or not; one that a controller allocated is enough for clients that are told it.
fn takes_ports(entry: &ServiceEntry, world: &World) -> bool {
    if kubernetes::is_kubernetes(entry) {
        return entry.resolution == Resolution::None;
    }
    entry.allocated_addresses.is_empty() || !world.mesh.captures_dns()
}

pub(crate) fn backwards(text: &str) -> String {
    text.chars().rev().collect()
}

/// Who has each host, spelled backwards; `hosts` are those of each.
pub(crate) fn by_backwards<'a>(
    hosts: impl Iterator<Item = impl IntoIterator<Item = &'a str>>,
) -> BTreeMap<String, Vec<usize>> {
    let mut by_host: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, hosts) in hosts.enumerate() {
        for host in hosts {
            by_host.entry(backwards(host)).or_default().push(index);
        }
    }
    by_host
}
