//! Rules about one ServiceEntry.

use super::findings::{Findings, about, at};
use super::mesh::Mesh;
use super::{Audience, Flags};
use crate::compile::{NodePaths, unix_endpoints};
use crate::resource::service_entry::{Protocol, Resolution};
use crate::resource::{Diagnostic, Level, ServiceEntry, code};

pub(super) fn check(mesh: &Mesh<'_>, findings: &mut Findings) {
    for entry in mesh.world.service_entries().filter(|entry| {
        mesh.is_seen(entry.export_to.or(&mesh.world.mesh.default_service_export_to), &entry.meta)
    }) {
        check_ports(entry, findings);
        check_endpoints(entry, findings);
    }
    if let Audience::Mesh(Flags { unix_endpoints, .. }) = mesh.audience {
        unix_sockets(mesh, unix_endpoints).into_iter().for_each(|finding| findings.push(finding));
    }
}

/// Those that the agent was not allowed; all of them while nobody says what is allowed.
fn unix_sockets(mesh: &Mesh<'_>, allowed: Option<&NodePaths>) -> Vec<Diagnostic> {
    if let Some(allowed) = allowed {
        return unix_endpoints::findings(allowed, mesh.world, |_| true);
    }
    let of_agent = unix_endpoints::findings(&NodePaths::default(), mesh.world, |_| true);
    let effect = "exec connects to it, an agent leaves it out unless --allow-unix-endpoints allows it";
    of_agent.into_iter().map(|finding| Diagnostic { level: Level::Info, ..finding }.effect(effect)).collect()
}

fn check_ports(entry: &ServiceEntry, findings: &mut Findings) {
    let has_own_addresses =
        !entry.addresses.is_empty() && entry.addresses.iter().all(|range| range.value.is_single_host());
    for (index, port) in entry.ports.iter().enumerate() {
        let field = format!("spec.ports[{index}].protocol");
        if port.number == 443 && port.protocol.is_http() && !has_own_addresses {
            let message = "port 443 is declared as plain HTTP".to_owned();
            findings.push(at(&code::EGR0101, &entry.meta, port.position, &field, message));
        }
        if port.protocol == Protocol::Udp {
            let message = "UDP is not intercepted".to_owned();
            findings.push(at(&code::EGR0102, &entry.meta, port.position, &field, message));
        }
    }
}

fn check_endpoints(entry: &ServiceEntry, findings: &mut Findings) {
    if !entry.endpoints.is_empty() || entry.workload_selector.is_some() {
        return;
    }
    if entry.resolution == Resolution::Static {
        let message = "resolution STATIC without endpoints: there is nobody to send to".to_owned();
        findings.push(about(&code::EGR0103, &entry.meta, "spec.resolution", message));
    }
}
