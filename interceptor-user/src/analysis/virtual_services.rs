//! Rules about the hosts of VirtualServices: which of them act, and on what.

use std::collections::BTreeSet;

use super::Audience;
use super::findings::{Findings, at, named};
use super::mesh::{Mesh, overlap};
use crate::resource::virtual_service::is_for_mesh;
use crate::resource::{Position, VirtualService, code, host};

pub(super) fn check(mesh: &Mesh<'_>, findings: &mut Findings) {
    let is_of_gateway = matches!(mesh.audience, Audience::Mesh(flags) if flags.is_gateway);
    for service in mesh.world.virtual_services() {
        for (index, host) in service.hosts.iter().enumerate() {
            let place = (host.position, index);
            if service.binds_mesh() {
                check_acts(mesh, service, &host.value, &place, findings);
                check_first(mesh, service, &host.value, &place, findings);
            } else if !is_of_gateway {
                // What applications follow is no affair of a gateway's.
                check_bound_to_gateways(mesh, service, &host.value, &place, findings);
            }
        }
    }
}

/// Of a host: where it is written, and which it is.
type Place = (Position, usize);

fn field(index: usize) -> String {
    format!("spec.hosts[{index}]")
}

fn check_bound_to_gateways(
    mesh: &Mesh<'_>,
    service: &VirtualService,
    host: &str,
    (position, index): &Place,
    findings: &mut Findings,
) {
    // Bound to mesh, `*` can't be.
    let known = host != "*" && mesh.matching(host).next().is_some();
    if !known || !mesh.virtual_services_covering(host).is_empty() {
        return;
    }
    let message =
        format!("bound only to gateways ({}), while {host} is registered", service.gateways.join(", "));
    findings.push(
        at(&code::EGR0106, &service.meta, *position, field(*index), message)
            .effect(format!("applications' own requests to {host} don't follow it"))
            .mend("add `mesh` to gateways, or leave gateways out"),
    );
}

fn check_acts(
    mesh: &Mesh<'_>,
    service: &VirtualService,
    host: &str,
    (position, index): &Place,
    findings: &mut Findings,
) {
    if service.http.is_empty() || mesh.matching(host).next().is_some() || mesh.may_be_elsewhere(host) {
        return;
    }
    let nobody = mesh.nobody();
    if mesh.covering(host).next().is_none() {
        let message = format!("{nobody} has host {host}");
        let effect = "the routes act on port 80 only, and only when a ServiceEntry has HTTP there";
        findings.push(at(&code::EGR0107, &service.meta, *position, field(*index), message).effect(effect));
        return;
    }
    let ports = mesh.covering(host).flat_map(|service| service.ports.iter());
    let ports = ports.filter(|port| port.number != 80 && port.protocol.is_http());
    let ports: BTreeSet<u16> = ports.map(|port| port.number).collect();
    if ports.is_empty() {
        return;
    }
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    let message = format!("{nobody} has host {host}, only a wildcard covers it");
    findings.push(
        at(&code::EGR0107, &service.meta, *position, field(*index), message)
            .effect(format!("the http routes act on port 80, and not on {}", ports.join(", ")))
            .mend(format!("declare {host} itself to have them there, too")),
    );
}

/// For HTTP one VirtualService holds for a host; nothing is merged.
fn check_first(
    mesh: &Mesh<'_>,
    service: &VirtualService,
    host: &str,
    (position, index): &Place,
    findings: &mut Findings,
) {
    let mut earlier =
        mesh.virtual_services_of(host).take_while(|earlier| earlier.meta.key != service.meta.key);
    let is_seen = mesh.virtual_services_of(host).any(|seen| seen.meta.key == service.meta.key);
    let meets = |earlier: &&VirtualService| overlap(mesh.export_of(earlier), mesh.export_of(service));
    let Some(first) = earlier.find(meets).filter(|_| is_seen) else { return };
    let message = format!(
        "The VirtualServices {}/{},{}/{} associated with mesh gateway define the same host {host}",
        first.meta.namespace(),
        first.meta.name(),
        service.meta.namespace(),
        service.meta.name(),
    );
    findings.push(
        at(&code::IST0109, &service.meta, *position, field(*index), message)
            .effect(format!(
                "{} comes first by age and name: for HTTP this one is not asked",
                named(&first.meta)
            ))
            .mend("merge them into one"),
    );
}

/// Tls routes replace what a service says of its port, also for names that no `sniHosts` takes.
pub(super) fn check_left_over(mesh: &Mesh<'_>, findings: &mut Findings) {
    for service in &mesh.services {
        for port in service.ports.iter().filter(|port| port.protocol.is_tls()) {
            let mut first = None;
            let mut whole = false;
            for virtual_service in mesh.virtual_services_matching(&service.host) {
                if !overlap(mesh.export_of(virtual_service), (service.export_to, service.meta)) {
                    continue;
                }
                for (index, route) in virtual_service.tls.iter().enumerate() {
                    let applying = route.matches.iter().filter(|condition| {
                        condition.port.is_none_or(|wanted| wanted == port.number)
                            && is_for_mesh(&condition.source.gateways)
                    });
                    for condition in applying {
                        first.get_or_insert((virtual_service, index, route.position));
                        whole |= condition.sni_hosts.iter().any(|sni| host::matches(sni, &service.host));
                    }
                }
            }
            let Some((by, index, position)) = first.filter(|_| !whole) else { continue };
            let message = format!(
                "TLS routes replace what {} says of port {}: server names of {} that no sniHosts names are treated as \
                 unknown hosts there",
                service.meta.key, port.number, service.host
            );
            findings.push(
                at(&code::EGR0116, &by.meta, position, format!("spec.tls[{index}].match"), message)
                    .mend(format!("a rule with sniHosts [\"{}\"] keeps them", service.host)),
            );
        }
    }
}
