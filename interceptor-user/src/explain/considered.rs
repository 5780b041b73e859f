//! What was looked at for a host and lost. The choice itself is read from the snapshot; here the others get their reason.

use super::Context;
use super::explanation::{PassedOver, Place};
use super::places::place;
use crate::compile::scope::Scope;
use crate::resource::destination_rule::DestinationRule;
use crate::resource::virtual_service::MESH;
use crate::resource::{ExportTo, Meta, ResourceKey, ServiceEntry, VirtualService, host};

fn lost(place: Place, why: impl Into<String>) -> PassedOver {
    PassedOver { place, why: why.into() }
}

impl Context<'_> {
    fn namespace(&self) -> &str {
        &self.settings.client.namespace
    }

    /// Why a resource is not seen, when that is so.
    fn not_exported(&self, meta: &Meta, export_to: &ExportTo, default: &ExportTo) -> Option<String> {
        let seen = export_to.or(default).reaches(meta.namespace(), self.namespace());
        (!seen).then(|| format!("not exported to namespace {}", self.namespace()))
    }
}

/// ServiceEntries that have the host and are not asked on this port.
pub(super) fn service_entries(context: Context<'_>, name: &str, port: u16) -> Vec<PassedOver> {
    let visible = context.services_on(port);
    let mut passed_over: Vec<PassedOver> = context
        .world
        .service_entries()
        .filter(|entry| !visible.contains(&entry.meta.key))
        .filter_map(|entry| service_entry(context, entry, name, port))
        .collect();
    passed_over.sort();
    passed_over
}

fn service_entry(context: Context<'_>, entry: &ServiceEntry, name: &str, port: u16) -> Option<PassedOver> {
    let index = entry.hosts.iter().position(|host| host::matches(&host.value, name))?;
    let field = Some(format!("spec.hosts[{index}]"));
    let place = place(&entry.meta, field, entry.hosts[index].position);
    if let Some(why) =
        context.not_exported(&entry.meta, &entry.export_to, &context.world.mesh.default_service_export_to)
    {
        return Some(lost(place, why));
    }
    if !entry.ports.iter().any(|known| known.number == port) {
        let ports: Vec<String> = entry.ports.iter().map(|port| port.number.to_string()).collect();
        return Some(lost(place, format!("has no port {port} (it has {})", ports.join(", "))));
    }
    let host = &entry.hosts[index].value;
    let first =
        context.snapshot.clusters.values().find(|cluster| cluster.host == *host && cluster.port == port);
    let why = match first.and_then(|cluster| cluster.source.as_ref()) {
        Some(source) => format!(
            "{} has {host} on port {port}, too, and comes first: the client's namespace, then age, then name",
            source.service
        ),
        None => "the client's Sidecar does not let it in, or it has no endpoints".into(),
    };
    Some(lost(place, why))
}

/// VirtualServices with this host other than the one whose routes act.
pub(super) fn virtual_services(
    context: Context<'_>,
    name: &str,
    chosen: Option<&ResourceKey>,
) -> Vec<PassedOver> {
    let chosen_host = chosen.and_then(|key| {
        let service = context.world.virtual_services().find(|service| service.meta.key == *key)?;
        most_specific(service, name)
    });
    let mut passed_over: Vec<PassedOver> = context
        .world
        .virtual_services()
        .filter(|service| Some(&service.meta.key) != chosen)
        .filter_map(|service| virtual_service(context, service, name, chosen, chosen_host))
        .collect();
    passed_over.sort();
    passed_over
}

/// The index of the host that matches best.
fn most_specific<'a>(service: &'a VirtualService, name: &str) -> Option<&'a str> {
    let matching = service.hosts.iter().filter(|host| host::matches(&host.value, name));
    matching.map(|host| &*host.value).max_by_key(|host| (!host.starts_with('*'), host.len()))
}

fn virtual_service(
    context: Context<'_>,
    service: &VirtualService,
    name: &str,
    chosen: Option<&ResourceKey>,
    chosen_host: Option<&str>,
) -> Option<PassedOver> {
    let host = most_specific(service, name)?;
    let index = service.hosts.iter().position(|known| *known.value == *host)?;
    let place = place(&service.meta, Some(format!("spec.hosts[{index}]")), service.hosts[index].position);
    let why = if !service.binds_mesh() {
        format!("bound to gateways only ({}), {MESH} is not among them", service.gateways.join(", "))
    } else if let Some(why) = context.not_exported(
        &service.meta,
        &service.export_to,
        &context.world.mesh.default_virtual_service_export_to,
    ) {
        why
    } else if !Scope::new(context.world, &context.settings.client).sees_virtual_service(service) {
        "the client's Sidecar does not let it in".into()
    } else if let (Some(chosen), Some(chosen_host)) = (chosen, chosen_host) {
        if chosen_host == host {
            format!("{chosen} has {host}, too, and comes first by age and name: for HTTP no other is asked")
        } else {
            format!("{host} is less specific than {chosen_host} of {chosen}")
        }
    } else {
        "none of its routes is for this port and client".into()
    };
    Some(lost(place, why))
}

/// DestinationRules for a service other than those that act.
pub(super) fn destination_rules(
    context: Context<'_>,
    service_host: &str,
    service: &ResourceKey,
    acting: &[ResourceKey],
) -> Vec<PassedOver> {
    let mut passed_over: Vec<PassedOver> = context
        .world
        .destination_rules()
        .filter(|rule| !acting.contains(&rule.meta.key) && host::matches(&rule.host, service_host))
        .map(|rule| destination_rule(context, rule, service, acting))
        .collect();
    passed_over.sort();
    passed_over
}

/// In which order the namespaces are asked: the client's, the service's, the root.
fn turn(context: Context<'_>, namespace: &str, service: &ResourceKey) -> Option<u8> {
    if namespace == context.namespace() {
        Some(0)
    } else if namespace == &*service.namespace {
        Some(1)
    } else if namespace == &*context.world.mesh.root_namespace {
        Some(2)
    } else {
        None
    }
}

fn destination_rule(
    context: Context<'_>,
    rule: &DestinationRule,
    service: &ResourceKey,
    acting: &[ResourceKey],
) -> PassedOver {
    let place = place(&rule.meta, Some("spec.host".into()), rule.host_position);
    let namespace = rule.meta.namespace();
    let first = acting.first();
    let why = if let Some(why) = context.not_exported(
        &rule.meta,
        &rule.export_to,
        &context.world.mesh.default_destination_rule_export_to,
    ) {
        why
    } else {
        match (turn(context, namespace, service), first) {
            (None, _) => format!(
                "namespace {namespace} is not asked: only the client's ({}), the service's ({}) and the root ({}) are",
                context.namespace(),
                service.namespace,
                context.world.mesh.root_namespace
            ),
            (Some(own), Some(first))
                if turn(context, &first.namespace, service).is_some_and(|other| other < own) =>
            {
                format!(
                    "{first} is in a namespace that is asked before {namespace}; rules of two namespaces are not merged"
                )
            }
            (Some(_), Some(first)) => {
                format!("{first} has a more specific host, or the same host and another exportTo or selector")
            }
            (Some(_), None) if rule.workload_selector.is_some() => {
                "its workloadSelector does not select the client".into()
            }
            (Some(_), None) => {
                "a more specific rule of its namespace is not exported here, so that none acts".into()
            }
        }
    };
    lost(place, why)
}
