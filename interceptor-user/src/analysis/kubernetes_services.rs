//! Rules about Services of Kubernetes: what their ports tell of protocols.

use super::findings::{Findings, at};
use super::mesh::Mesh;
use crate::resource::service::ServiceType;
use crate::resource::service_entry::Protocol;
use crate::resource::{Service, code};

pub(super) fn check(mesh: &Mesh<'_>, findings: &mut Findings) {
    for service in mesh.world.services().filter(|service| !is_of_the_system(service.meta.namespace())) {
        check_ports(service, findings);
    }
}

/// Nobody names the ports of these for Istio.
fn is_of_the_system(namespace: &str) -> bool {
    matches!(namespace, "kube-system" | "kube-public" | "kube-node-lease" | "local-path-storage")
}

fn check_ports(service: &Service, findings: &mut Findings) {
    let external = matches!(service.kind, ServiceType::ExternalName(_));
    for (index, port) in service.ports.iter().enumerate() {
        let report = |code: &'static code::Code, field: &str, message: String| {
            at(code, &service.meta, port.position, format!("spec.ports[{index}].{field}"), message)
        };
        let takes_everything = port.protocol == Protocol::Auto || port.protocol == Protocol::Tcp;
        if external && takes_everything {
            let message = "Port name for ExternalName service is invalid. Proxy may prevent tcp named ports and unmatched \
                           traffic for ports serving TCP protocol from being forwarded correctly";
            findings.push(report(&code::IST0150, "name", message.into()));
        } else if port.protocol == Protocol::Auto {
            let message = format!(
                "Port name {} (port: {}) doesn't follow the naming convention of Istio port",
                if port.name.is_empty() { "(none)" } else { &*port.name },
                port.number
            );
            findings.push(report(&code::IST0118, "name", message));
        }
        if port.number == 443 && port.protocol.is_http() && (external || service.headless) {
            let message = "port 443 is declared as plain HTTP".to_owned();
            findings.push(report(&code::EGR0101, "name", message));
        }
    }
}
