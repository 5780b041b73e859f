//! What holds for the whole node: what becomes of pods that are not decided yet, and of connections while the agent is
//! down.

use std::{collections::BTreeSet, os::fd::AsFd, path::Path, time::Duration};

use aya::maps::{Array, HashMap, MapData};
use interceptor_common::settings::Settings;
use rustix::time::{ClockId, clock_gettime};

use super::{
    CgroupId, Datapath, DatapathError, links,
    pins::Place,
    programs::{self, Maps},
    sys::Raw,
    workloads::{absent_is_fine, read_failed, write_failed},
};

/// What becomes of connections of pods about which nobody has decided yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Undecided {
    #[default]
    Refuse,
    Allow,
}

/// What becomes of connections that are to be redirected while no agent runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnAgentDown {
    /// They are refused: nobody listens.
    #[default]
    Closed,
    /// They go their own way once the last heartbeat is older than this.
    Open { after: Duration },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeSettings {
    /// [`super::netns_cookie`] of the node's own network namespace.
    pub host_cookie: u64,
    pub undecided: Undecided,
    pub on_agent_down: OnAgentDown,
}

pub(super) struct Node {
    settings: Array<MapData, Raw<Settings>>,
    heartbeat: Array<MapData, u64>,
    left_alone: HashMap<MapData, u64, u32>,
}

impl Node {
    pub(super) fn take(maps: &mut Maps<'_>) -> Result<Self, DatapathError> {
        Ok(Self {
            settings: maps.take("SETTINGS")?,
            heartbeat: maps.take("HEARTBEAT")?,
            left_alone: maps.take("LEFT_ALONE")?,
        })
    }
}

impl Datapath {
    /// In effect for every connection from now on.
    pub fn set_settings(&mut self, settings: &NodeSettings) -> Result<(), DatapathError> {
        // First: an old heartbeat must not count.
        self.beat()?;
        let heartbeat_timeout_ns = match settings.on_agent_down {
            OnAgentDown::Closed => 0,
            OnAgentDown::Open { after } => u64::try_from(after.as_nanos()).unwrap_or(u64::MAX).max(1),
        };
        let written = Settings {
            host_cookie: settings.host_cookie,
            heartbeat_timeout_ns,
            allow_undecided: u32::from(settings.undecided == Undecided::Allow),
            unused: 0,
        };
        self.node.settings.set(0, Raw(written), 0).map_err(write_failed("SETTINGS"))
    }

    /// The agent is alive: to be called several times in [`OnAgentDown::Open`]'s time.
    pub fn beat(&mut self) -> Result<(), DatapathError> {
        self.node.heartbeat.set(0, now_ns(), 0).map_err(write_failed("HEARTBEAT"))
    }

    /// Where the pins were that somebody has taken away, and with them the programs from all cgroups; `None` while they are
    /// there.
    pub fn lost_pins(&self) -> Option<&Path> {
        let directory = self.pins.as_ref()?.directory();
        (!directory.exists()).then_some(directory)
    }

    /// Holds pods that are not decided yet, as [`Self::set_settings`] says: everything below `kubepods`, the common
    /// ancestor of all pods, that is neither enrolled nor left alone, nor in the node's own network namespace. Pinned;
    /// a gate elsewhere is taken away, and with it whatever else agents of another schema have left. Whoever runs already and shall not be held must be enrolled or left alone
    /// before.
    pub fn gate(&mut self, kubepods: impl AsFd) -> Result<CgroupId, DatapathError> {
        let Raw(settings) = self.node.settings.get(&0, 0).map_err(read_failed("SETTINGS"))?;
        if settings.host_cookie == 0 {
            return Err(DatapathError::NoSettings);
        }
        let cgroup = self.attach_pinned(Place::Gate, kubepods.as_fd(), programs::GATE)?;
        self.detach_gates(|other| other != cgroup)?;
        self.remove_other_schemas()?;
        Ok(cgroup)
    }

    /// Takes the gate away.
    pub fn ungate(&mut self) -> Result<(), DatapathError> {
        self.detach_gates(|_| true)
    }

    fn detach_gates(&self, unwanted: impl Fn(CgroupId) -> bool) -> Result<(), DatapathError> {
        let pins = self.pins()?;
        for cgroup in pins.cgroups(Place::Gate)?.into_iter().filter(|cgroup| unwanted(*cgroup)) {
            links::detach(&pins.links(Place::Gate, cgroup))?;
        }
        Ok(())
    }

    /// The gate lets be what runs in this pod's cgroup, or below it: the pod is not ours.
    pub fn leave_alone(&mut self, pod: CgroupId) -> Result<(), DatapathError> {
        self.node.left_alone.insert(pod.0, 1, 0).map_err(write_failed("LEFT_ALONE"))
    }

    /// Takes [`Self::leave_alone`] back: the pod is gone, or is to be decided about again.
    pub fn decide_again(&mut self, pod: CgroupId) -> Result<(), DatapathError> {
        absent_is_fine("LEFT_ALONE", self.node.left_alone.remove(&pod.0))
    }

    /// The pods that are left alone, whoever said so.
    pub fn left_alone(&self) -> Result<BTreeSet<CgroupId>, DatapathError> {
        let pods = self.node.left_alone.keys().map(|id| id.map(CgroupId));
        pods.collect::<Result<_, _>>().map_err(read_failed("LEFT_ALONE"))
    }
}

/// As bpf_ktime_get_ns tells it.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or_default())
}
