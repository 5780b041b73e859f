//! Which chain of a listener takes a connection. The one place where this is decided: the proxy acts on it,
//! `explain` prints it.

use std::net::IpAddr;
use std::sync::Arc;

use super::listener::{Fallthrough, Listener, TcpRoute};
use super::route::RouteTable;
use super::tls_termination::Terminated;

/// The HTTP that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    Http1,
    /// With prior knowledge.
    Http2,
}

/// What a connection's first bytes say that it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstBytes<'a> {
    Http1 { minor: u8 },
    Http2,
    Tls { sni: Option<&'a str> },
    Opaque,
}

/// Whom a connection asked for.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    pub address: IpAddr,
    /// What the client's own DNS answers call it, the last learned first; empty unless names are learned.
    pub names: &'a [Arc<str>],
}

impl From<IpAddr> for Destination<'_> {
    fn from(address: IpAddr) -> Self {
        Self { address, names: &[] }
    }
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'a> {
    /// Its requests are routed one by one.
    Http(HttpVersion, &'a Arc<RouteTable>),
    Route(&'a Arc<TcpRoute>),
    /// Its TLS ends here.
    Terminate(&'a Arc<Terminated>),
    /// To its original destination, as PassthroughCluster.
    Passthrough,
    /// Closed, as BlackHoleCluster.
    Refuse,
    /// Closed: a gateway's servers have nothing for it.
    NoFilterChain,
}

/// What `listener` does with a connection to `destination` that begins so.
pub fn decide<'a, 'd>(
    listener: &'a Listener,
    destination: impl Into<Destination<'d>>,
    first: FirstBytes<'_>,
) -> Decision<'a> {
    let destination = destination.into();
    if let FirstBytes::Tls { sni } = first
        && let Some(chain) = listener.terminated(sni)
    {
        return Decision::Terminate(chain);
    }
    // A gateway's HTTP port is HTTP's alone, as with Istio: what is too old for it is told so (426), and what is none (400).
    let is_gateway = matches!(listener.fallthrough, Fallthrough::NoFilterChain);
    let route = match (first, listener.http_routes(destination.address)) {
        (FirstBytes::Http1 { minor }, Some(table)) if minor > 0 || is_gateway => {
            return Decision::Http(HttpVersion::Http1, table);
        }
        (FirstBytes::Http2, Some(table)) => return Decision::Http(HttpVersion::Http2, table),
        (FirstBytes::Tls { .. } | FirstBytes::Opaque, Some(table)) if is_gateway => {
            return Decision::Http(HttpVersion::Http1, table);
        }
        (FirstBytes::Tls { sni }, _) => listener.tls_route(destination, sni),
        // HTTP/1.0 is opaque on outbound listeners, as with Istio unless PILOT_HTTP10 is set.
        (FirstBytes::Http1 { .. } | FirstBytes::Http2 | FirstBytes::Opaque, _) => {
            listener.tcp_route(destination)
        }
    };
    match (route, &listener.fallthrough) {
        (Some(route), _) => Decision::Route(route),
        // Which of the services it is for can't be told.
        (None, _) if listener.needs_name(destination.address) => Decision::Refuse,
        (None, Fallthrough::Passthrough) => Decision::Passthrough,
        (None, Fallthrough::EgressProxy(route)) => Decision::Route(route),
        (None, Fallthrough::BlackHole) => Decision::Refuse,
        (None, Fallthrough::NoFilterChain) => Decision::NoFilterChain,
    }
}

impl Listener {
    /// Whether the first bytes can change where a connection goes.
    pub fn depends_on_bytes(&self) -> bool {
        !self.server_first
            && (self.http.is_some()
                || !self.tls.is_empty()
                || !self.terminated.is_empty()
                || self.cidrs.iter().any(|chain| !chain.tls.is_empty()))
    }
}
