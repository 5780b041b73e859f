//! Rules about Gateways among each other: ports, hosts, certificates.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::findings::{Findings, about, at, named};
use super::mesh::Mesh;
use crate::resource::gateway::{Server, ServerHost, ServerNamespace};
use crate::resource::{Gateway, code, host};

pub(super) fn check(mesh: &Mesh<'_>, findings: &mut Findings) {
    let mut gateways: Vec<&Arc<Gateway>> = mesh.world.gateways().collect();
    gateways.sort_by_key(|gateway| gateway.meta.age_order());
    let mut by_selector: HashMap<&Labels, Vec<&Arc<Gateway>>> = HashMap::new();
    for gateway in &gateways {
        by_selector.entry(&gateway.selector).or_default().push(gateway);
    }
    for same in by_selector.values() {
        check_ports(same, findings);
    }
    check_certificates(&gateways, findings);
    check_named_services(mesh, &gateways, findings);
}

/// Clients of AUTO_PASSTHROUGH name services. Where there are none at all, they may be elsewhere.
fn check_named_services(mesh: &Mesh<'_>, gateways: &[&Arc<Gateway>], findings: &mut Findings) {
    if mesh.services.is_empty() {
        return;
    }
    for gateway in gateways {
        let auto = gateway.servers.iter().enumerate().filter(|(_, server)| server.is_auto_passthrough());
        for (index, server) in auto {
            let can_be_named =
                |own: &ServerHost| mesh.matching(&own.host).any(|service| !service.host.starts_with('*'));
            if !server.hosts.iter().any(can_be_named) {
                let message = "clients of AUTO_PASSTHROUGH name services, and none that is declared has a host of this server".to_owned();
                let field = format!("spec.servers[{index}].hosts");
                let finding = at(&code::EGR0125, &gateway.meta, server.position, field, message);
                findings.push(
                    finding.mend("declare the service (a wildcard's can't be named), or correct hosts"),
                );
            }
        }
    }
}

type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// `a=b,c=d`.
pub(super) fn selector(labels: &Labels) -> String {
    let each: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    each.join(",")
}

/// A server and whose it is.
#[derive(Clone, Copy)]
struct Of<'a> {
    gateway: &'a Gateway,
    server: &'a Server,
    index: usize,
}

/// Servers on one port beyond this are not compared with each other.
const COMPARED_MAX: usize = 64;

fn check_ports(gateways: &[&Arc<Gateway>], findings: &mut Findings) {
    let mut by_port: HashMap<(u16, Option<&str>), Vec<Of<'_>>> = HashMap::new();
    for gateway in gateways {
        for (index, server) in gateway.servers.iter().enumerate() {
            let servers = by_port.entry((server.port, server.bind.as_deref())).or_default();
            servers.push(Of { gateway, server, index });
        }
    }
    for servers in by_port.values() {
        for (place, later) in servers.iter().enumerate() {
            let mut earlier = servers[..place].iter().take(COMPARED_MAX);
            if let Some(clash) = earlier.find_map(|first| clash(first, later)) {
                findings.push(clash);
            }
        }
    }
}

fn clash(first: &Of<'_>, later: &Of<'_>) -> Option<crate::resource::Diagnostic> {
    let port = later.server.port;
    let same_gateway = first.gateway.meta.key == later.gateway.meta.key;
    let field = |name: &str| format!("spec.servers[{}].{name}", later.index);
    let meta = &later.gateway.meta;
    let tls = |of: &Of<'_>| of.server.protocol.is_tls();
    let plain_http = |of: &Of<'_>| of.server.protocol.is_http();
    if plain_http(first) != plain_http(later) || tls(first) != tls(later) {
        let message = format!(
            "port {port} is {} here and {} in servers[{}] of {}",
            later.server.protocol.name(),
            first.server.protocol.name(),
            first.index,
            named(&first.gateway.meta)
        );
        let position = later.server.position;
        return Some(at(&code::EGR0117, meta, position, field("port.protocol"), message));
    }
    let common = later.server.hosts.iter().find_map(|host| {
        let same = |other: &&ServerHost| {
            if same_gateway { host.host == other.host } else { meets(host, other) }
        };
        first.server.hosts.iter().find(same).map(|_| host)
    })?;
    if !same_gateway {
        let hosts: Vec<&str> = later.server.hosts.iter().map(|host| &*host.host).collect();
        let message = format!(
            "Conflict with gateways {}/{} (workload selector {}, port {port}, hosts {})",
            first.gateway.meta.namespace(),
            first.gateway.meta.name(),
            selector(&later.gateway.selector),
            hosts.join(",")
        );
        return Some(at(&code::IST0145, meta, common.position, field("hosts"), message));
    }
    // Plain HTTP servers of one port are merged.
    if !tls(later) {
        return None;
    }
    let message = format!(
        "duplicate host {} on port {port}: servers[{}] has it, too, and TLS servers of a port are told apart by it",
        common.host, first.index
    );
    Some(at(&code::EGR0117, meta, common.position, field("hosts"), message))
}

/// Whether a VirtualService could be of both, for some name.
fn meets(a: &ServerHost, b: &ServerHost) -> bool {
    let names = host::matches(&a.host, &b.host) || host::matches(&b.host, &a.host);
    let namespaces = match (&a.namespace, &b.namespace) {
        (ServerNamespace::Any, _) | (_, ServerNamespace::Any) => true,
        (ServerNamespace::Named(a), ServerNamespace::Named(b)) => a == b,
    };
    names && namespaces
}

/// Clients reuse an HTTP/2 connection for every name of its certificate.
fn check_certificates(gateways: &[&Arc<Gateway>], findings: &mut Findings) {
    let mut seen: HashMap<&str, Vec<&Arc<Gateway>>> = HashMap::new();
    for gateway in gateways {
        let mut own: Vec<(&str, usize)> = Vec::new();
        for (index, server) in gateway.servers.iter().enumerate() {
            let tls = server.tls.iter();
            let names = tls.flat_map(|tls| tls.credential_names.iter().chain(&tls.server_certificate));
            own.extend(names.map(|name| (&**name, index)));
        }
        own.dedup_by_key(|(name, _)| *name);
        for (certificate, index) in own {
            let others = seen.entry(certificate).or_default();
            let is_on_same_pods = |other: &&&Arc<Gateway>| {
                is_subset(&gateway.selector, &other.selector) || is_subset(&other.selector, &gateway.selector)
            };
            if let Some(other) = others.iter().take(COMPARED_MAX).find(is_on_same_pods) {
                let message = format!(
                    "Duplicate certificate in multiple gateways [{}/{} {}/{}] may cause 404s if clients re-use HTTP2 \
                     connections",
                    gateway.meta.namespace(),
                    gateway.meta.name(),
                    other.meta.namespace(),
                    other.meta.name()
                );
                findings.push(about(
                    &code::IST0138,
                    &gateway.meta,
                    format!("spec.servers[{index}].tls"),
                    message,
                ));
            }
            if others.last().is_none_or(|last| last.meta.key != gateway.meta.key) {
                others.push(gateway);
            }
        }
    }
}

pub(super) fn is_subset(a: &Labels, b: &Labels) -> bool {
    a.iter().all(|(name, value)| b.get(name) == Some(value))
}
