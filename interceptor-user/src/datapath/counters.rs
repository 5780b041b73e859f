//! Connections per workload and reason.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{MapData, PerCpuHashMap};
use interceptor_common::{
    policy::{CounterKey, NOT_ENROLLED},
    verdict::Reason,
};

use super::{
    Datapath, DatapathError,
    programs::Maps,
    sys::Raw,
    workloads::{absent_is_fine, read_failed},
};

/// One counter; it only grows as long as the workload is enrolled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counter {
    /// The network namespace; 0: all that are not enrolled.
    pub cookie: u64,
    pub reason: Reason,
    pub count: u64,
}

pub(super) struct Counters {
    map: PerCpuHashMap<MapData, Raw<CounterKey>, u64>,
}

impl Counters {
    pub(super) fn take(maps: &mut Maps<'_>) -> Result<Self, DatapathError> {
        Ok(Self { map: maps.take("COUNTERS")? })
    }

    pub(super) fn read(&self) -> Result<Vec<Counter>, DatapathError> {
        // A map that programs write to while it is walked may show an entry twice.
        let mut counts = BTreeMap::new();
        for entry in self.map.iter() {
            let (Raw(key), per_cpu) = entry.map_err(read_failed("COUNTERS"))?;
            if let Some(reason) = Reason::from_code(key.reason) {
                counts.insert((key.netns_cookie, reason), per_cpu.iter().sum());
            }
        }
        Ok(counts.into_iter().map(|((cookie, reason), count)| Counter { cookie, reason, count }).collect())
    }

    /// Forgets what namespaces counted that are not enrolled any more.
    pub(super) fn retain(&mut self, enrolled: &BTreeSet<u64>) -> Result<(), DatapathError> {
        let counted: BTreeSet<u64> = self.read()?.into_iter().map(|counter| counter.cookie).collect();
        for cookie in counted.difference(enrolled).filter(|cookie| **cookie != NOT_ENROLLED) {
            self.remove(*cookie)?;
        }
        Ok(())
    }

    /// Forgets what the namespace has counted.
    pub(super) fn remove(&mut self, cookie: u64) -> Result<(), DatapathError> {
        for reason in Reason::ALL {
            let key = CounterKey { netns_cookie: cookie, reason: reason.code(), unused: 0 };
            absent_is_fine("COUNTERS", self.map.remove(&Raw(key)))?;
        }
        Ok(())
    }
}

impl Datapath {
    /// Every counter that is not zero, by namespace and reason.
    pub fn counters(&self) -> Result<Vec<Counter>, DatapathError> {
        self.counters.read()
    }
}
