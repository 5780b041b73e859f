//! Who listens on a port, and in which cgroup the socket was made: asked from the kernel (sock_diag(7)), which knows
//! it exactly, where /proc only knows where a process is now. Linux 5.9 or later tells the cgroup.

use std::net::IpAddr;

use anyhow::{Context, bail};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const REQUEST_DUMP: u16 = 0x1 | 0x300;
/// `1 << TCP_LISTEN`.
const LISTENING: u32 = 1 << 10;
const INET_DIAG_SKV6ONLY: u16 = 11;
const INET_DIAG_CGROUP_ID: u16 = 21;
/// Sizes of `struct nlmsghdr`, `inet_diag_msg` and `nlattr`.
const HEADER: usize = 16;
const MESSAGE: usize = 72;
const ATTRIBUTE: usize = 4;

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
    let mut found = Vec::new();
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        found.extend(listening(family)?.into_iter().filter(|socket| socket.port == port));
    }
    Ok(found)
}

fn listening(family: AddressFamily) -> anyhow::Result<Vec<ListeningSocket>> {
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))
            .context("can't ask the kernel for listening sockets")?;
    sendto(&socket, &request(family), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))
        .context("can't ask the kernel for listening sockets")?;
    let mut found = Vec::new();
    loop {
        let mut buffer = [0; 32 << 10];
        let (length, _) = rustix::io::retry_on_intr(|| recv(&socket, &mut buffer[..], RecvFlags::empty()))
            .context("the kernel does not tell who listens")?;
        if !read_messages(&buffer[..length], &mut found)? {
            return Ok(found);
        }
    }
}

/// `nlmsghdr` and `inet_diag_req_v2`; attributes of the extended kind are not asked for, ours come anyway.
fn request(family: AddressFamily) -> Vec<u8> {
    const LENGTH: u32 = 16 + 56;
    let mut bytes = Vec::new();
    bytes.extend(LENGTH.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST_DUMP.to_ne_bytes());
    bytes.extend([0; 8]);
    let family = u8::try_from(family.as_raw()).unwrap_or_default();
    let tcp = 6;
    bytes.extend([family, tcp, 0, 0]);
    bytes.extend(LISTENING.to_ne_bytes());
    bytes.extend([0; 48]);
    bytes
}

/// Whether more is to come.
fn read_messages(mut bytes: &[u8], found: &mut Vec<ListeningSocket>) -> anyhow::Result<bool> {
    while let (Some(length), Some(kind)) = (u32_at(bytes, 0), u16_at(bytes, 4)) {
        let length = usize::try_from(length)?;
        let Some(message) = bytes.get(HEADER..length) else {
            bail!("the kernel's list of listeners is cut off")
        };
        match kind {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => bail!("the kernel does not tell who listens: it needs CONFIG_INET_DIAG"),
            _ => found.extend(read_socket(message)),
        }
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
    }
    Ok(true)
}

fn read_socket(message: &[u8]) -> Option<ListeningSocket> {
    let port = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
    let address = if i32::from(*message.first()?) == libc::AF_INET {
        IpAddr::from(<[u8; 4]>::try_from(message.get(8..12)?).ok()?)
    } else {
        IpAddr::from(<[u8; 16]>::try_from(message.get(8..24)?).ok()?)
    };
    let mut socket = ListeningSocket { address, port, v6_only: false, cgroup: None };
    let mut attributes = message.get(MESSAGE..)?;
    while let (Some(length), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let length = usize::from(length);
        let value = attributes.get(ATTRIBUTE..length)?;
        match kind {
            INET_DIAG_SKV6ONLY => socket.v6_only = value.first() == Some(&1),
            INET_DIAG_CGROUP_ID => socket.cgroup = value.try_into().ok().map(u64::from_ne_bytes),
            _ => {}
        }
        attributes = attributes.get(aligned(length)..).unwrap_or_default();
    }
    Some(socket)
}

const fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
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

    #[test]
    fn a_message_cut_off_is_an_error() {
        let mut message = vec![0; 16];
        message[..4].copy_from_slice(&100_u32.to_ne_bytes());
        assert!(read_messages(&message, &mut Vec::new()).is_err());
    }
}
