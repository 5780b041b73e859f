//! Rules about one ServiceEntry.

use super::findings::{Findings, about, at};
use super::mesh::Mesh;
use crate::resource::service_entry::{Protocol, Resolution};
use crate::resource::{ServiceEntry, code};

pub(super) fn check(mesh: &Mesh<'_>, findings: &mut Findings) {
    for entry in mesh.world.service_entries().filter(|entry| {
        mesh.is_seen(entry.export_to.or(&mesh.world.mesh.default_service_export_to), &entry.meta)
    }) {
        check_ports(entry, findings);
        check_endpoints(entry, findings);
    }
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
