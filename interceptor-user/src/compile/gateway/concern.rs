//! Which resources an egress gateway has nothing to do with: it says nothing of other people's mistakes.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::ports;
use crate::compile::Client;
use crate::resource::virtual_service::{HttpAction, gateway_meant};
use crate::resource::{Kind, Labels, ResourceKey, VirtualService, World, host};

/// What has no part in what the gateway that `client` is does: not its Gateways, the VirtualServices that are bound to them
/// or that those delegate to, their destinations, and its Services.
pub(crate) fn of_others(world: &World, client: &Client) -> HashSet<String> {
    let mut own: HashSet<&ResourceKey> = HashSet::new();
    let gateways = world.gateways().filter(|gateway| client.has_labels(&gateway.selector));
    own.extend(gateways.map(|gateway| &gateway.meta.key));
    let mut destinations: BTreeSet<&str> = BTreeSet::new();
    for service in bound(world, &own) {
        own.insert(&service.meta.key);
        destinations.extend(hosts(service));
    }
    // What clients of AUTO_PASSTHROUGH may name.
    let gateways = world.gateways().filter(|gateway| own.contains(&gateway.meta.key));
    let auto = gateways.flat_map(|gateway| &gateway.servers).filter(|server| server.is_auto_passthrough());
    let named: Vec<&str> = auto.flat_map(|server| &server.hosts).map(|host| &*host.host).collect();
    let is_destination = |name: &str| {
        named.iter().any(|named| host::matches(named, name))
            || destinations.contains(name)
            || destinations.iter().any(|destination| host::matches(name, destination))
    };
    let entries = world.service_entries();
    let entries = entries.filter(|entry| entry.hosts.iter().any(|host| is_destination(&host.value)));
    own.extend(entries.map(|entry| &entry.meta.key));
    let rules = world.destination_rules().filter(|rule| is_destination(&rule.host));
    own.extend(rules.map(|rule| &rule.meta.key));
    let services = world.services().filter(|service| {
        let prefix = format!("{}.{}.", service.meta.name(), service.meta.namespace());
        destinations.range(&*prefix..).next().is_some_and(|destination| destination.starts_with(&prefix))
    });
    own.extend(services.map(|service| &service.meta.key));
    own.extend(ports::leading_to(world, client).map(|service| &service.meta.key));
    let others = world.resources.keys().filter(|key| !own.contains(key) && key.kind != Kind::EndpointSlice);
    others.map(ToString::to_string).collect()
}

/// Selectors that are named where none is met.
const SELECTORS_MAX: usize = 5;

/// Why the gateway that `client` is has no port, where that is because no Gateway means it.
pub(crate) fn unselected(world: &World, client: &Client) -> Option<String> {
    if world.gateways().any(|gateway| client.has_labels(&gateway.selector)) {
        return None;
    }
    let labels = match selector(&client.labels) {
        labels if labels.is_empty() => "it has no labels".to_owned(),
        labels => format!("its labels are {labels}"),
    };
    let there: BTreeSet<String> = world.gateways().map(|gateway| selector(&gateway.selector)).collect();
    let others = there.len().saturating_sub(SELECTORS_MAX);
    let mut there: Vec<String> = there.into_iter().take(SELECTORS_MAX).collect();
    if others > 0 {
        there.push(format!("{others} more"));
    }
    let there = match there.is_empty() {
        true => "there is no Gateway".to_owned(),
        false => format!("there are selectors {}: give --labels one of them", there.join("; ")),
    };
    Some(format!("no Gateway selects this gateway, so it listens on no port: {labels}, and {there}"))
}

fn selector(labels: &Labels) -> String {
    let each: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    each.join(",")
}

/// The VirtualServices that are bound to one of `gateways`, and those that they delegate to.
fn bound<'a>(world: &'a World, gateways: &HashSet<&ResourceKey>) -> Vec<&'a VirtualService> {
    let named: HashSet<(&str, &str)> = gateways.iter().map(|key| (&*key.namespace, &*key.name)).collect();
    let is_bound = |service: &&Arc<VirtualService>| {
        let home = service.meta.namespace();
        service.gateways.iter().any(|reference| named.contains(&gateway_meant(reference, home)))
    };
    let roots: Vec<&VirtualService> =
        world.virtual_services().filter(is_bound).map(|service| &**service).collect();
    let delegated = |service: &&'a VirtualService| -> Vec<(&'a str, &'a str)> {
        let home = service.meta.namespace();
        let service: &'a VirtualService = service;
        let named = service.http.iter().filter_map(|route| match &route.action {
            HttpAction::Delegate { name, namespace } => {
                Some((&**namespace.as_ref().unwrap_or(home), &**name))
            }
            HttpAction::Route(_) | HttpAction::Redirect(_) | HttpAction::DirectResponse { .. } => None,
        });
        named.collect()
    };
    let delegates: HashSet<(&str, &str)> = roots.iter().flat_map(delegated).collect();
    let is_delegate = |service: &&Arc<VirtualService>| {
        delegates.contains(&(&**service.meta.namespace(), &**service.meta.name()))
    };
    let delegates = world.virtual_services().filter(is_delegate).map(|service| &**service);
    roots.iter().copied().chain(delegates).collect()
}

fn hosts(service: &VirtualService) -> impl Iterator<Item = &str> {
    let tls = service.tls.iter().flat_map(|route| &route.destinations);
    let tcp = service.tcp.iter().flat_map(|route| &route.destinations);
    let opaque = tls.chain(tcp).map(|destination| &destination.host);
    service.destination_hosts().chain(opaque).map(|host| &**host)
}
