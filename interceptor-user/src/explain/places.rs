//! Where resources are written, and what the services of a client say of hosts and ports.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Context;
use super::explanation::Place;
use super::target::Spoken;
use crate::resource::service_entry::Protocol;
use crate::resource::{Annotations, Meta, Position, Resource, ResourceKey, VirtualService, host};
use crate::snapshot::{Rule, Source};
use crate::workload;

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

/// The annotations that say which connections of a pod are redirected: what [`super::Question::redirect`] is from.
pub fn redirect_places(meta: &Meta, annotations: &Annotations) -> Vec<Place> {
    let of_redirect = annotations.iter().filter(|(name, _)| workload::Annotation::of_name(name).is_some());
    of_redirect
        .map(|(name, annotation)| Place {
            resource: meta.key.to_string(),
            field: Some(format!("annotation {name}")),
            at: Some(annotation.origin(meta).to_string()),
        })
        .collect()
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

    /// The place of a host in the ServiceEntry or VirtualService that has it.
    pub(super) fn place_of_host(&self, key: &ResourceKey, name: &str) -> Place {
        let (meta, hosts) = match self.world.resources.get(key) {
            Some(Resource::ServiceEntry(entry)) => (&entry.meta, &entry.hosts),
            Some(Resource::VirtualService(service)) => (&service.meta, &service.hosts),
            Some(_) | None => return self.place_of(key),
        };
        match hosts.iter().position(|host| *host.value == *name) {
            Some(index) => place(meta, Some(format!("spec.hosts[{index}]")), hosts[index].position),
            None => whole(meta),
        }
    }

    /// The place of a port in the service that has it.
    pub(super) fn place_of_port(&self, key: &ResourceKey, port: u16) -> Place {
        let Some(service) = self.declared(key) else { return self.place_of(key) };
        match service.ports.iter().position(|(number, _, _)| *number == port) {
            Some(index) => place(service.meta, Some(format!("spec.ports[{index}]")), service.ports[index].2),
            None => whole(service.meta),
        }
    }

    /// What a ServiceEntry or a Kubernetes Service says.
    pub(super) fn declared(&self, key: &ResourceKey) -> Option<Declared<'_>> {
        match self.world.resources.get(key) {
            Some(Resource::ServiceEntry(entry)) => Some(Declared {
                meta: &entry.meta,
                hosts: entry.hosts.iter().map(|host| host.value.to_string()).collect(),
                ports: entry.ports.iter().map(|port| (port.number, port.protocol, port.position)).collect(),
                addresses: entry
                    .addresses
                    .iter()
                    .filter(|range| range.value.is_single_host())
                    .map(|range| range.value.address)
                    .collect(),
            }),
            Some(Resource::Service(service)) => {
                let (name, home) = (service.meta.name(), service.meta.namespace());
                let mut hosts = vec![
                    format!("{name}.{home}.svc.cluster.local"),
                    format!("{name}.{home}.svc"),
                    format!("{name}.{home}"),
                ];
                hosts.extend((*home == self.settings.client.namespace).then(|| name.to_string()));
                Some(Declared {
                    meta: &service.meta,
                    hosts,
                    ports: service
                        .ports
                        .iter()
                        .map(|port| (port.number, port.protocol, port.position))
                        .collect(),
                    addresses: service.cluster_ips.clone(),
                })
            }
            Some(_) | None => None,
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

    /// The services that the client sees with this host on this port, in the order of their names.
    fn services_of(&self, name: &str, port: u16) -> impl Iterator<Item = Declared<'_>> {
        let services = self.services_on(port).into_iter().filter_map(|key| self.declared(key));
        services.filter(move |service| service.has(name))
    }
}

/// What a service says of itself, whatever its kind.
pub(super) struct Declared<'a> {
    pub(super) meta: &'a Meta,
    /// Those that the client may use, perhaps with wildcards.
    hosts: Vec<String>,
    ports: Vec<(u16, Protocol, Position)>,
    pub(super) addresses: Vec<IpAddr>,
}

impl Declared<'_> {
    pub(super) fn has(&self, name: &str) -> bool {
        self.hosts.iter().any(|host| host::matches(host, name))
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
    let service = context.services_of(name, port).next()?;
    let protocol = service.ports.iter().find(|(number, _, _)| *number == port)?.1;
    let spoken = if protocol.is_http() {
        Spoken::Http
    } else if protocol.is_tls() {
        Spoken::Tls
    } else if protocol == Protocol::Auto {
        return None;
    } else {
        Spoken::Tcp
    };
    Some((spoken, format!("as {} declares port {port}; --protocol says otherwise", service.meta.key)))
}

/// The address that a service gives a host.
pub(super) fn virtual_address(context: Context<'_>, name: &str, port: u16) -> Option<(IpAddr, ResourceKey)> {
    context
        .services_of(name, port)
        .find_map(|service| Some((*service.addresses.first()?, service.meta.key.clone())))
}
