//! Facts of the calling thread's network namespace.

use std::{io, net::IpAddr, os::fd::AsFd};

use super::sys;

/// The cookie by which programs know this network namespace; never used again until reboot.
pub fn netns_cookie() -> io::Result<u64> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::DGRAM, None)?;
    sys::netns_cookie(socket.as_fd())
}

/// The addresses of this network namespace that others can reach, global ones first: not loopback, not link-local.
pub fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let mut addresses = sys::interface_addresses()?;
    addresses.retain(|address| !address.is_loopback() && !is_link_local(*address));
    Ok(addresses)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
