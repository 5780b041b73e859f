//! What a row's client asks for, and what a proxy makes of it.

use std::net::SocketAddrV4;

use anyhow::ensure;

use crate::lab::{OPAQUE, ORIGINATED, SERVER};
use crate::report::Figures;
use crate::row::Row;
use crate::web::{PLAIN, Saw, TLS, TLS_FULL, TLS_HTTP2, TLS_TICKETS};

/// What all that comes becomes of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    Plain,
    /// The same with an access log.
    Logged,
    /// HTTP in, TLS out.
    Originate,
    /// The same with a full handshake for each request.
    HandshakeFull,
    /// The same with a resumed one.
    HandshakeResumed,
    /// HTTP/1.1 in, HTTP/2 over TLS out.
    Http2,
    /// The same to an egress gateway, which sends it on in clear.
    Gateway,
    Opaque,
}

impl Job {
    /// The port that clients use, through a proxy or without.
    fn port(self, row: Row) -> u16 {
        if self.is_tls() && row != Row::Direct { ORIGINATED } else { self.server_port() }
    }

    /// The server's port that a proxy connects to, or the gateway's.
    pub(crate) fn server_port(self) -> u16 {
        match self {
            Self::Plain | Self::Logged => PLAIN,
            Self::Originate | Self::Gateway => TLS,
            Self::HandshakeFull => TLS_FULL,
            Self::HandshakeResumed => TLS_TICKETS,
            Self::Http2 => TLS_HTTP2,
            Self::Opaque => OPAQUE,
        }
    }

    /// Whether TLS is spoken there.
    pub(crate) fn is_tls(self) -> bool {
        match self {
            Self::Originate | Self::HandshakeFull | Self::HandshakeResumed | Self::Http2 | Self::Gateway => {
                true
            }
            Self::Plain | Self::Logged | Self::Opaque => false,
        }
    }

    /// Whether the server writes down what it sees of it.
    pub(crate) fn is_seen(self) -> bool {
        match self {
            Self::HandshakeFull | Self::HandshakeResumed | Self::Http2 => true,
            Self::Plain | Self::Logged | Self::Originate | Self::Gateway | Self::Opaque => false,
        }
    }

    pub(crate) fn address(self, row: Row) -> SocketAddrV4 {
        SocketAddrV4::new(SERVER, self.port(row))
    }

    /// The URL that wrk asks for.
    pub(crate) fn url(self, row: Row) -> String {
        let scheme = if self.is_tls() && row == Row::Direct { "https" } else { "http" };
        format!("{scheme}://{}/", self.address(row))
    }

    /// Fails if the server saw anything but this.
    pub(crate) fn check(self, saw: &Saw, figures: &mut Figures) -> anyhow::Result<()> {
        let resumed_percent = saw.resumed / saw.handshakes * 100.0;
        match self {
            Self::Plain | Self::Logged | Self::Originate | Self::Gateway | Self::Opaque => return Ok(()),
            Self::Http2 => {
                ensure!(saw.http2 == saw.requests, "the server saw other requests than HTTP/2: {saw:?}");
                return Ok(());
            }
            Self::HandshakeFull => ensure!(saw.resumed == 0.0, "the server saw resumed sessions: {saw:?}"),
            Self::HandshakeResumed => {
                ensure!(resumed_percent >= 99.0, "the server saw full handshakes: {saw:?}");
            }
        }
        ensure!(saw.handshakes == saw.requests, "the server saw connections used twice: {saw:?}");
        figures.insert("resumed_percent", resumed_percent);
        Ok(())
    }
}
