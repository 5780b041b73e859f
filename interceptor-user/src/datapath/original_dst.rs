//! Where an accepted connection was going, from the accepted socket itself: one bpf(2) call.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd},
    sync::Arc,
};

use aya::maps::{MapData, MapError, SkStorage};
use interceptor_common::{addr::socket_addr, policy::OriginalDestination};

use super::{DatapathError, programs::Maps, sys::Raw};

/// What the workload asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginalDst {
    /// IPv4 also when an IPv6 socket connected to `::ffff:a.b.c.d`.
    pub addr: SocketAddr,
    /// The network namespace that connected.
    pub cookie: u64,
    /// The policy that redirected it.
    pub policy: u32,
}

#[derive(Clone, Debug)]
pub struct OriginalDstReader {
    accepted: Arc<SkStorage<MapData, Raw<OriginalDestination>>>,
}

impl OriginalDstReader {
    pub(super) fn take(maps: &mut Maps<'_>) -> Result<Self, DatapathError> {
        Ok(Self { accepted: Arc::new(maps.take("ACCEPTED")?) })
    }

    /// None: this connection was not redirected here (somebody connected to the listener itself). Close it; there is
    /// no destination to guess.
    pub fn get(&self, socket: BorrowedFd<'_>) -> io::Result<Option<OriginalDst>> {
        match self.accepted.get(&socket.as_raw_fd(), 0) {
            Ok(Raw(original)) => Ok(Some(OriginalDst {
                addr: socket_addr(original.address, original.port),
                cookie: original.netns_cookie,
                policy: original.policy,
            })),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(MapError::SyscallError(error)) => Err(error.io_error),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}
