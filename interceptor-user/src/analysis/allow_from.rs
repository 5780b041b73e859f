//! Rules of who may use a host (`egress.interceptor.io/allow-from`) that can't act as they are meant: where no gateway leads to
//! the hosts, and where those that do ask nobody who he is.

use super::findings::{Findings, at, named};
use super::gateway_leads::Lead;
use super::mesh::Mesh;
use crate::resource::gateway::{Server, ServerTlsMode};
use crate::resource::{ALLOW_FROM, Gateway, ServiceEntry, code, host};

pub(super) fn check(mesh: &Mesh<'_>, leads: &[Lead<'_>], findings: &mut Findings) {
    // Where there are none, they may be elsewhere.
    if mesh.world.gateways().next().is_none() {
        return;
    }
    for entry in mesh.world.service_entries() {
        let Some(annotation) = entry.meta.annotations.get(ALLOW_FROM) else { continue };
        let field = format!("metadata.annotations[{ALLOW_FROM}]");
        let servers = servers(mesh, leads, entry);
        let Some((gateway, index, server)) = servers.first() else {
            let message =
                "no route of a gateway leads to the hosts, and only a gateway keeps to the rule".to_owned();
            findings.push(at(&code::EGR0128, &entry.meta, annotation.position, field, message));
            continue;
        };
        if servers.iter().any(|(.., server)| shows_identity(server)) {
            continue;
        }
        let how = match server.tls.as_ref().filter(|_| server.protocol.is_tls()) {
            Some(tls) => format!("tls.mode {}", tls.mode.name()),
            None => format!("protocol {}", server.protocol.name()),
        };
        let message = format!(
            "nobody who comes through servers[{index}] of {} ({how}) has shown who he is, and no other server leads to the hosts",
            named(&gateway.meta)
        );
        findings.push(at(&code::EGR0127, &entry.meta, annotation.position, field, message));
    }
}

fn shows_identity(server: &Server) -> bool {
    server.protocol.is_tls() && server.tls.as_ref().is_some_and(|tls| tls.mode == ServerTlsMode::IstioMutual)
}

/// Those through which a host of the entry is reached.
fn servers<'a>(
    mesh: &Mesh<'a>,
    leads: &[Lead<'a>],
    entry: &ServiceEntry,
) -> Vec<(&'a Gateway, usize, &'a Server)> {
    // A wildcard leads to names that it covers.
    let is_meant = |name: &str| entry.hosts.iter().any(|own| host::matches(name, &own.value));
    let routed = leads.iter().filter(|lead| is_meant(&lead.destination.host));
    let routed = routed.map(|lead| (lead.gateway, lead.index, lead.server));
    let all = mesh.world.gateways().flat_map(|gateway| {
        let servers = gateway.servers.iter().enumerate();
        servers.map(move |(index, server)| (&**gateway, index, server))
    });
    let named_by_clients = all.filter(|(.., server)| {
        server.is_auto_passthrough() && server.hosts.iter().any(|own| is_meant(&own.host))
    });
    routed.chain(named_by_clients).collect()
}
