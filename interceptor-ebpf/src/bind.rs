//! bind4 and bind6: a workload can't take the port of its own listener.

use aya_ebpf::programs::SockAddrContext;
use interceptor_common::{
    policy::OriginalDestination,
    verdict::{Reason, Verdict},
};

use crate::{
    maps::WORKLOADS,
    outcome::{PROCEED, finish},
    sock_addr::{self, Address},
};

const IPPROTO_UDP: u32 = 17;

pub fn bind4(ctx: &SockAddrContext) -> i32 {
    bind(ctx, &sock_addr::read_v4(ctx))
}

pub fn bind6(ctx: &SockAddrContext) -> i32 {
    bind(ctx, &sock_addr::read_v6(ctx))
}

#[inline(always)]
fn bind(ctx: &SockAddrContext, asked: &Address) -> i32 {
    if asked.protocol == IPPROTO_UDP || asked.port.0 == 0 {
        return PROCEED;
    }
    let netns_cookie = sock_addr::netns_cookie(ctx);
    // SAFETY: the agent replaces whole entries. An unknown namespace has no listener of ours.
    let Some(workload) = (unsafe { WORKLOADS.get(&netns_cookie) }) else {
        return PROCEED;
    };
    let ports = workload.ports_v6.max(1);
    if asked.port.0.wrapping_sub(workload.port.0) >= ports {
        return PROCEED;
    }
    let subject = OriginalDestination {
        netns_cookie,
        address: asked.ip,
        policy: workload.policy,
        port: asked.port,
        unused: 0,
    };
    finish(ctx, Verdict::Deny(Reason::ListenerPort), &subject)
}
