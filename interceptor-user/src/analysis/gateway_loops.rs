//! Routes of a gateway that lead to the gateway itself, which refuses them: often those that are meant for applications,
//! and forget to say so.

use std::net::IpAddr;

use super::findings::{Findings, at, named};
use super::gateway_leads::Lead;
use super::gateways::is_subset;
use super::mesh::{Mesh, Source};
use crate::resource::service_entry::Resolution;
use crate::resource::{Gateway, Service, ServiceEntry, code};

pub(super) fn check(mesh: &Mesh<'_>, leads: &[Lead<'_>], findings: &mut Findings) {
    for lead in leads {
        let Some(back) = leads_back(mesh, lead) else { continue };
        let message = format!(
            "the route acts at {}, too, and leads back to it: {} is {back}",
            named(&lead.gateway.meta),
            lead.destination.host
        );
        let position = lead.destination.position;
        findings.push(at(&code::EGR0126, &lead.service.meta, position, &lead.field, message));
    }
}

/// Who of the gateway's own the destination is.
fn leads_back(mesh: &Mesh<'_>, lead: &Lead<'_>) -> Option<String> {
    let answers = |port: u16| lead.gateway.servers.iter().any(|server| server.port == port);
    mesh.of_host(&lead.destination.host).find_map(|service| {
        let ports = || service.ports.iter().map(|port| port.number);
        let port = lead.destination.port.or_else(|| ports().next().filter(|_| ports().count() == 1))?;
        match service.source {
            Source::Kubernetes(own) => (answers(port) && is_of(own, lead.gateway)).then(|| named(&own.meta)),
            Source::Entry(entry) => own_services(mesh, lead.gateway)
                .find(|own| every_endpoint(entry, port, |address, port| is_at(own, address) && answers(port)))
                .map(|own| format!("at {}", named(&own.meta))),
        }
    })
}

/// Whether all pods behind a Service are the Gateway's.
fn is_of(service: &Service, gateway: &Gateway) -> bool {
    !gateway.selector.is_empty() && is_subset(&gateway.selector, &service.selector)
}

fn own_services<'a>(mesh: &Mesh<'a>, gateway: &Gateway) -> impl Iterator<Item = &'a Service> {
    mesh.world.services().map(|service| &**service).filter(move |service| is_of(service, gateway))
}

/// Whether a Service has the address, or the name, of an endpoint.
fn is_at(service: &Service, address: &str) -> bool {
    let ip = address.parse::<IpAddr>().ok();
    let has = |ip: IpAddr| service.cluster_ips.contains(&ip) || service.external_ips.contains(&ip);
    let name = format!("{}.{}.svc.cluster.local", service.meta.name(), service.meta.namespace());
    ip.map_or(name == address, has)
}

/// Where something is always sent to one of these. `port`: the entry's.
fn every_endpoint(entry: &ServiceEntry, port: u16, is_one: impl Fn(&str, u16) -> bool) -> bool {
    let Some(declared) = entry.ports.iter().find(|declared| declared.number == port) else { return false };
    let usual = declared.target_port.unwrap_or(port);
    let has_any = !entry.endpoints.is_empty() && entry.resolution != Resolution::None;
    has_any
        && entry.endpoints.iter().all(|endpoint| {
            is_one(&endpoint.address, endpoint.ports.get(&declared.name).copied().unwrap_or(usual))
        })
}
