//! What was looked at for a host and lost. The choice itself is read from the snapshot; here the others get their reason.

use super::Context;
use super::explanation::{PassedOver, Place};
use super::gateway::Entrance;
use super::places::place;
use crate::compile::scope::Scope;
use crate::resource::destination_rule::DestinationRule;
use crate::resource::virtual_service::{MESH, gateway_meant};
use crate::resource::{ExportTo, Meta, ResourceKey, ServiceEntry, Sidecar, VirtualService, host};

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

fn by_sidecar(sidecar: &Sidecar) -> String {
    let origin = &sidecar.meta.origin;
    format!("none of the egress hosts of {} ({origin}) brings it in", sidecar.meta.key)
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
    let scope = Scope::of(context.world, context.settings);
    let host = &entry.hosts[index].value;
    if let Some(sidecar) = scope.left_out_by(entry.meta.namespace(), host) {
        return Some(lost(place, by_sidecar(sidecar)));
    }
    if !entry.ports.iter().any(|known| known.number == port) {
        let ports: Vec<String> = entry.ports.iter().map(|port| port.number.to_string()).collect();
        return Some(lost(place, format!("has no port {port} (it has {})", ports.join(", "))));
    }
    let first =
        context.snapshot.clusters.values().find(|cluster| cluster.host == *host && cluster.port == port);
    let why = match first.and_then(|cluster| cluster.source.as_ref()) {
        Some(source) => format!(
            "{} has {host} on port {port}, too, and comes first: the client's namespace, then age, then name",
            source.service
        ),
        None => "nothing says where its endpoints are".into(),
    };
    Some(lost(place, why))
}

/// VirtualServices with this host other than those whose routes act: one in the mesh, at a gateway perhaps several.
pub(super) fn virtual_services(context: Context<'_>, name: &str, acting: &[&ResourceKey]) -> Vec<PassedOver> {
    let chosen = acting.first().copied();
    let chosen_host = chosen.and_then(|key| {
        let service = context.world.virtual_services().find(|service| service.meta.key == *key)?;
        most_specific(service, name)
    });
    let mut passed_over: Vec<PassedOver> = context
        .world
        .virtual_services()
        .filter(|service| !acting.contains(&&service.meta.key))
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
    let scope = Scope::of(context.world, context.settings);
    let why = if let Some(why) = context.entrance.and_then(|entrance| not_bound(service, entrance)) {
        why
    } else if !context.is_gateway() && !service.binds_mesh() {
        format!("bound to gateways only ({}), {MESH} is not among them", service.gateways.join(", "))
    } else if let Some(why) = context.not_exported(
        &service.meta,
        &service.export_to,
        &context.world.mesh.default_virtual_service_export_to,
    ) {
        why
    } else if let Some(sidecar) = scope.hides_virtual_service(service) {
        by_sidecar(sidecar)
    } else if let (Some(chosen), Some(chosen_host)) = (chosen, chosen_host) {
        if chosen_host == host && context.is_gateway() {
            format!("none of its routes acts here, or {chosen} comes first by age and name")
        } else if chosen_host == host {
            format!("{chosen} has {host}, too, and comes first by age and name: for HTTP no other is asked")
        } else {
            format!("{host} is less specific than {chosen_host} of {chosen}")
        }
    } else {
        "none of its routes is for this port and client".into()
    };
    Some(lost(place, why))
}

/// Why a gateway does not go by a VirtualService on a port.
fn not_bound(service: &VirtualService, entrance: &Entrance<'_>) -> Option<String> {
    let home = service.meta.namespace();
    let is_bound = service.gateways.iter().any(|gateway| entrance.has_gateway(gateway_meant(gateway, home)));
    let gateways = if service.gateways.is_empty() { MESH.to_owned() } else { service.gateways.join(", ") };
    (!is_bound).then(|| format!("bound to {gateways}: none of them has a server on this port of the gateway"))
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
        .map(|rule| destination_rule(context, rule, service_host, service, acting))
        .collect();
    passed_over.sort();
    passed_over
}

/// In which order rules are asked: those of the client's namespace, of the service's, of the root.
fn turn(context: Context<'_>, rule: &DestinationRule, service: &ResourceKey) -> Option<u8> {
    let (namespace, root) = (&**rule.meta.namespace(), &*context.world.mesh.root_namespace);
    if namespace == context.namespace() && (namespace != root || context.is_own_only(rule)) {
        Some(0)
    } else if namespace == &*service.namespace {
        Some(1)
    } else if namespace == root {
        Some(2)
    } else {
        None
    }
}

impl Context<'_> {
    fn is_own_only(&self, rule: &DestinationRule) -> bool {
        rule.workload_selector.is_some()
            || rule.export_to.or(&self.world.mesh.default_destination_rule_export_to).is_own_only()
    }

    fn is_selected(&self, rule: &DestinationRule) -> bool {
        let client = &self.settings.client;
        rule.workload_selector
            .as_ref()
            .is_none_or(|labels| client.has_labels(labels) && *rule.meta.namespace() == client.namespace)
    }
}

fn destination_rule(
    context: Context<'_>,
    rule: &DestinationRule,
    service_host: &str,
    service: &ResourceKey,
    acting: &[ResourceKey],
) -> PassedOver {
    let place = place(&rule.meta, Some("spec.host".into()), rule.host_position);
    let default = &context.world.mesh.default_destination_rule_export_to;
    let why = if !context.is_selected(rule) {
        "its workloadSelector does not select the client".into()
    } else if let Some(why) = context
        .not_exported(&rule.meta, &rule.export_to, default)
        .filter(|_| rule.workload_selector.is_none())
    {
        why
    } else {
        let acting = acting.first().and_then(|key| context.rule(key));
        hidden(context, rule, service_host, service, acting)
    };
    lost(place, why)
}

/// Why a rule that the client could get is not the one that acts.
fn hidden(
    context: Context<'_>,
    rule: &DestinationRule,
    service_host: &str,
    service: &ResourceKey,
    acting: Option<&DestinationRule>,
) -> String {
    let namespace = rule.meta.namespace();
    let root = &context.world.mesh.root_namespace;
    let Some(own) = turn(context, rule, service) else {
        return format!(
            "namespace {namespace} is not asked: only the client's ({}), the service's ({}) and the root ({root}) are",
            context.namespace(),
            service.namespace,
        );
    };
    if let Some(first) = acting
        && turn(context, first, service).is_some_and(|other| other < own)
    {
        let first_key = &first.meta.key;
        if first.meta.namespace() == namespace {
            return format!(
                "the client is in the root namespace {root}, where rules that are exported to it alone, as {first_key}, \
                 are asked first"
            );
        }
        return format!(
            "{first_key} is in a namespace that is asked before {namespace}; rules of two namespaces are not merged"
        );
    }
    match more_specific(context, rule, service_host) {
        Some(other) if acting.is_some_and(|first| first.meta.key == other.meta.key) => {
            format!("{} has a more specific host", other.meta.key)
        }
        Some(other) => format!(
            "{} has a more specific host and is not exported to namespace {}, which ends the turn of namespace {namespace}",
            other.meta.key,
            context.namespace()
        ),
        None => match acting {
            Some(first) => format!("{} has the same host and another exportTo or selector", first.meta.key),
            None => "it says nothing of this cluster".into(),
        },
    }
}

/// The rule of the same namespace whose host is the most specific, when that is more specific than this one's.
fn more_specific<'a>(
    context: Context<'a>,
    rule: &DestinationRule,
    service_host: &str,
) -> Option<&'a DestinationRule> {
    let rank = |rule: &DestinationRule| (!rule.host.starts_with('*'), rule.host.len());
    let default = &context.world.mesh.default_destination_rule_export_to;
    let candidates = context.world.destination_rules().filter(|other| {
        other.meta.namespace() == rule.meta.namespace()
            && context.is_selected(other)
            && host::matches(&other.host, service_host)
            && rank(other) > rank(rule)
    });
    let seen = |other: &DestinationRule| {
        other.workload_selector.is_some()
            || context.not_exported(&other.meta, &other.export_to, default).is_none()
    };
    let best = candidates.max_by(|one, other| {
        let order = |rule: &DestinationRule| (rank(rule), rule.workload_selector.is_some(), seen(rule));
        order(one).cmp(&order(other)).then_with(|| other.meta.age_order().cmp(&one.meta.age_order()))
    });
    best.map(|rule| &**rule)
}
