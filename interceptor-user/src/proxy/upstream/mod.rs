//! The clusters as they live: endpoints, load, TLS material. One [`ClusterRuntime`] per cluster for the
//! whole process, read without waiting by every worker, kept over reloads that do not change the
//! cluster. Connections are pooled per worker ([`pool`]).

mod balance;
mod dial;
mod endpoints;
mod error;
mod io;
pub(crate) mod pool;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::TcpStream;

pub(crate) use balance::random;
pub(crate) use endpoints::{Pick, Selection};
pub use error::{ResetReason, UpstreamError};
use io::UpstreamIo;

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
}

/// An open connection for opaque bytes.
#[derive(Debug)]
pub struct TcpUpstream {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    pub local: Option<SocketAddr>,
    _active: Option<balance::ActiveRequest>,
}

impl TcpUpstream {
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

/// An open connection, TLS included.
#[derive(Debug)]
struct Connected {
    io: UpstreamIo,
    peer: SocketAddr,
    local: Option<SocketAddr>,
}

impl ClusterRuntime {
    pub fn new(cluster: Arc<Cluster>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: RuntimeId(NEXT.fetch_add(1, Ordering::Relaxed)),
            endpoints: endpoints::Endpoints::new(&cluster),
            cluster,
        }
    }

    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    pub(crate) fn id(&self) -> RuntimeId {
        self.id
    }

    /// Opens a connection for opaque bytes. `name` is the SNI when there is one.
    pub async fn connect_tcp(
        &self,
        original_dst: SocketAddr,
        name: Option<&str>,
    ) -> Result<TcpUpstream, UpstreamError> {
        let pick = self.choose(Selection { original_dst, name, avoid: &[] }).await?;
        let (stream, peer) = self.dial(&pick).await?;
        Ok(TcpUpstream { local: stream.local_addr().ok(), stream, peer, _active: pick.active })
    }

    /// The name that a TLS handshake for a request to `host` is about; `None` without TLS.
    pub(crate) fn server_name<'a>(&'a self, host: &'a str) -> Option<&'a str> {
        let tls = self.cluster.tls.as_ref()?;
        Some(tls.sni.as_deref().unwrap_or(host))
    }

    pub(crate) fn originates_tls(&self) -> bool {
        self.cluster.tls.is_some()
    }

    /// The endpoint for a request.
    pub(crate) async fn choose(&self, selection: Selection<'_>) -> Result<Pick, UpstreamError> {
        self.endpoints.choose(selection).await
    }

    /// A new connection to `pick`, with TLS when the cluster originates it.
    async fn open(&self, pick: &Pick, server_name: Option<&str>) -> Result<Connected, UpstreamError> {
        if server_name.is_some() {
            return Err(UpstreamError::TlsUnavailable("TLS origination is not available".into()));
        }
        let (stream, peer) = self.dial(pick).await?;
        let local = stream.local_addr().ok();
        Ok(Connected { io: UpstreamIo::Plain(stream), peer, local })
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
