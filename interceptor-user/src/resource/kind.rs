//! The kinds that are read, and how they are told from those that are not.

use std::fmt;

use super::code;
use super::object::Object;

/// What a resource is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    ServiceEntry,
    VirtualService,
    DestinationRule,
    Gateway,
    Sidecar,
    WorkloadEntry,
    WorkloadGroup,
    Service,
    EndpointSlice,
    Pod,
    Deployment,
    StatefulSet,
    DaemonSet,
    ReplicaSet,
    Job,
    CronJob,
    Namespace,
    Secret,
}

impl Kind {
    /// Those of networking.istio.io.
    pub const ISTIO: [Self; 7] = [
        Self::ServiceEntry,
        Self::VirtualService,
        Self::DestinationRule,
        Self::Gateway,
        Self::Sidecar,
        Self::WorkloadEntry,
        Self::WorkloadGroup,
    ];

    /// With its API group.
    const KUBERNETES: [(&'static str, Self); 11] = [
        ("", Self::Service),
        ("discovery.k8s.io", Self::EndpointSlice),
        ("", Self::Pod),
        ("apps", Self::Deployment),
        ("apps", Self::StatefulSet),
        ("apps", Self::DaemonSet),
        ("apps", Self::ReplicaSet),
        ("batch", Self::Job),
        ("batch", Self::CronJob),
        ("", Self::Namespace),
        ("", Self::Secret),
    ];

    pub fn all() -> impl Iterator<Item = Self> {
        Self::ISTIO.into_iter().chain(Self::KUBERNETES.map(|(_, kind)| kind))
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::ServiceEntry => "ServiceEntry",
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::Gateway => "Gateway",
            Self::Sidecar => "Sidecar",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::WorkloadGroup => "WorkloadGroup",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::ReplicaSet => "ReplicaSet",
            Self::Job => "Job",
            Self::CronJob => "CronJob",
            Self::Namespace => "Namespace",
            Self::Secret => "Secret",
        }
    }

    /// Whether it is Kubernetes' own: what is wrong in it is not for us to refuse.
    pub fn is_kubernetes(self) -> bool {
        Self::KUBERNETES.iter().any(|(_, kind)| *kind == self)
    }

    pub(super) fn is_namespaced(self) -> bool {
        self != Self::Namespace
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What says who may go where, and is overlooked where nobody says that it does not act.
fn holds_mesh_config(root: &Object<'_>, kind: &str) -> bool {
    match kind {
        "ConfigMap" => root.has_in("data", "mesh"),
        "IstioOperator" => root.has_in("spec", "meshConfig"),
        _ => false,
    }
}

/// What does here what people expect of a kind that is not read.
pub(super) fn instead_of(kind: &str) -> &'static str {
    match kind {
        "AuthorizationPolicy" => {
            "; who may use a host at the egress gateway is said by egress.interceptor.io/allow-from of its ServiceEntry"
        }
        "Telemetry" => "; the access log is turned on by --access-log, or by MeshConfig's accessLogFile",
        "Kustomization" => "; what `kustomize build` or `kubectl kustomize` writes is what acts: give that",
        _ => "",
    }
}

/// The kind, when it is one that is read; a note when it is not.
pub(super) fn of(root: &Object<'_>, api_version: &str, kind: &str) -> Option<Kind> {
    let name = root.peek_name();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if group != "networking.istio.io" {
        let own = Kind::KUBERNETES.iter().find(|(of, known)| *of == group && known.name() == kind);
        // Other groups have kinds of these names, too, the Gateway API for one.
        let is_meant_for_istio = (group.is_empty() || group.contains("istio"))
            && Kind::ISTIO.iter().any(|known| known.name() == kind);
        if own.is_none() && is_meant_for_istio {
            root.field().error(format!(
                "there is no {kind} in {api_version}: expected apiVersion networking.istio.io/v1, v1beta1 or v1alpha3"
            ));
        } else if own.is_none() && holds_mesh_config(root, kind) {
            let message = format!(
                "{kind}{name} holds MeshConfig, which does not act from here: --mesh-config names the file that it is read from"
            );
            root.field().coded_warning(&code::EGR0119, message);
        } else if own.is_none() {
            let instead = instead_of(kind);
            root.field().info(format!("{kind}{name} ({api_version}) is not read here: skipped{instead}"));
        }
        return own.map(|(_, kind)| *kind);
    }
    if !matches!(version, "v1alpha3" | "v1beta1" | "v1") {
        let message =
            format!("unknown version {api_version}: expected networking.istio.io/v1, v1beta1 or v1alpha3");
        root.field().error(message);
        return None;
    }
    let known = Kind::ISTIO.iter().find(|known| known.name() == kind).copied();
    if known.is_none() && matches!(kind, "EnvoyFilter" | "ProxyConfig") {
        let message = format!("{kind}{name} does not act here: skipped");
        root.field().coded_warning(&code::EGR0119, message);
    } else if known.is_none() {
        let message = format!(
            "unknown kind {kind}{name}: networking.istio.io has ServiceEntry, VirtualService, DestinationRule, \
             Gateway, Sidecar, WorkloadEntry, WorkloadGroup, EnvoyFilter and ProxyConfig"
        );
        root.field().error(message);
    }
    known
}
