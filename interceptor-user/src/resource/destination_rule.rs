//! DestinationRule: how a destination is spoken to once it is chosen.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::client_tls::{self, ClientTls, TlsMode};
use super::connection_pool::{self, ConnectionPool, RetryBudget};
use super::decode::Field;
use super::diagnostic::Position;
use super::host;
use super::load_balancer::{self, LoadBalancerSettings};
use super::meta::Meta;
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
    /// Meant for some workloads only, none of which is known here.
    pub workload_selector: bool,
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
    fn asks_for_tls(&self) -> bool {
        let mut blocks = self.ports.values().map(|blocks| &**blocks).chain([&self.blocks]);
        blocks.any(|blocks| blocks.tls.as_ref().is_some_and(|tls| tls.mode != TlsMode::Disable))
    }
}

/// The parts of a policy that replace each other block by block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    pub load_balancer: Option<LoadBalancerSettings>,
    pub outlier_detection: Option<OutlierDetection>,
    pub connection_pool: Option<ConnectionPool>,
    pub tls: Option<ClientTls>,
}

pub(super) fn read(meta: Meta, spec: &Object<'_>) -> Option<DestinationRule> {
    let policy = spec.get("trafficPolicy").and_then(|field| read_policy(&field)).unwrap_or_default();
    let subsets = spec.list("subsets", |item| read_subset(&item).map(Arc::new));
    let export_to = visibility::read(spec);
    let workload_selector = spec.get("workloadSelector");
    for (index, subset) in subsets.iter().enumerate() {
        if subsets[..index].iter().any(|other| other.name == subset.name) {
            let message = format!("duplicate subset names: {}", subset.name);
            spec.error_at(subset.position, &format!("subsets[{index}].name"), message);
        }
    }
    let asks_for_tls = spec
        .get("trafficPolicy")
        .is_some_and(|field| field.contains("tls", "mode", &|mode| mode != Some("DISABLE")));
    if let Some(selector) = &workload_selector {
        selector.warning(if asks_for_tls || subsets.iter().any(|subset| subset.policy.asks_for_tls()) {
            "no labels are known here, so that a DestinationRule with workloadSelector never acts: its TLS is NOT \
             applied, requests go as if it was not there"
        } else {
            "no labels are known here, so that a DestinationRule with workloadSelector never acts: left out"
        });
    }
    let host = spec.require("host").and_then(|field| host::read(&field))?;
    let host_position = host.position;
    let host = host::complete(&host.value, meta.namespace());
    let workload_selector = workload_selector.is_some();
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

fn read_subset(item: &Field<'_>) -> Option<Subset> {
    let subset = item.object()?;
    let policy = subset.get("trafficPolicy").and_then(|field| read_policy(&field)).unwrap_or_default();
    let labels = subset.get("labels").map(|field| field.text_map()).unwrap_or_default();
    let name = subset.require("name").and_then(|field| field.text())?;
    Some(Subset { name, labels, policy, position: item.position() })
}

/// What a policy replaces as a whole.
const BLOCKS: [&str; 4] = ["outlierDetection", "connectionPool", "loadBalancer", "tls"];

fn read_policy(field: &Field<'_>) -> Option<TrafficPolicy> {
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
            .and_then(|field| load_balancer::read(&field, policy.has("outlierDetection"))),
        outlier_detection: policy.get("outlierDetection").and_then(|field| outlier_detection::read(&field)),
        connection_pool: policy.get("connectionPool").and_then(|field| connection_pool::read(&field)),
        tls: policy.get("tls").and_then(|field| client_tls::read(&field)),
    }
}
