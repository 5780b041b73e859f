//! How workloads share the maps that hold something of all of them: none gets so much that there is no room for another.

use std::collections::BTreeSet;

use aya::maps::{Array, MapData};
use interceptor_common::policy::{PORTS_MAX, PREFIXES_MAX};

use super::{
    Datapath, DatapathError,
    programs::Maps,
    sys::Raw,
    workloads::{Workloads, read_failed, write_failed},
};
use crate::plan::KernelPolicy;

/// How many connections of all workloads are between connect(2) and the proxy's queue, as the programs count them.
pub(super) struct HandoversAll(Array<MapData, u64>);

impl HandoversAll {
    pub(super) fn take(maps: &mut Maps<'_>) -> Result<Self, DatapathError> {
        Ok(Self(maps.take("HANDOVERS_ALL")?))
    }
}

impl Datapath {
    /// Sets right what programs can't count: entries that we have removed, and those of an agent whose programs did not.
    /// Connections that begin or end meanwhile make the sum wrong by themselves, until the next time.
    pub(super) fn count_handovers(&mut self) -> Result<(), DatapathError> {
        // Whoever lists them while they change may be told of one again.
        let mut keys = BTreeSet::new();
        for key in self.workloads.handovers.keys() {
            let Raw(key) = key.map_err(read_failed("HANDOVERS"))?;
            let addresses = (key.source.octets(), key.destination.octets());
            keys.insert((key.netns_cookie, addresses, key.source_port.0, key.destination_port.0));
        }
        let waiting = u64::try_from(keys.len()).unwrap_or(u64::MAX);
        self.handovers_all.0.set(0, waiting, 0).map_err(write_failed("HANDOVERS_ALL"))
    }
}

impl Workloads {
    /// Whether a workload may have this policy: of the entries that there are for all policies no more than are left for
    /// others' (half of all when it is alone, and so on), or than it had.
    pub(super) fn require_room(
        &self,
        cookie: u64,
        had: Option<&KernelPolicy>,
        kernel: &KernelPolicy,
    ) -> Result<(), DatapathError> {
        let others = || self.enrolled.iter().filter(|(other, _)| **other != cookie);
        let all: usize = others().map(|(_, other)| other.kernel.prefixes.len()).sum();
        let (own, before) = (kernel.prefixes.len(), had.map_or(0, |had| had.prefixes.len()));
        if !may_have(own, before, PREFIXES_MAX, all) {
            return Err(DatapathError::NoRoom { name: "PREFIXES", own, what: "addresses and ranges" });
        }
        let all: usize = others().map(|(_, other)| other.kernel.ports.len()).sum();
        let (own, before) = (kernel.ports.len(), had.map_or(0, |had| had.ports.len()));
        if !may_have(own, before, PORTS_MAX, all) {
            return Err(DatapathError::NoRoom { name: "PORTS", own, what: "ports" });
        }
        Ok(())
    }
}

fn may_have(own: usize, before: usize, max: u32, others: usize) -> bool {
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    own <= before || own <= max.saturating_sub(others) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_entries() {
        for (own, before, others, expected) in [
            (0, 0, 12, true),
            (6, 0, 0, true),
            (7, 0, 0, false),
            (3, 0, 6, true),
            (4, 0, 6, false),
            (1, 0, 10, true),
            (1, 0, 11, false),
            // Others came since.
            (6, 6, 4, true),
            (7, 6, 4, false),
        ] {
            assert_eq!(may_have(own, before, 12, others), expected, "{own} after {before} beside {others}");
        }
    }
}
