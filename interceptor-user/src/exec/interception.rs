//! The kernel half of one run: the hooks on the command's cgroup, and what they are told about this host.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Context;

use super::addresses::AddressChanges;
use super::cgroup::Tree;
use super::external;
use super::reports;
use super::stats::KernelStats;
use super::watcher::Watcher;
use crate::datapath::{self, Datapath, Listener, Listeners, OriginalDstReader};
use crate::settings::ExternalProxy;
use crate::workload::RedirectPolicy;

/// A connection is a (source port, address) pair: eight addresses hold some 200,000 open ones.
const ADDRESSES_V4: u16 = 8;
const PORTS_V6: u16 = 8;

/// Redirection in effect for as long as this lives, or the watcher does.
#[derive(Debug)]
pub(super) struct Interception {
    datapath: Datapath,
    netns_cookie: u64,
    address_changes: AddressChanges,
}

impl Interception {
    /// Loads the programs, which needs privileges; attaches none.
    pub(super) fn prepare() -> anyhow::Result<Self> {
        let datapath = Datapath::load()?;
        let netns_cookie = datapath::netns_cookie().context("can't identify the network namespace")?;
        Ok(Self { datapath, netns_cookie, address_changes: AddressChanges::subscribe()? })
    }

    /// Redirects to sockets of ours, which this opens. We must be in the proxy's cgroup already.
    pub(super) fn redirect_to_us(
        &mut self,
        tree: &Tree,
        policy: &RedirectPolicy,
    ) -> anyhow::Result<Listeners> {
        self.datapath.attach_listener(open(&tree.proxy())?)?;
        let listeners =
            Listeners::open(ADDRESSES_V4, PORTS_V6).context("can't open the proxy's listeners")?;
        self.attach(tree, policy, listeners.listener)?;
        Ok(listeners)
    }

    /// Redirects to the user's own proxy, and answers its question for the original destination.
    pub(super) fn redirect_to_external(
        &mut self,
        tree: &Tree,
        policy: &RedirectPolicy,
        proxy: &ExternalProxy,
    ) -> anyhow::Result<()> {
        let found = external::find(proxy)?;
        self.datapath.attach_original_dst(&found.cgroup)?;
        self.attach(tree, policy, found.listener)
    }

    /// Policy first: hooks refuse what they find no policy for.
    fn attach(&mut self, tree: &Tree, policy: &RedirectPolicy, listener: Listener) -> anyhow::Result<()> {
        let own = datapath::own_addresses().context("can't list this host's addresses")?;
        self.datapath.enroll(self.netns_cookie, policy, &own, listener)?;
        reports::follow(&mut self.datapath)?;
        self.datapath.attach_workload(open(&tree.command())?)?;
        Ok(())
    }

    /// Has the watcher keep the hooks in place when we die.
    pub(super) fn outlive_us(&self, watcher: &Watcher) -> anyhow::Result<()> {
        let links = self.datapath.links().context("can't duplicate the hooks' links")?;
        watcher.hold(&links.iter().map(AsFd::as_fd).collect::<Vec<_>>())
    }

    /// To be called when this is readable.
    pub(super) fn refresh_addresses(&mut self) -> anyhow::Result<()> {
        if self.address_changes.happened()? {
            let own = datapath::own_addresses().context("can't list this host's addresses")?;
            self.datapath.update_own_addresses(self.netns_cookie, &own)?;
        }
        Ok(())
    }

    pub(super) fn original_dst_reader(&self) -> OriginalDstReader {
        self.datapath.original_dst_reader()
    }

    pub(super) fn stats(&self) -> anyhow::Result<KernelStats> {
        Ok(KernelStats::new(&self.datapath.counters()?))
    }
}

impl AsFd for Interception {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.address_changes.as_fd()
    }
}

fn open(cgroup: &std::path::Path) -> anyhow::Result<File> {
    File::open(cgroup).with_context(|| format!("can't open the cgroup {}", cgroup.display()))
}
