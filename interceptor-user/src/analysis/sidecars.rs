//! Rules about Sidecars: which one holds for whom.

use std::collections::HashMap;
use std::sync::Arc;

use super::findings::{Findings, about, at, named};
use super::gateways::selector;
use super::mesh::{Mesh, Service};
use super::workloads::Workload;
use crate::resource::virtual_service::Destination;
use crate::resource::{Sidecar, code};

pub(super) fn check(mesh: &Mesh<'_>, findings: &mut Findings) {
    let mut by_namespace: HashMap<&Arc<str>, Vec<&Sidecar>> = HashMap::new();
    for sidecar in mesh.world.sidecars() {
        by_namespace.entry(sidecar.meta.namespace()).or_default().push(sidecar);
    }
    for (namespace, sidecars) in &mut by_namespace {
        sidecars.sort_by_key(|sidecar| sidecar.meta.age_order());
        let workloads: Vec<&Workload<'_>> =
            mesh.workloads.iter().filter(|workload| workload.meta.namespace() == *namespace).collect();
        check_whole(sidecars, findings);
        check_selected(sidecars, &workloads, findings);
        check_ambient(sidecars, &workloads, findings);
        sidecars.iter().for_each(|sidecar| check_egress_proxy(mesh, sidecar, findings));
    }
}

/// Where hosts that nobody declared go has to be declared itself.
fn check_egress_proxy(mesh: &Mesh<'_>, sidecar: &Sidecar, findings: &mut Findings) {
    let Some(proxy) = &sidecar.egress_proxy else { return };
    let host = &proxy.host;
    let services: Vec<_> = mesh.seen_from(sidecar.meta.namespace(), host).collect();
    let imports = |namespace: &str| {
        sidecar.egress.is_empty() || sidecar.egress.iter().any(|listener| listener.brings(namespace, host))
    };
    let port = proxy.port.unwrap_or_default();
    let message = if services.is_empty() {
        format!("{} has host {host}, which hosts that nobody declared are sent to", mesh.nobody())
    } else if !services.iter().any(|service| service.port(port).is_some()) {
        format!("{host} has no port {port}, which hosts that nobody declared are sent to")
    } else if !services.iter().any(|service| imports(service.meta.namespace())) {
        format!("the Sidecar's egress hosts leave {host} out, which hosts that nobody declared are sent to")
    } else {
        check_subset(mesh, sidecar, proxy, services[0], findings);
        return;
    };
    let field = "spec.outboundTrafficPolicy.egressProxy";
    let finding = at(&code::IST0101, &sidecar.meta, proxy.position, field, message);
    findings.push(
        finding
            .effect("requests get 503 (NC), other connections are closed")
            .mend("declare its host with that port, and name it in the Sidecar's egress hosts"),
    );
}

fn check_subset(
    mesh: &Mesh<'_>,
    sidecar: &Sidecar,
    proxy: &Destination,
    service: &Service<'_>,
    findings: &mut Findings,
) {
    let Some(subset) = &proxy.subset else { return };
    let host = &proxy.host;
    let used = mesh.rules().for_client(sidecar.meta.namespace(), host, service.meta.namespace());
    if used.is_some_and(|rule| rule.subsets.iter().any(|known| known.name == *subset)) {
        return;
    }
    let message = format!("Referenced host+subset in destinationrule not found: \"{host}+{subset}\"");
    let field = "spec.outboundTrafficPolicy.egressProxy.subset";
    findings.push(
        at(&code::IST0101, &sidecar.meta, proxy.position, field, message)
            .effect("requests to hosts that nobody declared get 503 (NC), their other connections are closed")
            .mend(format!("add the subset to a DestinationRule of {host} that the Sidecar's namespace gets")),
    );
}

/// Sidecars of one namespace beyond this are not compared with each other.
const COMPARED_MAX: usize = 64;

fn names(a: &Sidecar, b: &Sidecar) -> String {
    format!("[{} {}]", a.meta.name(), b.meta.name())
}

/// Those for every workload of their namespace.
fn check_whole(sidecars: &[&Sidecar], findings: &mut Findings) {
    let mut whole = sidecars
        .iter()
        .filter(|sidecar| sidecar.workload_selector.as_ref().is_none_or(|labels| labels.is_empty()));
    let Some(first) = whole.next() else { return };
    for later in whole {
        let message = format!(
            "The Sidecars {} in namespace {:?} have no workload selector",
            names(first, later),
            later.meta.namespace()
        );
        let effect = format!("{} comes first by age and name: this one never acts", named(&first.meta));
        findings.push(about(&code::IST0111, &later.meta, "metadata.name", message).effect(effect));
    }
}

fn check_selected(sidecars: &[&Sidecar], workloads: &[&Workload<'_>], findings: &mut Findings) {
    let selecting: Vec<_> = sidecars
        .iter()
        .filter_map(|sidecar| Some((*sidecar, sidecar.workload_selector.as_ref()?)))
        .filter(|(_, labels)| !labels.is_empty())
        .collect();
    for (index, (sidecar, labels)) in selecting.iter().enumerate() {
        let mut selected = workloads.iter().filter(|workload| workload.has(labels)).peekable();
        if selected.peek().is_none() && !workloads.is_empty() {
            let message = format!("Referenced selector not found: \"{}\"", selector(labels));
            findings.push(
                about(&code::IST0101, &sidecar.meta, "spec.workloadSelector.labels", message)
                    .effect("no workload of the namespace has these labels: the Sidecar acts on nobody")
                    .mend("correct the labels"),
            );
        }
        let selected: Vec<_> = selected.collect();
        let earlier = selecting[..index].iter().take(COMPARED_MAX);
        let conflict = earlier.into_iter().find_map(|(first, of_first)| {
            let both = selected.iter().find(|workload| workload.has(of_first));
            let same = of_first == labels;
            (same || both.is_some()).then(|| (first, both.map(|workload| workload.meta.name().to_string())))
        });
        let Some((first, workload)) = conflict else { continue };
        let message = format!(
            "The Sidecars {} in namespace {:?} select the same workload pod {:?}",
            names(first, sidecar),
            sidecar.meta.namespace(),
            workload.unwrap_or_else(|| format!("({})", selector(labels))),
        );
        let effect = format!("{} comes first by age and name and holds for it", named(&first.meta));
        findings.push(about(&code::IST0110, &sidecar.meta, "metadata.name", message).effect(effect));
    }
}

/// Where the mesh needs no sidecar, Istio's Sidecar says nothing.
fn check_ambient(sidecars: &[&Sidecar], workloads: &[&Workload<'_>], findings: &mut Findings) {
    for sidecar in sidecars {
        let labels = sidecar.workload_selector.as_ref();
        let mut selected =
            workloads.iter().filter(|workload| labels.is_none_or(|labels| workload.has(labels))).peekable();
        if selected.peek().is_some() && selected.all(|workload| workload.is_ambient) {
            let message = "selected workload is in ambient mode, the policy has no impact".to_owned();
            findings.push(about(&code::IST0167, &sidecar.meta, "metadata.name", message));
        }
    }
}
