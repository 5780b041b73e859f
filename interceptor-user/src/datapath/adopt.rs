//! What an earlier agent left in the pinned maps, taken over. What nobody names any more is removed.

use std::collections::{BTreeMap, BTreeSet};

use interceptor_common::policy::{NO_POLICY, NOT_ENROLLED};

use super::{
    Datapath, DatapathError,
    pins::Pins,
    programs, shape,
    sys::Raw,
    workloads::{Enrolled, Workloads, read_failed},
};
use crate::plan::KernelPolicy;

/// A datapath on pinned maps that another agent may still be writing. Nothing has been changed yet.
#[derive(Debug)]
pub struct Prepared {
    datapath: Datapath,
}

impl Datapath {
    /// Takes over what is pinned below `pins` (usually [`super::DEFAULT_PINS`], on a bpf file system), or makes it.
    /// Nobody else may be writing there: see [`Self::prepare`].
    pub fn open(pins: &std::path::Path) -> Result<Self, DatapathError> {
        Self::prepare(pins)?.adopt()
    }

    /// All of [`Self::open`] that takes time and changes nothing, to be done while the agent before us still runs.
    /// Fails if the pinned maps are not what this binary expects.
    pub fn prepare(pins: &std::path::Path) -> Result<Prepared, DatapathError> {
        super::preflight()?;
        let pins = Pins::create(pins)?;
        // The loader takes pinned maps as they are, so maps of our own say first what is expected.
        shape::compare(&pins, &programs::make_maps(None)?, programs::PINNED)?;
        let ebpf = programs::load(Some(&pins))?;
        Ok(Prepared { datapath: Self::with(ebpf, Some(pins))? })
    }
}

impl Prepared {
    /// Takes over, once the agent before us writes no more. From here on our programs run.
    pub fn adopt(self) -> Result<Datapath, DatapathError> {
        let Self { mut datapath } = self;
        datapath.take_links_of_other_schemas()?;
        datapath.update_links()?;
        datapath.workloads.adopt()?;
        datapath.count_handovers()?;
        let enrolled = datapath.enrolled();
        datapath.counters.retain(&enrolled)?;
        datapath.name_servers.retain(&enrolled)?;
        Ok(datapath)
    }
}

impl Workloads {
    fn adopt(&mut self) -> Result<(), DatapathError> {
        let mut policies = self.read_policies()?;
        self.last_policy = policies.keys().next_back().copied().unwrap_or(NO_POLICY);
        for (cookie, entry) in self.read_entries()? {
            self.last_policy = self.last_policy.max(entry.policy);
            let kernel = policies.remove(&entry.policy).unwrap_or_default();
            self.open_handovers(cookie)?;
            self.enrolled.insert(cookie, Enrolled { policy: kernel.redirect_policy(), kernel, entry });
        }
        for (policy, kernel) in &policies {
            self.remove_policy(*policy, kernel)?;
        }
        for cookie in self.handover_cookies()? {
            if !self.enrolled.contains_key(&cookie) {
                self.remove_handovers(cookie)?;
            }
        }
        Ok(())
    }

    /// Every policy of which anything is there.
    pub(super) fn read_policies(&self) -> Result<BTreeMap<u32, KernelPolicy>, DatapathError> {
        let mut policies: BTreeMap<u32, KernelPolicy> = BTreeMap::new();
        for entry in self.prefixes.iter() {
            let (key, Raw(flags)) = entry.map_err(read_failed("PREFIXES"))?;
            let Raw(prefix) = key.data();
            if let Some(prefix_length) = prefix.prefix_length(key.prefix_len()) {
                let policy = policies.entry(prefix.policy()).or_default();
                policy.prefixes.insert((prefix.address(), prefix_length), flags);
            }
        }
        for entry in self.ports.iter() {
            let (Raw(key), Raw(flags)) = entry.map_err(read_failed("PORTS"))?;
            if let Ok(port) = u16::try_from(key.port) {
                policies.entry(key.policy).or_default().ports.insert(port, flags);
            }
        }
        Ok(policies)
    }

    /// The namespaces that have connections waiting, or a count of them.
    fn handover_cookies(&self) -> Result<BTreeSet<u64>, DatapathError> {
        let counted: Result<BTreeSet<u64>, _> = self.handovers_open.keys().collect();
        let mut cookies = counted.map_err(read_failed("HANDOVERS_OPEN"))?;
        for key in self.handovers.keys() {
            cookies.insert(key.map_err(read_failed("HANDOVERS"))?.0.netns_cookie);
        }
        cookies.remove(&NOT_ENROLLED);
        Ok(cookies)
    }
}
