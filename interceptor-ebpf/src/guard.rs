//! The guard of enforced workloads: what leaves them around the proxy is refused.
//!
//! Sits on the cgroups of enforced workloads only, because every packet pays for it. Sockets of kinds that no hook
//! follows are not made; datagrams are judged where the application names their destination, so that it gets EPERM and
//! falls back at once; and what is about to leave on any device but loopback is judged once more by what the packet itself
//! says, for sockets that are older than the guard, source routes and whatever else the other hooks do not see. Of TCP only
//! the first packet of an outgoing connection is judged: replies to inbound ones pass.

use aya_ebpf::{
    EbpfContext,
    helpers::generated::bpf_get_netns_cookie,
    maps::lpm_trie::Key,
    programs::{SkBuffContext, SockAddrContext, SockContext},
};
use interceptor_common::{
    addr::{Ip16, Port},
    decide::{decide_datagram, is_kind_allowed, is_question},
    flow::Flow,
    policy::{NO_POLICY, NOT_ENROLLED, OriginalDestination, PrefixFlags, PrefixKey},
    verdict::{Reason, Verdict},
};

use crate::{
    first_packet::{Sender, destination, opens_connection, sender},
    maps::{GUARDED, PREFIXES, WORKLOADS},
    outcome::{PROCEED, REFUSE, count, finish},
    sock_addr::{self, Address},
};

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const IPPROTO_MPTCP: u32 = 262;

pub fn sock_create(ctx: &SockContext) -> i32 {
    let sk = ctx.sock;
    // SAFETY: the kernel passes a valid socket as the context, of which these fields may be read.
    let (kind, protocol, netns_cookie) = unsafe {
        let kind = (&raw const (*sk).type_).read_volatile();
        let protocol = (&raw const (*sk).protocol).read_volatile();
        (kind, protocol, bpf_get_netns_cookie(sk.cast()))
    };
    if is_kind_allowed(kind, protocol) {
        // No memory: what it sends around the proxy is refused, its own name servers included.
        if let Some(cookie) = sock_addr::stored_or_zeroed(&GUARDED, sk) {
            *cookie = netns_cookie;
        }
        return PROCEED;
    }
    let subject = OriginalDestination {
        netns_cookie,
        address: Ip16::UNSPECIFIED,
        policy: policy(netns_cookie),
        port: Port(0),
        unused: 0,
    };
    finish(ctx, Verdict::Deny(Reason::EnforcedProtocol), &subject)
}

pub fn send4(ctx: &SockAddrContext) -> i32 {
    send(ctx, &sock_addr::read_v4(ctx))
}

pub fn send6(ctx: &SockAddrContext) -> i32 {
    send(ctx, &sock_addr::read_v6(ctx))
}

/// connect(2) and sendmsg(2). TCP is connect4's and connect6's.
#[inline(always)]
fn send(ctx: &SockAddrContext, asked: &Address) -> i32 {
    let netns_cookie = sock_addr::netns_cookie(ctx);
    // The socket may be older than the guard.
    if let Some(cookie) = sock_addr::stored_or_zeroed(&GUARDED, sock_addr::sock(ctx)) {
        *cookie = netns_cookie;
    }
    if asked.protocol == IPPROTO_TCP || asked.protocol == IPPROTO_MPTCP {
        return PROCEED;
    }
    let flags = flags(netns_cookie, asked.ip).unwrap_or(PrefixFlags::NONE);
    let verdict = match decide_datagram(&Flow { destination: asked.ip, port: asked.port }, flags) {
        // What stays in the workload is none of anybody's business, and not counted.
        Verdict::Bypass(Reason::OwnNameServer) if asked.protocol == IPPROTO_UDP => {
            Verdict::Bypass(Reason::OwnNameServer)
        }
        Verdict::Bypass(reason) if !matches!(reason, Reason::OwnNameServer) => return PROCEED,
        Verdict::Deny(reason) if asked.protocol == IPPROTO_UDP => Verdict::Deny(reason),
        Verdict::Bypass(_) | Verdict::Redirect(_) | Verdict::Deny(_) => {
            Verdict::Deny(Reason::EnforcedProtocol)
        }
    };
    let subject = OriginalDestination {
        netns_cookie,
        address: asked.ip,
        policy: policy(netns_cookie),
        port: asked.port,
        unused: 0,
    };
    finish(ctx, verdict, &subject)
}

/// One packet on its way out.
pub fn egress(ctx: &SkBuffContext) -> i32 {
    let Some(Sender { sk, kind, protocol }) = sender(ctx) else { return PROCEED };
    let is_tcp = kind == SOCK_STREAM && protocol == IPPROTO_TCP;
    let is_udp = kind == SOCK_DGRAM && protocol == IPPROTO_UDP;
    if is_tcp && !opens_connection(ctx) {
        return PROCEED;
    }
    let netns_cookie = sock_addr::stored(&GUARDED, sk).map_or(NOT_ENROLLED, |cookie| *cookie);
    if (is_tcp || is_udp) && destination(ctx).is_some_and(|to| is_own_question(netns_cookie, &to)) {
        return PROCEED;
    }
    let reason = if is_tcp || is_udp { Reason::EnforcedPacket } else { Reason::EnforcedProtocol };
    count(netns_cookie, reason);
    REFUSE
}

#[inline(always)]
fn is_own_question(netns_cookie: u64, to: &Flow) -> bool {
    flags(netns_cookie, to.destination).is_some_and(|flags| is_question(to, flags))
}

/// What the workload's policy says of an address. A policy that is replaced meanwhile is asked no more: the new one is.
#[inline(always)]
fn flags(netns_cookie: u64, address: Ip16) -> Option<PrefixFlags> {
    for _attempt in 0..2 {
        let key = Key::new(PrefixKey::FULL_BITS, PrefixKey::new(policy(netns_cookie), address));
        if let Some(flags) = PREFIXES.get(&key) {
            return Some(*flags);
        }
    }
    None
}

#[inline(always)]
fn policy(netns_cookie: u64) -> u32 {
    // SAFETY: the agent replaces whole entries.
    unsafe { WORKLOADS.get(&netns_cookie) }.map_or(NO_POLICY, |workload| workload.policy)
}
