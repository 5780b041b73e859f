//! What the kernel holds is kept right from time to time, whatever events came.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;

use anyhow::{Context, bail};

use super::control::Control;
use super::pod::{Pod, PodDirectory};
use crate::datapath::{self, CgroupId};

impl Control {
    /// What has to be done from time to time: says that we live, holds what is undecided, and removes what nobody has any
    /// more.
    ///
    /// # Errors
    /// When the programs are gone from the pods: nothing here puts them back, but a start does.
    pub(super) fn keep_kernel(&mut self) -> anyhow::Result<()> {
        if let Some(pins) = self.datapath.lost_pins() {
            bail!(
                "what this agent had pinned in {} is gone (by `interceptor cleanup`?), and with it the programs: pods' connections \
                 go past the proxy; start the agent again",
                pins.display()
            );
        }
        // Since the last look: what is still done in that moment (findings, for one) has had its time.
        if self.is_started() && !std::mem::replace(&mut self.is_at_rest, true) {
            datapath::release_startup_code();
        }
        let kept = self.datapath.beat().map_err(anyhow::Error::from).and_then(|()| self.gate_and_collect());
        let problem = kept.err().map(|error| format!("{error:#}"));
        if let Some(problem) = problem.as_ref().filter(|problem| self.hooks.as_ref() != Some(problem)) {
            tracing::error!("{problem}");
        }
        self.hooks = problem;
        match self.datapath.counters() {
            Ok(counters) => self.shown.counters.store(Arc::new(counters)),
            Err(error) => tracing::warn!("can't read the kernel's counters: {error}"),
        }
        Ok(())
    }

    fn gate_and_collect(&mut self) -> anyhow::Result<()> {
        if !self.gated {
            if !self.is_synced() {
                return Ok(());
            }
            let kubepods = &self.cgroups.kubepods().directory;
            let kubepods =
                File::open(kubepods).with_context(|| format!("can't open {}", kubepods.display()))?;
            self.datapath.gate(kubepods).context("can't hold pods that are not decided yet")?;
            self.gated = true;
            tracing::info!("pods that are not decided yet are held");
        }
        for gone in self.datapath.collect_dead()? {
            self.datapath.decide_again(gone)?;
            self.pods
                .values_mut()
                .filter(|pod| pod.attached.is_some_and(|(id, _)| id == gone))
                .for_each(|pod| pod.attached = None);
        }
        // What an earlier agent has left of pods that went while nobody looked.
        let mut there: BTreeSet<CgroupId> = self.datapath.attached_pods()?.into_iter().collect();
        there.extend(self.pods.values().filter_map(|pod| Some(pod.cgroup.as_ref()?.id)));
        let unknown = self.cgroups.there().iter().filter(|(uid, _)| !self.pods.contains_key(*uid));
        for (_, directory) in unknown {
            let found = PodDirectory::find(directory);
            let found = found.with_context(|| format!("can't look at {}", directory.display()))?;
            there.extend(found.map(|found| found.id));
        }
        for id in self.datapath.described()?.into_keys().filter(|id| !there.contains(id)) {
            self.datapath.decide_again(id)?;
            self.datapath.forget(id)?;
        }
        if self.pods.values().all(Pod::is_settled) {
            self.is_settled = true;
            let carried: BTreeSet<u64> =
                self.pods.values().filter_map(|pod| Some(pod.carried.as_ref()?.netns.cookie)).collect();
            for cookie in self.datapath.enrolled().difference(&carried) {
                self.datapath.unenroll(*cookie)?;
            }
        }
        Ok(())
    }

    /// Everything that was there at the start is served or held.
    pub(super) fn is_started(&self) -> bool {
        self.gated && self.is_settled
    }

    /// Whether everything that was there at the start is known, and dealt with.
    fn is_synced(&self) -> bool {
        self.has_world
            && self.pods_listed
            && self.namespaces_listed
            && self.pods.values().all(|pod| pod.cgroup.is_none() || pod.is_dealt_with())
    }
}
