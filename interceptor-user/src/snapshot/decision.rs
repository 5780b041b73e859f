//! Which chain of a listener takes a connection. The one place where this is decided: the proxy acts on it,
//! `explain` prints it.

use std::net::IpAddr;
use std::sync::Arc;

use super::listener::{Fallthrough, Listener, TcpRoute};
use super::route::RouteTable;

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

/// What happens to a connection.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'a> {
    /// Its requests are routed one by one.
    Http(HttpVersion, &'a Arc<RouteTable>),
    Route(&'a Arc<TcpRoute>),
    /// To its original destination, as PassthroughCluster.
    Passthrough,
    /// Closed, as BlackHoleCluster.
    Refuse,
}

/// What `listener` does with a connection to `address` that begins so.
pub fn decide<'a>(listener: &'a Listener, address: IpAddr, first: FirstBytes<'_>) -> Decision<'a> {
    let route = match (first, listener.http_routes(address)) {
        (FirstBytes::Http1 { minor: 1.. }, Some(table)) => return Decision::Http(HttpVersion::Http1, table),
        (FirstBytes::Http2, Some(table)) => return Decision::Http(HttpVersion::Http2, table),
        (FirstBytes::Tls { sni }, _) => listener.tls_route(address, sni),
        // HTTP/1.0 is opaque on outbound listeners, as with Istio unless PILOT_HTTP10 is set.
        (FirstBytes::Http1 { .. } | FirstBytes::Http2 | FirstBytes::Opaque, _) => listener.tcp_route(address),
    };
    match (route, listener.fallthrough) {
        (Some(route), _) => Decision::Route(route),
        (None, Fallthrough::Passthrough) => Decision::Passthrough,
        (None, Fallthrough::BlackHole) => Decision::Refuse,
    }
}

impl Listener {
    /// Whether the first bytes can change where a connection goes.
    pub fn depends_on_bytes(&self) -> bool {
        !self.server_first
            && (self.http.is_some()
                || !self.tls.is_empty()
                || self.cidrs.iter().any(|chain| !chain.tls.is_empty()))
    }
}
