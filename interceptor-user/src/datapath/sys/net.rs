//! What sockets and interfaces tell of a network namespace.

use std::{
    ffi::c_void,
    io,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use super::check;

/// SO_NETNS_COOKIE of a socket.
pub(in crate::datapath) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast::<c_void>(),
            &raw mut length,
        )
    };
    check(result.into())?;
    Ok(cookie)
}

/// Every address of the calling thread's network namespace, link-local and loopback included.
pub(in crate::datapath) fn interface_addresses() -> io::Result<Vec<IpAddr>> {
    let mut first = ptr::null_mut();
    // SAFETY: on success `first` is a list that freeifaddrs frees.
    check(unsafe { libc::getifaddrs(&raw mut first) }.into())?;
    let mut addresses = Vec::new();
    let mut next = first;
    // SAFETY: a node and its address stay valid until freeifaddrs.
    while let Some(node) = unsafe { next.as_ref() } {
        // SAFETY: as above.
        addresses.extend(unsafe { address(node.ifa_addr) });
        next = node.ifa_next;
    }
    // SAFETY: the list that getifaddrs made, freed once; nothing borrowed from it is left.
    unsafe { libc::freeifaddrs(first) };
    Ok(addresses)
}

/// # Safety
/// `raw` is null or points at a socket address as large as its family says.
unsafe fn address(raw: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: every socket address begins with its family.
    let family = i32::from(unsafe { raw.as_ref() }?.sa_family);
    match family {
        libc::AF_INET => {
            // SAFETY: the family says sockaddr_in.
            let v4 = unsafe { raw.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(IpAddr::from(v4.sin_addr.s_addr.to_ne_bytes()))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says sockaddr_in6.
            let v6 = unsafe { raw.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(IpAddr::from(v6.sin6_addr.s6_addr))
        }
        _ => None,
    }
}
