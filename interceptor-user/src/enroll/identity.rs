//! Who a pod is, as Istio's telemetry names it (istio: pkg/kube/inject, pilot/pkg/bootstrap: node metadata).

use std::sync::Arc;

use crate::resource::Pod;
use crate::workload::SourceWorkload;

/// Istio's default for the one cluster of a mesh.
const CLUSTER: &str = "Kubernetes";

pub fn source_workload(pod: &Pod) -> SourceWorkload {
    let label =
        |names: &[&str]| names.iter().find_map(|name| pod.meta.labels.get(*name)).map(|v| v.to_string());
    let workload = workload(pod);
    SourceWorkload {
        namespace: pod.meta.namespace().to_string(),
        pod: pod.meta.name().to_string(),
        uid: pod.uid.as_deref().unwrap_or_default().to_owned(),
        service_account: service_account(pod).to_owned(),
        app: label(&["app"]).unwrap_or_default(),
        version: label(&["version"]).unwrap_or_default(),
        canonical_service: label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"])
            .unwrap_or_else(|| workload.clone()),
        canonical_revision: label(&[
            "service.istio.io/canonical-revision",
            "app.kubernetes.io/version",
            "version",
        ])
        .unwrap_or_else(|| "latest".to_owned()),
        workload,
        cluster: CLUSTER.to_owned(),
    }
}

/// The Deployment of a ReplicaSet that is named after it and its template's hash, the CronJob of a Job that is named after
/// it and its time; else the owner itself, or the pod.
fn workload(pod: &Pod) -> String {
    let Some(owner) = &pod.owner else { return pod.meta.name().to_string() };
    let hash = pod.meta.labels.get("pod-template-hash").map(Arc::as_ref);
    let shortened = match (&*owner.kind, owner.name.rsplit_once('-')) {
        ("ReplicaSet", Some((deployment, end))) if Some(end) == hash => Some(deployment),
        ("Job", Some((job, time))) if time.len() >= 8 && time.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(job)
        }
        _ => None,
    };
    shortened.unwrap_or(&owner.name).to_owned()
}

/// Kubernetes puts the name where nobody wrote one.
pub fn service_account(pod: &Pod) -> &str {
    pod.service_account.as_deref().unwrap_or("default")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{Resource, parse};

    fn source(metadata: &str) -> SourceWorkload {
        let text =
            format!("apiVersion: v1\nkind: Pod\nmetadata: {metadata}\nspec: {{serviceAccountName: sa}}\n");
        let parsed = parse(&"pod.yaml".into(), &text, &"default".into());
        let Some(Resource::Pod(pod)) = parsed.resources.into_iter().next() else {
            panic!("no pod in {text}")
        };
        source_workload(&pod)
    }

    #[test]
    fn a_deployments_pod_is_named_after_the_deployment() {
        let source = source(
            "{name: web-5d4f-x2, namespace: shop, uid: u1, labels: {app: web, version: v2, pod-template-hash: 5d4f}, \
             ownerReferences: [{kind: ReplicaSet, name: web-5d4f, controller: true}]}",
        );
        assert_eq!(source.workload, "web");
        assert_eq!((&*source.canonical_service, &*source.canonical_revision), ("web", "v2"));
        assert_eq!(
            (&*source.namespace, &*source.pod, &*source.service_account),
            ("shop", "web-5d4f-x2", "sa")
        );
    }

    #[test]
    fn others_are_named_after_their_owner_or_themselves() {
        for (owner, labels, workload) in [
            ("{kind: StatefulSet, name: db-1, controller: true}", "", "db-1"),
            ("{kind: Job, name: night-28423110, controller: true}", "", "night"),
            ("{kind: Job, name: once, controller: true}", "", "once"),
            ("{kind: ReplicaSet, name: bare-rs, controller: true}", "pod-template-hash: other", "bare-rs"),
            ("{kind: ReplicaSet, name: not-mine}", "", "p"),
        ] {
            let metadata = format!("{{name: p, uid: u, labels: {{{labels}}}, ownerReferences: [{owner}]}}");
            let source = source(&metadata);
            assert_eq!(source.workload, workload, "{owner}");
            assert_eq!((&*source.canonical_service, &*source.canonical_revision), (workload, "latest"));
        }
    }
}
