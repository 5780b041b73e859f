//! Tells when an address of this network namespace comes or goes: the kernel's policy must leave own addresses alone.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Context;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

/// `RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR`.
const ADDRESS_GROUPS: u32 = 0x10 | 0x100;

/// Readable when something changed.
#[derive(Debug)]
pub struct AddressChanges(OwnedFd);

impl AddressChanges {
    pub fn subscribe() -> anyhow::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // No protocol is protocol 0, which is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)
            .context("can't make a netlink socket")?;
        bind(&socket, &SocketAddrNetlink::new(0, ADDRESS_GROUPS)).context("can't follow address changes")?;
        Ok(Self(socket))
    }

    /// Whether anything changed since the last call. What changed is not read: the whole is asked for anew.
    pub fn happened(&self) -> anyhow::Result<bool> {
        Self::happened_on(&self.0)
    }

    /// The same for what [`OwnedFd::from`] made of it.
    pub fn happened_on(socket: &OwnedFd) -> anyhow::Result<bool> {
        let mut any = false;
        loop {
            let mut message = [0; 4096];
            match recv(socket, &mut message[..], RecvFlags::empty()) {
                // An overrun means that messages were lost: something happened then, too.
                Ok(_) | Err(Errno::NOBUFS) => any = true,
                Err(Errno::AGAIN) => return Ok(any),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("can't follow address changes"),
            }
        }
    }
}

impl AsFd for AddressChanges {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<AddressChanges> for OwnedFd {
    fn from(changes: AddressChanges) -> Self {
        changes.0
    }
}
