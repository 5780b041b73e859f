//! TCP sockets of the calling thread's network namespace, as the kernel lists them (sock_diag(7)): with the cgroup they
//! were made in, where /proc only knows where a process is now, and with what a program stored with them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, BorrowedFd},
};

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const REQUEST_DUMP: u16 = 0x1 | 0x300;
const INET_DIAG_REQ_SK_BPF_STORAGES: u16 = 2;
const SK_DIAG_BPF_STORAGE_REQ_MAP_FD: u16 = 1;
const INET_DIAG_SKV6ONLY: u16 = 11;
const INET_DIAG_SK_BPF_STORAGES: u16 = 20;
const INET_DIAG_CGROUP_ID: u16 = 21;
const SK_DIAG_BPF_STORAGE: u16 = 1;
const SK_DIAG_BPF_STORAGE_MAP_VALUE: u16 = 3;
/// What else an attribute's type says.
const NLA_TYPE_MASK: u16 = 0x3fff;
/// Sizes of `struct nlmsghdr`, `inet_diag_req_v2`, `inet_diag_msg` and `nlattr`.
const HEADER: usize = 16;
const REQUEST: usize = 56;
const MESSAGE: usize = 72;
const ATTRIBUTE: usize = 4;

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
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )?;
        sendto(
            &socket,
            &request(family, states, storage),
            SendFlags::empty(),
            &SocketAddrNetlink::new(0, 0),
        )?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let (length, _) =
                rustix::io::retry_on_intr(|| recv(&socket, &mut buffer[..], RecvFlags::empty()))?;
            if !read_messages(buffer.get(..length).unwrap_or_default(), &mut found)? {
                break;
            }
        }
    }
    Ok(found)
}

/// `nlmsghdr`, `inet_diag_req_v2` and its attribute. Attributes of the extended kind are not asked for, ours come
/// anyway.
fn request(family: AddressFamily, States(states): States, storage: Option<BorrowedFd<'_>>) -> Vec<u8> {
    let mut asked = Vec::new();
    if let Some(map) = storage {
        let map = attribute(SK_DIAG_BPF_STORAGE_REQ_MAP_FD, &map.as_raw_fd().to_ne_bytes());
        asked = attribute(INET_DIAG_REQ_SK_BPF_STORAGES, &map);
    }
    let length = u32::try_from(HEADER + REQUEST + asked.len()).unwrap_or_default();
    let mut bytes = Vec::new();
    bytes.extend(length.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST_DUMP.to_ne_bytes());
    bytes.extend([0; 8]);
    let family = u8::try_from(family.as_raw()).unwrap_or_default();
    let tcp = 6;
    bytes.extend([family, tcp, 0, 0]);
    bytes.extend(states.to_ne_bytes());
    bytes.extend([0; 48]);
    bytes.extend(asked);
    bytes
}

/// One attribute; ours need no padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or_default();
    [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat()
}

/// Whether more is to come.
fn read_messages(mut bytes: &[u8], found: &mut Vec<TcpSocket>) -> io::Result<bool> {
    while let (Some(length), Some(kind)) = (u32_at(bytes, 0), u16_at(bytes, 4)) {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let Some(message) = bytes.get(HEADER..length) else {
            return Err(io::Error::other("the kernel's list of sockets is cut off"));
        };
        match kind {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => {
                let errno = u32_at(message, 0).unwrap_or_default().cast_signed();
                return Err(io::Error::from_raw_os_error(errno.saturating_neg()));
            }
            _ => found.extend(read_socket(message)),
        }
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
    }
    Ok(true)
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

struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & NLA_TYPE_MASK;
        let value = self.0.get(ATTRIBUTE..length)?;
        self.0 = self.0.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    }
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

    #[test]
    fn a_message_cut_off_is_an_error() {
        let mut message = vec![0; 16];
        message[..4].copy_from_slice(&100_u32.to_ne_bytes());
        assert!(read_messages(&message, &mut Vec::new()).is_err());
    }

    #[test]
    fn an_error_message_is_the_errno_it_names() {
        let mut message = vec![0; 36];
        message[..4].copy_from_slice(&36_u32.to_ne_bytes());
        message[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        message[16..20].copy_from_slice(&(-libc::ENOENT).to_ne_bytes());
        let error = read_messages(&message, &mut Vec::new()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
