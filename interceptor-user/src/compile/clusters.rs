//! Clusters: for each port of each service one, and one for each subset.

use std::sync::Arc;

use super::allow_from;
use super::connection_pool;
use super::destination_rules::{DestinationRules, MergedRule};
use super::discovery;
use super::hand_made::HandMade;
use super::load_balancing;
use super::locality;
use super::registry::{Registry, Service};
use super::shared::Shared;
use super::tls;
use super::{CompileSettings, Role, gateway};
use crate::hash::{HashMap, HashSet};
use crate::resource::destination_rule::Subset;
use crate::resource::service_entry::{ServicePort, WorkloadEntry};
use crate::resource::{DestinationRule, MeshConfig, ServiceEntry};
use crate::snapshot::{
    Cluster, ClusterName, ClusterRef, ClusterSource, Discovery, OffLimits, OutboundTrafficPolicy, Traffic,
};

/// What all clusters depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Common<'a> {
    pub(super) mesh: &'a MeshConfig,
    pub(super) settings: &'a CompileSettings,
    /// Of a gateway: see [`Cluster::off_limits`].
    pub(super) off_limits: Option<&'a Arc<OffLimits>>,
    /// Where the egress gateway is enforced: clusters that lead around it are left out, and those of these Services.
    pub(super) enforced: Option<&'a HandMade<'a>>,
}

impl Common<'_> {
    fn leaves_out(&self, cluster: &Cluster, entry: &ServiceEntry) -> bool {
        self.enforced.is_some_and(|hand_made| {
            !cluster.is_in_kubernetes() || hand_made.has(entry.meta.namespace(), entry.meta.name())
        })
    }
}

/// Every cluster by name, and what each was made from.
#[derive(Clone, Debug, Default)]
pub(super) struct Clusters {
    by_name: Arc<HashMap<ClusterName, Arc<Cluster>>>,
    by_host: Arc<HashMap<Arc<str>, Vec<ServiceClusters>>>,
    /// Those that were left out.
    around_gateway: Arc<HashSet<ClusterName>>,
    /// Hosts whose services or clusters are not those of the compile before.
    changed_hosts: Arc<HashSet<Arc<str>>>,
}

/// The clusters of a service, and all that they depend on beside MeshConfig.
#[derive(Clone, Debug)]
struct ServiceClusters {
    entry: Arc<ServiceEntry>,
    rules: Vec<Arc<DestinationRule>>,
    clusters: Arc<[Arc<Cluster>]>,
}

impl Clusters {
    /// What did not change since `previous`, compiled from the same MeshConfig, is the same [`Arc`].
    pub(super) fn new(
        (common, policy): (Common<'_>, OutboundTrafficPolicy),
        registry: &Registry,
        rules: &DestinationRules,
        previous: Option<&Self>,
    ) -> Self {
        let ports = registry.services.iter().map(|service| service.entry.ports.len()).sum();
        let clusters = previous.map_or(ports, |previous| previous.by_name.len());
        let mut by_name = HashMap::with_capacity_and_hasher(clusters, Default::default());
        let mut by_host: HashMap<Arc<str>, Vec<ServiceClusters>> =
            HashMap::with_capacity_and_hasher(registry.services.len(), Default::default());
        let (mut changed_hosts, mut around_gateway) = (HashSet::default(), HashSet::default());
        let traffics = Shared::default();
        for service in &registry.services {
            let rule = rules.of(&service.host, service.entry.meta.namespace()).or(rules.default_rule());
            let of_host = by_host.entry(Arc::clone(&service.host)).or_insert_with(|| Vec::with_capacity(1));
            let before =
                previous.and_then(|previous| previous.by_host.get(&service.host)?.get(of_host.len()));
            let made = match before.filter(|before| before.is_of(service, rule)) {
                Some(before) => before.clone(),
                None => {
                    changed_hosts.insert(Arc::clone(&service.host));
                    ServiceClusters::new(common, service, rule, &traffics)
                }
            };
            for cluster in &*made.clusters {
                let is_left_out = common.leaves_out(cluster, &service.entry);
                let was = previous.map(|previous| previous.around_gateway.contains(&cluster.name));
                if was.is_some_and(|was| was != is_left_out) {
                    // An EndpointSlice came or went: routes to the host lead elsewhere.
                    changed_hosts.insert(Arc::clone(&service.host));
                }
                if is_left_out {
                    around_gateway.insert(cluster.name.clone());
                    continue;
                }
                // The first cluster of a name stays.
                by_name.entry(cluster.name.clone()).or_insert_with(|| Arc::clone(cluster));
            }
            of_host.push(made);
        }
        if policy == OutboundTrafficPolicy::AllowAnyDynamicDns {
            let cluster = Cluster::allow_any_dynamic_dns();
            by_name.insert(cluster.name.clone(), Arc::new(cluster));
        }
        for (host, before) in previous.into_iter().flat_map(|previous| &*previous.by_host) {
            if by_host.get(host).map_or(0, Vec::len) != before.len() {
                changed_hosts.insert(Arc::clone(host));
            }
        }
        Self {
            by_name: Arc::new(by_name),
            by_host: Arc::new(by_host),
            around_gateway: Arc::new(around_gateway),
            changed_hosts: Arc::new(changed_hosts),
        }
    }

    /// Whether the services and clusters of a host are those of the compile before.
    pub(super) fn is_unchanged(&self, host: &str) -> bool {
        !self.changed_hosts.contains(host)
    }

    /// A reference to a cluster, whether it exists or not.
    pub(super) fn named(&self, port: u16, subset: &str, host: &str) -> ClusterRef {
        let name = ClusterName::outbound(port, subset, host);
        match self.by_name.get(&name) {
            Some(cluster) => ClusterRef { name: cluster.name.clone(), cluster: Some(Arc::clone(cluster)) },
            None => ClusterRef { name, cluster: None },
        }
    }

    /// The same, for a compile of the same services and rules.
    pub(super) fn unchanged(&self) -> Self {
        Self { changed_hosts: Arc::default(), ..self.clone() }
    }

    /// The clusters that were left out because the egress gateway is enforced.
    pub(super) fn around_gateway(&self) -> Arc<HashSet<ClusterName>> {
        Arc::clone(&self.around_gateway)
    }

    pub(super) fn by_name(&self) -> Arc<HashMap<ClusterName, Arc<Cluster>>> {
        Arc::clone(&self.by_name)
    }
}

impl ServiceClusters {
    fn new(
        common: Common<'_>,
        service: &Service,
        rule: Option<&MergedRule>,
        traffics: &Shared<Traffic>,
    ) -> Self {
        let subsets = || rule.map(|rule| &rule.subsets).into_iter().flatten().map(|subset| &**subset);
        let (ports, source) = (&service.entry.ports, source(service, rule));
        let mut clusters = Vec::new();
        for port in ports {
            for subset in [None].into_iter().chain(subsets().map(Some)) {
                let Some(cluster) = cluster(common, (service, port, subset), rule, traffics) else {
                    continue;
                };
                clusters.push(Arc::new(Cluster { source: Some(Arc::clone(&source)), ..cluster }));
            }
        }
        let rules = rule.map(|rule| rule.rules.clone()).unwrap_or_default();
        Self { entry: Arc::clone(&service.entry), clusters: clusters.into(), rules }
    }

    fn is_of(&self, service: &Service, rule: Option<&MergedRule>) -> bool {
        self.entry == service.entry && self.rules[..] == *rule.map(|rule| &rule.rules[..]).unwrap_or_default()
    }
}

/// One cluster; `None` when nobody can say where its endpoints are.
fn cluster(
    common: Common<'_>,
    (service, port, subset): (&Service, &ServicePort, Option<&Subset>),
    rule: Option<&MergedRule>,
    traffics: &Shared<Traffic>,
) -> Option<Cluster> {
    let subset_name = subset.map(|subset| &*subset.name).unwrap_or_default();
    let blocks = rule.map(|rule| rule.policy_of(port.number, subset)).unwrap_or_default();
    let labels = subset.map(|subset| &subset.labels).filter(|labels| !labels.is_empty());
    let balancing = blocks.load_balancer.clone().unwrap_or_default();
    let ejects = blocks.outlier_detection.is_some();
    let place = |endpoints: &[&WorkloadEntry]| {
        let setting = balancing.locality.as_ref().unwrap_or(&common.mesh.locality);
        locality::placements(setting, ejects, &common.settings.client, endpoints)
    };
    let declared = |place| discovery::of((service, port), labels, &common.settings.unix_endpoints, place);
    let (discovery, placements) = match common.settings.role {
        Role::Workload if balancing.is_passthrough() => (Discovery::OriginalDst { port: None }, Vec::new()),
        Role::Workload => declared(place)?,
        Role::Gateway { .. } => {
            let (discovery, placements) = declared(place)?;
            (gateway::upstream::discovery(discovery, service, port), placements)
        }
    };
    let pool = blocks.connection_pool.clone().unwrap_or_default();
    let top = rule.and_then(|rule| rule.policy.blocks.connection_pool.as_deref());
    let extras = rule.map(|rule| rule.extras_of(subset)).unwrap_or_default();
    let name = ClusterName::outbound(port.number, subset_name, &service.host);
    let traffic = Traffic {
        tls: rule
            .and_then(|rule| tls::origination(common, rule, &blocks, (service, port.number, subset_name))),
        load_balancer: load_balancing::policy(&balancing),
        hash_key: load_balancing::hash_key(&balancing),
        warmup: load_balancing::warmup(&balancing),
        outlier_detection: blocks.outlier_detection.as_deref().map(load_balancing::outlier_detection),
        ..Traffic::default()
    };
    let protocol = (port.protocol.is_http(), port.protocol.is_http2());
    let traffic = connection_pool::apply(traffic, common.mesh, &pool, top, extras, protocol);
    Some(Cluster {
        placements,
        off_limits: common.off_limits.cloned(),
        allow_from: allow_from::of_entry(common.settings, &service.entry),
        traffic: traffics.get(traffic),
        ..Cluster::new(name, Arc::clone(&service.host), port.number, discovery)
    })
}

fn source(service: &Service, rule: Option<&MergedRule>) -> Arc<ClusterSource> {
    let rules = rule.map(|rule| rule.rules.iter().map(|rule| rule.meta.key.clone()).collect());
    let destination_rules = rules.unwrap_or_default();
    Arc::new(ClusterSource { service: service.entry.meta.key.clone(), destination_rules })
}
