//! Whether the agent is down, for nodes that are to be passed by then.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use interceptor_common::settings::Settings;

use crate::maps::{HEARTBEAT, SETTINGS};

/// Asked before a connection is sent to the agent. Where a dead agent is to refuse, this is one load and a comparison.
#[inline(always)]
pub fn passes_by() -> bool {
    SETTINGS.get(0).is_some_and(agent_is_down)
}

#[inline(always)]
pub fn agent_is_down(settings: &Settings) -> bool {
    if settings.heartbeat_timeout_ns == 0 {
        return false;
    }
    let Some(heartbeat_ns) = HEARTBEAT.get(0).copied() else { return false };
    // SAFETY: the helper takes nothing.
    settings.agent_is_down(heartbeat_ns, unsafe { bpf_ktime_get_ns() })
}
