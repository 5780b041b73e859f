//! Tells when an address of this network namespace comes or goes, which the kernel's policy must leave alone; for a policy
//! that excludes interfaces also when a route or an interface does.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Context;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

/// `RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR`.
const ADDRESS_GROUPS: u32 = 0x10 | 0x100;
/// `RTMGRP_LINK | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE`. IPv4 routes go with their interface or address, and nothing else
/// tells of it.
const ROUTE_GROUPS: u32 = 0x1 | 0x40 | 0x400;

/// Messages that are taken at one time.
const MESSAGES_MAX: usize = 1024;

/// Readable when something changed.
#[derive(Debug)]
pub struct NetworkChanges(OwnedFd);

impl NetworkChanges {
    /// With routes also to those and to interfaces.
    pub fn subscribe(with_routes: bool) -> anyhow::Result<Self> {
        let groups = if with_routes { ADDRESS_GROUPS | ROUTE_GROUPS } else { ADDRESS_GROUPS };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // No protocol is protocol 0, which is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)
            .context("can't make a netlink socket")?;
        bind(&socket, &SocketAddrNetlink::new(0, groups)).context("can't follow the network's changes")?;
        Ok(Self(socket))
    }

    /// Whether anything changed since the last call. What changed is not read: the whole is asked for anew.
    pub fn happened(&self) -> anyhow::Result<bool> {
        Self::happened_on(&self.0)
    }

    /// The same for what [`OwnedFd::from`] made of it.
    pub fn happened_on(socket: &OwnedFd) -> anyhow::Result<bool> {
        let mut any = false;
        // Whoever changes things faster than they are told must not keep us here.
        for _ in 0..MESSAGES_MAX {
            let mut message = [0; 4096];
            match recv(socket, &mut message[..], RecvFlags::empty()) {
                // An overrun means that messages were lost: something happened then, too.
                Ok(_) | Err(Errno::NOBUFS) => any = true,
                Err(Errno::AGAIN) => return Ok(any),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("can't follow the network's changes"),
            }
        }
        Ok(any)
    }
}

impl AsFd for NetworkChanges {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<NetworkChanges> for OwnedFd {
    fn from(changes: NetworkChanges) -> Self {
        changes.0
    }
}
