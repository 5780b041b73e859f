//! What happens to a connection once its original destination and its first bytes are known.

use std::net::IpAddr;
use std::sync::Arc;

use super::catch_all::CatchAll;
use super::cluster::Cluster;
use super::decision::Destination;
use super::host_map::HostMap;
use super::route::{ClusterRef, RouteTable, WeightedCluster};
use super::source::Source;
use super::tls_termination::{Terminated, Then};

/// Why a strict policy refuses a connection that could be for several TCP services.
pub const NO_NAME_DETAILS: &str = "no_learned_name_tells_services_apart";

/// Envoy's word for a connection that none of a gateway's servers takes.
pub const NO_FILTER_CHAIN_DETAILS: &str = "filter_chain_not_found";

/// What a connection that no chain takes gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fallthrough {
    /// To its original destination, logged as PassthroughCluster.
    Passthrough,
    /// To a Sidecar's egressProxy, whatever its destination.
    EgressProxy(Arc<TcpRoute>),
    /// Closed, logged as BlackHoleCluster with flag UH.
    BlackHole,
    /// Closed, logged with flag NR: a gateway's port has nothing but its servers.
    NoFilterChain,
}

/// Where opaque bytes (TCP, TLS passthrough) go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpRoute {
    /// Never empty; weights as in [`super::Forward`].
    pub clusters: Vec<WeightedCluster>,
    pub source: Option<Arc<Source>>,
    /// At a gateway: the client named the cluster itself (AUTO_PASSTHROUGH). Its TLS passes as it is, whatever the cluster
    /// would put around it, and nothing is sent where only the gateway's host could.
    pub client_chose: bool,
}

impl TcpRoute {
    pub fn to(cluster: ClusterRef) -> Self {
        Self::new(vec![WeightedCluster::new(cluster, 1)])
    }

    pub fn new(clusters: Vec<WeightedCluster>) -> Self {
        Self { clusters, source: None, client_chose: false }
    }
}

/// A TCP service whose address is a range: taken when the original destination lies in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CidrChain {
    pub network: IpAddr,
    pub prefix_len: u8,
    /// SNI routes of the services with this range (TLS and HTTPS ports).
    pub tls: HostMap<Arc<TcpRoute>>,
    /// Anything that `tls` does not take, when a TCP service has this range.
    pub tcp: Option<Arc<TcpRoute>>,
}

impl CidrChain {
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_len)).unwrap_or(0);
                u32::from(network) & mask == u32::from(address) & mask
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_len)).unwrap_or(0);
                u128::from(network) & mask == u128::from(address) & mask
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// The chains of one address and port, or of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// `10.0.0.1_443`, `0.0.0.0_80` or `virtualOutbound`.
    pub name: Arc<str>,
    /// TLS ClientHello: by SNI. Here the services without an address range.
    pub tls: HostMap<Arc<TcpRoute>>,
    /// TLS that ends here, by SNI; what has no SNI is taken by `*`. Of a name in `tls` and one here that both match,
    /// the more specific one counts.
    pub terminated: HostMap<Arc<Terminated>>,
    /// HTTP (prior-knowledge HTTP/2 included), when an HTTP or undeclared service shares the port.
    pub http: Option<Arc<RouteTable>>,
    /// Everything else, when a TCP service takes it.
    pub tcp: Option<Arc<TcpRoute>>,
    /// TCP services by their hosts, asked with the names that the workload's DNS answers gave the destination;
    /// `tcp` is for connections that none of them takes. Empty unless names are learned.
    pub tcp_by_name: HostMap<Arc<TcpRoute>>,
    /// TCP and TLS services with address ranges, longest prefix first; a matching one is asked before
    /// `tls` and `tcp`.
    pub cidrs: Vec<CidrChain>,
    pub fallthrough: Fallthrough,
    /// What `tcp_by_name` has to tell apart is refused when no name tells it.
    pub names_required: bool,
    /// A port that is declared server-first (MONGO, MYSQL): no sniffing at all.
    pub server_first: bool,
}

impl Listener {
    /// The listener of destinations that no service has: policy alone decides.
    pub fn virtual_outbound(catch_all: impl Into<CatchAll>) -> Self {
        let catch_all = catch_all.into();
        let http = catch_all.finds_http_anywhere.then(|| {
            let name = Arc::clone(&catch_all.virtual_host.name);
            Arc::new(RouteTable::new(name, &catch_all))
        });
        Self { http, ..Self::new("virtualOutbound".into(), catch_all) }
    }

    /// A listener without chains.
    pub fn new(name: Arc<str>, catch_all: impl Into<CatchAll>) -> Self {
        Self {
            name,
            tls: HostMap::default(),
            terminated: HostMap::default(),
            http: None,
            tcp: None,
            tcp_by_name: HostMap::default(),
            cidrs: Vec::new(),
            fallthrough: catch_all.into().fallthrough,
            names_required: false,
            server_first: false,
        }
    }

    /// The routes of an HTTP connection. A range goes before them: what lies in one is left to its chain.
    pub fn http_routes(&self, address: IpAddr) -> Option<&Arc<RouteTable>> {
        self.http.as_ref().filter(|_| !self.cidrs.iter().any(|chain| chain.contains(address)))
    }

    /// The chain that ends the TLS of a connection with this SNI, if one does.
    pub fn terminated(&self, sni: Option<&str>) -> Option<&Arc<Terminated>> {
        // No other name matches that.
        let (ends, specificity) = self.terminated.find(sni.unwrap_or("*"))?;
        let passes = sni.and_then(|sni| self.tls.find(sni));
        passes.is_none_or(|(_, passes)| passes < specificity).then_some(ends)
    }

    /// The routes of requests on a connection: those of the chain that ended its TLS, by its SNI, where one did.
    pub fn requests_of_terminated(&self, sni: Option<&str>) -> Option<&Arc<RouteTable>> {
        match &self.terminated(sni)?.then {
            Then::Http(table) => Some(table),
            Then::Tcp(_) => None,
        }
    }

    /// Where a TLS connection goes; `None` is the fall-through. Envoy's order: address range first,
    /// then SNI; a connection whose range matches one service and whose SNI another falls through. Learned
    /// names stand in for an SNI that is not sent.
    pub fn tls_route(&self, destination: Destination<'_>, sni: Option<&str>) -> Option<&Arc<TcpRoute>> {
        if let Some(chain) = self.cidrs.iter().find(|chain| chain.contains(destination.address)) {
            return sni.and_then(|sni| chain.tls.get(sni)).or(chain.tcp.as_ref());
        }
        let by_tls_name = match sni {
            Some(sni) => self.tls.get(sni),
            None => destination.names.iter().find_map(|name| self.tls.get(name)),
        };
        by_tls_name.or_else(|| self.tcp_route_of_all(destination))
    }

    /// Where bytes that are neither TLS nor HTTP go; `None` is the fall-through.
    pub fn tcp_route(&self, destination: Destination<'_>) -> Option<&Arc<TcpRoute>> {
        match self.cidrs.iter().find(|chain| chain.contains(destination.address)) {
            Some(chain) => chain.tcp.as_ref(),
            None => self.tcp_route_of_all(destination),
        }
    }

    fn tcp_route_of_all(&self, destination: Destination<'_>) -> Option<&Arc<TcpRoute>> {
        let by_name = || destination.names.iter().find_map(|name| self.tcp_by_name.get(name));
        let by_name = if self.tcp_by_name.is_empty() { None } else { by_name() };
        by_name.or_else(|| self.tcp.as_ref().filter(|_| !self.names_required))
    }

    /// Whether a connection that no learned name leads anywhere is refused.
    /// A connection that no learned name leads anywhere is refused then, for [`NO_NAME_DETAILS`].
    pub fn needs_name(&self, address: IpAddr) -> bool {
        self.names_required && !self.cidrs.iter().any(|chain| chain.contains(address))
    }

    /// Whether learned names can change where a connection goes.
    pub fn depends_on_names(&self) -> bool {
        !self.tcp_by_name.is_empty() || !self.tls.is_empty()
    }

    /// The clusters that this listener's TCP and TLS chains name.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        let terminated = self.terminated.iter().filter_map(|(_, chain)| match &chain.then {
            Then::Tcp(route) => Some(route),
            Then::Http(_) => None,
        });
        self.tls
            .iter()
            .map(|(_, route)| route)
            .chain(terminated)
            .chain(self.tcp.as_ref())
            .chain(self.tcp_by_name.iter().map(|(_, route)| route))
            .flat_map(|route| route.clusters.iter().filter_map(|weighted| weighted.cluster.cluster.as_ref()))
    }
}
