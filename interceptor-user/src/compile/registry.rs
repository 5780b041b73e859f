//! The services that a client sees: one for each host of each visible ServiceEntry.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::resource::service_entry::{AddressRange, ServicePort};
use crate::resource::{ServiceEntry, World};

/// One host of one ServiceEntry.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) host: Arc<str>,
    pub(super) entry: Arc<ServiceEntry>,
}

impl Service {
    pub(super) fn port(&self, number: u16) -> Option<&ServicePort> {
        self.entry.ports.iter().find(|port| port.number == number)
    }

    /// Where connections to it are recognised.
    pub(super) fn binds(&self) -> Vec<Bind> {
        let binds = self.entry.addresses.iter().map(|range| match range.value {
            range if range.address.is_unspecified() => Bind::Any,
            range if range.is_single() => Bind::Address(range),
            range => Bind::Range(range),
        });
        let binds: Vec<Bind> = binds.collect();
        if binds.is_empty() { vec![Bind::Any] } else { binds }
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

/// All visible services, those of the client's namespace first, then by age.
#[derive(Debug, Default)]
pub(super) struct Registry {
    pub(super) services: Vec<Service>,
    by_host: HashMap<Arc<str>, Vec<usize>>,
    /// Hosts spelled backwards, so that those with a common end stand together.
    backwards: BTreeMap<String, Vec<usize>>,
}

impl Registry {
    pub(super) fn new(world: &World, namespace: &str) -> Self {
        let default = &world.mesh.default_service_export_to;
        let mut entries: Vec<&Arc<ServiceEntry>> = world
            .service_entries()
            .filter(|entry| entry.export_to.or(default).reaches(entry.meta.namespace(), namespace))
            .collect();
        entries.sort_by_key(|entry| (**entry.meta.namespace() != *namespace, entry.meta.age_order()));
        let mut registry = Self::default();
        for entry in entries {
            for host in &entry.hosts {
                let index = registry.services.len();
                registry.by_host.entry(Arc::clone(&host.value)).or_default().push(index);
                registry.backwards.entry(backwards(&host.value)).or_default().push(index);
                registry.services.push(Service { host: Arc::clone(&host.value), entry: Arc::clone(entry) });
            }
        }
        registry
    }

    /// The services of a host, the first having precedence.
    pub(super) fn of_host(&self, host: &str) -> impl Iterator<Item = &Service> {
        self.by_host.get(host).into_iter().flatten().filter_map(|index| self.services.get(*index))
    }

    /// The services whose host `pattern` (`*.example.com`) matches.
    pub(super) fn matching<'a>(&'a self, pattern: &'a str) -> impl Iterator<Item = &'a Service> {
        let end = backwards(pattern.trim_start_matches('*'));
        let from = end.clone();
        self.backwards
            .range(from..)
            .take_while(move |(host, _)| host.starts_with(&*end))
            .flat_map(|(_, indices)| indices)
            .filter_map(|index| self.services.get(*index))
            .filter(|service| crate::resource::host::matches(pattern, &service.host))
    }

    /// The port of a single-port service, whatever entry declares it.
    pub(super) fn only_port(&self, host: &str) -> Option<u16> {
        let mut ports = self.of_host(host).flat_map(|service| &service.entry.ports).map(|port| port.number);
        let first = ports.next()?;
        ports.all(|port| port == first).then_some(first)
    }
}

pub(super) fn backwards(text: &str) -> String {
    text.chars().rev().collect()
}
