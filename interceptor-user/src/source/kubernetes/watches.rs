//! What is followed: each watch with the request that it makes. docs/operations.md lists what they need to be allowed.

use std::fmt;
use std::sync::Arc;

use kube::core::{ApiResource, GroupVersionKind};

use crate::resource::Kind;

/// One list that is followed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Watch {
    /// First: enrolment waits for nothing else.
    PodsOfNode(Arc<str>),
    /// A gateway's clients.
    PodsOfCluster,
    Namespaces,
    MeshConfig {
        namespace: Arc<str>,
        name: Arc<str>,
    },
    Services,
    /// Those that Kubernetes makes for headless Services: where the others lead is kube-proxy's business.
    HeadlessSlices,
    /// Those that somebody else makes, which need not carry the label of headless ones.
    HandMadeSlices,
    /// All of a gateway's namespace.
    SlicesOfNamespace(Arc<str>),
    /// A kind of networking.istio.io, in whichever version is served.
    Istio(Kind),
    /// Of a namespace with a ServiceEntry that selects workloads.
    PodsOfNamespace(Arc<str>),
    /// One that a resource names by credentialName.
    Secret {
        namespace: Arc<str>,
        name: Arc<str>,
    },
}

/// The request of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) resource: ApiResource,
    pub(super) namespace: Option<Arc<str>>,
    pub(super) field_selector: Option<String>,
    pub(super) label_selector: Option<&'static str>,
}

pub(super) const ISTIO_GROUP: &str = "networking.istio.io";
/// They are one schema; the best first.
pub(super) const ISTIO_VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha3"];

impl Watch {
    /// The kind of its objects; `None` for a ConfigMap.
    pub(super) fn kind(&self) -> Option<Kind> {
        match self {
            Self::PodsOfNode(_) | Self::PodsOfCluster | Self::PodsOfNamespace(_) => Some(Kind::Pod),
            Self::Namespaces => Some(Kind::Namespace),
            Self::MeshConfig { .. } => None,
            Self::Services => Some(Kind::Service),
            Self::HeadlessSlices | Self::HandMadeSlices | Self::SlicesOfNamespace(_) => {
                Some(Kind::EndpointSlice)
            }
            Self::Istio(kind) => Some(*kind),
            Self::Secret { .. } => Some(Kind::Secret),
        }
    }

    /// What of its objects is not even kept until they are read.
    pub(super) fn unread(&self) -> &'static [[&'static str; 2]] {
        match self {
            Self::PodsOfCluster => &[
                ["metadata", "annotations"],
                ["spec", "containers"],
                ["spec", "initContainers"],
                ["spec", "ephemeralContainers"],
            ],
            Self::PodsOfNode(_)
            | Self::Namespaces
            | Self::MeshConfig { .. }
            | Self::Services
            | Self::HeadlessSlices
            | Self::HandMadeSlices
            | Self::SlicesOfNamespace(_)
            | Self::Istio(_)
            | Self::PodsOfNamespace(_)
            | Self::Secret { .. } => &[],
        }
    }

    /// `version`: of a kind of Istio's.
    pub(super) fn request(&self, version: &str) -> Request {
        let resource = |group: &str, version: &str, kind: &str, plural: &str| {
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
        };
        let all =
            |resource| Request { resource, namespace: None, field_selector: None, label_selector: None };
        let one = |resource, namespace: &Arc<str>, name| Request {
            namespace: Some(Arc::clone(namespace)),
            field_selector: Some(format!("metadata.name={name}")),
            ..all(resource)
        };
        let slices = || all(resource("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"));
        match self {
            Self::PodsOfNode(node) => Request {
                field_selector: Some(format!("spec.nodeName={node}")),
                ..all(resource("", "v1", "Pod", "pods"))
            },
            // Those that have ended have no address.
            Self::PodsOfCluster => Request {
                field_selector: Some("status.phase!=Succeeded,status.phase!=Failed".to_owned()),
                ..all(resource("", "v1", "Pod", "pods"))
            },
            Self::Namespaces => all(resource("", "v1", "Namespace", "namespaces")),
            Self::MeshConfig { namespace, name } => {
                one(resource("", "v1", "ConfigMap", "configmaps"), namespace, name)
            }
            Self::Services => all(resource("", "v1", "Service", "services")),
            Self::HeadlessSlices => {
                Request { label_selector: Some("service.kubernetes.io/headless"), ..slices() }
            }
            Self::HandMadeSlices => Request {
                label_selector: Some(
                    "!service.kubernetes.io/headless,\
                     endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io",
                ),
                ..slices()
            },
            Self::SlicesOfNamespace(namespace) => {
                Request { namespace: Some(Arc::clone(namespace)), ..slices() }
            }
            Self::Istio(kind) => all(resource(ISTIO_GROUP, version, kind.name(), plural(*kind))),
            Self::PodsOfNamespace(namespace) => {
                Request { namespace: Some(Arc::clone(namespace)), ..all(resource("", "v1", "Pod", "pods")) }
            }
            Self::Secret { namespace, name } => one(resource("", "v1", "Secret", "secrets"), namespace, name),
        }
    }
}

/// As the CRD of a kind of Istio's names it.
pub(super) fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::ServiceEntry => "serviceentries",
        Kind::VirtualService => "virtualservices",
        Kind::DestinationRule => "destinationrules",
        Kind::Gateway => "gateways",
        Kind::Sidecar => "sidecars",
        Kind::WorkloadEntry => "workloadentries",
        Kind::WorkloadGroup => "workloadgroups",
        Kind::Service
        | Kind::EndpointSlice
        | Kind::Pod
        | Kind::Deployment
        | Kind::StatefulSet
        | Kind::DaemonSet
        | Kind::ReplicaSet
        | Kind::Job
        | Kind::CronJob
        | Kind::Namespace
        | Kind::Secret => "",
    }
}

/// As status and log name it.
impl fmt::Display for Watch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PodsOfNode(node) => write!(formatter, "pods of node {node}"),
            Self::PodsOfCluster => formatter.write_str("pods"),
            Self::Namespaces => formatter.write_str("namespaces"),
            Self::MeshConfig { namespace, name } => write!(formatter, "configmap {namespace}/{name}"),
            Self::Services => formatter.write_str("services"),
            Self::HeadlessSlices => formatter.write_str("endpointslices of headless services"),
            Self::HandMadeSlices => formatter.write_str("endpointslices that Kubernetes does not manage"),
            Self::SlicesOfNamespace(namespace) => {
                write!(formatter, "endpointslices of namespace {namespace}")
            }
            Self::Istio(kind) => write!(formatter, "{}.{ISTIO_GROUP}", plural(*kind)),
            Self::PodsOfNamespace(namespace) => write!(formatter, "pods of namespace {namespace}"),
            Self::Secret { namespace, name } => write!(formatter, "secret {namespace}/{name}"),
        }
    }
}
