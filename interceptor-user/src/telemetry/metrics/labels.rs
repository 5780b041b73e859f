//! The labels of Istio's standard metrics, as its sidecar reports them of a client's side
//! (istio/proxy:source/extensions/filters/http/istio_stats/istio_stats.cc, Reporter::ClientSidecar).

use std::fmt::{self, Write as _};
use std::sync::Arc;

use crate::proxy::outcome::ResponseFlags;
use crate::resource::Kind;
use crate::snapshot::{Cluster, ClusterName};
use crate::workload::SourceWorkload;

const UNKNOWN: &str = "unknown";
/// What a name that a client gave may have of it in a label.
pub(crate) const NAME_MAX: usize = 255;

/// Whom a request or connection was for. What can't be known of an endpoint outside of the mesh is not here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Destination {
    service: Arc<str>,
    service_name: Arc<str>,
    service_namespace: Arc<str>,
}

impl Destination {
    /// A declared service. A Kubernetes Service has a name that is not its host.
    pub(crate) fn of(cluster: &Cluster) -> Self {
        let service = cluster.source.as_ref().map(|source| &source.service);
        let name = service.filter(|service| service.kind == Kind::Service).map(|service| &service.name);
        Self {
            service: Arc::clone(&cluster.host),
            service_name: Arc::clone(name.unwrap_or(&cluster.host)),
            service_namespace: service
                .map_or_else(|| UNKNOWN.into(), |service| Arc::clone(&service.namespace)),
        }
    }

    /// A declared service of which nothing but the name is left.
    pub(crate) fn of_name(cluster: &ClusterName) -> Self {
        let host = cluster.0.rsplit('|').next().unwrap_or(UNKNOWN);
        Self::undeclared(Some(host), None)
    }

    /// A service that nobody declared, by what the client calls it; `name` is that of the cluster that takes such
    /// requests.
    pub(crate) fn undeclared(host: Option<&str>, name: Option<&str>) -> Self {
        let host = host.map_or(UNKNOWN, |host| cut(host, NAME_MAX));
        Self {
            service: host.into(),
            service_name: name.unwrap_or(host).into(),
            service_namespace: UNKNOWN.into(),
        }
    }

    /// Whatever finds no room.
    pub(super) fn overflow() -> Self {
        Self {
            service: "overflow".into(),
            service_name: "overflow".into(),
            service_namespace: UNKNOWN.into(),
        }
    }
}

/// As much of a text as `max` bytes hold.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    let end = (0..=text.len().min(max)).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum RequestProtocol {
    Http,
    /// With grpc-status, unless there was no response.
    Grpc(Option<u8>),
    Tcp,
}

impl RequestProtocol {
    /// Without a status.
    pub(super) fn alone(self) -> Self {
        match self {
            Self::Grpc(_) => Self::Grpc(None),
            Self::Http | Self::Tcp => self,
        }
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Outcome {
    pub(crate) protocol: RequestProtocol,
    /// 0 without a response.
    pub(crate) response_code: u16,
    pub(crate) flags: ResponseFlags,
}

/// The labels of a series, but for those of its source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SeriesLabels {
    /// Of a gateway's client: counted as the source instead.
    pub(super) client: Option<Arc<SourceLabels>>,
    pub(super) destination: Destination,
    pub(super) outcome: Outcome,
}

/// What tells workloads apart in metrics. Pods of one workload are one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SourceLabels(pub(super) String);

impl SourceLabels {
    pub(super) fn new(source: &SourceWorkload) -> Self {
        // Without mutual TLS there is no principal.
        Self::with_principal(source, "")
    }

    /// `principal`: the identity that was shown, if any.
    pub(crate) fn with_principal(source: &SourceWorkload, principal: &str) -> Self {
        let mut labels = String::with_capacity(384);
        let mut label = |name: &str, value: &str| {
            let value = if value.is_empty() { UNKNOWN } else { value };
            write_label(&mut labels, name, value);
        };
        label("reporter", "source");
        label("source_workload", &source.workload);
        label("source_workload_namespace", &source.namespace);
        label("source_principal", principal);
        label("source_app", &source.app);
        label("source_version", &source.version);
        label("source_cluster", &source.cluster);
        label("source_canonical_service", &source.canonical_service);
        label("source_canonical_revision", &source.canonical_revision);
        Self(labels)
    }
}

impl SeriesLabels {
    /// Appends the labels, each with a comma before it.
    pub(super) fn append(&self, labels: &mut String) {
        let Destination { service, service_name, service_namespace } = &self.destination;
        let Outcome { protocol, response_code, flags } = self.outcome;
        let mut label = |name: &str, value: &dyn fmt::Display| write_label(labels, name, value);
        for name in ["workload", "workload_namespace", "principal", "app", "version"] {
            label(&format!("destination_{name}"), &UNKNOWN);
        }
        label("destination_service", service);
        label("destination_service_name", service_name);
        label("destination_service_namespace", service_namespace);
        label("destination_cluster", &UNKNOWN);
        label("destination_canonical_service", &UNKNOWN);
        label("destination_canonical_revision", &"latest");
        let (name, grpc_status) = match protocol {
            RequestProtocol::Http => ("http", None),
            RequestProtocol::Grpc(status) => ("grpc", status),
            RequestProtocol::Tcp => ("tcp", None),
        };
        label("request_protocol", &name);
        if protocol != RequestProtocol::Tcp {
            label("response_code", &response_code);
            match grpc_status {
                Some(status) => label("grpc_response_status", &status),
                None => label("grpc_response_status", &""),
            }
        }
        label("response_flags", &flags);
        label("connection_security_policy", &UNKNOWN);
    }
}

fn write_label(labels: &mut String, name: &str, value: impl fmt::Display) {
    if !labels.is_empty() {
        labels.push(',');
    }
    // A String takes whatever is written.
    let _written = write!(labels, "{name}=\"{}\"", crate::telemetry::exposition::Escaped(value)).is_ok();
}
