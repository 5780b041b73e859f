//! TCP sockets of the calling thread's network namespace, as the kernel lists them (sock_diag(7)): with the cgroup they
//! were made in, where /proc only knows where a process is now, and with what a program stored with them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, BorrowedFd},
};

use rustix::net::netlink;

use super::netlink::{Attributes, attribute, dump};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_REQ_SK_BPF_STORAGES: u16 = 2;
const SK_DIAG_BPF_STORAGE_REQ_MAP_FD: u16 = 1;
const INET_DIAG_SKV6ONLY: u16 = 11;
const INET_DIAG_SK_BPF_STORAGES: u16 = 20;
const INET_DIAG_CGROUP_ID: u16 = 21;
const SK_DIAG_BPF_STORAGE: u16 = 1;
const SK_DIAG_BPF_STORAGE_MAP_VALUE: u16 = 3;
/// Size of `struct inet_diag_msg`.
const MESSAGE: usize = 72;

/// A set of `enum tcp_state`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct States(u32);

impl States {
    pub(crate) const LISTENING: Self = Self(1 << 10);
    /// Connecting, connected, and closing.
    pub(crate) const CONNECTED: Self =
        Self(1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11);
}

/// One socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TcpSocket {
    /// `enum tcp_state`.
    pub(crate) state: u8,
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) v6_only: bool,
    /// The inode of the cgroup's directory. Linux 5.9 or later tells it.
    pub(crate) cgroup: Option<u64>,
    /// What the map that was asked for holds for this socket.
    pub(crate) stored: Option<Vec<u8>>,
}

/// Every TCP socket in one of `states`. With a map of socket storage also what that holds for each.
pub(crate) fn tcp_sockets(states: States, storage: Option<BorrowedFd<'_>>) -> io::Result<Vec<TcpSocket>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let request = request(family, states, storage);
        dump(Some(netlink::SOCK_DIAG), SOCK_DIAG_BY_FAMILY, &request, |message| {
            found.extend(read_socket(message));
            Ok(())
        })?;
    }
    Ok(found)
}

/// `inet_diag_req_v2` and its attribute. Attributes of the extended kind are not asked for, ours come anyway.
fn request(family: i32, States(states): States, storage: Option<BorrowedFd<'_>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let family = u8::try_from(family).unwrap_or_default();
    let tcp = 6;
    bytes.extend([family, tcp, 0, 0]);
    bytes.extend(states.to_ne_bytes());
    bytes.extend([0; 48]);
    if let Some(map) = storage {
        let map = attribute(SK_DIAG_BPF_STORAGE_REQ_MAP_FD, &map.as_raw_fd().to_ne_bytes());
        bytes.extend(attribute(INET_DIAG_REQ_SK_BPF_STORAGES, &map));
    }
    bytes
}

fn read_socket(message: &[u8]) -> Option<TcpSocket> {
    let is_v4 = i32::from(*message.first()?) == libc::AF_INET;
    let end = |port: usize, address: usize| {
        let ip = if is_v4 {
            IpAddr::from(<[u8; 4]>::try_from(message.get(address..address + 4)?).ok()?)
        } else {
            IpAddr::from(<[u8; 16]>::try_from(message.get(address..address + 16)?).ok()?)
        };
        Some(SocketAddr::new(ip, u16::from_be_bytes(message.get(port..port + 2)?.try_into().ok()?)))
    };
    let mut socket = TcpSocket {
        state: *message.get(1)?,
        local: end(4, 8)?,
        peer: end(6, 24)?,
        v6_only: false,
        cgroup: None,
        stored: None,
    };
    for (kind, value) in Attributes(message.get(MESSAGE..)?) {
        match kind {
            INET_DIAG_SKV6ONLY => socket.v6_only = value.first() == Some(&1),
            INET_DIAG_CGROUP_ID => socket.cgroup = value.try_into().ok().map(u64::from_ne_bytes),
            INET_DIAG_SK_BPF_STORAGES => socket.stored = read_storage(value),
            _ => {}
        }
    }
    Some(socket)
}

fn read_storage(storages: &[u8]) -> Option<Vec<u8>> {
    let (_, storage) = Attributes(storages).find(|(kind, _)| *kind == SK_DIAG_BPF_STORAGE)?;
    let (_, value) = Attributes(storage).find(|(kind, _)| *kind == SK_DIAG_BPF_STORAGE_MAP_VALUE)?;
    Some(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_kernel_tells_both_ends_of_a_connection() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (local, peer) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            let sockets = tcp_sockets(States::CONNECTED, None).unwrap();
            let ends = |local, peer| {
                sockets.iter().filter(|socket| (socket.local, socket.peer) == (local, peer)).count()
            };
            assert_eq!((ends(local, peer), ends(peer, local)), (1, 1), "{address}");
            assert!(
                sockets
                    .iter()
                    .all(|socket| socket.local != listener.local_addr().unwrap() || socket.peer == local)
            );
        }
    }
}
