//! What is pinned, for who only looks: whether an agent runs or not, and without changing anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    os::fd::OwnedFd,
    path::Path,
};

use aya::maps::{MapData, SkStorage};
use interceptor_common::{
    addr::Ip16,
    policy::{Connecting, WorkloadEntry},
};

use super::{
    CgroupId, Counter, DatapathError, Listener, PodRecord,
    counters::Counters,
    pins::{self, Pins, Place},
    pod_records::PodRecords,
    programs::{self, Maps},
    sys::Raw,
    workloads::Workloads,
};
use crate::plan::KernelPolicy;

/// The pinned maps, opened for reading.
pub struct Inspection {
    pins: Pins,
    workloads: Workloads,
    counters: Counters,
    pod_records: PodRecords,
    /// The storage of connecting sockets, to be asked for by descriptor.
    pub(super) connecting: OwnedFd,
}

/// An enrolled workload, as the programs know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub policy: u32,
    pub listener: Listener,
    /// What a redirected socket shows as its own address, one of each family at most.
    pub shown: Vec<IpAddr>,
}

impl fmt::Debug for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspection").field("pins", &self.pins).finish_non_exhaustive()
    }
}

impl Inspection {
    /// Of what an agent has pinned below `root`.
    pub fn open(root: &Path) -> Result<Self, DatapathError> {
        super::preflight()?;
        let pins = Pins::existing(root)?;
        let gone = || DatapathError::NothingPinned { path: root.to_owned() };
        let mut maps = Maps::Pinned(&pins);
        // Compares sizes, but does not lend its descriptor.
        let _compared: SkStorage<MapData, Raw<Connecting>> = maps.take("CONNECTING")?;
        Ok(Self {
            workloads: Workloads::take(&mut maps)?,
            counters: Counters::take(&mut maps)?,
            pod_records: PodRecords::take(&mut maps)?,
            connecting: pins::get(&pins.map("CONNECTING"))?.ok_or_else(gone)?,
            pins,
        })
    }

    /// By network namespace cookie.
    pub fn workloads(&self) -> Result<BTreeMap<u64, Workload>, DatapathError> {
        let entries = self.workloads.read_entries()?;
        Ok(entries.into_iter().map(|(cookie, entry)| (cookie, workload(&entry))).collect())
    }

    /// Every policy of which anything is there, also those that an agent is just writing or removing.
    pub fn policies(&self) -> Result<BTreeMap<u32, KernelPolicy>, DatapathError> {
        self.workloads.read_policies()
    }

    /// What the agent said of pods.
    pub fn pods(&self) -> Result<BTreeMap<CgroupId, PodRecord>, DatapathError> {
        self.pod_records.read()
    }

    /// The cgroups of pods that have hooks.
    pub fn attached(&self) -> Result<BTreeSet<CgroupId>, DatapathError> {
        Ok(self.pins.cgroups(Place::Pod)?.into_iter().collect())
    }

    /// Those of them that have all of the guard.
    pub fn guarded(&self) -> Result<BTreeSet<CgroupId>, DatapathError> {
        let mut guarded = BTreeSet::new();
        for cgroup in self.pins.cgroups(Place::Pod)? {
            let pinned = pins::entries(&self.pins.links(Place::Pod, cgroup))?;
            let has_all = programs::GUARD.iter().all(|name| pinned.iter().any(|pinned| pinned == name));
            guarded.extend(has_all.then_some(cgroup));
        }
        Ok(guarded)
    }

    /// Every counter that is not zero, by namespace and reason.
    pub fn counters(&self) -> Result<Vec<Counter>, DatapathError> {
        self.counters.read()
    }
}

fn workload(entry: &WorkloadEntry) -> Workload {
    let shown: [Ip16; 2] = [entry.own_v4, entry.own_v6];
    Workload {
        policy: entry.policy,
        listener: Listener {
            port: entry.port.0,
            spread_v4: entry.spread_v4,
            ports_v6: entry.ports_v6,
            relay_port: entry.relay_port.0,
        },
        shown: shown.into_iter().filter(|ip| !ip.is_unspecified()).map(IpAddr::from).collect(),
    }
}
