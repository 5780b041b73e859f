//! Capture of DNS over UDP: what goes to a name server goes to its stand-in on loopback instead, where the relay listens;
//! what comes from a stand-in shows the name server.
//!
//! connect and sendmsg hooks see the application's own address each time; recvmsg runs only when the caller asks whom
//! a datagram is from. Everything that is not for port 53 leaves after two comparisons.

use aya_ebpf::programs::SockAddrContext;
use interceptor_common::{
    addr::{Ip16, Port},
    name_server::{
        NAME_SERVER_PORT, NameServerKey, SLOTS_V4, SLOTS_V6, first_slot, is_name_server, slot_of_v4,
        stand_in_v4,
    },
    policy::{OriginalDestination, PortFlags, PortKey, WorkloadEntry},
    verdict::{Reason, Verdict},
};

use crate::{
    down,
    maps::{NAME_SERVERS, PORTS, WORKLOADS},
    outcome::{PROCEED, finish},
    sock_addr::{self, Address},
};

const IPPROTO_UDP: u32 = 17;
const BPF_NOEXIST: u64 = 1;
const LOOPBACK_V6: Ip16 = Ip16::from_v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

pub fn ask4(ctx: &SockAddrContext) -> i32 {
    if let Some((ip, port)) = stand_in(ctx, &sock_addr::read_v4(ctx)) {
        sock_addr::write_v4(ctx, ip, Some(port));
    }
    PROCEED
}

pub fn ask6(ctx: &SockAddrContext) -> i32 {
    if let Some((ip, port)) = stand_in(ctx, &sock_addr::read_v6(ctx)) {
        sock_addr::write_v6(ctx, ip, Some(port));
    }
    PROCEED
}

pub fn show4(ctx: &SockAddrContext) -> i32 {
    if let Some(server) = server(ctx, &sock_addr::read_v4(ctx)) {
        sock_addr::write_v4(ctx, server, Some(NAME_SERVER_PORT));
    }
    PROCEED
}

pub fn show6(ctx: &SockAddrContext) -> i32 {
    if let Some(server) = server(ctx, &sock_addr::read_v6(ctx)) {
        sock_addr::write_v6(ctx, server, Some(NAME_SERVER_PORT));
    }
    PROCEED
}

/// Where a datagram goes instead of to the name server that was asked. None: it is left alone.
#[inline(always)]
fn stand_in(ctx: &SockAddrContext, asked: &Address) -> Option<(Ip16, Port)> {
    if asked.protocol != IPPROTO_UDP || asked.port.0 != NAME_SERVER_PORT.0 || !is_name_server(asked.ip) {
        return None;
    }
    let netns_cookie = sock_addr::netns_cookie(ctx);
    // SAFETY: the agent replaces whole entries.
    let workload = unsafe { WORKLOADS.get(&netns_cookie) }?;
    if workload.relay_port.0 == 0 || has_no_route(workload, asked.ip) {
        return None;
    }
    let (verdict, found) = captured(ctx, netns_cookie, workload, asked.ip);
    let subject = OriginalDestination {
        netns_cookie,
        address: asked.ip,
        policy: workload.policy,
        port: asked.port,
        unused: 0,
    };
    finish(ctx, verdict, &subject);
    found
}

/// The kernel says so to the application at once; the relay could only be silent.
#[inline(always)]
fn has_no_route(workload: &WorkloadEntry, server: Ip16) -> bool {
    let own = if server.is_v4() { workload.own_v4 } else { workload.own_v6 };
    own.is_unspecified() && !server.is_loopback()
}

#[inline(always)]
fn captured(
    ctx: &SockAddrContext,
    netns_cookie: u64,
    workload: &WorkloadEntry,
    server: Ip16,
) -> (Verdict, Option<(Ip16, Port)>) {
    let port = PortKey { policy: workload.policy, port: NAME_SERVER_PORT.0 as u32 };
    // SAFETY: flags are one word.
    let flags = unsafe { PORTS.get(&port) }.copied().unwrap_or(PortFlags::NONE);
    if flags.has(PortFlags::EXCLUDE) {
        return (Verdict::Bypass(Reason::ExcludedPort), None);
    }
    if down::passes_by() {
        return (Verdict::Bypass(Reason::AgentDown), None);
    }
    // The relay is on loopback, which a socket bound to another device does not reach.
    if sock_addr::bound_ifindex(sock_addr::sock(ctx)) != 0 {
        return (Verdict::Bypass(Reason::NameServerBoundToDevice), None);
    }
    let is_v4 = server.is_v4();
    let slot = if is_v4 {
        slot::<{ SLOTS_V4 }>(netns_cookie, server, false)
    } else {
        slot::<{ SLOTS_V6 }>(netns_cookie, server, true)
    };
    let Some(slot) = slot else {
        return (Verdict::Bypass(Reason::NameServersFull), None);
    };
    let found = if is_v4 {
        (stand_in_v4(slot), workload.relay_port)
    } else {
        (LOOPBACK_V6, Port(workload.relay_port.0.wrapping_add(slot)))
    };
    (Verdict::Redirect(Reason::NameServer), Some(found))
}

/// The server's slot, taken for it now if it has none. Whoever is second to take one finds what the first wrote.
#[inline(always)]
fn slot<const SLOTS: u16>(netns_cookie: u64, server: Ip16, is_v6: bool) -> Option<u16> {
    let first = first_slot(server, SLOTS);
    for step in 0..SLOTS {
        let slot = (first + step) % SLOTS;
        let key = NameServerKey::new(netns_cookie, slot, is_v6);
        // SAFETY: an entry is written once.
        if unsafe { NAME_SERVERS.get(&key) }.is_none() {
            // An error is somebody else's entry, or a full map: the next lookup tells.
            let _there_is_one = NAME_SERVERS.insert(&key, &server, BPF_NOEXIST);
        }
        // SAFETY: as above.
        match unsafe { NAME_SERVERS.get(&key) } {
            Some(taken) if *taken == server => return Some(slot),
            Some(_) => {}
            None => return None,
        }
    }
    None
}

/// The name server that stands behind an address that the kernel is about to show.
#[inline(always)]
fn server(ctx: &SockAddrContext, shown: &Address) -> Option<Ip16> {
    if shown.protocol != IPPROTO_UDP {
        return None;
    }
    let slot = slot_of_v4(shown.ip);
    if slot.is_none() && shown.ip != LOOPBACK_V6 {
        return None;
    }
    let netns_cookie = sock_addr::netns_cookie(ctx);
    // SAFETY: the agent replaces whole entries.
    let workload = unsafe { WORKLOADS.get(&netns_cookie) }?;
    if workload.relay_port.0 == 0 {
        return None;
    }
    let offset = shown.port.0.wrapping_sub(workload.relay_port.0);
    let key = match slot {
        Some(slot) if offset == 0 => NameServerKey::new(netns_cookie, slot, false),
        None if offset < SLOTS_V6 => NameServerKey::new(netns_cookie, offset, true),
        Some(_) | None => return None,
    };
    // SAFETY: an entry is written once.
    unsafe { NAME_SERVERS.get(&key) }.copied()
}
