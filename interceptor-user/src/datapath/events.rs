//! Connections that policy bypassed and calls that were refused, as they happen.
//!
//! The kernel's ring buffer bounds the rate: what does not fit is dropped and counted under
//! [`Reason::EventDropped`]. Connections to loopback and other addresses that are never redirected are counted only.

use std::{fmt, io, net::SocketAddr};

use aya::maps::{MapData, RingBuf};
use interceptor_common::{addr::socket_addr, verdict::Reason};
use tokio::io::unix::AsyncFd;

use super::sys;

/// One connect(2) or bind(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectEvent {
    pub reason: Reason,
    pub destination: SocketAddr,
    /// The network namespace that called.
    pub cookie: u64,
    /// The policy that decided; 0: the namespace is not enrolled.
    pub policy: u32,
    /// The process, as the initial pid namespace numbers it.
    pub pid: u32,
    /// The thread's name.
    pub comm: String,
}

pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    pub(super) fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        Ok(Self { ring: sys::watch(ring)? })
    }

    /// Waits for the next event. Safe to cancel: an event is either returned or still there.
    pub async fn next(&mut self) -> io::Result<ConnectEvent> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            while let Some(record) = ready.get_inner_mut().next() {
                if let Some(event) = parse(&record) {
                    return Ok(event);
                }
            }
            ready.clear_ready();
        }
    }
}

/// None for a record this version does not know.
fn parse(bytes: &[u8]) -> Option<ConnectEvent> {
    let event = sys::event(bytes)?;
    let comm = event.comm.split(|&byte| byte == 0).next().unwrap_or_default();
    Some(ConnectEvent {
        reason: Reason::from_code(event.reason)?,
        destination: socket_addr(event.destination, event.port),
        cookie: event.netns_cookie,
        policy: event.policy,
        pid: event.pid,
        comm: String::from_utf8_lossy(comm).into_owned(),
    })
}
