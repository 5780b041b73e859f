//! Rules about ports that several ServiceEntries want: who takes what, and with which protocol.

use std::collections::HashMap;
use std::net::IpAddr;

use super::findings::{Findings, at, named};
use super::mesh::{Mesh, Port, Service, Source, overlap};
use crate::resource::service::ServiceType;
use crate::resource::service_entry::Protocol;
use crate::resource::{Diagnostic, code};

pub(super) fn check(mesh: &Mesh<'_>, findings: &mut Findings) {
    check_taken(mesh, findings);
    check_protocols(mesh, findings);
}

/// One port of one service.
#[derive(Clone, Copy)]
struct Claim<'a> {
    service: &'a Service<'a>,
    port: &'a Port,
    index: usize,
}

impl Claim<'_> {
    fn finding(&self, code: &'static code::Code, message: String) -> Diagnostic {
        at(code, self.service.meta, self.port.position, format!("spec.ports[{}]", self.index), message)
    }

    fn meets(&self, other: &Self) -> bool {
        let key = |claim: &Self| &claim.service.meta.key;
        key(self) != key(other)
            && overlap(
                (self.service.export_to, self.service.meta),
                (other.service.export_to, other.service.meta),
            )
    }
}

fn claims<'a>(mesh: &'a Mesh<'a>) -> impl Iterator<Item = Claim<'a>> {
    mesh.services.iter().flat_map(|service| {
        service.ports.iter().enumerate().map(move |(index, port)| Claim { service, port, index })
    })
}

/// Istio gives such entries addresses of its own when it answers the pods' DNS.
pub(super) fn check_addresses_required(mesh: &Mesh<'_>, findings: &mut Findings) {
    if mesh.world.mesh.dns_gives_addresses {
        return;
    }
    let mut last = None;
    for claim in claims(mesh) {
        let Some(entry) = claim.service.entry() else { continue };
        let opaque = matches!(claim.port.protocol, Protocol::Tcp | Protocol::Auto);
        if !opaque || !entry.addresses.is_empty() || !entry.allocated_addresses.is_empty() {
            continue;
        }
        // Each port of an entry once, whatever the number of its hosts.
        let is_first_host = entry.hosts.first().is_some_and(|host| host.value == claim.service.host);
        if !is_first_host || last == Some((&entry.meta.key, claim.index)) {
            continue;
        }
        last = Some((&entry.meta.key, claim.index));
        let message = "addresses are required for ports serving TCP (or unset) protocol".to_owned();
        let effect = format!(
            "port {} takes every connection to any address on that port that nothing else does (with --capture-dns: and \
             that no learned name leads to another service)",
            claim.port.number
        );
        findings.push(claim.finding(&code::IST0134, message).effect(effect));
    }
}

/// What a claim on a port is about: an address of its own, or everything else.
type Place = (Option<IpAddr>, u16);

fn check_taken(mesh: &Mesh<'_>, findings: &mut Findings) {
    let mut by_place: HashMap<Place, Vec<Claim<'_>>> = HashMap::new();
    for claim in claims(mesh) {
        let protocol = claim.port.protocol;
        if protocol == Protocol::Udp {
            continue;
        }
        for place in places(&claim) {
            by_place.entry(place).or_default().push(claim);
        }
    }
    for claims in by_place.values() {
        let mut takers: Vec<&Claim<'_>> = Vec::new();
        for (index, claim) in claims.iter().enumerate() {
            let server_first = claim.port.protocol.is_server_first();
            let clash = claims[..index]
                .iter()
                .take(COMPARED_MAX)
                .find(|first| (server_first || first.port.protocol.is_server_first()) && first.meets(claim));
            if let Some(first) = clash {
                findings.push(shared_with_server_first(claim, first));
                continue;
            }
            if !takes_all(claim.port.protocol) {
                continue;
            }
            match takers.iter().take(COMPARED_MAX).find(|first| first.meets(claim)) {
                Some(first) => findings.push(taken(claim, first)),
                None => takers.push(claim),
            }
        }
    }
}

/// Claims on one port beyond this are not compared with each other.
const COMPARED_MAX: usize = 64;

fn places(claim: &Claim<'_>) -> Vec<Place> {
    let number = claim.port.number;
    if claim.port.protocol.is_http() {
        return vec![(None, number)];
    }
    match claim.service.source {
        Source::Entry(entry) if entry.addresses.is_empty() => vec![(None, number)],
        Source::Entry(entry) => {
            let single = entry.addresses.iter().filter(|range| range.value.is_single_host());
            single.map(|range| (Some(range.value.address), number)).collect()
        }
        // Nobody knows its addresses beforehand.
        Source::Kubernetes(service) if matches!(service.kind, ServiceType::ExternalName(_)) => {
            vec![(None, number)]
        }
        Source::Kubernetes(service) => {
            service.cluster_ips.iter().map(|address| (Some(*address), number)).collect()
        }
    }
}

/// Whether nothing but the address tells its connections from others.
fn takes_all(protocol: Protocol) -> bool {
    match protocol {
        Protocol::Tcp | Protocol::Redis | Protocol::Auto | Protocol::Mongo | Protocol::Mysql => true,
        Protocol::Http
        | Protocol::Http2
        | Protocol::Grpc
        | Protocol::GrpcWeb
        | Protocol::Https
        | Protocol::Tls
        | Protocol::Udp => false,
    }
}

fn taken(claim: &Claim<'_>, first: &Claim<'_>) -> Diagnostic {
    let number = claim.port.number;
    let message = format!(
        "port {number} of {} is also that of {} of {}, and nothing tells their connections apart",
        claim.service.host,
        first.service.host,
        named(first.service.meta)
    );
    let effect = format!(
        "{} comes first by age and name and takes every TCP connection to port {number}: none ever reaches {}",
        first.service.meta.key, claim.service.meta.key
    );
    claim
        .finding(&code::EGR0110, message)
        .effect(effect)
        .mend("give each an address of its own (addresses), or have names learned (`exec --capture-dns`)")
}

fn shared_with_server_first(claim: &Claim<'_>, first: &Claim<'_>) -> Diagnostic {
    let message = format!(
        "conflict happens on a well known port: {} belongs to {} of {}",
        claim.port.number,
        first.service.host,
        named(first.service.meta)
    );
    claim.finding(&code::EGR0115, message)
}

fn check_protocols(mesh: &Mesh<'_>, findings: &mut Findings) {
    let mut by_host: HashMap<(&str, u16), Vec<Claim<'_>>> = HashMap::new();
    for claim in claims(mesh) {
        by_host.entry((&claim.service.host, claim.port.number)).or_default().push(claim);
    }
    for ((host, number), claims) in by_host {
        for (index, claim) in claims.iter().enumerate() {
            let differs =
                |first: &&Claim<'_>| first.port.protocol != claim.port.protocol && first.meets(claim);
            let Some(first) = claims[..index].iter().take(COMPARED_MAX).find(differs) else { continue };
            let message = format!(
                "host {host} port {number} has protocol {} here and {} in {}",
                claim.port.protocol.name(),
                first.port.protocol.name(),
                named(first.service.meta)
            );
            findings.push(claim.finding(&code::IST0177, message));
        }
    }
}
