//! Pods, and the templates that Deployments and their like make them from: labels, annotations, users.

use std::net::IpAddr;
use std::sync::Arc;

use super::decode::{Field, Spanned};
use super::meta::{self, Annotations, Labels, Meta};
use super::object::Object;

/// A Pod; its labels and annotations are those of `meta`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub meta: Meta,
    /// What the kubelet names its cgroup by; absent in a file that people wrote.
    pub uid: Option<Arc<str>>,
    pub spec: PodSpec,
    /// Where it runs.
    pub node_name: Option<Arc<str>>,
    pub service_account: Option<Arc<str>>,
    /// Its containers may run in a sandbox of another kind (gVisor, Kata).
    pub runtime_class_name: Option<Arc<str>>,
    /// It has a metadata.deletionTimestamp.
    pub is_deleted: bool,
    /// It Succeeded or Failed: none of its containers runs again.
    pub is_over: bool,
    /// As its status tells; empty when it has ended, and in a file that people wrote.
    pub addresses: Vec<IpAddr>,
    /// The controller that made it, such as a ReplicaSet.
    pub owner: Option<Owner>,
}

/// An entry of metadata.ownerReferences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub kind: Arc<str>,
    pub name: Arc<str>,
}

/// A Deployment, StatefulSet, DaemonSet, ReplicaSet, Job or CronJob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTemplate {
    /// Of the object itself: what stands here reaches no pod.
    pub meta: Meta,
    /// Of its pods.
    pub labels: Labels,
    pub annotations: Annotations,
    pub spec: PodSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSpec {
    pub host_network: bool,
    /// securityContext.runAsUser of the pod.
    pub run_as_user: Option<Spanned<i64>>,
    pub containers: Vec<Container>,
}

/// One of `containers`, `initContainers` or `ephemeralContainers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub name: Arc<str>,
    pub run_as_user: Option<Spanned<i64>>,
    /// CAP_NET_RAW, which most runtimes give to containers that don't drop it; or privileged.
    pub may_have_net_raw: bool,
}

/// What the kubelet annotates when it mirrors a static pod to the API server: the value of the second is the uid that the
/// pod runs with, a hash.
const MIRROR: &str = "kubernetes.io/config.mirror";
const MIRRORED_UID: &str = "kubernetes.io/config.hash";

/// The uid of the static pod that this one mirrors. Anybody may write annotations: only a pod that a Node owns, which the API
/// server lets nobody but its kubelet make, speaks for another uid; and that is a hash, which no other pod's uid is.
fn mirrored(meta: &Meta, owner: Option<&Owner>) -> Option<Arc<str>> {
    let annotation = |name: &str| meta.annotations.get(name).map(|annotation| &annotation.value);
    let uid = annotation(MIRRORED_UID).filter(|_| annotation(MIRROR).is_some())?;
    let is_hash = uid.len() == 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_hash && owner.is_some_and(|owner| *owner.kind == *"Node")).then(|| Arc::clone(uid))
}

pub(super) fn read(meta: Meta, spec: &Object<'_>, root: &Object<'_>) -> Pod {
    let metadata = root.get("metadata").and_then(|field| field.object()).map(Object::open_quietly);
    let status = root.get("status").and_then(|field| field.object()).map(Object::open_quietly);
    let phase = status.as_ref().and_then(|status| status.peek("phase"));
    let is_over = matches!(phase, Some("Succeeded" | "Failed"));
    let texts = status.filter(|_| !is_over).map(|status| {
        let single = status.get("podIP");
        let each = status.list("podIPs", |item| item.object()?.open_quietly().get("ip"));
        let each = if each.is_empty() { single.into_iter().collect() } else { each };
        each.iter().filter_map(|field| field.peek_text()?.parse().ok()).collect()
    });
    let owners =
        metadata.as_ref().map(|metadata| metadata.list("ownerReferences", owner)).unwrap_or_default();
    let owner = owners.into_iter().find_map(|(owner, controls)| controls.then_some(owner));
    let mirrored = mirrored(&meta, owner.as_ref());
    Pod {
        meta,
        uid: mirrored.or_else(|| metadata.as_ref()?.peek("uid").map(Arc::from)),
        owner,
        spec: read_spec(spec),
        node_name: spec.peek("nodeName").map(Arc::from),
        service_account: spec.peek("serviceAccountName").map(Arc::from),
        runtime_class_name: spec.peek("runtimeClassName").map(Arc::from),
        is_deleted: metadata.is_some_and(|metadata| metadata.has("deletionTimestamp")),
        is_over,
        addresses: texts.unwrap_or_default(),
    }
}

/// With whether it is the controller.
fn owner(item: Field<'_>) -> Option<(Owner, bool)> {
    let object = item.object()?.open_quietly();
    let controls = object.boolean("controller").unwrap_or(false);
    Some((Owner { kind: object.text("kind")?, name: object.text("name")? }, controls))
}

pub(super) fn read_template(meta: Meta, spec: &Object<'_>) -> PodTemplate {
    // Only a CronJob has a template within a template.
    let job = spec.get("jobTemplate").and_then(|field| field.object()).map(Object::open_quietly);
    let job = job.and_then(|job| job.get("spec")?.object()).map(Object::open_quietly);
    let template = job.as_ref().unwrap_or(spec).get("template").and_then(|field| field.object());
    let template = template.map(Object::open_quietly);
    let part = |name| template.as_ref()?.get(name)?.object().map(Object::open_quietly);
    let metadata = part("metadata");
    PodTemplate {
        meta,
        labels: metadata.as_ref().map(|metadata| meta::labels(metadata, "labels")).unwrap_or_default(),
        annotations: metadata.as_ref().map(meta::annotations).unwrap_or_default(),
        spec: part("spec").map(|spec| read_spec(&spec)).unwrap_or_default(),
    }
}

fn read_spec(spec: &Object<'_>) -> PodSpec {
    let container = |item: Field<'_>| {
        let container = item.object()?.open_quietly();
        Some(Container {
            name: container.text("name")?,
            run_as_user: run_as_user(&container),
            may_have_net_raw: may_have_net_raw(&container),
        })
    };
    let mut containers = spec.list("containers", container);
    containers.extend(spec.list("initContainers", container));
    containers.extend(spec.list("ephemeralContainers", container));
    PodSpec {
        host_network: spec.boolean("hostNetwork").unwrap_or(false),
        run_as_user: run_as_user(spec),
        containers,
    }
}

/// What is added wins over what is dropped, as in the kubelet.
fn may_have_net_raw(container: &Object<'_>) -> bool {
    let context = container.get("securityContext").and_then(|field| field.object()).map(Object::open_quietly);
    let Some(context) = context else { return true };
    let capabilities = context.get("capabilities").and_then(|field| field.object()).map(Object::open_quietly);
    let names = |list| {
        let names = capabilities.as_ref().map(|capabilities| capabilities.texts(list)).unwrap_or_default();
        names.iter().any(|name| matches!(&*name.to_ascii_uppercase(), "ALL" | "NET_RAW" | "CAP_NET_RAW"))
    };
    context.boolean("privileged").unwrap_or(false) || names("add") || !names("drop")
}

fn run_as_user(of: &Object<'_>) -> Option<Spanned<i64>> {
    let context = of.get("securityContext")?.object()?.open_quietly();
    let field = context.get("runAsUser")?;
    Some(Spanned { value: field.integer(0..=i64::MAX)?, position: field.position() })
}

#[cfg(test)]
mod tests {
    use super::super::{Resource, parse};

    #[test]
    fn net_raw_is_there_unless_it_is_dropped() {
        for (context, expected) in [
            ("{}", true),
            ("{runAsUser: 1000}", true),
            ("{capabilities: {drop: [NET_RAW]}}", false),
            ("{capabilities: {drop: [ALL]}}", false),
            ("{capabilities: {drop: [all], add: [NET_BIND_SERVICE]}}", false),
            ("{capabilities: {drop: [CHOWN]}}", true),
            ("{capabilities: {drop: [ALL], add: [net_raw]}}", true),
            ("{capabilities: {drop: [ALL]}, privileged: true}", true),
        ] {
            let text = format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: shop}}\n\
                 spec: {{containers: [], ephemeralContainers: [{{name: app, securityContext: {context}}}]}}\n"
            );
            let parsed = parse(&"test.yaml".into(), &text, &"default".into());
            let Some(Resource::Pod(pod)) = parsed.resources.first() else { panic!("no pod in {text}") };
            let told: Vec<bool> = pod.spec.containers.iter().map(|one| one.may_have_net_raw).collect();
            assert_eq!(told, [expected], "{context}");
        }
    }
}
