//! connect4 and connect6: the verdict on one connect(2), and for a redirect the rewrite.
//!
//! The hook runs under the socket's lock, again for each connect(2), always with the application's own address: the
//! latest destination is the one that counts.

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::{bpf_get_prandom_u32, bpf_setsockopt},
    maps::lpm_trie::Key,
    programs::SockAddrContext,
};
use interceptor_common::{
    addr::{Ip16, Port},
    decide::{decide, decide_unknown},
    flow::Flow,
    policy::{NO_POLICY, OriginalDestination, PortFlags, PortKey, PrefixKey, WorkloadEntry, may_wait},
    verdict::{Reason, Verdict},
};

use crate::{
    down,
    maps::{CONNECTING, HANDOVERS_ALL, HANDOVERS_OPEN, PORTS, PREFIXES, WORKLOADS},
    outcome::{PROCEED, finish},
    sock_addr::{self, Address},
};

const IPPROTO_TCP: u32 = 6;
const IPPROTO_MPTCP: u32 = 262;
const SOL_SOCKET: i32 = 1;
const SO_BINDTOIFINDEX: i32 = 62;

const LOOPBACK_V6: Ip16 = Ip16::from_v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
/// Destinations that no TCP socket can reach: the kernel answers ENETUNREACH to both, on every version.
const UNREACHABLE_V4: Ip16 = Ip16::from_v4([255, 255, 255, 255]);
const UNREACHABLE_V6: Ip16 = Ip16::from_v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// What becomes of the address in the context.
enum Rewrite {
    Keep,
    To(Ip16, Port),
}

pub fn connect4(ctx: &SockAddrContext) -> i32 {
    let (code, rewrite) = connect(ctx, &sock_addr::read_v4(ctx));
    if let Rewrite::To(ip, port) = rewrite {
        sock_addr::write_v4(ctx, ip, Some(port));
    }
    code
}

pub fn connect6(ctx: &SockAddrContext) -> i32 {
    let (code, rewrite) = connect(ctx, &sock_addr::read_v6(ctx));
    if let Rewrite::To(ip, port) = rewrite {
        sock_addr::write_v6(ctx, ip, Some(port));
    }
    code
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, asked: &Address) -> (i32, Rewrite) {
    if asked.protocol != IPPROTO_TCP && asked.protocol != IPPROTO_MPTCP {
        return (PROCEED, Rewrite::Keep);
    }
    let netns_cookie = sock_addr::netns_cookie(ctx);
    let mut subject = OriginalDestination {
        netns_cookie,
        address: asked.ip,
        policy: NO_POLICY,
        port: asked.port,
        unused: 0,
    };
    let sk = sock_addr::sock(ctx);
    let (verdict, rewrite) = match decided(&mut subject, asked) {
        Ok((workload, Verdict::Redirect(reason))) => redirect(ctx, sk, workload, &subject, reason),
        Ok((_, verdict @ (Verdict::Bypass(_) | Verdict::Deny(_)))) => (verdict, Rewrite::Keep),
        // Whoever enrolls the namespace is not there.
        Err(Verdict::Deny(Reason::UnknownWorkload)) if down::passes_by() => {
            (Verdict::Bypass(Reason::AgentDown), Rewrite::Keep)
        }
        Err(verdict) => (verdict, Rewrite::Keep),
    };
    if !matches!(verdict, Verdict::Redirect(_)) {
        leave(ctx, sk);
    }
    (finish(ctx, verdict, &subject), rewrite)
}

/// The verdict of the workload's policy. A policy that is replaced meanwhile is asked no more: the new one is.
#[inline(always)]
fn decided(
    subject: &mut OriginalDestination,
    asked: &Address,
) -> Result<(&'static WorkloadEntry, Verdict), Verdict> {
    for _attempt in 0..2 {
        // SAFETY: the agent replaces whole entries; a program that still holds the old one reads the old one.
        let Some(workload) = (unsafe { WORKLOADS.get(&subject.netns_cookie) }) else {
            subject.policy = NO_POLICY;
            return Err(decide_unknown(asked.ip));
        };
        subject.policy = workload.policy;
        if let Some(verdict) = lookup_and_decide(workload.policy, asked) {
            return Ok((workload, verdict));
        }
    }
    Err(Verdict::Deny(Reason::PolicyMissing))
}

/// None: the policy is not there, or not all of it. Every policy says something of every address, and is removed from
/// its shortest prefix to its longest, ports last: so what is found is what the whole policy says.
#[inline(always)]
fn lookup_and_decide(policy: u32, asked: &Address) -> Option<Verdict> {
    let port = PortKey { policy, port: u32::from(asked.port.0) };
    let prefix = Key::new(PrefixKey::FULL_BITS, PrefixKey::new(policy, asked.ip));
    // SAFETY: flags are one word.
    let ports = unsafe { PORTS.get(&port) }.copied().unwrap_or(PortFlags::NONE);
    let prefixes = *PREFIXES.get(&prefix)?;
    Some(decide(&Flow { destination: asked.ip, port: asked.port }, ports, prefixes))
}

/// Everything that a redirect needs, or why it can't be had. Nothing here lets a connection through.
#[inline(always)]
fn redirect(
    ctx: &SockAddrContext,
    sk: *mut bpf_sock,
    workload: &WorkloadEntry,
    subject: &OriginalDestination,
    reason: Reason,
) -> (Verdict, Rewrite) {
    // An enforced workload's connections meet no listener then, and are refused.
    if !matches!(reason, Reason::Enforced) && down::passes_by() {
        return (Verdict::Bypass(Reason::AgentDown), Rewrite::Keep);
    }
    let refused = |reason| (Verdict::Deny(reason), Rewrite::Keep);
    let is_v4 = subject.address.is_v4();
    // Without us a connect to a family that the workload has no address of fails at once, and clients fall back to
    // the other family; through the proxy it would succeed and then go nowhere.
    if is_v4 && workload.own_v4.is_unspecified() {
        return (Verdict::Deny(Reason::NoRoute), Rewrite::To(UNREACHABLE_V4, subject.port));
    }
    if !is_v4 && workload.own_v6.is_unspecified() {
        return (Verdict::Deny(Reason::NoRoute), Rewrite::To(UNREACHABLE_V6, subject.port));
    }
    let Some(listener) = listener(workload, is_v4) else {
        return refused(Reason::NoListener);
    };
    let (own, all) = (handovers_open(subject.netns_cookie), handovers_all());
    if !may_wait(own, workload.handovers_max, all) {
        return refused(Reason::HandoverFull);
    }
    let bound_ifindex = sock_addr::bound_ifindex(sk);
    if bound_ifindex != 0 && !bind_to_device(ctx, 0) {
        return refused(Reason::BoundToDevice);
    }
    let Some(connecting) = sock_addr::stored_or_zeroed(&CONNECTING, sk) else {
        return refused(Reason::OutOfMemory);
    };
    connecting.original = *subject;
    if bound_ifindex != 0 {
        connecting.bound_ifindex = bound_ifindex;
    }
    (Verdict::Redirect(reason), listener)
}

/// One of the listener's addresses, at random: a single one would collapse the tuple space to some 28,000
/// connections, and also all connections of one destination need more.
#[inline(always)]
fn listener(workload: &WorkloadEntry, is_v4: bool) -> Option<Rewrite> {
    // SAFETY: the helper takes nothing.
    let random = unsafe { bpf_get_prandom_u32() };
    if is_v4 {
        let spread = u32::from(workload.spread_v4);
        let host = random.checked_rem(spread)? as u8;
        Some(Rewrite::To(Ip16::from_v4([127, 0, 0, host.wrapping_add(1)]), workload.port))
    } else {
        let ports = u32::from(workload.ports_v6);
        let offset = random.checked_rem(ports)? as u16;
        Some(Rewrite::To(LOOPBACK_V6, Port(workload.port.0.wrapping_add(offset))))
    }
}

#[inline(always)]
fn handovers_open(netns_cookie: u64) -> u64 {
    match HANDOVERS_OPEN.get_ptr(&netns_cookie) {
        // SAFETY: an entry lives as long as the workload is enrolled; other CPUs change it at any time.
        Some(open) => unsafe { open.read_volatile() },
        None => 0,
    }
}

#[inline(always)]
fn handovers_all() -> u64 {
    match HANDOVERS_ALL.get_ptr(0) {
        // SAFETY: the entry is always there; other CPUs change it at any time.
        Some(all) => unsafe { all.read_volatile() },
        None => 0,
    }
}

/// A connection that is not ours: whatever an earlier connect(2) of the same socket left is taken back.
#[inline(always)]
fn leave(ctx: &SockAddrContext, sk: *mut bpf_sock) {
    let Some(connecting) = sock_addr::stored(&CONNECTING, sk) else {
        return;
    };
    let bound_ifindex = connecting.bound_ifindex;
    if bound_ifindex != 0 {
        // The device may be gone: then the socket is unbound, as it is after the device goes.
        bind_to_device(ctx, bound_ifindex);
    }
    sock_addr::forget(&CONNECTING, sk);
}

/// SO_BINDTODEVICE as the application would have called it; 0 unbinds. Loopback is out of reach of a socket bound to
/// another device.
#[inline(always)]
fn bind_to_device(ctx: &SockAddrContext, ifindex: u32) -> bool {
    let mut value = ifindex;
    let length = size_of::<u32>() as i32;
    // SAFETY: the helper reads `length` bytes of `value`.
    let result = unsafe {
        bpf_setsockopt(ctx.sock_addr.cast(), SOL_SOCKET, SO_BINDTOIFINDEX, (&raw mut value).cast(), length)
    };
    result == 0
}
