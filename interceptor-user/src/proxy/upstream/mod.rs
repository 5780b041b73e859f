//! The clusters as they live: endpoints, load, TLS material. One [`ClusterRuntime`] per cluster for the
//! whole process, read without waiting by every worker, kept over reloads that do not change the
//! cluster. Connections are pooled per worker ([`pool`]).

mod balance;
mod clock;
mod dial;
mod endpoints;
mod error;
mod hash;
mod host;
mod host_set;
mod io;
mod maglev;
mod names;
mod outlier;
pub(crate) mod pool;
mod ring_hash;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

pub(crate) use balance::random;
pub use endpoints::EndpointStatus;
pub(crate) use endpoints::{Pick, Selection, Watched};
pub use error::{ConnectError, ResetReason, UpstreamError};
pub(crate) use hash::RequestHash;
pub(crate) use io::UpstreamIo;
pub(crate) use outlier::Outcome;
pub(crate) use tls::of_io_error as tls_failure;

use super::downstream::Downstream;
use crate::dns::Resolver;
use crate::snapshot::Cluster;

/// Tells one life of a cluster from the next: a changed cluster is a new runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RuntimeId(u64);

/// A cluster in use.
#[derive(Debug)]
pub struct ClusterRuntime {
    id: RuntimeId,
    cluster: Arc<Cluster>,
    endpoints: endpoints::Endpoints,
    tls: Option<tls::TlsClient>,
}

/// An open connection for opaque bytes.
#[derive(Debug)]
pub struct TcpUpstream {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    pub local: Option<SocketAddr>,
    _active: Option<host::ActiveRequest>,
}

impl TcpUpstream {
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

/// An open connection for opaque bytes inside TLS.
#[derive(Debug)]
pub struct TlsUpstream {
    pub stream: TlsStream<TcpStream>,
    pub peer: SocketAddr,
    pub local: Option<SocketAddr>,
    _active: Option<host::ActiveRequest>,
}

/// An open connection, TLS included.
#[derive(Debug)]
struct Connected {
    io: UpstreamIo,
    peer: SocketAddr,
    local: Option<SocketAddr>,
}

impl ClusterRuntime {
    pub fn new(cluster: Arc<Cluster>, resolver: &Resolver) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: RuntimeId(NEXT.fetch_add(1, Ordering::Relaxed)),
            endpoints: endpoints::Endpoints::new(&cluster, resolver),
            tls: cluster.tls.as_ref().map(|tls| tls::TlsClient::new(tls, cluster.protocol)),
            cluster,
        }
    }

    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    pub(crate) fn id(&self) -> RuntimeId {
        self.id
    }

    /// Opens a connection for opaque bytes. Fails for a cluster that originates TLS: those are for
    /// [`Self::connect_tls`].
    pub async fn connect_tcp(&self, downstream: &Downstream) -> Result<TcpUpstream, ConnectError> {
        if self.tls.is_some() {
            let reason = "the cluster originates TLS, and this connection would not";
            return Err(UpstreamError::TlsUnavailable(reason.into()).into());
        }
        let pick = self.choose_opaque(downstream).await?;
        let dialed = self.dial(&pick).await;
        self.report_connection(&pick.watched, dialed.as_ref().err());
        let (stream, peer) = dialed.map_err(|error| error.at(pick.address))?;
        Ok(TcpUpstream { local: stream.local_addr().ok(), stream, peer, _active: pick.active })
    }

    /// Opens a connection for opaque bytes inside TLS, for a cluster that originates it.
    pub async fn connect_tls(&self, downstream: &Downstream) -> Result<TlsUpstream, ConnectError> {
        let Some(tls) = &self.tls else {
            return Err(UpstreamError::TlsUnavailable("the cluster has no TLS settings".into()).into());
        };
        let pick = self.choose_opaque(downstream).await?;
        // What the client said whom it means, when it said so.
        let name = downstream.requested_server_name.as_deref();
        let host = if self.cluster.host.starts_with('*') { name } else { Some(&*self.cluster.host) };
        let host = tls.server_name(host.unwrap_or_default());
        let dialed = self.dial_tls(tls, &pick, host).await;
        self.report_connection(&pick.watched, dialed.as_ref().err());
        let (stream, peer) = dialed.map_err(|error| error.at(pick.address))?;
        let local = stream.get_ref().0.local_addr().ok();
        Ok(TlsUpstream { stream, peer, local, _active: pick.active })
    }

    /// The name that a TLS handshake for a request to `host` is about; `None` without TLS.
    pub(crate) fn server_name<'a>(&'a self, host: &'a str) -> Option<&'a str> {
        Some(self.tls.as_ref()?.server_name(host))
    }

    /// Whether connections must be opened by [`Self::connect_tls`].
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

    /// The endpoint for a connection for opaque bytes.
    async fn choose_opaque(&self, downstream: &Downstream) -> Result<Pick, UpstreamError> {
        self.choose(Selection {
            original_dst: downstream.original_dst,
            name: downstream.requested_server_name.as_deref(),
            avoid: &[],
            hash: hash::of_connection(self.cluster.hash_key.as_ref(), downstream.remote_address.ip()),
        })
        .await
    }

    /// Tells what came of connecting for opaque bytes.
    fn report_connection(&self, watched: &Watched, error: Option<&UpstreamError>) {
        let outcome = error.map_or(Some(Outcome::ConnectedForGood), UpstreamError::outcome);
        if let Some(outcome) = outcome {
            self.report(watched, outcome);
        }
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

    /// A new connection to `pick`, with TLS when the cluster originates it.
    async fn open(&self, pick: &Pick, server_name: Option<&str>) -> Result<Connected, UpstreamError> {
        let Some(tls) = &self.tls else {
            let (stream, peer) = self.dial(pick).await?;
            return Ok(Connected { local: stream.local_addr().ok(), io: UpstreamIo::Plain(stream), peer });
        };
        let (stream, peer) = self.dial_tls(tls, pick, server_name.unwrap_or_default()).await?;
        let local = stream.get_ref().0.local_addr().ok();
        Ok(Connected { io: UpstreamIo::Tls(Box::new(stream)), peer, local })
    }

    /// Connects and shakes hands within the connect timeout.
    async fn dial_tls(
        &self,
        tls: &tls::TlsClient,
        pick: &Pick,
        server_name: &str,
    ) -> Result<(TlsStream<TcpStream>, SocketAddr), UpstreamError> {
        let config = tls.config()?;
        let connect = async {
            let (stream, peer) = self.dial(pick).await?;
            let stream = tls::TlsClient::handshake(config, stream, server_name, peer).await?;
            Ok((stream, peer))
        };
        tokio::time::timeout(self.cluster.connect_timeout, connect)
            .await
            .unwrap_or(Err(UpstreamError::ConnectTimeout))
    }

    async fn dial(&self, pick: &Pick) -> Result<(TcpStream, SocketAddr), UpstreamError> {
        let (addresses, count) = pick.addresses();
        let connected = dial::connect(&addresses[..count], self.cluster.connect_timeout).await?;
        if count > 1 {
            self.endpoints.reached(connected.1);
        }
        Ok(connected)
    }
}
