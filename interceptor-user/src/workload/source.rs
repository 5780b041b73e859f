//! Who a workload is: what metrics, flows and logs say of the source of its connections.

/// A workload as Istio's telemetry names it. What is empty is not known: metrics say `unknown`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceWorkload {
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    pub uid: String,
    pub service_account: String,
    /// What owns the pod: the Deployment's name, not the ReplicaSet's.
    pub workload: String,
    /// Label `app`.
    pub app: String,
    /// Label `version`.
    pub version: String,
    /// Label `service.istio.io/canonical-name`, `app.kubernetes.io/name` or `app`, else the workload's name.
    pub canonical_service: String,
    /// Label `service.istio.io/canonical-revision`, `app.kubernetes.io/version` or `version`, else `latest`.
    pub canonical_revision: String,
    /// The cluster's id in the mesh (`Kubernetes` by default).
    pub cluster: String,
}
