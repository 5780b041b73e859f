//! Whether the client that has stopped sending still listens. A client may shut down its sending half
//! and wait for the answer (`nc -N`), or be gone altogether; on our end both look the same. Intercepted
//! clients are on this host, so the kernel can tell: a socket that a process still holds has an inode.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::fd::OwnedFd;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use crate::proxy::netns::Netns;

/// linux/sock_diag.h, linux/inet_diag.h, linux/netlink.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const HEADER_LENGTH: usize = 16;
const REQUEST_LENGTH: usize = HEADER_LENGTH + 56;
/// Of `idiag_inode` in the answer: after the header, four bytes, the socket's id and four counters.
const INODE_OFFSET: usize = HEADER_LENGTH + 4 + 48 + 16;

/// Whether a process in this network namespace holds the client's end. Not finding it is as good as its being closed.
pub(super) fn holds_connection(netns: &Netns, client: SocketAddr, server: SocketAddr) -> bool {
    matches!(inode(netns, client, server), Ok(Some(inode)) if inode != 0)
}

/// The inode of the TCP socket with these ends, as seen from `local`.
fn inode(netns: &Netns, local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
    // It tells of the sockets in the namespace that it was made in.
    let make = || {
        let protocol = Some(netlink::SOCK_DIAG);
        socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, protocol)
    };
    let netlink: OwnedFd = netns.inside(make)??;
    send(&netlink, &request(local, remote), SendFlags::empty())?;
    let mut answer = [0; 512];
    // The kernel has answered before `send` returns.
    let (length, _) = recv(&netlink, &mut answer[..], RecvFlags::DONTWAIT)?;
    let answer = &answer[..length];
    let kind = answer.get(4..6).map(|kind| u16::from_ne_bytes([kind[0], kind[1]]));
    if kind != Some(SOCK_DIAG_BY_FAMILY) {
        return Ok(None);
    }
    Ok(answer
        .get(INODE_OFFSET..INODE_OFFSET + 4)
        .map(|inode| u32::from_ne_bytes([inode[0], inode[1], inode[2], inode[3]])))
}

/// A nlmsghdr and an inet_diag_req_v2.
fn request(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let (family, local_ip, remote_ip) = match (local.ip().to_canonical(), remote.ip().to_canonical()) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => {
            (libc::AF_INET, pad(&local.octets()), pad(&remote.octets()))
        }
        (local, remote) => (libc::AF_INET6, octets(local), octets(remote)),
    };
    let mut message = Vec::with_capacity(REQUEST_LENGTH);
    message.extend(72_u32.to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([u8::try_from(family).unwrap_or(0), 6, 0, 0]);
    // Sockets in any state.
    message.extend(u32::MAX.to_ne_bytes());
    message.extend(local.port().to_be_bytes());
    message.extend(remote.port().to_be_bytes());
    message.extend(local_ip);
    message.extend(remote_ip);
    // Any interface, and no cookie (INET_DIAG_NOCOOKIE).
    message.extend(0_u32.to_ne_bytes());
    message.extend([0xff; 8]);
    message
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn pad(octets: &[u8; 4]) -> [u8; 16] {
    let mut padded = [0; 16];
    padded[..4].copy_from_slice(octets);
    padded
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};

    use super::Netns;

    fn holds_connection(client: SocketAddr, server: SocketAddr) -> bool {
        super::holds_connection(&Netns::default(), client, server)
    }

    #[test]
    fn a_half_closed_client_is_told_from_one_that_is_gone() {
        for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let listener = TcpListener::bind((address, 0)).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, peer) = listener.accept().unwrap();
            let local = server.local_addr().unwrap();
            assert!(holds_connection(peer, local));
            client.shutdown(Shutdown::Write).unwrap();
            assert!(holds_connection(peer, local));
            drop(client);
            assert!(!holds_connection(peer, local));
        }
    }
}
