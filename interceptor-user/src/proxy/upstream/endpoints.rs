//! The endpoints of a cluster, wherever they come from, and the choice of one for a request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::balance::{self, ActiveRequest, Host};
use super::error::UpstreamError;
use crate::snapshot::{Cluster, Discovery, DnsTarget, Endpoint, LoadBalancer};

/// The endpoint for one request.
#[derive(Debug)]
pub(crate) struct Pick {
    pub(crate) address: SocketAddr,
    /// An address of the other family, tried when this one cannot be reached.
    pub(super) alternate: Option<SocketAddr>,
    pub(super) active: Option<ActiveRequest>,
}

impl Pick {
    fn address(address: SocketAddr) -> Self {
        Self { address, alternate: None, active: None }
    }

    /// The addresses to connect to, preferred first.
    pub(super) fn addresses(&self) -> ([SocketAddr; 2], usize) {
        match self.alternate {
            Some(alternate) => ([self.address, alternate], 2),
            None => ([self.address, self.address], 1),
        }
    }
}

/// What a request is about, as far as endpoints depend on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Selection<'a> {
    pub(crate) original_dst: SocketAddr,
    /// Host header or SNI, without port.
    pub(crate) name: Option<&'a str>,
    /// Addresses that failed this request before.
    pub(crate) avoid: &'a [SocketAddr],
}

/// Hosts of a cluster at one time.
#[derive(Debug, Default)]
struct HostSet {
    /// IPv4 first.
    hosts: Vec<Arc<Host>>,
    v4: usize,
}

impl HostSet {
    fn new(mut hosts: Vec<Arc<Host>>) -> Self {
        hosts.sort_by_key(|host| host.address.is_ipv6());
        let v4 = hosts.partition_point(|host| host.address.is_ipv4());
        Self { hosts, v4 }
    }
}

/// Where the endpoints come from.
#[derive(Debug)]
enum Source {
    OriginalDst { port: Option<u16> },
    Static(Vec<Arc<Host>>),
    Names(Vec<DnsTarget>),
    Dynamic { port: u16 },
}

#[derive(Debug)]
pub(super) struct Endpoints {
    source: Source,
    policy: LoadBalancer,
    cursor: AtomicUsize,
    /// IPv4 could not be reached when IPv6 could.
    prefer_v6: AtomicBool,
}

impl Endpoints {
    pub(super) fn new(cluster: &Cluster) -> Self {
        let source = match &cluster.discovery {
            Discovery::OriginalDst { port } => Source::OriginalDst { port: *port },
            Discovery::Static(endpoints) => Source::Static(
                endpoints.iter().map(|Endpoint { address, weight }| Host::new(*address, *weight)).collect(),
            ),
            Discovery::StrictDns(targets) => Source::Names(targets.clone()),
            Discovery::LogicalDns(target) => Source::Names(vec![target.clone()]),
            Discovery::DynamicDns { port } => Source::Dynamic { port: *port },
        };
        Self {
            source,
            policy: cluster.load_balancer,
            cursor: AtomicUsize::new(0),
            prefer_v6: AtomicBool::new(false),
        }
    }

    pub(super) async fn choose(&self, selection: Selection<'_>) -> Result<Pick, UpstreamError> {
        match &self.source {
            Source::OriginalDst { port } => {
                let mut address = selection.original_dst;
                if let Some(port) = port {
                    address.set_port(*port);
                }
                Ok(Pick::address(address))
            }
            Source::Static(hosts) => {
                let host = balance::choose(hosts, self.policy, &self.cursor, selection.avoid)
                    .ok_or(UpstreamError::NoHealthyUpstream)?;
                Ok(self.pick(host, None))
            }
            Source::Names(targets) => {
                let mut hosts = Vec::new();
                for target in targets {
                    if let Ok(addresses) = tokio::net::lookup_host((&*target.host, target.port)).await {
                        hosts.extend(addresses.map(|address| Host::new(address, target.weight)));
                    }
                }
                let set = HostSet::new(hosts);
                let host = balance::choose(&set.hosts, self.policy, &self.cursor, selection.avoid)
                    .ok_or(UpstreamError::NoHealthyUpstream)?;
                Ok(self.pick(host, None))
            }
            Source::Dynamic { port } => {
                let name = selection.name.unwrap_or_default();
                let mut addresses = tokio::net::lookup_host((name, *port))
                    .await
                    .map_err(|error| UpstreamError::DnsResolution(error.to_string().into()))?;
                addresses.next().map(Pick::address).ok_or(UpstreamError::NoHealthyUpstream)
            }
        }
    }

    fn pick(&self, host: &Arc<Host>, alternate: Option<SocketAddr>) -> Pick {
        Pick { address: host.address, alternate, active: Some(ActiveRequest::new(Arc::clone(host))) }
    }

    /// Remembers which family could be reached, after both were tried.
    pub(super) fn reached(&self, peer: SocketAddr) {
        if self.prefer_v6.load(Ordering::Relaxed) != peer.is_ipv6() {
            self.prefer_v6.store(peer.is_ipv6(), Ordering::Relaxed);
        }
    }
}
