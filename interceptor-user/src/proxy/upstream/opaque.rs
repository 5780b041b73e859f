//! Connections for opaque bytes: plain, inside TLS, through a proxy.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, BufReader, Interest};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::bounds::ConnectionSlot;
use super::tunnel::{self, PostTunnel};
use super::{
    ClusterRuntime, ConnectError, Outcome, Pick, Selection, TlsClient, UpstreamError, UpstreamIo, Watched,
    hash, host, tls,
};
use crate::proxy::downstream::Downstream;
use crate::snapshot::{EndpointAddress, TunnelMethod, UpstreamProtocol};

/// How an HTTP server's answer begins.
const HTTP_ANSWER: &[u8; 5] = b"HTTP/";

/// Enough to see what a server says first; later reads go past it.
const FIRST_BYTES_MAX: usize = 64;

/// An open connection for opaque bytes.
#[derive(Debug)]
pub(crate) struct OpaqueUpstream {
    pub(crate) io: OpaqueIo,
    pub(crate) peer: EndpointAddress,
    /// Of a socket that is out of reach.
    local: Option<SocketAddr>,
    _active: Option<host::ActiveRequest>,
    _slot: Option<ConnectionSlot>,
}

/// Boxed where it is large and rare.
#[derive(Debug)]
pub(crate) enum OpaqueIo {
    /// A unix socket, too.
    Plain(TcpStream),
    Tls(Box<BufReader<TlsStream<TcpStream>>>),
    Post(Box<BufReader<PostTunnel>>),
}

impl OpaqueIo {
    fn tls(stream: TlsStream<TcpStream>) -> Self {
        Self::Tls(Box::new(BufReader::with_capacity(FIRST_BYTES_MAX, stream)))
    }

    fn post(tunnel: PostTunnel) -> Self {
        Self::Post(Box::new(BufReader::with_capacity(FIRST_BYTES_MAX, tunnel)))
    }

    /// What can be reset; where there are only streams of a connection, dropping one is its reset.
    pub(crate) fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Tls(stream) => Some(stream.get_ref().get_ref().0),
            Self::Post(_) => None,
        }
    }

    /// Waits until the server has sent something, closed or failed. Inside TLS session tickets are nothing.
    pub(crate) async fn spoke(&mut self) {
        // An error is as good as bytes: the copy meets it again.
        match self {
            Self::Plain(stream) => drop(stream.ready(Interest::READABLE).await),
            Self::Tls(stream) => drop(stream.fill_buf().await),
            Self::Post(stream) => drop(stream.fill_buf().await),
        }
    }

    /// Waits for the server's first bytes: true when they are those of a protocol whose server greets,
    /// false when there are none any more, or when they are HTTP, which is what a server sends that has
    /// waited for a request in vain.
    pub(crate) async fn spoke_first(&mut self) -> bool {
        let mut peeked = [0; HTTP_ANSWER.len()];
        let first = match self {
            Self::Plain(stream) => stream.peek(&mut peeked).await.map(|read| &peeked[..read]),
            Self::Tls(stream) => stream.fill_buf().await,
            Self::Post(stream) => stream.fill_buf().await,
        };
        let Ok(first) = first else { return false };
        let length = first.len().min(HTTP_ANSWER.len());
        length > 0 && first[..length] != HTTP_ANSWER[..length]
    }
}

impl OpaqueUpstream {
    /// Our end of it; `None` of a unix socket, as in Envoy.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        self.io.socket().map_or(self.local, |socket| socket.local_addr().ok())
    }
}

impl ClusterRuntime {
    /// Opens a connection for opaque bytes, inside TLS and through a tunnel as the cluster has it. `client_chose`: see
    /// [`crate::snapshot::TcpRoute::client_chose`]. `has_spoken`: bytes of the client wait for it.
    pub(crate) async fn connect_opaque(
        &self,
        downstream: &Downstream,
        client_chose: bool,
        has_spoken: bool,
    ) -> Result<OpaqueUpstream, ConnectError> {
        let slot = self.slot(downstream)?;
        let pick = self.choose_opaque(downstream, client_chose).await?;
        let tls = self.tls.as_deref().filter(|_| !client_chose);
        let connected = self.in_time(self.open_opaque(tls, &pick, downstream, has_spoken)).await;
        self.report_connection(&pick.watched, connected.as_ref().err());
        let (io, peer, local) = connected.map_err(|error| error.at(pick.address))?;
        Ok(OpaqueUpstream { io, peer, local, _active: pick.active, _slot: slot })
    }

    async fn open_opaque(
        &self,
        tls: Option<&TlsClient>,
        pick: &Pick,
        downstream: &Downstream,
        has_spoken: bool,
    ) -> Result<(OpaqueIo, EndpointAddress, Option<SocketAddr>), UpstreamError> {
        let tunnel = self.cluster.tunnel.as_ref().map(|tunnel| (tunnel.method, &*tunnel.target));
        let Some(tls) = tls else {
            let (mut stream, peer) = self.dial(pick, downstream, has_spoken || tunnel.is_some()).await?;
            return Ok(match tunnel {
                None => (OpaqueIo::Plain(stream), peer, None),
                Some((TunnelMethod::Connect, target)) => {
                    tunnel::connect(&mut stream, target).await?;
                    (OpaqueIo::Plain(stream), peer, None)
                }
                Some((TunnelMethod::Post, target)) => {
                    let local = stream.local_addr().ok();
                    let tunnel = tunnel::post(UpstreamIo::Plain(stream), target).await?;
                    (OpaqueIo::post(tunnel), peer, local)
                }
            });
        };
        let purpose = match (self.cluster.protocol, tunnel) {
            // The proxy is asked with HTTP/1.1.
            (UpstreamProtocol::Http1, _) | (_, Some(_)) => tls::Purpose::Opaque,
            (UpstreamProtocol::Http2, None) => tls::Purpose::Http2,
        };
        let (mut stream, peer) =
            self.dial_tls(tls, pick, self.host_in_tls(tls, downstream), purpose, downstream).await?;
        Ok(match tunnel {
            None => (OpaqueIo::tls(stream), peer, None),
            Some((TunnelMethod::Connect, target)) => {
                tunnel::connect(&mut stream, target).await?;
                (OpaqueIo::tls(stream), peer, None)
            }
            Some((TunnelMethod::Post, target)) => {
                let local = stream.get_ref().0.local_addr().ok();
                let tunnel = tunnel::post(UpstreamIo::Tls(Box::new(stream)), target).await?;
                (OpaqueIo::post(tunnel), peer, local)
            }
        })
    }

    /// A wildcard host is whoever the client said that it means, when it said so.
    fn host_in_tls<'a>(&'a self, tls: &'a TlsClient, downstream: &'a Downstream) -> &'a str {
        let name = downstream.requested_server_name.as_deref();
        let host = if self.cluster.host.starts_with('*') { name } else { Some(&*self.cluster.host) };
        tls.server_name(host.unwrap_or_default())
    }

    async fn choose_opaque(
        &self,
        downstream: &Downstream,
        client_chose: bool,
    ) -> Result<Pick, UpstreamError> {
        self.choose(Selection {
            original_dst: downstream.original_dst,
            name: downstream.requested_server_name.as_deref(),
            avoid: &[],
            client_chose,
            asker: downstream.asker(),
            hash: hash::of_connection(self.cluster.hash_key.as_ref(), downstream.remote_address.ip()),
        })
        .await
    }

    /// Tells what came of connecting.
    fn report_connection(&self, watched: &Watched, error: Option<&UpstreamError>) {
        let outcome = error.map_or(Some(Outcome::ConnectedForGood), UpstreamError::outcome);
        if let Some(outcome) = outcome {
            self.report(watched, outcome);
        }
    }
}
