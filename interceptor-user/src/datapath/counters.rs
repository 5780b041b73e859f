//! Connections per policy and reason.

use std::collections::BTreeMap;

use aya::{
    Ebpf,
    maps::{MapData, PerCpuHashMap},
};
use interceptor_common::{policy::CounterKey, verdict::Reason};

use super::{Datapath, DatapathError, programs, sys::Raw, workloads::absent_is_fine};

/// One counter; it only grows as long as the policy's workload is enrolled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// 0: calls from network namespaces that are not enrolled.
    pub policy: u32,
    pub reason: Reason,
    pub count: u64,
}

type Counts = BTreeMap<(u32, Reason), u64>;

pub(super) struct Counters {
    map: PerCpuHashMap<MapData, Raw<CounterKey>, u64>,
    /// Policies that were replaced last, with what replaced them: a program may still be counting for them.
    successors: BTreeMap<u32, u32>,
    /// What policies counted that were replaced before those, under the id of today's.
    carried: Counts,
}

impl Counters {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let map = programs::take_map(ebpf, "COUNTERS")?;
        Ok(Self { map, successors: BTreeMap::new(), carried: BTreeMap::new() })
    }

    fn read(&self) -> Result<Counts, DatapathError> {
        let mut counts = self.carried.clone();
        for ((policy, reason), count) in self.read_map()? {
            let policy = self.successors.get(&policy).copied().unwrap_or(policy);
            *counts.entry((policy, reason)).or_default() += count;
        }
        Ok(counts)
    }

    fn read_map(&self) -> Result<Counts, DatapathError> {
        let mut counts = BTreeMap::new();
        for entry in self.map.iter() {
            let (Raw(key), per_cpu) =
                entry.map_err(|source| DatapathError::Read { name: "COUNTERS", source })?;
            if let Some(reason) = Reason::from_code(key.reason) {
                counts.insert((key.policy, reason), per_cpu.iter().sum());
            }
        }
        Ok(counts)
    }

    /// Counts of `old` go on under `new`, because the same workload continues.
    pub(super) fn carry(&mut self, old: u32, new: u32) -> Result<(), DatapathError> {
        for ((policy, reason), count) in self.read_map()? {
            if self.successors.get(&policy) != Some(&old) {
                continue;
            }
            *self.carried.entry((old, reason)).or_default() += count;
            let key = Raw(CounterKey { policy, reason: reason.code() });
            absent_is_fine("COUNTERS", self.map.remove(&key))?;
        }
        self.successors.retain(|_, successor| *successor != old);
        self.successors.insert(old, new);
        let carried = std::mem::take(&mut self.carried);
        let renamed = |policy| if policy == old { new } else { policy };
        self.carried =
            carried.into_iter().map(|((policy, reason), count)| ((renamed(policy), reason), count)).collect();
        Ok(())
    }
}

impl Datapath {
    /// Every counter that is not zero.
    pub fn counters(&self) -> Result<Vec<Counter>, DatapathError> {
        let counters = self.counters.read()?;
        Ok(counters.into_iter().map(|((policy, reason), count)| Counter { policy, reason, count }).collect())
    }
}
