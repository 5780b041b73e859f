//! The clusters as they live: endpoints, load, TLS material. One [`ClusterRuntime`] per cluster for the
//! whole process, read without waiting by every worker, kept over reloads that do not change the
//! cluster. Connections are pooled per worker ([`pool`]).

mod balance;
mod bounds;
mod clock;
mod dial;
mod endpoints;
mod error;
mod hash;
mod host;
mod host_set;
mod maglev;
mod names;
mod opaque;
mod outlier;
pub(crate) mod pool;
mod proxy_protocol;
mod ring_hash;
mod status;
mod tls;
mod tunnel;
mod usages;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

pub(crate) use super::maybe_tls::UpstreamIo;
pub(crate) use balance::random;
pub(crate) use bounds::{Overflow, Slot};
pub(crate) use endpoints::{Pick, Selection, Watched};
pub use error::{ConnectError, ResetReason, UpstreamError};
pub(crate) use hash::RequestHash;
pub(crate) use opaque::{OpaqueIo, OpaqueUpstream};
pub(crate) use outlier::Outcome;
pub use status::{EndpointStatus, EndpointsNow, InUse};
pub(crate) use tls::{TlsClient, identity_lasts, look_at_files, of_io_error as tls_failure};
pub(crate) use usages::{BoundsId, UsageOf, Usages, WorkerUsages};

use super::downstream::Downstream;
use crate::dns::Resolver;
use crate::snapshot::{Bounds, Cluster, EndpointAddress, Traffic, UpstreamProtocol};
use bounds::ConnectionSlot;
use pool::Wanted;

/// Tells one life of a cluster from the next: a changed cluster is a new runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RuntimeId(u64);

impl RuntimeId {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A cluster in use.
#[derive(Debug)]
pub struct ClusterRuntime {
    id: RuntimeId,
    cluster: Arc<Cluster>,
    endpoints: endpoints::Endpoints,
    tls: Option<Arc<TlsClient>>,
    /// `None`: there is as much of it as anybody wants.
    bounds: Option<BoundsId>,
}

/// An open connection, TLS included.
#[derive(Debug)]
struct Connected {
    io: UpstreamIo,
    peer: EndpointAddress,
    local: Option<SocketAddr>,
}

impl ClusterRuntime {
    /// A cluster with what `previous`, which differs in its endpoints only, knows of those that it still has:
    /// ejected ones stay ejected, and are no longer new. What `previous` still serves counts towards the
    /// bounds.
    pub(crate) fn new(
        cluster: Arc<Cluster>,
        tls: Option<Arc<TlsClient>>,
        resolver: &Resolver,
        previous: Option<&Self>,
    ) -> Self {
        let known = previous.map(|previous| &previous.endpoints);
        let same_bounds = previous.filter(|previous| previous.cluster.bounds == cluster.bounds);
        Self {
            id: RuntimeId::next(),
            endpoints: endpoints::Endpoints::new(&cluster, resolver, known),
            tls,
            bounds: match same_bounds {
                Some(previous) => previous.bounds,
                None => (cluster.bounds != Bounds::default()).then(BoundsId::next),
            },
            cluster,
        }
    }

    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// What of it the workload uses that a connection is of.
    pub(crate) fn usage(&self, downstream: &Downstream) -> UsageOf {
        let usages = &downstream.origin.usages;
        UsageOf(self.bounds.map(|bounds| usages.of(bounds, &self.cluster.bounds)))
    }

    pub(crate) fn bounds(&self) -> Option<BoundsId> {
        self.bounds
    }

    pub(crate) fn id(&self) -> RuntimeId {
        self.id
    }

    /// One connection more, if the cluster may have it.
    fn slot(&self, downstream: &Downstream) -> Result<Option<ConnectionSlot>, UpstreamError> {
        let usage = self.usage(downstream);
        let Some(connections) = usage.connections() else { return Ok(None) };
        connections.enter().map(Some).ok_or(Overflow.into())
    }

    /// The name that a TLS handshake for a request to `host` is about; `None` without TLS.
    pub(crate) fn server_name<'a>(&'a self, host: &'a str) -> Option<&'a str> {
        Some(self.tls.as_ref()?.server_name(host))
    }

    /// How long the identity is valid that its connections show; `None` where there is none.
    fn identity_remaining(&self) -> Option<Duration> {
        self.tls.as_ref()?.remaining()
    }

    /// Which of the changes of its TLS files connections have to be made after.
    pub(crate) fn tls_version(&self) -> u64 {
        self.tls.as_ref().map_or(0, |tls| tls.version())
    }

    /// Whether its connections are inside TLS that is made here.
    pub fn originates_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether `address` is one of its endpoints; `None` when they are not known.
    pub(crate) fn has_endpoint(&self, address: IpAddr) -> Option<bool> {
        self.endpoints.has(address)
    }

    /// The endpoint for a request.
    pub(crate) async fn choose(&self, selection: Selection<'_>) -> Result<Pick, UpstreamError> {
        self.endpoints.choose(selection).await
    }

    /// Tells what came of a request to the endpoint that was chosen for it.
    pub(crate) fn report(&self, watched: &Watched, outcome: Outcome) {
        if let Some((host, lasting)) = self.endpoints.report(watched, outcome) {
            tracing::info!(cluster = %self.cluster.name, %host, seconds = lasting.as_secs(), "endpoint ejected");
        }
    }

    /// The endpoints as they are now; none where a connection brings its own.
    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        self.endpoints.statuses()
    }

    /// As the next request would find them.
    pub fn endpoints_now(&self) -> EndpointsNow {
        self.endpoints.as_they_are()
    }

    /// A new connection to `pick`, with TLS when the cluster originates it.
    async fn open(&self, pick: &Pick, wanted: &Wanted<'_>) -> Result<Connected, UpstreamError> {
        let Some(tls) = &self.tls else {
            let (stream, peer) = self.dial(pick, wanted.downstream, true).await?;
            return Ok(Connected { local: stream.local_addr().ok(), io: UpstreamIo::Plain(stream), peer });
        };
        let server_name = wanted.server_name.unwrap_or_default();
        let purpose = match wanted.protocol {
            UpstreamProtocol::Http1 => tls::Purpose::Http1,
            UpstreamProtocol::Http2 => tls::Purpose::Http2,
        };
        let connect = self.dial_tls(tls, pick, server_name, purpose, wanted.downstream);
        let (stream, peer) = self.in_time(connect).await?;
        let local = stream.get_ref().0.local_addr().ok();
        Ok(Connected { io: UpstreamIo::Tls(Box::new(stream)), peer, local })
    }

    /// Connects and shakes hands.
    async fn dial_tls(
        &self,
        tls: &TlsClient,
        pick: &Pick,
        server_name: &str,
        purpose: tls::Purpose,
        downstream: &Downstream,
    ) -> Result<(TlsStream<TcpStream>, EndpointAddress), UpstreamError> {
        let config = tls.config(purpose)?;
        let (stream, peer) = self.dial(pick, downstream, true).await?;
        let stream = tls.handshake(config, stream, server_name, peer.ip()).await?;
        Ok((stream, peer))
    }

    /// Within the connect timeout.
    async fn in_time<T>(
        &self,
        connect: impl Future<Output = Result<T, UpstreamError>>,
    ) -> Result<T, UpstreamError> {
        let limit = self.cluster.connect_timeout;
        tokio::time::timeout(limit, connect).await.unwrap_or(Err(UpstreamError::ConnectTimeout))
    }

    /// A gateway that sends to itself would do so until nothing is left to send with.
    fn refuse_way_back(&self, pick: &Pick) -> Result<(), UpstreamError> {
        let Some(off_limits) = &self.cluster.off_limits else { return Ok(()) };
        let mut addresses = pick.address.as_ip().into_iter().chain(pick.alternate);
        match addresses.find(|address| off_limits.leads_back(*address)) {
            Some(address) => {
                let why = format!("{address} leads back to this gateway");
                Err(UpstreamError::NoHealthyUpstream(Some(why.into())))
            }
            None => Ok(()),
        }
    }

    /// `bytes_follow`: whoever wants the connection is about to write.
    async fn dial(
        &self,
        pick: &Pick,
        downstream: &Downstream,
        bytes_follow: bool,
    ) -> Result<(TcpStream, EndpointAddress), UpstreamError> {
        self.refuse_way_back(pick)?;
        let part = &downstream.origin.part;
        if !part.has_descriptors() {
            // None of the endpoint's failures.
            return Err(Overflow.into());
        }
        let Traffic { connect_timeout, tcp_keepalive, .. } = *self.cluster.traffic;
        let bytes_follow = bytes_follow || self.cluster.proxy_protocol.is_some();
        let netns = &downstream.origin.netns;
        let mut connected = dial::connect(pick, netns, connect_timeout, tcp_keepalive, bytes_follow).await?;
        part.made(&connected.0);
        if pick.alternate.is_some() {
            self.endpoints.reached(&connected.1);
        }
        if let Some(version) = self.cluster.proxy_protocol {
            let Downstream { remote_address, original_dst, .. } = *downstream;
            let header = proxy_protocol::header(version, remote_address, original_dst);
            connected.0.write_all(&header).await.map_err(|error| UpstreamError::connect(&error))?;
        }
        Ok(connected)
    }
}
