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
use crate::hash::HashSet;
use crate::resource::destination_rule::Subset;
use crate::resource::service_entry::{ServicePort, WorkloadEntry};
use crate::resource::{DestinationRule, MeshConfig, ServiceEntry};
use crate::shared_map::SharedMap;
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
    by_name: SharedMap<ClusterName, Arc<Cluster>>,
    by_host: SharedMap<Arc<str>, Arc<[ServiceClusters]>>,
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
        let mut clusters = previous.map(Self::unchanged).unwrap_or_default();
        clusters.take_up_all(common, registry, rules, registry.hosts());
        let gone = previous.into_iter().flat_map(|previous| previous.by_host.keys());
        let gone = gone.filter(|host| registry.of_host(host).next().is_none());
        clusters.take_up_all(common, registry, rules, gone);
        let any_host = Cluster::allow_any_dynamic_dns();
        if policy == OutboundTrafficPolicy::AllowAnyDynamicDns {
            clusters.by_name.insert_new(any_host.name.clone(), Arc::new(any_host));
        } else {
            clusters.by_name.remove(&any_host.name);
        }
        clusters
    }

    /// Makes those of these hosts anew, as far as services or rules have changed.
    pub(super) fn take_up_all<'h>(
        &mut self,
        common: Common<'_>,
        registry: &Registry,
        rules: &DestinationRules,
        hosts: impl Iterator<Item = &'h Arc<str>>,
    ) {
        let traffics = Shared::default();
        for host in hosts {
            let before = self.by_host.get(host).cloned().unwrap_or_default();
            let rule = |service: &Service| {
                rules.of(&service.host, service.entry.meta.namespace()).or(rules.default_rule())
            };
            let known = |(index, service): (usize, &Service)| {
                before.get(index).filter(|before| before.is_of(service, rule(service)))
            };
            let services = || registry.of_host(host).enumerate();
            let is_same = services().count() == before.len()
                && services().all(|service| known(service).is_some())
                && before.iter().all(|service| self.is_kept(common, service));
            if is_same {
                continue;
            }
            let made = services().map(|(index, service)| match known((index, service)) {
                Some(known) => known.clone(),
                None => ServiceClusters::new(common, service, rule(service), &traffics),
            });
            let made = made.collect();
            self.replace(common, host, (&before, made));
        }
    }

    /// Whether what the egress gateway leaves of a service's clusters is what it left.
    fn is_kept(&self, common: Common<'_>, service: &ServiceClusters) -> bool {
        let was_left_out = |cluster: &Cluster| self.around_gateway.contains(&cluster.name);
        let mut clusters = service.clusters.iter();
        clusters.all(|cluster| common.leaves_out(cluster, &service.entry) == was_left_out(cluster))
    }

    fn replace(
        &mut self,
        common: Common<'_>,
        host: &Arc<str>,
        (before, made): (&[ServiceClusters], Arc<[ServiceClusters]>),
    ) {
        for cluster in before.iter().flat_map(|service| &*service.clusters) {
            self.by_name.remove(&cluster.name);
            if self.around_gateway.contains(&cluster.name) {
                Arc::make_mut(&mut self.around_gateway).remove(&cluster.name);
            }
        }
        for service in &*made {
            for cluster in &*service.clusters {
                if common.leaves_out(cluster, &service.entry) {
                    Arc::make_mut(&mut self.around_gateway).insert(cluster.name.clone());
                } else {
                    // The first cluster of a name stays.
                    self.by_name.insert_new(cluster.name.clone(), Arc::clone(cluster));
                }
            }
        }
        if made.is_empty() {
            self.by_host.remove(host);
        } else {
            self.by_host.insert(Arc::clone(host), made);
        }
        Arc::make_mut(&mut self.changed_hosts).insert(Arc::clone(host));
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

    /// The hosts of which that is not so.
    pub(super) fn changed_hosts(&self) -> &HashSet<Arc<str>> {
        &self.changed_hosts
    }

    /// The same, as those of the compile before.
    pub(super) fn unchanged(&self) -> Self {
        Self { changed_hosts: Arc::default(), ..self.clone() }
    }

    /// The clusters that were left out because the egress gateway is enforced.
    pub(super) fn around_gateway(&self) -> Arc<HashSet<ClusterName>> {
        Arc::clone(&self.around_gateway)
    }

    pub(super) fn by_name(&self) -> SharedMap<ClusterName, Arc<Cluster>> {
        self.by_name.clone()
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
