//! A snapshot in force, with the runtimes of its clusters. A reload makes a new one; clusters that it
//! does not change keep their runtime, and with it their endpoints, load and pools.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::upstream::{ClusterRuntime, RuntimeId, random};
use crate::dns::Resolver;
use crate::snapshot::{Cluster, ClusterName, Discovery, Snapshot, WeightedCluster};

/// Shorter than Istio's hour: each destination is a pool of its own, and most are asked once.
const PASSTHROUGH_HTTP_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Active {
    pub snapshot: Arc<Snapshot>,
    pub clusters: HashMap<ClusterName, Arc<ClusterRuntime>>,
    /// PassthroughCluster: connections and requests to the destination that they asked for.
    pub passthrough: Arc<ClusterRuntime>,
    live: HashSet<RuntimeId>,
}

impl Active {
    pub fn build(snapshot: Arc<Snapshot>, previous: Option<&Self>, resolver: &Resolver) -> Self {
        let new = |cluster| Arc::new(ClusterRuntime::new(cluster, resolver));
        let passthrough = previous
            .map_or_else(|| new(Arc::new(passthrough())), |previous| Arc::clone(&previous.passthrough));
        let clusters: HashMap<_, _> = snapshot
            .clusters
            .iter()
            .map(|(name, cluster)| {
                let kept = previous
                    .and_then(|previous| previous.clusters.get(name))
                    .filter(|runtime| runtime.cluster() == cluster);
                let runtime = kept.map_or_else(|| new(Arc::clone(cluster)), Arc::clone);
                (name.clone(), runtime)
            })
            .collect();
        let live = clusters.values().chain([&passthrough]).map(|runtime| runtime.id()).collect();
        Self { snapshot, clusters, passthrough, live }
    }

    /// One of a route's clusters, by weight: its name, and its runtime unless there is no such cluster.
    /// `None` when the route names none.
    pub(crate) fn choose<'a>(
        &'a self,
        clusters: &'a [WeightedCluster],
    ) -> Option<(&'a ClusterName, Option<&'a Arc<ClusterRuntime>>)> {
        let chosen = &choose(clusters)?.cluster;
        let exists = chosen.cluster.is_some();
        Some((&chosen.name, exists.then(|| self.clusters.get(&chosen.name)).flatten()))
    }

    pub(crate) fn is_live(&self, runtime: RuntimeId) -> bool {
        self.live.contains(&runtime)
    }
}

fn choose(clusters: &[WeightedCluster]) -> Option<&WeightedCluster> {
    let total: u64 = clusters.iter().map(|weighted| u64::from(weighted.weight)).sum();
    let mut point = if clusters.len() > 1 { random() % total.max(1) } else { 0 };
    for weighted in clusters {
        let weight = u64::from(weighted.weight);
        if point < weight {
            return Some(weighted);
        }
        point -= weight;
    }
    // Only a route whose weights are all zero comes here.
    clusters.first()
}

fn passthrough() -> Cluster {
    let name = ClusterName(ClusterName::PASSTHROUGH.into());
    let discovery = Discovery::OriginalDst { port: None };
    Cluster {
        http_idle_timeout: PASSTHROUGH_HTTP_IDLE_TIMEOUT,
        ..Cluster::new(name, ClusterName::PASSTHROUGH.into(), 0, discovery)
    }
}
