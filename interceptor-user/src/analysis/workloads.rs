//! Who a selector selects: pods, the pods that Deployments and their like will make, and WorkloadEntries.

use std::sync::Arc;

use super::findings::{Findings, about, at};
use super::mesh::Mesh;
use crate::resource::pod::PodSpec;
use crate::resource::{Diagnostic, Kind, Labels, Meta, Spanned, World, code};

/// A pod, or what one will be made from.
#[derive(Debug)]
pub(super) struct Workload<'a> {
    pub(super) meta: &'a Meta,
    pub(super) labels: &'a Labels,
    /// Not for a WorkloadEntry.
    pub(super) pod: Option<&'a PodSpec>,
    pub(super) is_ambient: bool,
}

impl Workload<'_> {
    pub(super) fn has(&self, wanted: &Labels) -> bool {
        wanted.iter().all(|(name, value)| self.labels.get(name) == Some(value))
    }
}

pub(super) fn of(world: &World) -> Vec<Workload<'_>> {
    let ambient_label =
        |labels: &Labels| labels.get("istio.io/dataplane-mode").map(|mode| &**mode == "ambient");
    let namespaces: std::collections::HashMap<&Arc<str>, bool> = world
        .namespaces()
        .map(|namespace| (namespace.meta.name(), ambient_label(&namespace.meta.labels).unwrap_or(false)))
        .collect();
    let is_ambient = |meta: &Meta, labels: &Labels| {
        let of_namespace = || namespaces.get(meta.namespace()).copied().unwrap_or(false);
        ambient_label(labels).unwrap_or_else(of_namespace)
    };
    let pods = world.pods().map(|pod| Workload {
        meta: &pod.meta,
        labels: &pod.meta.labels,
        pod: Some(&pod.spec),
        is_ambient: is_ambient(&pod.meta, &pod.meta.labels)
            || pod
                .meta
                .annotations
                .get("ambient.istio.io/redirection")
                .is_some_and(|a| &*a.value == "enabled"),
    });
    let templates = world.pod_templates().map(|template| Workload {
        meta: &template.meta,
        labels: &template.labels,
        pod: Some(&template.spec),
        is_ambient: is_ambient(&template.meta, &template.labels),
    });
    let entries = world.workload_entries().map(|entry| Workload {
        meta: &entry.meta,
        labels: &entry.endpoint.labels,
        pod: None,
        is_ambient: false,
    });
    pods.chain(templates).chain(entries).collect()
}

/// Istio's proxy lets whoever runs as this user pass.
const PROXY_USER: i64 = 1337;

pub(super) fn check_users(mesh: &Mesh<'_>, findings: &mut Findings) {
    for workload in &mesh.workloads {
        let Some(pod) = workload.pod else { continue };
        let is_it = |user: &Option<Spanned<i64>>| user.clone().filter(|user| user.value == PROXY_USER);
        let message = || "User ID (UID) 1337 is reserved for the sidecar proxy".to_owned();
        let report = |user: Spanned<i64>, field: &str| -> Diagnostic {
            at(&code::IST0144, workload.meta, user.position, field, message())
        };
        if let Some(user) = is_it(&pod.run_as_user) {
            findings.push(report(user, "securityContext.runAsUser"));
        }
        for container in pod.containers.iter().filter(|container| !is_of_istio(&container.name)) {
            if let Some(user) = is_it(&container.run_as_user) {
                let field = format!("containers[{}].securityContext.runAsUser", container.name);
                findings.push(report(user, &field));
            }
        }
    }
}

fn is_of_istio(container: &str) -> bool {
    matches!(container, "istio-proxy" | "istio-init" | "istio-validation" | "enable-core-dump")
}

/// ServiceEntries whose selector selects nobody, as far as the input tells.
pub(super) fn check_service_entries(mesh: &Mesh<'_>, findings: &mut Findings) {
    for entry in mesh.world.service_entries() {
        let Some(selector) = &entry.workload_selector else { continue };
        let namespace = entry.meta.namespace();
        let selected = mesh
            .workloads
            .iter()
            .any(|workload| workload.meta.namespace() == namespace && workload.has(selector));
        if selected || selector.is_empty() {
            continue;
        }
        let message = format!(
            "No matching workloads for this resource with the following labels: {}",
            super::gateways::selector(selector)
        );
        let finding = about(&code::IST0127, &entry.meta, "spec.workloadSelector.labels", message);
        findings.push(
            finding.effect("there is no endpoint: requests get 503 (UH), connections are closed").mend(
                if mesh.workloads.is_empty() {
                    "give the pods' or WorkloadEntries' YAML, too, if there are any; else correct the labels"
                } else {
                    "correct the labels: Pods and WorkloadEntries of the same namespace are looked at"
                },
            ),
        );
    }
}

/// What kind of workloads the input has at all.
pub(super) fn has_pods(mesh: &Mesh<'_>) -> bool {
    mesh.workloads.iter().any(|workload| workload.meta.key.kind != Kind::WorkloadEntry)
}
