//! Sidecar: what the workloads of a namespace see of the mesh, and what becomes of the rest.
//!
//! It takes things away, so that leaving one out for a mistake would let through what it blocks. What is read here is
//! therefore of use though a part is wrong: that part is the most restrictive that it can have meant.

use std::net::IpAddr;
use std::sync::Arc;

use super::decode::Field;
use super::diagnostic::Position;
use super::host;
use super::mesh_config::OutboundTrafficPolicyMode;
use super::meta::{self, Labels, Meta};
use super::object::Object;
use super::service_entry::Protocol;
use super::virtual_service::{self, Destination};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sidecar {
    pub meta: Meta,
    /// Without one it is for every workload of the namespace.
    pub workload_selector: Option<Labels>,
    pub outbound_traffic_policy: Option<OutboundTrafficPolicyMode>,
    /// Where hosts that nobody declared go instead of their own address; with ALLOW_ANY only.
    pub egress_proxy: Option<Destination>,
    /// Empty: everything that is exported to the workload is seen.
    pub egress: Vec<EgressListener>,
    /// It can't be used as written: what can be read of it acts.
    pub refused: bool,
    /// Nobody knows for which workloads it is meant: it takes away from all of its namespace, beside the Sidecar that
    /// they have, and gives them nothing.
    pub is_for_unknown: bool,
}

/// One of `egress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressListener {
    /// Without one it takes every port that no other listener has.
    pub port: Option<EgressPort>,
    pub bind: Option<IpAddr>,
    pub capture_mode: CaptureMode,
    pub hosts: Vec<EgressHost>,
    pub position: Position,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressPort {
    pub number: u16,
    pub protocol: Protocol,
    pub position: Position,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CaptureMode {
    #[default]
    Default,
    Iptables,
    None,
}

/// `ns/dns`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressHost {
    pub namespace: EgressNamespace,
    /// A host, perhaps with a wildcard.
    pub host: Arc<str>,
    pub position: Position,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EgressNamespace {
    /// `*`
    Any,
    /// `~`
    None,
    /// A name; `.` is the Sidecar's own.
    Named(Arc<str>),
}

impl Sidecar {
    /// One of which nothing can be read.
    pub(super) fn unread(meta: Meta) -> Self {
        Self {
            meta,
            workload_selector: None,
            outbound_traffic_policy: Some(OutboundTrafficPolicyMode::RegistryOnly),
            egress_proxy: None,
            egress: vec![EgressListener::nothing(Position::default())],
            refused: true,
            is_for_unknown: true,
        }
    }

    /// Whether it leaves a host of a service in `namespace` out.
    pub fn leaves_out(&self, namespace: &str, host: &str) -> bool {
        !self.egress.is_empty() && !self.egress.iter().any(|listener| listener.brings(namespace, host))
    }

    /// What happens while it can't be used as written.
    pub(super) fn effect_of_mistakes(&self) -> String {
        let for_whom = if self.is_for_unknown { " for every workload of its namespace" } else { "" };
        let unknown_hosts = match self.outbound_traffic_policy {
            Some(OutboundTrafficPolicyMode::RegistryOnly) => {
                "hosts that nobody declared are blocked (REGISTRY_ONLY)"
            }
            Some(OutboundTrafficPolicyMode::AllowAny | OutboundTrafficPolicyMode::AllowAnyDynamicDns) => {
                "hosts that nobody declared are let through (ALLOW_ANY)"
            }
            None => "hosts that nobody declared get what the mesh has for them",
        };
        format!(
            "what can be read of it acts{for_whom}, without the egress hosts that are wrong, and {unknown_hosts}; when it \
             was good before, its last good form goes on acting instead"
        )
    }
}

impl EgressListener {
    /// In the place of one that can't be read: it brings in nothing.
    fn nothing(position: Position) -> Self {
        Self { port: None, bind: None, capture_mode: CaptureMode::Default, hosts: Vec::new(), position }
    }

    /// Whether it brings in a host of a service in `namespace`.
    pub(crate) fn brings(&self, namespace: &str, host: &str) -> bool {
        self.hosts.iter().any(|wanted| wanted.is_of(namespace) && host::matches(&wanted.host, host))
    }
}

impl EgressHost {
    pub(crate) fn is_of(&self, namespace: &str) -> bool {
        match &self.namespace {
            EgressNamespace::Any => true,
            EgressNamespace::None => false,
            EgressNamespace::Named(name) => **name == *namespace,
        }
    }
}

pub(super) fn read(meta: Meta, spec: &Object<'_>, root: &Object<'_>) -> Sidecar {
    let is_meant = |name| spec.is_misspelt(name) || root.has(name);
    spec.ignore(&["inboundConnectionPool"]);
    if let Some(field) = spec.get("ingress") {
        field.info("`ingress` is not used here: inbound connections are not intercepted");
    }
    let (workload_selector, mut is_for_unknown) = read_selector(spec);
    let mut egress = read_egress(spec, &meta);
    let policy = spec.get("outboundTrafficPolicy").map(|field| read_policy(&field, &meta).unwrap_or(BLOCKED));
    let (mut outbound_traffic_policy, egress_proxy) = policy.unzip();
    if is_meant("outboundTrafficPolicy") {
        spec.refuse_unknown();
        outbound_traffic_policy = Some(OutboundTrafficPolicyMode::RegistryOnly);
    }
    if is_meant("egress") {
        spec.refuse_unknown();
        egress.push(EgressListener::nothing(spec.position()));
    }
    if is_meant("workloadSelector") {
        spec.refuse_unknown();
        is_for_unknown = true;
    }
    if spec.field().is_ambiguous() {
        return Sidecar::unread(meta);
    }
    Sidecar {
        workload_selector,
        outbound_traffic_policy,
        egress_proxy: egress_proxy.flatten(),
        egress,
        refused: false,
        is_for_unknown,
        meta,
    }
}

/// The labels, and whether they can't be read.
fn read_selector(spec: &Object<'_>) -> (Option<Labels>, bool) {
    let Some(field) = spec.get("workloadSelector") else { return (None, false) };
    let Some(selector) = field.object().map(Object::strict) else { return (Some(Labels::new()), true) };
    let Some(labels) = selector.get("labels") else { return (Some(Labels::new()), selector.has_unknown()) };
    let read = labels.text_map();
    let is_wrong = !matches!(labels.size(), Some(size) if size == read.len());
    (Some(read), is_wrong || selector.has_unknown())
}

/// `egress`; where a listener can't be read, what would narrow still narrows.
fn read_egress(spec: &Object<'_>, meta: &Meta) -> Vec<EgressListener> {
    let Some(field) = spec.get("egress") else { return Vec::new() };
    let mut egress = field.list(|item| read_listener(&item, meta));
    check_listeners(&egress, spec);
    if field.size() != Some(egress.len()) {
        egress.push(EgressListener::nothing(field.position()));
    }
    egress
}

/// Unknown hosts, where nobody knows what is wanted.
const BLOCKED: (OutboundTrafficPolicyMode, Option<Destination>) =
    (OutboundTrafficPolicyMode::RegistryOnly, None);

/// The mode, and the egress proxy; `None` when one of them can't be used.
fn read_policy(field: &Field<'_>, meta: &Meta) -> Option<(OutboundTrafficPolicyMode, Option<Destination>)> {
    let policy = field.object()?.strict();
    let mode = read_mode(field, &policy);
    let egress_proxy = policy.get("egressProxy");
    if policy.has_unknown() {
        return None;
    }
    let Some(egress_proxy) = egress_proxy else { return Some((mode?, None)) };
    let proxy = virtual_service::read_destination(&egress_proxy, meta.namespace());
    if mode.is_some_and(|mode| mode != OutboundTrafficPolicyMode::AllowAny) {
        egress_proxy
            .error("sidecar: egress_proxy must be set only with ALLOW_ANY outbound_traffic_policy mode");
        return None;
    }
    if proxy.as_ref().is_some_and(|proxy| proxy.port.is_none()) {
        if !egress_proxy.is_wrong() {
            egress_proxy.error("sidecar: egress_proxy port must be non-nil: write port: {number: …}");
        }
        return None;
    }
    Some((mode?, Some(proxy?)))
}

fn read_mode(field: &Field<'_>, policy: &Object<'_>) -> Option<OutboundTrafficPolicyMode> {
    let Some(mode) = policy.get("mode") else {
        // The enum's zero: that is what Istio makes of it.
        field.coded_warning(
            &super::code::EGR0114,
            "`mode` is missing, which means REGISTRY_ONLY: hosts that nobody declared are blocked; write mode: \
             ALLOW_ANY to let them through, or leave outboundTrafficPolicy out to have what the mesh has",
        );
        return Some(OutboundTrafficPolicyMode::RegistryOnly);
    };
    if mode.peek_text() == Some("ALLOW_ANY_DYNAMIC_DNS") {
        mode.error("ALLOW_ANY_DYNAMIC_DNS is for MeshConfig only: expected ALLOW_ANY or REGISTRY_ONLY");
        return None;
    }
    mode.one_of(&[
        ("ALLOW_ANY", OutboundTrafficPolicyMode::AllowAny),
        ("REGISTRY_ONLY", OutboundTrafficPolicyMode::RegistryOnly),
    ])
}

fn read_listener(item: &Field<'_>, meta: &Meta) -> Option<EgressListener> {
    let listener = item.object()?;
    let port = listener.get("port").map(|field| read_port(&field));
    let bind = listener.get("bind").map(|field| read_bind(&field));
    let capture_mode = listener.get("captureMode").map(|field| {
        field.one_of(&[
            ("DEFAULT", CaptureMode::Default),
            ("IPTABLES", CaptureMode::Iptables),
            ("NONE", CaptureMode::None),
        ])
    });
    let hosts = listener.list("hosts", |host| read_host(&host, meta));
    if !listener.has("hosts") {
        item.error("sidecar: egress listener must contain at least one host");
    }
    Some(EgressListener {
        port: unless_wrong(port)?,
        bind: unless_wrong(bind)?.flatten(),
        capture_mode: unless_wrong(capture_mode)?.unwrap_or_default(),
        hosts,
        position: item.position(),
    })
}

/// `None` when a value is there and can't be used.
#[expect(clippy::option_option, reason = "absent, wrong and there are three things")]
fn unless_wrong<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        None => Some(None),
        Some(value) => value.map(Some),
    }
}

fn read_port(field: &Field<'_>) -> Option<EgressPort> {
    let port = field.object()?;
    port.ignore(&["name"]);
    if let Some(target) = port.get("targetPort").filter(|field| field.peek_text() != Some("0")) {
        target.error("targetPort has no impact on Sidecars");
    }
    let protocol = match port.get("protocol") {
        Some(field) => super::service_entry::read_protocol(&field),
        None => Some(Protocol::Auto),
    };
    let number = port.require("number").and_then(|field| field.port());
    Some(EgressPort { number: number?, protocol: protocol?, position: field.position() })
}

/// An address; a unix socket is left out with its listener.
fn read_bind(field: &Field<'_>) -> Option<Option<IpAddr>> {
    let text = field.text()?;
    if text.is_empty() {
        return Some(None);
    }
    if text.starts_with("unix:") {
        field.error(
            "a listener on a unix socket is not supported here: connections to one are not intercepted",
        );
        return None;
    }
    let address = text.parse().ok();
    if address.is_none() {
        field.error(format!("`{text}` is not an IP address"));
    }
    address.map(Some)
}

fn read_host(item: &Field<'_>, meta: &Meta) -> Option<EgressHost> {
    let text = item.text()?;
    let Some((namespace, host)) = text.split_once('/') else {
        item.error(format!(
            "`{text}` is not of the form namespace/dnsName: write ./{text} for the Sidecar's own namespace, \
             */{text} for any"
        ));
        return None;
    };
    let namespace = match namespace {
        "*" => EgressNamespace::Any,
        "~" => EgressNamespace::None,
        "." => EgressNamespace::Named(Arc::clone(meta.namespace())),
        name if meta::is_name(name) => EgressNamespace::Named(name.into()),
        name => {
            item.error(format!("`{name}` is not a namespace: expected a name, `.`, `*` or `~`"));
            return None;
        }
    };
    if let Some(problem) = host::problem(host) {
        item.error(format!("invalid host {host}: {problem}"));
        return None;
    }
    Some(EgressHost { namespace, host: host.to_ascii_lowercase().into(), position: item.position() })
}

/// What Istio's webhook refuses of several listeners, in its words.
fn check_listeners(listeners: &[EgressListener], spec: &Object<'_>) {
    let error = |index: usize, message: &str| {
        spec.error_at(listeners[index].position, &format!("egress[{index}]"), message.into());
    };
    for (index, listener) in listeners.iter().enumerate() {
        let earlier = &listeners[..index];
        match &listener.port {
            None if earlier.iter().any(|earlier| earlier.port.is_none()) => {
                error(index, "sidecar: egress can have only one listener with empty port");
            }
            None if index + 1 != listeners.len() => {
                error(
                    index,
                    "sidecar: the egress listener with empty port should be the last listener in the list",
                );
            }
            None => {}
            Some(port) => {
                let same = |earlier: &EgressListener| {
                    earlier.port.as_ref().is_some_and(|earlier| earlier.number == port.number)
                };
                if earlier.iter().any(same) {
                    error(index, "sidecar: ports on IP bound listeners must be unique");
                }
            }
        }
    }
}
