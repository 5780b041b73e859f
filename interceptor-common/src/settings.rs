//! What holds for the whole node: the agent writes it, programs read it.

/// The value of the one entry of SETTINGS. All zero: no gate has been asked for, and a dead agent lets nothing through.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The node's own network namespace, whose connections the gate lets be.
    pub host_cookie: u64,
    /// How old the heartbeat may be, in nanoseconds, before the agent counts as down and connections go their own way;
    /// 0: it never counts as down, and without it connections are refused.
    pub heartbeat_timeout_ns: u64,
    /// 1: connections of pods that are not decided yet are let through; 0: they are refused.
    pub allow_undecided: u32,
    pub unused: u32,
}

impl Settings {
    /// Whether connections go their own way because the agent is down. `now_ns` and `heartbeat_ns` are of the same
    /// clock, CLOCK_MONOTONIC.
    #[inline(always)]
    pub const fn agent_is_down(&self, heartbeat_ns: u64, now_ns: u64) -> bool {
        self.heartbeat_timeout_ns != 0 && now_ns.saturating_sub(heartbeat_ns) > self.heartbeat_timeout_ns
    }
}

const _: () = assert!(size_of::<Settings>() == 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_down_when_its_heartbeat_is_old() {
        for (timeout, heartbeat, now, expected) in [
            (0, 0, u64::MAX, false),
            (5, 100, 100, false),
            (5, 100, 105, false),
            (5, 100, 106, true),
            // Written by another processor a moment after `now` was read.
            (5, 106, 100, false),
            // No agent has written any.
            (5, 0, 1_000, true),
        ] {
            let settings = Settings { heartbeat_timeout_ns: timeout, ..Settings::default() };
            assert_eq!(settings.agent_is_down(heartbeat, now), expected, "{timeout} {heartbeat} {now}");
        }
    }
}
