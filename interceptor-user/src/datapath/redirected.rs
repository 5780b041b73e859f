//! Connections that are redirected now, as the connecting sockets know them: sockets are listed in each pod's network
//! namespace, with what connect4 and connect6 stored with them.

use std::{collections::BTreeSet, fs, io, net::SocketAddr, os::fd::AsFd, os::unix::fs::MetadataExt, thread};

use interceptor_common::addr::socket_addr;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{
    DatapathError, Inspection, netns_cookie,
    sock_diag::{States, TcpSocket, tcp_sockets},
    sys,
};

/// One connection of a pod that goes to the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirected {
    /// Of the pod's network namespace.
    pub cookie: u64,
    /// The policy that redirected it.
    pub policy: u32,
    /// As the socket has it: usually on loopback, where the application sees its own address.
    pub local: SocketAddr,
    /// Where the application wanted to go.
    pub original: SocketAddr,
    /// As the kernel names it, without `TCP_`.
    pub state: &'static str,
}

impl Inspection {
    /// Those of all enrolled workloads in which any process of this pid namespace runs.
    pub fn redirected(&self) -> Result<Vec<Redirected>, DatapathError> {
        let enrolled: BTreeSet<u64> = self.workloads()?.into_keys().collect();
        // A thread of its own, which ends where it has gone: nothing else must ever run there.
        thread::scope(|scope| scope.spawn(|| self.in_every_namespace(&enrolled)).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn in_every_namespace(&self, enrolled: &BTreeSet<u64>) -> Result<Vec<Redirected>, DatapathError> {
        let mut found = Vec::new();
        for namespace in namespaces().map_err(DatapathError::Namespaces)? {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|error| DatapathError::Namespaces(error.into()))?;
            let cookie = netns_cookie().map_err(DatapathError::Namespaces)?;
            if enrolled.contains(&cookie) {
                let sockets = tcp_sockets(States::CONNECTED, Some(self.connecting.as_fd()));
                found.extend(sockets.map_err(DatapathError::Sockets)?.iter().filter_map(redirected));
            }
        }
        found.sort_unstable_by_key(|connection| (connection.cookie, connection.original, connection.local));
        Ok(found)
    }
}

fn redirected(socket: &TcpSocket) -> Option<Redirected> {
    let original = sys::connecting(socket.stored.as_ref()?)?.original;
    Some(Redirected {
        cookie: original.netns_cookie,
        policy: original.policy,
        local: SocketAddr::new(socket.local.ip().to_canonical(), socket.local.port()),
        original: socket_addr(original.address, original.port),
        state: state(socket.state),
    })
}

/// `enum tcp_state`.
fn state(number: u8) -> &'static str {
    match number {
        1 => "ESTABLISHED",
        2 => "SYN_SENT",
        3 => "SYN_RECV",
        4 => "FIN_WAIT1",
        5 => "FIN_WAIT2",
        8 => "CLOSE_WAIT",
        9 => "LAST_ACK",
        11 => "CLOSING",
        _ => "UNKNOWN",
    }
}

/// Every network namespace that a process is in, once. A process that ends meanwhile had its own reasons.
fn namespaces() -> io::Result<Vec<fs::File>> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path().join("ns/net");
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if seen.insert(metadata.ino()) {
            found.extend(fs::File::open(path));
        }
    }
    Ok(found)
}
