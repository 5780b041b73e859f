//! What the ring buffer carries: one record for each connection that policy bypassed or that was refused.

use crate::addr::{Ip16, Port};

/// One record. Numbers in host order; `reason` is a [`crate::verdict::Reason`] code.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub netns_cookie: u64,
    pub destination: Ip16,
    /// The first 15 bytes of the thread's name, ended by a zero.
    pub comm: [u8; 16],
    pub policy: u32,
    pub reason: u32,
    /// The process, as the initial pid namespace numbers it.
    pub pid: u32,
    pub port: Port,
    pub unused: u16,
}

const _: () = assert!(size_of::<Event>() == 56);
