//! Rules about the workloads behind Gateways: pods, the Services that lead to them, and their secrets. Each
//! only where the input has resources of that kind at all.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::findings::{Findings, about};
use super::gateways::selector;
use super::mesh::Mesh;
use super::workloads::{Workload, has_pods};
use crate::resource::gateway::{Server, ServerTlsMode};
use crate::resource::service::TargetPort;
use crate::resource::{Gateway, Secret, code};

pub(super) fn check(mesh: &Mesh<'_>, findings: &mut Findings) {
    let secrets: HashMap<(&str, &str), &Secret> = mesh
        .world
        .secrets()
        .map(|secret| ((&**secret.meta.namespace(), &**secret.meta.name()), &**secret))
        .collect();
    let pods = has_pods(mesh);
    for gateway in mesh.world.gateways() {
        let selected: Vec<&Workload<'_>> = mesh
            .workloads
            .iter()
            .filter(|workload| workload.pod.is_some() && workload.has(&gateway.selector))
            .collect();
        if pods && selected.is_empty() && !gateway.selector.is_empty() {
            let message = format!("Referenced selector not found: \"{}\"", selector(&gateway.selector));
            findings.push(
                about(&code::IST0101, &gateway.meta, "spec.selector", message)
                    .effect("no pod has these labels: nobody listens")
                    .mend("correct the labels"),
            );
            continue;
        }
        check_services(mesh, gateway, &selected, findings);
        if !secrets.is_empty() {
            let namespaces: BTreeSet<&str> =
                selected.iter().map(|workload| &**workload.meta.namespace()).collect();
            check_secrets(gateway, &namespaces, &secrets, findings);
        }
    }
}

fn check_services(mesh: &Mesh<'_>, gateway: &Gateway, selected: &[&Workload<'_>], findings: &mut Findings) {
    let leads_here = |service: &&Arc<crate::resource::Service>| {
        !service.selector.is_empty()
            && selected.iter().any(|workload| {
                workload.meta.namespace() == service.meta.namespace() && workload.has(&service.selector)
            })
    };
    let services: Vec<_> = mesh.world.services().filter(leads_here).collect();
    if services.is_empty() {
        return;
    }
    let ports: BTreeSet<u16> = services
        .iter()
        .flat_map(|service| &service.ports)
        .flat_map(|port| {
            let target = match &port.target_port {
                Some(TargetPort::Number(number)) => Some(*number),
                Some(TargetPort::Name(_)) | None => None,
            };
            [Some(port.number), target]
        })
        .flatten()
        .collect();
    for (index, server) in
        gateway.servers.iter().enumerate().filter(|(_, server)| !ports.contains(&server.port))
    {
        let message = format!(
            "The gateway is listening on a target port (port {}) that is not defined in the Service associated with its \
             workload instances (Pod selector {})",
            server.port,
            selector(&gateway.selector)
        );
        findings.push(about(
            &code::IST0162,
            &gateway.meta,
            format!("spec.servers[{index}].port.number"),
            message,
        ));
    }
}

fn check_secrets(
    gateway: &Gateway,
    namespaces: &BTreeSet<&str>,
    secrets: &HashMap<(&str, &str), &Secret>,
    findings: &mut Findings,
) {
    let own = BTreeSet::from([&**gateway.meta.namespace()]);
    let namespaces = if namespaces.is_empty() { &own } else { namespaces };
    for (index, server) in gateway.servers.iter().enumerate() {
        let Some(tls) = server.tls.as_ref().filter(|tls| tls.mode.terminates()) else { continue };
        for name in tls.credential_names.iter().filter(|name| !name.contains("://")) {
            let found = namespaces.iter().find_map(|namespace| secrets.get(&(*namespace, &**name)));
            let field = format!("spec.servers[{index}].tls.credentialName");
            match found {
                None => {
                    let message = format!("Referenced credentialName not found: \"{name}\"");
                    let where_: Vec<&str> = namespaces.iter().copied().collect();
                    findings.push(
                        about(&code::IST0101, &gateway.meta, &field, message)
                            .effect("the server has no certificate: TLS is reset")
                            .mend(format!(
                                "create the secret in the namespace of the gateway's pods ({})",
                                where_.join(", ")
                            )),
                    );
                }
                Some(secret) => check_keys(gateway, server, secret, secrets, &field, findings),
            }
        }
    }
}

fn check_keys(
    gateway: &Gateway,
    server: &Server,
    secret: &Secret,
    secrets: &HashMap<(&str, &str), &Secret>,
    field: &str,
    findings: &mut Findings,
) {
    let has = |keys: &[&str]| keys.iter().all(|key| secret.keys.contains(*key));
    let mut missing = Vec::new();
    if !has(&["tls.crt", "tls.key"]) && !has(&["cert", "key"]) {
        missing.push("tls.crt and tls.key");
    }
    let mutual = server
        .tls
        .as_ref()
        .is_some_and(|tls| matches!(tls.mode, ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual));
    let separate = format!("{}-cacert", secret.meta.name());
    let has_separate = secrets.contains_key(&(&**secret.meta.namespace(), &*separate));
    if mutual && !has(&["ca.crt"]) && !has(&["cacert"]) && !has_separate {
        missing.push("ca.crt");
    }
    if missing.is_empty() {
        return;
    }
    let message = format!(
        "The credential referenced by the Gateway {} in namespace {} is invalid: {} has no {}",
        gateway.meta.name(),
        gateway.meta.namespace(),
        secret.meta.key,
        missing.join(" and no ")
    );
    findings.push(about(&code::IST0161, &gateway.meta, field, message));
}
