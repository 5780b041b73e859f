//! Every unsafe line of this module's: system calls that no safe library offers, and the promise that map values are
//! plain bytes.
#![expect(unsafe_code, reason = "system calls without a safe wrapper, and aya's Pod")]

use std::{
    ffi::c_void,
    io,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use aya::maps::{MapData, RingBuf};
use interceptor_common::{
    addr::Ip16,
    event::Event,
    name_server::NameServerKey,
    policy::{
        CounterKey, HandoverKey, OriginalDestination, PortFlags, PortKey, PrefixFlags, PrefixKey,
        WorkloadEntry,
    },
};
use tokio::io::{Interest, unix::AsyncFd};

/// A value as the kernel's maps hold it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Raw<T>(pub(super) T);

/// Types that aya may copy to and from the kernel byte by byte.
macro_rules! plain_bytes {
    ($($name:ty),*) => {$(
        // SAFETY: repr(C) or repr(transparent) integers without padding, size-asserted beside their definition;
        // every bit pattern is a value.
        unsafe impl aya::Pod for Raw<$name> {}
    )*};
}
plain_bytes!(
    CounterKey,
    HandoverKey,
    Ip16,
    NameServerKey,
    OriginalDestination,
    PortFlags,
    PortKey,
    PrefixFlags,
    PrefixKey,
    WorkloadEntry
);

/// One record of the ring buffer; None if it has another size than ours.
pub(super) fn event(bytes: &[u8]) -> Option<Event> {
    if bytes.len() != size_of::<Event>() {
        return None;
    }
    // SAFETY: the length is right, every bit pattern is an Event, and the read asks for no alignment.
    Some(unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() })
}

/// The ring buffer as something that tokio can wait for; needs a runtime.
pub(super) fn watch(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring owns its descriptor for as long as it lives, and gives no way to replace it.
    let watched = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    watched.map_err(|error| error.into_parts().1)
}

/// Attaches a program to a cgroup until the returned link is closed.
pub(super) fn link_create(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    const BPF_LINK_CREATE: libc::c_int = 28;

    /// The part of `union bpf_attr` that cgroup links use.
    #[repr(C)]
    struct LinkCreate {
        program: RawFd,
        target: RawFd,
        attach_type: u32,
        flags: u32,
        rest: [u64; 4],
    }
    let mut attr = LinkCreate {
        program: program.as_raw_fd(),
        target: cgroup.as_raw_fd(),
        attach_type,
        flags: 0,
        rest: [0; 4],
    };
    // SAFETY: the kernel reads `size_of(attr)` bytes of `attr`, all initialised.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &raw mut attr, size_of::<LinkCreate>()) };
    let fd = RawFd::try_from(check(fd)?).map_err(io::Error::other)?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What is attached to a cgroup itself, not to those above it: the flags of its attachments, and program ids.
pub(super) fn programs_on(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<(u32, Vec<u32>)> {
    const BPF_PROG_QUERY: libc::c_int = 16;

    /// The part of `union bpf_attr` that cgroup queries use.
    #[repr(C)]
    struct ProgQuery {
        target: RawFd,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: *mut u32,
        count: u32,
        rest: u32,
    }
    let mut ids = [0_u32; 64];
    let mut attr = ProgQuery {
        target: cgroup.as_raw_fd(),
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr(),
        count: 64,
        rest: 0,
    };
    // SAFETY: the kernel reads and writes `size_of(attr)` bytes of `attr`, and at most `count` words of `ids`.
    check(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut attr, size_of::<ProgQuery>()) })?;
    let count = usize::try_from(attr.count).map_err(io::Error::other)?;
    Ok((attr.attach_flags, ids.into_iter().take(count).collect()))
}

/// SO_NETNS_COOKIE of a socket.
pub(super) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
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
pub(super) fn interface_addresses() -> io::Result<Vec<IpAddr>> {
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

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
