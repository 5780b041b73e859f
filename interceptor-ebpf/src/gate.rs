//! gate_connect4 and gate_connect6: pods about which the agent has not decided yet are held, or let through, and counted.
//!
//! Sits on the common ancestor of all pods and runs after a pod's own hooks, for every connection of the node's pods:
//! those of enrolled pods leave it after one lookup.

use aya_ebpf::{helpers::bpf_get_current_ancestor_cgroup_id, programs::SockAddrContext};
use interceptor_common::{
    decide::decide_undecided,
    policy::{NO_POLICY, OriginalDestination},
    settings::Settings,
    verdict::{Reason, Verdict},
};

use crate::{
    down::agent_is_down,
    maps::{LEFT_ALONE, SETTINGS, WORKLOADS},
    outcome::{PROCEED, finish},
    sock_addr::{self, Address},
};

const IPPROTO_TCP: u32 = 6;
const IPPROTO_MPTCP: u32 = 262;

/// How deep a pod's cgroup may lie. On a node pods are three or four levels below the root; a node that is itself a
/// container adds its own.
const LEVELS_MAX: i32 = 16;

pub fn connect4(ctx: &SockAddrContext) -> i32 {
    gate(ctx, &sock_addr::read_v4(ctx))
}

pub fn connect6(ctx: &SockAddrContext) -> i32 {
    gate(ctx, &sock_addr::read_v6(ctx))
}

#[inline(always)]
fn gate(ctx: &SockAddrContext, asked: &Address) -> i32 {
    if asked.protocol != IPPROTO_TCP && asked.protocol != IPPROTO_MPTCP {
        return PROCEED;
    }
    let netns_cookie = sock_addr::netns_cookie(ctx);
    // SAFETY: the agent replaces whole entries.
    if unsafe { WORKLOADS.get(&netns_cookie) }.is_some() {
        return PROCEED;
    }
    let Some(settings) = SETTINGS.get(0) else { return PROCEED };
    let Some(verdict) = decide_undecided(asked.ip, settings.allow_undecided == 1) else {
        return PROCEED;
    };
    if netns_cookie == settings.host_cookie || is_left_alone() {
        return PROCEED;
    }
    let subject = OriginalDestination {
        netns_cookie,
        address: asked.ip,
        policy: NO_POLICY,
        port: asked.port,
        unused: 0,
    };
    finish(ctx, unless_down(settings, verdict), &subject)
}

#[inline(always)]
fn unless_down(settings: &Settings, verdict: Verdict) -> Verdict {
    if agent_is_down(settings) { Verdict::Bypass(Reason::AgentDown) } else { verdict }
}

/// Whether the calling task is in a pod that is not ours: at whatever level pods are here.
#[inline(always)]
fn is_left_alone() -> bool {
    for level in 1..LEVELS_MAX {
        // SAFETY: the helper takes a number; 0 for a level below the task's own.
        let cgroup_id = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if cgroup_id == 0 {
            return false;
        }
        // SAFETY: one word.
        if unsafe { LEFT_ALONE.get(&cgroup_id) }.is_some() {
            return true;
        }
    }
    false
}
