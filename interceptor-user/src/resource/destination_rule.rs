//! DestinationRule: how a destination is spoken to once it is chosen.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::client_tls::{self, ClientTls};
use super::connection_pool::{self, ConnectionPool, RetryBudget};
use super::decode::Field;
use super::diagnostic::Position;
use super::host;
use super::load_balancer::{self, LoadBalancerSettings};
use super::meta::{Labels, Meta};
use super::object::Object;
use super::outlier_detection::{self, OutlierDetection};
use super::tunnel::{self, ProxyProtocol, Tunnel};
use super::visibility::{self, ExportTo};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationRule {
    pub meta: Meta,
    /// Completed when it was a short name.
    pub host: Arc<str>,
    pub host_position: Position,
    pub policy: Arc<TrafficPolicy>,
    pub subsets: Vec<Arc<Subset>>,
    pub export_to: ExportTo,
    /// Meant for the clients with these labels in its own namespace, and for nobody else.
    pub workload_selector: Option<Labels>,
    /// The rule can't be used as written but asks for TLS: nothing may be sent in clear.
    pub refused: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subset {
    pub name: Arc<str>,
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    pub policy: TrafficPolicy,
    pub position: Position,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficPolicy {
    pub blocks: Blocks,
    /// Boxed: a node of the map has room for eleven.
    pub ports: BTreeMap<u16, Box<Blocks>>,
    pub extras: Extras,
}

/// The parts of a policy that hold for all ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    pub tunnel: Option<Tunnel>,
    pub proxy_protocol: Option<ProxyProtocol>,
    pub retry_budget: Option<RetryBudget>,
}

impl TrafficPolicy {
    /// What it says, and `base` where it says nothing. A port's settings replace everything.
    #[must_use]
    pub fn over(&self, base: &Self) -> Self {
        let (own, below) = (self.blocks.clone(), &base.blocks);
        let blocks = Blocks {
            load_balancer: own.load_balancer.or_else(|| below.load_balancer.clone()),
            outlier_detection: own.outlier_detection.or_else(|| below.outlier_detection.clone()),
            connection_pool: own.connection_pool.or_else(|| below.connection_pool.clone()),
            tls: own.tls.or_else(|| below.tls.clone()),
        };
        let mut ports = base.ports.clone();
        ports.extend(self.ports.iter().map(|(port, blocks)| (*port, blocks.clone())));
        let (own, below) = (self.extras.clone(), &base.extras);
        let inherits = own.tunnel.is_none() && own.proxy_protocol.is_none();
        let extras = Extras {
            tunnel: own.tunnel.or_else(|| below.tunnel.clone().filter(|_| inherits)),
            proxy_protocol: own.proxy_protocol.or(below.proxy_protocol.filter(|_| inherits)),
            retry_budget: own.retry_budget.or(below.retry_budget),
        };
        Self { blocks, ports, extras }
    }
}

/// The parts of a policy that replace each other block by block. Most rules have one or two of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    pub load_balancer: Option<Arc<LoadBalancerSettings>>,
    pub outlier_detection: Option<Arc<OutlierDetection>>,
    pub connection_pool: Option<Arc<ConnectionPool>>,
    pub tls: Option<Arc<ClientTls>>,
}

pub(super) fn read(meta: Meta, spec: &Object<'_>, root: &Object<'_>) -> Option<DestinationRule> {
    let policy = spec.get("trafficPolicy").and_then(|field| read_policy(&field)).unwrap_or_default();
    let subsets = spec.list("subsets", |item| read_subset(&item).map(Arc::new));
    let export_to = visibility::read(spec);
    let workload_selector = spec.get("workloadSelector").and_then(|field| read_selector(&field));
    for (index, subset) in subsets.iter().enumerate() {
        if subsets[..index].iter().any(|other| other.name == subset.name) {
            let message = format!("duplicate subset names: {}", subset.name);
            spec.error_at(subset.position, &format!("subsets[{index}].name"), message);
        }
    }
    let asks_for_tls = spec
        .get("trafficPolicy")
        .is_some_and(|field| field.contains("tls", "mode", &|mode| mode != Some("DISABLE")));
    // One step of indentation too few, or two. Left out it would be plaintext.
    let beside_spec = ["trafficPolicy", "tls", "subsets"].iter().any(|name| root.has(name));
    let misplaced = spec.get("tls");
    if let Some(field) = &misplaced {
        field.error("`tls` belongs to trafficPolicy: indent it below");
    }
    let asks_for_tls = asks_for_tls || misplaced.is_some() || beside_spec;
    let host = spec.require("host").and_then(|field| host::read(&field))?;
    let host_position = host.position;
    let host = host::complete(&host.value, meta.namespace());
    let refused = spec.field().is_wrong() && asks_for_tls;
    Some(DestinationRule {
        meta,
        host,
        host_position,
        policy: Arc::new(policy),
        subsets,
        export_to,
        workload_selector,
        refused,
    })
}

fn read_selector(field: &Field<'_>) -> Option<Labels> {
    let labels = field.object()?.get("matchLabels").map(|field| field.text_map()).unwrap_or_default();
    if labels.is_empty() {
        field.warning(
            "workload selector specified without labels: the rule is for every client of its namespace",
        );
    }
    if labels.iter().any(|(name, value)| name.contains('*') || value.contains('*')) {
        field.error("wildcard is not supported in selector");
    }
    Some(labels)
}

fn read_subset(item: &Field<'_>) -> Option<Subset> {
    let subset = item.object()?;
    let policy = subset.get("trafficPolicy").and_then(|field| read_policy(&field)).unwrap_or_default();
    let labels = subset.get("labels").map(|field| field.text_map()).unwrap_or_default();
    let name = subset.require("name").and_then(|field| field.text())?;
    Some(Subset { name, labels, policy, position: item.position() })
}

/// What a policy replaces as a whole.
const BLOCKS: [&str; 4] = ["outlierDetection", "connectionPool", "loadBalancer", "tls"];

pub(super) fn read_policy(field: &Field<'_>) -> Option<TrafficPolicy> {
    let policy = field.object()?;
    let blocks = read_blocks(&policy);
    let extras = Extras {
        tunnel: policy.get("tunnel").and_then(|field| tunnel::read(&field)),
        proxy_protocol: policy.get("proxyProtocol").and_then(|field| tunnel::read_proxy_protocol(&field)),
        retry_budget: policy.get("retryBudget").and_then(|field| connection_pool::read_retry_budget(&field)),
    };
    let has_any = |names: &[&str]| names.iter().any(|name| policy.has(name));
    if !has_any(&BLOCKS) && !has_any(&["portLevelSettings", "tunnel", "proxyProtocol", "retryBudget"]) {
        field.error("traffic policy must have at least one field");
    }
    if policy.has("tunnel") && policy.has("proxyProtocol") {
        field.error("tunnel and proxyProtocol must not be set together");
    }
    let ports = policy.list("portLevelSettings", |item| {
        let settings = item.object()?;
        let blocks = read_blocks(&settings);
        if !BLOCKS.iter().any(|name| settings.has(name)) {
            item.error("port traffic policy must have at least one field");
        }
        let port = settings.require("port").and_then(|field| field.object()?.require("number")?.port());
        Some((port?, blocks))
    });
    let mut by_port = BTreeMap::new();
    for (port, blocks) in ports {
        if by_port.insert(port, Box::new(blocks)).is_some() {
            field.error(format!("portLevelSettings has port {port} twice"));
        }
    }
    Some(TrafficPolicy { blocks, ports: by_port, extras })
}

fn read_blocks(policy: &Object<'_>) -> Blocks {
    Blocks {
        load_balancer: policy
            .get("loadBalancer")
            .and_then(|field| load_balancer::read(&field, policy.has("outlierDetection")))
            .map(Arc::new),
        outlier_detection: policy
            .get("outlierDetection")
            .and_then(|field| outlier_detection::read(&field))
            .map(Arc::new),
        connection_pool: policy
            .get("connectionPool")
            .and_then(|field| connection_pool::read(&field))
            .map(Arc::new),
        tls: policy.get("tls").and_then(|field| client_tls::read(&field)).map(Arc::new),
    }
}
