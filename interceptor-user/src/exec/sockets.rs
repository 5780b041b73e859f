//! Who listens on a port, and in which cgroup the socket was made.

use std::net::IpAddr;

use anyhow::Context;

use crate::datapath::sock_diag::{States, tcp_sockets};

/// A listening TCP socket of this network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListeningSocket {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) v6_only: bool,
    /// The inode of the cgroup's directory.
    pub(super) cgroup: Option<u64>,
}

impl ListeningSocket {
    /// Whether a connection to this address ends here.
    pub(super) fn takes(&self, to: IpAddr) -> bool {
        match self.address {
            IpAddr::V4(own) => IpAddr::V4(own) == to || (own.is_unspecified() && to.is_ipv4()),
            IpAddr::V6(own) if own.is_unspecified() => to.is_ipv6() || !self.v6_only,
            IpAddr::V6(own) => IpAddr::V6(own).to_canonical() == to,
        }
    }
}

/// Every listening TCP socket on `port`.
pub(super) fn listening_on(port: u16) -> anyhow::Result<Vec<ListeningSocket>> {
    let sockets = tcp_sockets(States::LISTENING, None)
        .context("the kernel does not tell who listens (it needs CONFIG_INET_DIAG)")?;
    let on_port = sockets.into_iter().filter(|socket| socket.local.port() == port);
    let listening = on_port.map(|socket| ListeningSocket {
        address: socket.local.ip(),
        port,
        v6_only: socket.v6_only,
        cgroup: socket.cgroup,
    });
    Ok(listening.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_kernel_tells_who_listens_and_where() {
        for (address, takes) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("0.0.0.0:0", "127.0.0.1")]
        {
            let listener = TcpListener::bind(address).unwrap();
            let port = listener.local_addr().unwrap().port();
            let found = listening_on(port).unwrap();
            let to: IpAddr = takes.parse().unwrap();
            assert_eq!(found.iter().filter(|socket| socket.takes(to)).count(), 1, "{address}: {found:?}");
            assert!(found.iter().all(|socket| socket.cgroup.is_some()), "{found:?}");
        }
    }

    #[test]
    fn nobody_listens_on_a_port_that_was_closed() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert_eq!(listening_on(port).unwrap(), []);
    }

    #[test]
    fn a_listener_takes_what_its_address_covers() {
        let v4: IpAddr = "127.0.0.1".parse().unwrap();
        let v6: IpAddr = "::1".parse().unwrap();
        for (address, v6_only, takes_v4, takes_v6) in [
            ("127.0.0.1", false, true, false),
            ("127.0.0.2", false, false, false),
            ("0.0.0.0", false, true, false),
            ("::1", false, false, true),
            ("::", false, true, true),
            ("::", true, false, true),
            ("::ffff:127.0.0.1", false, true, false),
        ] {
            let socket =
                ListeningSocket { address: address.parse().unwrap(), port: 1, v6_only, cgroup: None };
            assert_eq!((socket.takes(v4), socket.takes(v6)), (takes_v4, takes_v6), "{address} {v6_only}");
        }
    }
}
