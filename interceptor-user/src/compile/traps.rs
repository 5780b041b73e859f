//! Configurations that compile and do something else than people expect.

use std::collections::BTreeSet;

use super::destination_rules::DestinationRules;
use super::findings::Findings;
use super::registry::Registry;
use super::tls;
use super::virtual_services::VirtualServices;
use crate::resource::destination_rule::{DestinationRule, TlsMode};
use crate::resource::service_entry::{Protocol, Resolution};
use crate::resource::{Level, Resource, VirtualService, World};

pub(super) fn find(
    world: &World,
    namespace: &str,
    registry: &Registry,
    rules: &DestinationRules,
    virtual_services: &VirtualServices,
    findings: &Findings,
) {
    for service in &registry.services {
        for (index, port) in service.entry.ports.iter().enumerate() {
            let about = |level, message: &str| {
                let field = format!("spec.ports[{index}].protocol");
                findings.about(&service.entry.meta, level, port.position, &field, message.into());
            };
            if port.number == 443 && port.protocol.is_http() {
                about(
                    Level::Error,
                    "port 443 is declared as plain HTTP: HTTPS of applications to this host is not recognised; use \
                     protocol HTTPS, or TLS",
                );
            }
            if port.protocol == Protocol::Udp {
                about(Level::Info, "UDP is not intercepted: this port does nothing");
            }
        }
        if service.entry.resolution == Resolution::Static && service.entry.endpoints.is_empty() {
            let meta = &service.entry.meta;
            let message = "resolution STATIC without endpoints: there is nobody to send to (503)";
            findings.about(meta, Level::Warning, meta.origin.position, "spec.endpoints", message.into());
        } else if service.entry.workload_selector.is_some() && service.entry.endpoints.is_empty() {
            let message = "workloadSelector: no workloads are known here, so that there is no endpoint (503)";
            let meta = &service.entry.meta;
            findings.about(
                meta,
                Level::Warning,
                meta.origin.position,
                "spec.workloadSelector",
                message.into(),
            );
        }
    }
    for merged in rules.all() {
        tls::report_impossible(merged, findings);
        for rule in &merged.rules {
            check_rule(rule, registry, findings);
        }
    }
    for service in world.virtual_services() {
        check_virtual_service(service, registry, virtual_services, findings);
    }
    for sidecar in world.sidecars() {
        let meta = &sidecar.meta;
        let message = "a Sidecar does not act here yet: everything that is exported to the client is seen";
        findings.about(meta, Level::Warning, meta.origin.position, "", message.into());
    }
    for resource in world.resources.values() {
        check_visible(resource, namespace, findings);
    }
}

/// What is not exported to the client's namespace does not act, and people who wrote it may wonder why.
fn check_visible(resource: &Resource, namespace: &str, findings: &Findings) {
    let export_to = match resource {
        Resource::ServiceEntry(entry) => &entry.export_to,
        Resource::VirtualService(service) => &service.export_to,
        Resource::DestinationRule(rule) => &rule.export_to,
        Resource::Gateway(_)
        | Resource::Sidecar(_)
        | Resource::WorkloadEntry(_)
        | Resource::WorkloadGroup(_)
        | Resource::Service(_)
        | Resource::Pod(_)
        | Resource::PodTemplate(_)
        | Resource::Namespace(_)
        | Resource::Secret(_) => return,
    };
    let meta = resource.meta();
    if !export_to.reaches(meta.namespace(), namespace) {
        let message = format!("not exported to namespace {namespace}, where the client is: does not act");
        findings.about(meta, Level::Info, meta.origin.position, "spec.exportTo", message);
    }
}

fn check_rule(rule: &DestinationRule, registry: &Registry, findings: &Findings) {
    if !registry.has_any(&rule.host) {
        let message = format!(
            "no ServiceEntry that is seen from here has host {}: this rule acts on nothing",
            rule.host
        );
        findings.coded("IST0174", &rule.meta, Level::Warning, rule.host_position, "spec.host", message);
        return;
    }
    let Some(tls) = rule.policy.blocks.tls.as_ref().filter(|tls| tls.mode != TlsMode::Disable) else {
        return;
    };
    let is_wrapped = |port: u16| !rule.policy.ports.contains_key(&port);
    let mut services = registry.of_host(&rule.host);
    let app_tls = services.find_map(|service| {
        service.entry.ports.iter().find(|port| port.protocol.is_tls() && is_wrapped(port.number))
    });
    if let Some(port) = app_tls {
        let message = format!(
            "TLS is also put around what applications already encrypt on port {}: TLS inside TLS; move it to a subset \
             or to portLevelSettings",
            port.number
        );
        findings.about(&rule.meta, Level::Warning, tls.position, "spec.trafficPolicy.tls", message);
    }
}

fn check_virtual_service(
    service: &VirtualService,
    registry: &Registry,
    virtual_services: &VirtualServices,
    findings: &Findings,
) {
    for (index, host) in service.hosts.iter().enumerate() {
        let field = format!("spec.hosts[{index}]");
        let known = registry.has_any(&host.value);
        if !service.binds_mesh() {
            if known && virtual_services.most_specific(&host.value).is_none() {
                let message = format!(
                    "bound only to gateways ({}): applications' own requests to {} don't follow it; add `mesh` to \
                     gateways, or leave gateways out",
                    service.gateways.join(", "),
                    host.value
                );
                findings.about(&service.meta, Level::Warning, host.position, &field, message);
            }
        } else if !known && !service.http.is_empty() && registry.covering(&host.value).next().is_some() {
            let ports = registry.covering(&host.value).flat_map(|service| &service.entry.ports);
            let ports = ports.filter(|port| port.number != 80 && port.protocol.is_http());
            let ports: BTreeSet<String> = ports.map(|port| port.number.to_string()).collect();
            if !ports.is_empty() {
                let ports: Vec<String> = ports.into_iter().collect();
                let message = format!(
                    "of the ServiceEntries that are seen from here only a wildcard has host {}: the http routes act on \
                     port 80, and not on {}; declare {} itself to have them there, too",
                    host.value,
                    ports.join(", "),
                    host.value
                );
                findings.about(&service.meta, Level::Warning, host.position, &field, message);
            }
        } else if !known && !service.http.is_empty() {
            let message = format!(
                "no ServiceEntry that is seen from here has host {}: the routes act on port 80 only, and only when a \
                 ServiceEntry has HTTP there",
                host.value
            );
            findings.about(&service.meta, Level::Warning, host.position, &field, message);
        }
        let shadowed = virtual_services.first_with_host(&host.value).filter(|_| service.binds_mesh());
        if let Some(first) = shadowed.filter(|first| first.meta.key != service.meta.key) {
            let message = format!(
                "{} ({}) has host {}, too, and comes first by age and name: for HTTP this one is not asked",
                first.meta.key, first.meta.origin, host.value
            );
            findings.coded("IST0109", &service.meta, Level::Warning, host.position, &field, message);
        }
    }
}
