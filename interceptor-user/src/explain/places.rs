//! Where resources are written, and what the services of a client say of hosts and ports.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Context;
use super::explanation::Place;
use super::target::Spoken;
use crate::resource::service_entry::{Protocol, ServiceEntry};
use crate::resource::{Meta, Position, Resource, ResourceKey, VirtualService, host};
use crate::snapshot::{Rule, Source};

/// A place in a resource; the resource as a whole when the position is not known.
pub(super) fn place(meta: &Meta, field: Option<String>, position: Position) -> Place {
    let mut origin = meta.origin.clone();
    if position.line > 0 {
        origin.position = position;
    }
    Place { resource: meta.key.to_string(), field, at: Some(origin.to_string()) }
}

pub(super) fn whole(meta: &Meta) -> Place {
    place(meta, None, Position::default())
}

impl Context<'_> {
    pub(super) fn place_of(&self, key: &ResourceKey) -> Place {
        match self.world.resources.get(key) {
            Some(resource) => whole(resource.meta()),
            None => Place { resource: key.to_string(), field: None, at: None },
        }
    }

    /// The place of a rule.
    pub(super) fn place_of_source(&self, source: &Source) -> Place {
        let service = match self.world.resources.get(&source.resource) {
            Some(Resource::VirtualService(service)) => service,
            Some(_) | None => return self.place_of(&source.resource),
        };
        let Some(rule) = source.rule else { return whole(&service.meta) };
        let (field, position) = rule_in(service, rule);
        place(&service.meta, Some(field), position)
    }

    /// The place of a host in the service that has it.
    pub(super) fn place_of_host(&self, key: &ResourceKey, name: &str) -> Place {
        let Some(Resource::ServiceEntry(entry)) = self.world.resources.get(key) else {
            return self.place_of(key);
        };
        match entry.hosts.iter().position(|host| *host.value == *name) {
            Some(index) => {
                place(&entry.meta, Some(format!("spec.hosts[{index}]")), entry.hosts[index].position)
            }
            None => whole(&entry.meta),
        }
    }

    /// The place of a port in the service that has it.
    pub(super) fn place_of_port(&self, key: &ResourceKey, port: u16) -> Place {
        let Some(Resource::ServiceEntry(entry)) = self.world.resources.get(key) else {
            return self.place_of(key);
        };
        match entry.ports.iter().position(|known| known.number == port) {
            Some(index) => {
                place(&entry.meta, Some(format!("spec.ports[{index}]")), entry.ports[index].position)
            }
            None => whole(&entry.meta),
        }
    }

    /// The services that the client sees on a port: those that have a cluster there.
    pub(super) fn services_on(&self, port: u16) -> BTreeSet<&ResourceKey> {
        let clusters = self.snapshot.clusters.values().filter(|cluster| cluster.port == port);
        clusters.filter_map(|cluster| Some(&cluster.source.as_ref()?.service)).collect()
    }

    /// All ports on which the client sees a host, also through a wildcard.
    pub(super) fn ports_of(&self, name: &str) -> BTreeSet<u16> {
        let clusters = self.snapshot.clusters.values().filter(|cluster| host::matches(&cluster.host, name));
        clusters.map(|cluster| cluster.port).collect()
    }

    /// The entries that the client sees with this host on this port, in the order of their names.
    fn entries_of(&self, name: &str, port: u16) -> impl Iterator<Item = &ServiceEntry> {
        let keys = self.services_on(port).into_iter();
        let entries = keys.filter_map(|key| match self.world.resources.get(key) {
            Some(Resource::ServiceEntry(entry)) => Some(&**entry),
            Some(_) | None => None,
        });
        entries.filter(move |entry| entry.hosts.iter().any(|host| host::matches(&host.value, name)))
    }
}

fn rule_in(service: &VirtualService, rule: Rule) -> (String, Position) {
    match rule {
        Rule::Http { route, condition } => {
            let found = service.http.get(route);
            let own = found.map(|route| route.position).unwrap_or_default();
            match condition {
                Some(index) => {
                    let position =
                        found.and_then(|route| route.matches.get(index)).map(|found| found.position);
                    (format!("spec.http[{route}].match[{index}]"), position.unwrap_or(own))
                }
                None => (format!("spec.http[{route}]"), own),
            }
        }
        Rule::Tls { route, condition } => {
            let position = service.tls.get(route).map(|route| route.position).unwrap_or_default();
            (format!("spec.tls[{route}].match[{condition}]"), position)
        }
        Rule::Tcp { route } => {
            let position = service.tcp.get(route).map(|route| route.position).unwrap_or_default();
            (format!("spec.tcp[{route}]"), position)
        }
    }
}

/// What a service that the client sees declares for a host and port.
pub(super) fn declared_protocol(context: Context<'_>, name: &str, port: u16) -> Option<(Spoken, String)> {
    let entry = context.entries_of(name, port).next()?;
    let protocol = entry.ports.iter().find(|known| known.number == port)?.protocol;
    let spoken = if protocol.is_http() {
        Spoken::Http
    } else if protocol.is_tls() {
        Spoken::Tls
    } else if protocol == Protocol::Auto {
        return None;
    } else {
        Spoken::Tcp
    };
    Some((spoken, format!("as {} declares port {port}; --protocol says otherwise", entry.meta.key)))
}

/// The address that a service gives a host.
pub(super) fn virtual_address(context: Context<'_>, name: &str, port: u16) -> Option<(IpAddr, ResourceKey)> {
    context.entries_of(name, port).find_map(|entry| {
        let single = entry.addresses.iter().find(|range| range.value.is_single_host())?;
        Some((single.value.address, entry.meta.key.clone()))
    })
}
