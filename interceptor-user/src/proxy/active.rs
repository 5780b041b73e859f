//! A snapshot in force, with the runtimes of its clusters. A reload makes a new one; clusters that it
//! does not change keep their runtime, and with it their endpoints, load and pools. A cluster that nobody
//! has used yet has none: of ten thousand services a node's workloads use a few.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::certificates::expiry::Expiry;
use super::termination::TlsServer;
use super::upstream::{BoundsId, ClusterRuntime, InUse, RuntimeId, TlsClient, random};
use crate::dns::Resolver;
use crate::hash::{HashMap, HashSet};
use crate::shared_map::SharedMap;
use crate::snapshot::{
    Cluster, ClusterName, ClusterRef, Discovery, Listener, Snapshot, TlsOrigination, TlsTermination,
    WeightedCluster,
};

/// Shorter than Istio's hour: each destination is a pool of its own, and most are asked once.
const PASSTHROUGH_HTTP_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Active {
    pub snapshot: Arc<Snapshot>,
    clusters: SharedMap<ClusterName, Arc<Slot>>,
    /// Made where a configuration is taken up, not where a request waits: it reads files. Clusters that
    /// originate the same TLS share it.
    tls: TlsClients,
    /// What ends TLS. Chains with the same settings share it, and so does a configuration with the one before.
    tls_servers: TlsServers,
    /// PassthroughCluster: connections and requests to the destination that they asked for.
    pub passthrough: Arc<ClusterRuntime>,
    resolver: Resolver,
}

/// The clusters that are in use.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) runtimes: HashSet<RuntimeId>,
    pub(crate) bounds: HashSet<BoundsId>,
}

type TlsClients = SharedMap<TlsOrigination, Originated>;
type TlsServers = HashMap<Arc<TlsTermination>, Arc<TlsServer>>;

/// What originates a certain TLS, and how many clusters have it.
#[derive(Clone, Debug)]
struct Originated {
    client: Arc<TlsClient>,
    clusters: usize,
}

/// A cluster, and its runtime once somebody uses it.
#[derive(Debug)]
struct Slot {
    cluster: Arc<Cluster>,
    tls: Option<Arc<TlsClient>>,
    runtime: OnceLock<Arc<ClusterRuntime>>,
}

impl Slot {
    /// What is known of endpoints in use is taken over from a cluster that differs in nothing else.
    fn new(
        cluster: &Arc<Cluster>,
        tls: Option<Arc<TlsClient>>,
        before: Option<&Arc<Self>>,
        resolver: &Resolver,
    ) -> Self {
        let used = before.and_then(|before| before.runtime.get());
        let changed = used.filter(|used| used.cluster().differs_in_endpoints_only(cluster));
        let runtime = changed.map(|used| {
            Arc::new(ClusterRuntime::new(Arc::clone(cluster), tls.clone(), resolver, Some(used)))
        });
        Self { cluster: Arc::clone(cluster), tls, runtime: runtime.map(OnceLock::from).unwrap_or_default() }
    }
}

impl Active {
    pub fn build(snapshot: Arc<Snapshot>, previous: Option<&Self>, resolver: &Resolver) -> Self {
        let passthrough = previous.map_or_else(
            || Arc::new(ClusterRuntime::new(Arc::new(passthrough()), None, resolver, None)),
            |previous| Arc::clone(&previous.passthrough),
        );
        let mut clusters = previous.map_or_else(
            || SharedMap::with_capacity(snapshot.clusters.len()),
            |previous| previous.clusters.clone(),
        );
        let mut tls = previous.map(|previous| previous.tls.clone()).unwrap_or_default();
        let nothing = SharedMap::default();
        let known = previous.map_or(&nothing, |previous| &previous.snapshot.clusters);
        known.changes(&snapshot.clusters, |name, was, cluster| {
            match cluster {
                Some(cluster) => {
                    let client = cluster.tls.as_ref().map(|tls_of| begin(&mut tls, tls_of, previous));
                    let slot = Slot::new(cluster, client, clusters.get(name), resolver);
                    clusters.insert(name.clone(), Arc::new(slot));
                }
                None => drop(clusters.remove(name)),
            }
            if let Some(origination) = was.and_then(|was| was.tls.as_ref()) {
                end(&mut tls, origination);
            }
        });
        let tls_servers = tls_servers(&snapshot, previous);
        Self { snapshot, clusters, tls, tls_servers, passthrough, resolver: resolver.clone() }
    }

    /// What is known of a cluster in use: its endpoints, load and health.
    pub fn runtime(&self, name: &ClusterName) -> Option<&Arc<ClusterRuntime>> {
        let slot = self.clusters.get(name)?;
        let new = || {
            let tls = slot.tls.clone();
            Arc::new(ClusterRuntime::new(Arc::clone(&slot.cluster), tls, &self.resolver, None))
        };
        Some(slot.runtime.get_or_init(new))
    }

    /// The clusters that somebody has used, and their endpoints at this moment.
    pub fn in_use(&self) -> InUse {
        let used = self.clusters.values().filter_map(|slot| slot.runtime.get());
        used.map(|runtime| (runtime.cluster().name.clone(), runtime.endpoints_now())).collect()
    }

    /// What ends TLS so; `None` where no chain of this configuration does.
    pub(super) fn tls_server(&self, termination: &TlsTermination) -> Option<&Arc<TlsServer>> {
        self.tls_servers.get(termination)
    }

    /// One of a route's clusters, by weight, and its runtime unless there is no such cluster. `None` when
    /// the route names none.
    pub(crate) fn choose<'a>(
        &'a self,
        clusters: &'a [WeightedCluster],
    ) -> Option<(&'a WeightedCluster, Option<&'a Arc<ClusterRuntime>>)> {
        let chosen = choose(clusters)?;
        Some((chosen, self.runtime_of(&chosen.cluster)))
    }

    /// `None` when there is no such cluster.
    pub(crate) fn runtime_of(&self, cluster: &ClusterRef) -> Option<&Arc<ClusterRuntime>> {
        let exists = cluster.cluster.is_some();
        exists.then(|| self.runtime(&cluster.name)).flatten()
    }

    /// Looks after certificates that are shown.
    pub(super) fn tend_certificates(&self) {
        self.tls.values().for_each(|originated| originated.client.tend());
        self.tls_servers.values().for_each(|server| server.tend());
    }

    /// When certificates that are shown end.
    pub(super) fn expiries(&self) -> impl Iterator<Item = Expiry> {
        let of_clients = self.tls.values().filter_map(|originated| originated.client.expiry());
        of_clients.chain(self.tls_servers.values().flat_map(|server| server.expiries()))
    }

    /// What is in use; clusters that are gone or changed are not.
    pub(crate) fn live(&self) -> Live {
        let used = self.clusters.values().filter_map(|slot| slot.runtime.get());
        let mut live = Live::default();
        for runtime in used.chain([&self.passthrough]) {
            live.runtimes.insert(runtime.id());
            live.bounds.extend(runtime.bounds());
        }
        live
    }
}

/// What originates such TLS, for one more cluster; if it was there before, the same.
fn begin(tls: &mut TlsClients, origination: &TlsOrigination, previous: Option<&Active>) -> Arc<TlsClient> {
    let clusters = tls.get(origination).map_or(0, |known| known.clusters);
    let known = tls.get(origination).or_else(|| previous?.tls.get(origination));
    let client =
        known.map_or_else(|| Arc::new(TlsClient::new(origination)), |known| Arc::clone(&known.client));
    let originated = Originated { client: Arc::clone(&client), clusters: clusters + 1 };
    tls.insert(origination.clone(), originated);
    client
}

/// The same for one cluster less.
fn end(tls: &mut TlsClients, origination: &TlsOrigination) {
    let Some(known) = tls.get(origination).cloned() else { return };
    match known.clusters.saturating_sub(1) {
        0 => drop(tls.remove(origination)),
        clusters => drop(tls.insert(origination.clone(), Originated { clusters, ..known })),
    }
}

fn tls_servers(snapshot: &Snapshot, previous: Option<&Active>) -> TlsServers {
    let chains = |listener: &Arc<Listener>| -> Vec<Arc<TlsTermination>> {
        listener.terminated.iter().map(|(_, chain)| Arc::clone(&chain.tls)).collect()
    };
    let listeners = snapshot.by_address.values().chain(snapshot.by_port.values());
    let mut servers = TlsServers::default();
    for termination in listeners.flat_map(chains) {
        if servers.contains_key(&termination) {
            continue;
        }
        let known = previous.and_then(|previous| previous.tls_servers.get(&termination)).cloned();
        let server = known.unwrap_or_else(|| Arc::new(TlsServer::new(&termination)));
        servers.insert(termination, server);
    }
    servers
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
    let mut cluster = Cluster::new(name, ClusterName::PASSTHROUGH.into(), 0, discovery);
    cluster.http_idle_timeout = PASSTHROUGH_HTTP_IDLE_TIMEOUT;
    cluster
}
