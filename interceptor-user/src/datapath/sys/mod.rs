//! Every unsafe line of this module's: system calls that no safe library offers, and the promise that map values are
//! plain bytes.
#![expect(unsafe_code, reason = "system calls without a safe wrapper, and aya's Pod")]

mod bpf;
mod net;

use std::{
    fs::File,
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

use aya::maps::{MapData, RingBuf};
use interceptor_common::{
    addr::Ip16,
    event::Event,
    name_server::NameServerKey,
    pod::PodEntry,
    policy::{
        Connecting, CounterKey, HandoverKey, OriginalDestination, PortFlags, PortKey, PrefixFlags, PrefixKey,
        WorkloadEntry,
    },
    settings::Settings,
};
use tokio::io::{Interest, unix::AsyncFd};

pub(super) use bpf::{
    link_create, link_detach, link_info, link_update, map_clear, object_get, object_pin, programs_on,
};
pub(super) use net::{interface_addresses, netns_cookie};

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
    Connecting,
    CounterKey,
    HandoverKey,
    Ip16,
    NameServerKey,
    OriginalDestination,
    PodEntry,
    PortFlags,
    PortKey,
    PrefixFlags,
    PrefixKey,
    Settings,
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

/// What a connecting socket's storage holds; None if it has another size than ours.
pub(super) fn connecting(bytes: &[u8]) -> Option<Connecting> {
    if bytes.len() != size_of::<Connecting>() {
        return None;
    }
    // SAFETY: the length is right, every bit pattern is a Connecting, and the read asks for no alignment.
    Some(unsafe { bytes.as_ptr().cast::<Connecting>().read_unaligned() })
}

/// The ring buffer as something that tokio can wait for; needs a runtime.
pub(super) fn watch(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring owns its descriptor for as long as it lives, and gives no way to replace it.
    let watched = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    watched.map_err(|error| error.into_parts().1)
}

/// A descriptor as something that tokio can wait for; needs a runtime.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, and nobody gets it out or replaces it while it is registered.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    watched.map_err(|error| error.into_parts().1)
}

/// Gives back to the system what the allocator keeps of memory that was freed: reading and compiling many resources takes
/// twice as much for a moment as what stays of them.
pub fn release_free_memory() {
    // Other C libraries have no such call.
    #[cfg(target_env = "gnu")]
    // SAFETY: glibc's own; any thread may call it at any time.
    let _released = unsafe { libc::malloc_trim(0) };
}

/// Lets go of the pages of this executable's code: much of what starting takes is never needed again, and what is comes back
/// from the page cache, some pages at a time.
pub fn release_startup_code() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    let Ok(exe) = std::fs::read_link("/proc/self/exe") else { return };
    let exe = exe.display().to_string();
    for line in maps.lines().filter(|line| line.contains(" r-xp ") && line.ends_with(&exe)) {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        let hex = |text| usize::from_str_radix(text, 16).ok();
        let Some((Some(start), Some(end))) = range.map(|(start, end)| (hex(start), hex(end))) else {
            continue;
        };
        // SAFETY: the range is a mapping of a file that nobody can write to through it, as the kernel has just said: its
        // pages are the file's whenever they are looked at.
        let _released = unsafe {
            libc::madvise(
                std::ptr::with_exposed_provenance_mut(start),
                end.saturating_sub(start),
                libc::MADV_DONTNEED,
            )
        };
    }
}

/// A second descriptor for what this process was started with as descriptor `number`. What it has opened itself is closed on
/// exec, and is none.
pub fn duplicate_inherited(number: RawFd) -> io::Result<File> {
    // SAFETY: it reads a flag; a number that is no descriptor gives EBADF.
    let flags = check(unsafe { libc::fcntl(number, libc::F_GETFD) }.into());
    if !flags.is_ok_and(|flags| flags & libc::c_long::from(libc::FD_CLOEXEC) == 0) {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no such descriptor was passed"));
    }
    // SAFETY: it makes a descriptor, of whatever there is by now.
    let duplicate = check(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) }.into())?;
    let duplicate = RawFd::try_from(duplicate).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it, nobody else has it.
    Ok(unsafe { File::from_raw_fd(duplicate) })
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
