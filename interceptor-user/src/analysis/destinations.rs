//! Rules about where routes lead: whether the host, the port and the subset exist for clients of the
//! VirtualService's namespace, and whether connections can arrive there.

use std::collections::BTreeSet;

use super::findings::{Findings, at, named};
use super::mesh::{Mesh, Service};
use crate::resource::service_entry::Protocol;
use crate::resource::virtual_service::{Destination, HttpAction, SourceMatch, is_for_mesh, mend_of_unknown};
use crate::resource::{DestinationRule, Diagnostic, Level, VirtualService, code};

pub(super) fn check(mesh: &Mesh<'_>, findings: &mut Findings) {
    for service in mesh.world.virtual_services() {
        each_use(mesh, service, &mut |use_| check_use(mesh, service, use_, findings));
    }
}

/// A destination and who uses it.
struct Use<'a> {
    destination: &'a Destination,
    field: String,
    /// The ports of applications' connections that get here; `None` when applications' never do.
    mesh_ports: Option<BTreeSet<u16>>,
    at_gateway: bool,
    is_mirror: bool,
}

/// What a route's matches let in.
struct Entrance {
    mesh_ports: Option<BTreeSet<u16>>,
    at_gateway: bool,
}

/// Which block of a VirtualService.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Http,
    Tls,
    Tcp,
}

fn each_use(mesh: &Mesh<'_>, service: &VirtualService, visit: &mut dyn FnMut(&Use<'_>)) {
    let mut one = |destination: &Destination, entrance: &Entrance, field: String, is_mirror: bool| {
        let mesh_ports = entrance.mesh_ports.clone();
        visit(&Use { destination, field, mesh_ports, at_gateway: entrance.at_gateway, is_mirror });
    };
    let mut each = |destinations: &[Destination], entrance: &Entrance, field: &str| {
        for (index, destination) in destinations.iter().enumerate() {
            one(destination, entrance, format!("{field}.route[{index}].destination"), false);
        }
    };
    for (index, route) in service.http.iter().enumerate() {
        let matches = route.matches.iter().map(|condition| (&condition.source, condition.port));
        let entrance = entrance(mesh, service, Block::Http, matches.collect());
        match &route.action {
            HttpAction::Route(destinations) => {
                each(destinations, &entrance, &format!("spec.http[{index}]"));
            }
            HttpAction::Redirect(_) | HttpAction::DirectResponse { .. } | HttpAction::Delegate { .. } => {}
        }
    }
    for (index, route) in service.tls.iter().enumerate() {
        let matches = route.matches.iter().map(|condition| (&condition.source, condition.port));
        let entrance = entrance(mesh, service, Block::Tls, matches.collect());
        each(&route.destinations, &entrance, &format!("spec.tls[{index}]"));
    }
    for (index, route) in service.tcp.iter().enumerate() {
        let matches = route.matches.iter().map(|condition| (&condition.source, condition.port));
        let entrance = entrance(mesh, service, Block::Tcp, matches.collect());
        each(&route.destinations, &entrance, &format!("spec.tcp[{index}]"));
    }
    for (index, route) in service.http.iter().enumerate() {
        let matches = route.matches.iter().map(|condition| (&condition.source, condition.port));
        let entrance = entrance(mesh, service, Block::Http, matches.collect());
        if let Some(mirror) = &route.mirroring.mirror {
            one(mirror, &entrance, format!("spec.http[{index}].mirror"), true);
        }
        for (number, mirror) in route.mirroring.mirrors.iter().enumerate() {
            one(
                &mirror.destination,
                &entrance,
                format!("spec.http[{index}].mirrors[{number}].destination"),
                true,
            );
        }
    }
}

fn entrance(
    mesh: &Mesh<'_>,
    service: &VirtualService,
    block: Block,
    matches: Vec<(&SourceMatch, Option<u16>)>,
) -> Entrance {
    let own = SourceMatch::default();
    let matches = if matches.is_empty() { vec![(&own, None)] } else { matches };
    let mut entrance = Entrance { mesh_ports: None, at_gateway: false };
    for (source, port) in matches {
        let gateways = if source.gateways.is_empty() { &service.gateways } else { &source.gateways };
        entrance.at_gateway |= gateways.iter().any(|name| !is_for_mesh(std::slice::from_ref(name)));
        if service.binds_mesh() && is_for_mesh(gateways) {
            let ports = entrance.mesh_ports.get_or_insert_default();
            match port {
                Some(port) => drop(ports.insert(port)),
                None => ports.extend(ports_of_hosts(mesh, service, block)),
            }
        }
    }
    entrance
}

/// The ports on which a block acts for the hosts of a VirtualService.
fn ports_of_hosts(mesh: &Mesh<'_>, service: &VirtualService, block: Block) -> BTreeSet<u16> {
    const LOOKED_AT_MAX: usize = 1000;
    let takes = |protocol: Protocol| match block {
        Block::Http => protocol.is_http() || protocol == Protocol::Auto,
        Block::Tls => protocol.is_tls() || protocol == Protocol::Auto,
        Block::Tcp => !protocol.is_http() && !protocol.is_tls() && protocol != Protocol::Udp,
    };
    let services = service.hosts.iter().flat_map(|host| mesh.matching(&host.value).take(LOOKED_AT_MAX));
    let ports = services.flat_map(|service| service.ports.iter()).filter(|port| takes(port.protocol));
    ports.map(|port| port.number).collect()
}

fn check_use(mesh: &Mesh<'_>, service: &VirtualService, use_: &Use<'_>, findings: &mut Findings) {
    let host = &*use_.destination.host;
    let namespace = &**service.meta.namespace();
    // A gateway's own namespace is not known.
    let services: Vec<&Service<'_>> = match use_.mesh_ports {
        Some(_) => mesh.seen_from(namespace, host).collect(),
        None => mesh.of_host(host).collect(),
    };
    if services.is_empty() {
        findings.push(host_not_found(mesh, service, use_));
        return;
    }
    let numbers: BTreeSet<u16> =
        services.iter().flat_map(|service| service.ports.iter()).map(|port| port.number).collect();
    if let Some(port) = use_.destination.port
        && !numbers.contains(&port)
    {
        let message = format!("Referenced host:port not found: \"{host}:{port}\"");
        let known: Vec<String> = numbers.iter().map(u16::to_string).collect();
        let mend = format!("name one of its ports ({}), or declare {port}", known.join(", "));
        findings.push(on(use_, service, &code::IST0101, "port.number", message).mend(mend));
        return;
    }
    check_port_is_named(service, use_, &numbers, findings);
    check_subset(mesh, service, use_, services[0], findings);
    check_port_is_kept(service, use_, &services, &numbers, findings);
    if use_.at_gateway && services.iter().all(|service| service.keeps_destination()) {
        let message =
            format!("a gateway sends to {host}, which has resolution NONE in {}", named(services[0].meta));
        findings.push(on(use_, service, &code::EGR0113, "host", message));
    }
}

fn on(
    use_: &Use<'_>,
    service: &VirtualService,
    code: &'static code::Code,
    field: &str,
    message: String,
) -> Diagnostic {
    at(code, &service.meta, use_.destination.position, format!("{}.{field}", use_.field), message)
}

fn host_not_found(mesh: &Mesh<'_>, service: &VirtualService, use_: &Use<'_>) -> Diagnostic {
    let host = &*use_.destination.host;
    let what = if use_.is_mirror { "mirror host" } else { "host" };
    let message = format!("Referenced {what} not found: \"{host}\"");
    let finding = on(use_, service, &code::IST0101, "host", message);
    let finding = if use_.is_mirror { finding.effect("nothing is mirrored") } else { finding };
    if let Some(hidden) = mesh.of_host(host).next() {
        return finding.mend(format!(
            "{} has it and is not exported to namespace {}: widen its exportTo",
            named(hidden.meta),
            service.meta.namespace()
        ));
    }
    if let Some(wildcard) = mesh.covering(host).next() {
        return finding.mend(format!(
            "only {} of {} covers it, and a destination needs a host of its own: declare {host}",
            wildcard.host,
            named(wildcard.meta)
        ));
    }
    finding.mend(mend_of_unknown(host))
}

fn check_port_is_named(
    service: &VirtualService,
    use_: &Use<'_>,
    numbers: &BTreeSet<u16>,
    findings: &mut Findings,
) {
    if use_.destination.port.is_some() || numbers.len() < 2 {
        return;
    }
    let shown: Vec<String> = numbers.iter().map(u16::to_string).collect();
    let message = format!(
        "This VirtualService routes to a service \"{}\" that exposes multiple ports [{}]. Specifying a port in the \
         destination is required to disambiguate",
        use_.destination.host,
        shown.join(" ")
    );
    let finding = on(use_, service, &code::IST0112, "host", message);
    let missing = use_.mesh_ports.iter().flatten().find(|port| !numbers.contains(port));
    findings.push(match missing {
        Some(port) => finding.effect(format!(
            "the port of the connection is used, and {} has no port {port}: requests to port {port} get 503 (NC)",
            use_.destination.host
        )),
        // It works; the next port that is added to one and not to the other does not.
        None => Diagnostic { level: Level::Warning, ..finding }
            .effect("the port of the connection is used, which the destination has"),
    });
}

fn check_subset(
    mesh: &Mesh<'_>,
    service: &VirtualService,
    use_: &Use<'_>,
    destination: &Service<'_>,
    findings: &mut Findings,
) {
    let host = &*use_.destination.host;
    let Some(subset) = use_.destination.subset.as_deref() else { return };
    let client = service.meta.namespace();
    let has_it = |rule: &DestinationRule| rule.subsets.iter().any(|known| &*known.name == subset);
    let mut elsewhere = mesh.rules_of_host(host).filter(|rule| has_it(rule));
    let message = format!("Referenced host+subset in destinationrule not found: \"{host}+{subset}\"");
    let finding = || on(use_, service, &code::IST0101, "subset", message.clone());
    if use_.mesh_ports.is_none() {
        if elsewhere.next().is_none() {
            findings.push(finding().mend(format!("add the subset to a DestinationRule of {host}")));
        }
        return;
    }
    let used = mesh.rules().for_client(client, host, destination.meta.namespace());
    if used.is_some_and(|rule| rule.subsets.iter().any(|known| &*known.name == subset)) {
        return;
    }
    let mend = match (used, elsewhere.next()) {
        (Some(used), Some(other)) => format!(
            "{} has it, but clients of namespace {client} get {}, which comes first: put the subset there",
            named(&other.meta),
            named(&used.rules[0].meta)
        ),
        (None, Some(other)) => format!(
            "{} has it, but clients of namespace {client} don't get it (the client's namespace is asked, then the \
             service's, then {}): move it, or widen its exportTo",
            named(&other.meta),
            mesh.world.mesh.root_namespace
        ),
        (Some(used), None) => format!("add the subset to {}", named(&used.rules[0].meta)),
        (None, None) => format!("add a DestinationRule for {host} with this subset"),
    };
    findings.push(finding().mend(mend));
}

/// Connections to a service with resolution NONE go where the application wanted them.
fn check_port_is_kept(
    service: &VirtualService,
    use_: &Use<'_>,
    services: &[&Service<'_>],
    numbers: &BTreeSet<u16>,
    findings: &mut Findings,
) {
    let only = numbers.first().copied().filter(|_| numbers.len() == 1);
    let Some(port) = use_.destination.port.or(only) else { return };
    let destination = services.iter().find(|service| service.port(port).is_some());
    let keeps = |service: &&&Service<'_>| {
        service.keeps_destination() && service.port(port).is_some_and(|port| !port.has_target)
    };
    let Some(destination) = destination.filter(keeps) else { return };
    let Some(from) = use_.mesh_ports.iter().flatten().find(|from| **from != port) else { return };
    let host = &destination.host;
    let message = format!(
        "{host} has resolution NONE and no targetPort in {}: connections to port {from} keep that port",
        named(destination.meta)
    );
    findings.push(
        on(use_, service, &code::EGR0109, "port.number", message)
            .effect(format!("they never reach {port}"))
            .mend(format!("use resolution DNS, or set targetPort: {port}")),
    );
}
