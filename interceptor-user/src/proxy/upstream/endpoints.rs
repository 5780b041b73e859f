//! The endpoints of a cluster, wherever they come from, and the choice of one for a request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::balance::{self, ActiveRequest, Host};
use super::error::UpstreamError;
use super::names::Names;
use crate::dns::Resolver;
use crate::snapshot::{Cluster, Discovery, Endpoint, LoadBalancer};

/// The endpoint for one request.
#[derive(Debug)]
pub(crate) struct Pick {
    pub(crate) address: SocketAddr,
    /// An address of the other family, tried when this one cannot be reached.
    pub(super) alternate: Option<SocketAddr>,
    pub(super) active: Option<ActiveRequest>,
}

impl Pick {
    fn of(address: SocketAddr, alternate: Option<SocketAddr>) -> Self {
        Self { address, alternate, active: None }
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

/// Where the endpoints come from.
#[derive(Debug)]
enum Source {
    OriginalDst {
        port: Option<u16>,
    },
    Static(Vec<Arc<Host>>),
    /// Names that the configuration names; `logical` uses the first address only.
    Names {
        names: Names,
        logical: bool,
    },
    /// The name that the request brings.
    Dynamic {
        resolver: Resolver,
        port: Option<u16>,
    },
}

#[derive(Debug)]
pub(super) struct Endpoints {
    source: Source,
    policy: LoadBalancer,
    /// How long a name's first answer is waited for.
    patience: Duration,
    cursor: AtomicUsize,
    /// IPv4 could not be reached when IPv6 could.
    prefer_v6: AtomicBool,
}

impl Endpoints {
    pub(super) fn new(cluster: &Cluster, resolver: &Resolver) -> Self {
        let names = |targets: &[_]| Names::new(targets, resolver.clone());
        let source = match &cluster.discovery {
            Discovery::OriginalDst { port } => Source::OriginalDst { port: *port },
            Discovery::Static(endpoints) => Source::Static(
                endpoints.iter().map(|Endpoint { address, weight }| Host::new(*address, *weight)).collect(),
            ),
            Discovery::StrictDns(targets) => Source::Names { names: names(targets), logical: false },
            Discovery::LogicalDns(target) => {
                Source::Names { names: names(std::slice::from_ref(target)), logical: true }
            }
            Discovery::DynamicDns { port } => Source::Dynamic { resolver: resolver.clone(), port: *port },
        };
        Self {
            source,
            policy: cluster.load_balancer,
            patience: cluster.connect_timeout,
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
                Ok(Pick::of(address, None))
            }
            Source::Static(hosts) => {
                let host =
                    self.choose_of(hosts, selection.avoid).ok_or(UpstreamError::NoHealthyUpstream(None))?;
                Ok(pick(host, None))
            }
            Source::Names { names, logical } => {
                // Not held over an await: a guard belongs to its thread.
                let hosts = match names.known() {
                    Some(hosts) => hosts,
                    None => names.first_answer(self.patience).await,
                };
                let (preferred, other) = hosts.by_family(self.prefer_v6.load(Ordering::Relaxed));
                let host =
                    if *logical { preferred.first() } else { self.choose_of(preferred, selection.avoid) };
                let host = host.ok_or_else(|| UpstreamError::NoHealthyUpstream(hosts.failure()))?;
                Ok(pick(host, other.first().map(|host| host.address)))
            }
            Source::Dynamic { resolver, port } => {
                let name = selection.name.ok_or(UpstreamError::NoHealthyUpstream(None))?;
                let port = port.unwrap_or(selection.original_dst.port());
                let answer = tokio::time::timeout(self.patience, resolver.resolve(name))
                    .await
                    .map_err(|_elapsed| UpstreamError::DnsResolution(format!("{name}: no answer").into()))?
                    .map_err(|error| UpstreamError::DnsResolution(error.to_string().into()))?;
                let first_of = |v6: bool| answer.addresses.iter().find(|address| address.is_ipv6() == v6);
                let v6 = self.prefer_v6.load(Ordering::Relaxed);
                let (preferred, other) = (first_of(v6), first_of(!v6));
                let address = preferred
                    .or(other)
                    .ok_or_else(|| UpstreamError::DnsResolution(format!("{name} has no address").into()))?;
                let alternate = preferred.and(other).map(|address| SocketAddr::new(*address, port));
                Ok(Pick::of(SocketAddr::new(*address, port), alternate))
            }
        }
    }

    fn choose_of<'a>(&self, hosts: &'a [Arc<Host>], avoid: &[SocketAddr]) -> Option<&'a Arc<Host>> {
        balance::choose(hosts, self.policy, &self.cursor, avoid)
    }

    /// Remembers which family could be reached, after both were tried.
    pub(super) fn reached(&self, peer: SocketAddr) {
        if self.prefer_v6.load(Ordering::Relaxed) != peer.is_ipv6() {
            self.prefer_v6.store(peer.is_ipv6(), Ordering::Relaxed);
        }
    }
}

fn pick(host: &Arc<Host>, alternate: Option<SocketAddr>) -> Pick {
    Pick { address: host.address, alternate, active: Some(ActiveRequest::new(Arc::clone(host))) }
}
