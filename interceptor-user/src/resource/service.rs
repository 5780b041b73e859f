//! Service of Kubernetes: a host of the registry, as `name.namespace.svc.cluster.local`.

use std::net::IpAddr;
use std::sync::Arc;

use super::decode::Field;
use super::diagnostic::Position;
use super::meta::{Labels, Meta};
use super::object::Object;
use super::service_entry::Protocol;
use super::visibility::ExportTo;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub meta: Meta,
    pub kind: ServiceType,
    /// Empty when it is headless, or not known (a file that people wrote).
    pub cluster_ips: Vec<IpAddr>,
    pub headless: bool,
    /// `externalIPs`, `loadBalancerIP`, and those that its status says the load balancer has.
    pub external_ips: Vec<IpAddr>,
    pub ports: Vec<KubernetesPort>,
    pub selector: Labels,
    /// Annotation `networking.istio.io/exportTo`.
    pub export_to: ExportTo,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceType {
    /// ClusterIP, NodePort and LoadBalancer.
    ClusterIp,
    /// Another name for this host.
    ExternalName(Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesPort {
    /// Empty when a single port has none.
    pub name: Arc<str>,
    pub number: u16,
    /// By `appProtocol`, else by the name's prefix, else [`Protocol::Auto`].
    pub protocol: Protocol,
    pub target_port: Option<TargetPort>,
    pub position: Position,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    Number(u16),
    Name(Arc<str>),
}

const EXPORT_TO: &str = "networking.istio.io/exportTo";

pub(super) fn read(meta: Meta, spec: &Object<'_>, root: &Object<'_>) -> Service {
    let external_name = spec.text("externalName").filter(|_| spec.peek("type") == Some("ExternalName"));
    let single = spec.get("clusterIP");
    let each = spec.list("clusterIPs", Some);
    let each = if each.is_empty() { single.into_iter().collect() } else { each };
    let texts: Vec<&str> = each.iter().filter_map(Field::peek_text).collect();
    let external = spec.list("externalIPs", Some).into_iter().chain(spec.get("loadBalancerIP"));
    let external = external.chain(balanced_at(root));
    let export_to = meta.annotations.get(EXPORT_TO).map(|annotation| {
        let names = annotation.value.split(',').map(str::trim).filter(|name| !name.is_empty());
        ExportTo::of(names.map(Arc::from).collect())
    });
    Service {
        kind: external_name.map_or(ServiceType::ClusterIp, |name| {
            ServiceType::ExternalName(name.to_ascii_lowercase().trim_end_matches('.').into())
        }),
        cluster_ips: texts.iter().filter_map(|text| text.parse().ok()).collect(),
        headless: texts.contains(&"None"),
        external_ips: external.filter_map(|field| field.peek_text()?.parse().ok()).collect(),
        ports: spec.list("ports", |item| read_port(&item)),
        selector: super::meta::labels(spec, "selector"),
        export_to: export_to.unwrap_or(ExportTo::Unset),
        meta,
    }
}

/// `status.loadBalancer.ingress`.
fn balanced_at<'a>(root: &Object<'a>) -> Vec<Field<'a>> {
    let part = |of: &Object<'a>, name| of.get(name)?.object().map(Object::open_quietly);
    let balancer = part(root, "status").and_then(|status| part(&status, "loadBalancer"));
    let ingress =
        balancer.map(|balancer| balancer.list("ingress", |item| item.object()?.open_quietly().get("ip")));
    ingress.unwrap_or_default()
}

fn read_port(item: &Field<'_>) -> Option<KubernetesPort> {
    let port = item.object()?.open_quietly();
    let name = port.text("name").unwrap_or_else(|| "".into());
    let app_protocol = port.text("appProtocol");
    let protocol = match port.peek("protocol") {
        Some("UDP" | "SCTP") => Protocol::Udp,
        Some(_) | None => protocol_of(app_protocol.as_deref(), &name),
    };
    let target_port = port.get("targetPort").and_then(|field| match field.peek_text()?.parse() {
        Ok(number) => Some(TargetPort::Number(number)),
        Err(_) => field.text().map(TargetPort::Name),
    });
    let number = port.require("port").and_then(|field| field.port())?;
    Some(KubernetesPort { name, number, protocol, target_port, position: item.position() })
}

/// As Istio selects it: `appProtocol`, else what stands before the first `-` of the name.
fn protocol_of(app_protocol: Option<&str>, name: &str) -> Protocol {
    match app_protocol {
        Some("kubernetes.io/h2c") => Protocol::Http2,
        Some("kubernetes.io/ws") => Protocol::Http,
        Some("kubernetes.io/wss") => Protocol::Https,
        Some(text) => Protocol::parse(text).unwrap_or(Protocol::Auto),
        None => {
            let lower = name.to_ascii_lowercase();
            let grpc_web = lower == "grpc-web" || lower.starts_with("grpc-web-");
            let prefix = lower.split('-').next().unwrap_or_default();
            let protocol = if grpc_web { Some(Protocol::GrpcWeb) } else { Protocol::parse(prefix) };
            protocol.filter(|protocol| *protocol != Protocol::Udp).unwrap_or(Protocol::Auto)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Protocol, protocol_of};

    #[test]
    fn protocols_by_app_protocol_and_by_name() {
        for (app_protocol, name, expected) in [
            (None, "http", Protocol::Http),
            (None, "http-web", Protocol::Http),
            (None, "https-web", Protocol::Https),
            (None, "grpc", Protocol::Grpc),
            (None, "grpc-web-x", Protocol::GrpcWeb),
            (None, "tcp-db", Protocol::Tcp),
            (None, "mysql", Protocol::Mysql),
            (None, "httpx", Protocol::Auto),
            (None, "web", Protocol::Auto),
            (None, "", Protocol::Auto),
            (Some("https"), "http-web", Protocol::Https),
            (Some("kubernetes.io/h2c"), "", Protocol::Http2),
            (Some("example.com/own"), "http", Protocol::Auto),
        ] {
            assert_eq!(protocol_of(app_protocol, name), expected, "{app_protocol:?} {name}");
        }
    }
}
