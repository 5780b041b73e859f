//! Connections per policy and reason.

use std::collections::BTreeMap;

use aya::{
    Ebpf,
    maps::{MapData, PerCpuHashMap},
};
use interceptor_common::{policy::CounterKey, verdict::Reason};

use super::{Datapath, DatapathError, programs, sys::Raw};

/// One counter; it only grows as long as the policy's workload is enrolled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// 0: calls from network namespaces that are not enrolled.
    pub policy: u32,
    pub reason: Reason,
    pub count: u64,
}

pub(super) struct Counters {
    map: PerCpuHashMap<MapData, Raw<CounterKey>, u64>,
    /// What policies counted that others have replaced, under the new one's id.
    carried: BTreeMap<(u32, Reason), u64>,
}

impl Counters {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self { map: programs::take_map(ebpf, "COUNTERS")?, carried: BTreeMap::new() })
    }

    fn read(&self) -> Result<BTreeMap<(u32, Reason), u64>, DatapathError> {
        let mut counters = self.carried.clone();
        for entry in self.map.iter() {
            let (Raw(key), per_cpu) =
                entry.map_err(|source| DatapathError::Read { name: "COUNTERS", source })?;
            if let Some(reason) = Reason::from_code(key.reason) {
                *counters.entry((key.policy, reason)).or_default() += per_cpu.iter().sum::<u64>();
            }
        }
        Ok(counters)
    }

    /// Counts of `old` go on under `new`, because the same workload continues.
    pub(super) fn carry(&mut self, old: u32, new: u32) -> Result<(), DatapathError> {
        for ((policy, reason), count) in self.read()? {
            if policy != old {
                continue;
            }
            self.carried.remove(&(old, reason));
            *self.carried.entry((new, reason)).or_default() += count;
            let key = CounterKey { policy: old, reason: reason.code() };
            // What is not in the map was carried before.
            match self.map.remove(&Raw(key)) {
                Ok(()) | Err(aya::maps::MapError::KeyNotFound) => {}
                Err(source) => {
                    let hint = "the old policy's counters stay";
                    return Err(DatapathError::Write { name: "COUNTERS", hint, source });
                }
            }
        }
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
