//! Clusters: for each port of each service one, and one for each subset.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::connection_pool;
use super::destination_rules::{DestinationRules, MergedRule};
use super::load_balancing;
use super::registry::{Registry, Service};
use super::tls;
use crate::resource::MeshConfig;
use crate::resource::destination_rule::{Blocks, Subset};
use crate::resource::load_balancer::LoadBalancerSettings;
use crate::resource::service_entry::{Resolution, ServicePort, WorkloadEntry};
use crate::snapshot::{
    Cluster, ClusterName, ClusterRef, ClusterSource, Discovery, DnsTarget, Endpoint, OutboundTrafficPolicy,
};

/// Every cluster by name.
#[derive(Debug)]
pub(super) struct Clusters {
    by_name: HashMap<ClusterName, Arc<Cluster>>,
}

impl Clusters {
    pub(super) fn new(mesh: &MeshConfig, registry: &Registry, rules: &DestinationRules) -> Self {
        let mut clusters = Self { by_name: HashMap::new() };
        for service in &registry.services {
            let rule = rules.of(&service.host, service.entry.meta.namespace());
            for port in &service.entry.ports {
                clusters.add(mesh, service, port, rule, None);
                for subset in rule.map(|rule| &rule.subsets).into_iter().flatten() {
                    clusters.add(mesh, service, port, rule, Some(subset));
                }
            }
        }
        clusters
    }

    /// The first cluster of a name stays.
    fn add(
        &mut self,
        mesh: &MeshConfig,
        service: &Service,
        port: &ServicePort,
        rule: Option<&MergedRule>,
        subset: Option<&Subset>,
    ) {
        let subset_name = subset.map(|subset| &*subset.name).unwrap_or_default();
        let name = ClusterName::outbound(port.number, subset_name, &service.host);
        if self.by_name.contains_key(&name) {
            return;
        }
        let blocks = rule.map(|rule| rule.policy_of(port.number, subset)).unwrap_or_default();
        let labels = subset.map(|subset| &subset.labels).filter(|labels| !labels.is_empty());
        let Some(discovery) = discovery(service, port, labels, &blocks) else { return };
        let balancing = blocks.load_balancer.clone().unwrap_or_default();
        let pool = blocks.connection_pool.clone().unwrap_or_default();
        let top = rule.and_then(|rule| rule.policy.blocks.connection_pool.as_ref());
        let extras = rule.map(|rule| rule.extras_of(subset)).unwrap_or_default();
        let cluster = Cluster {
            tls: rule.and_then(|rule| tls::origination(rule, &blocks, &service.entry)),
            load_balancer: load_balancing::policy(&balancing),
            hash_key: load_balancing::hash_key(&balancing),
            warmup: load_balancing::warmup(&balancing),
            outlier_detection: blocks.outlier_detection.as_ref().map(load_balancing::outlier_detection),
            source: Some(source(service, rule)),
            ..Cluster::new(name.clone(), Arc::clone(&service.host), port.number, discovery)
        };
        let protocol = (port.protocol.is_http(), port.protocol.is_http2());
        let cluster = connection_pool::apply(cluster, mesh, &pool, top, extras, protocol);
        self.by_name.insert(name, Arc::new(cluster));
    }

    /// A reference to a cluster, whether it exists or not.
    pub(super) fn named(&self, port: u16, subset: &str, host: &str) -> ClusterRef {
        let name = ClusterName::outbound(port, subset, host);
        let cluster = self.by_name.get(&name).cloned();
        ClusterRef { name, cluster }
    }

    /// With the clusters that `policy` sends unknown hosts to.
    pub(super) fn into_map(mut self, policy: OutboundTrafficPolicy) -> HashMap<ClusterName, Arc<Cluster>> {
        if policy == OutboundTrafficPolicy::AllowAnyDynamicDns {
            let cluster = Cluster::allow_any_dynamic_dns();
            self.by_name.insert(cluster.name.clone(), Arc::new(cluster));
        }
        self.by_name
    }
}

fn source(service: &Service, rule: Option<&MergedRule>) -> Arc<ClusterSource> {
    let rules = rule.into_iter().flat_map(|rule| &rule.rules).map(|rule| rule.meta.key.clone());
    Arc::new(ClusterSource { service: service.entry.meta.key.clone(), destination_rules: rules.collect() })
}

/// Where the endpoints come from; `None` when the name of no endpoint is known: no cluster then.
fn discovery(
    service: &Service,
    port: &ServicePort,
    labels: Option<&BTreeMap<Arc<str>, Arc<str>>>,
    blocks: &Blocks,
) -> Option<Discovery> {
    let entry = &service.entry;
    if blocks.load_balancer.as_ref().is_some_and(LoadBalancerSettings::is_passthrough) {
        return Some(Discovery::OriginalDst { port: None });
    }
    let default_port = port.target_port.unwrap_or(port.number);
    let port_of = |endpoint: &WorkloadEntry| endpoint.ports.get(&port.name).copied().unwrap_or(default_port);
    let selected = |endpoint: &&WorkloadEntry| {
        labels.is_none_or(|labels| labels.iter().all(|(key, value)| endpoint.labels.get(key) == Some(value)))
    };
    let endpoints = entry.endpoints.iter().filter(selected);
    let names = || -> Vec<DnsTarget> {
        if entry.endpoints.is_empty() && entry.workload_selector.is_none() && labels.is_none() {
            return vec![DnsTarget { host: Arc::clone(&service.host), port: default_port, weight: 1 }];
        }
        let target = |endpoint: &WorkloadEntry| DnsTarget {
            host: Arc::clone(&endpoint.address),
            port: port_of(endpoint),
            weight: endpoint.weight,
        };
        endpoints.clone().map(target).collect()
    };
    match entry.resolution {
        Resolution::None => Some(Discovery::OriginalDst { port: port.target_port }),
        Resolution::Static => {
            let endpoint = |endpoint: &WorkloadEntry| {
                let address: IpAddr = endpoint.address.parse().ok()?;
                Some(Endpoint {
                    address: SocketAddr::new(address, port_of(endpoint)),
                    weight: endpoint.weight,
                })
            };
            Some(Discovery::Static(endpoints.filter_map(endpoint).collect()))
        }
        Resolution::Dns => Some(names()).filter(|names| !names.is_empty()).map(Discovery::StrictDns),
        Resolution::DnsRoundRobin => names().into_iter().next().map(Discovery::LogicalDns),
        Resolution::DynamicDns => Some(Discovery::DynamicDns { port: Some(default_port) }),
    }
}
