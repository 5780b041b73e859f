//! The kernel half of one run: the hooks on the command's cgroup, and what they are told about this host.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwap;

use super::cgroup::Tree;
use super::external;
use super::reports;
use super::stats::KernelStats;
use super::watcher::Watcher;
use crate::datapath::{self, Datapath, Listener, Listeners, OriginalDstReader, QuerySockets};
use crate::dns::ServerOf;
use crate::enroll::AddressChanges;
use crate::settings::ExternalProxy;
use crate::workload::RedirectPolicy;

/// A connection is a (source port, address) pair: eight addresses hold some 200,000 open ones.
const ADDRESSES_V4: u16 = 8;
const PORTS_V6: u16 = 8;

/// The addresses of this network namespace.
#[derive(Debug)]
pub(super) struct OwnAddresses(Vec<IpAddr>);

impl OwnAddresses {
    fn read() -> anyhow::Result<Self> {
        datapath::own_addresses().map(Self).context("can't list this host's addresses")
    }

    /// What getsockname(2) shows in place of loopback: the first of the family.
    pub(super) fn first(&self, is_v4: bool) -> Option<IpAddr> {
        self.0.iter().copied().find(|address| address.is_ipv4() == is_v4)
    }
}

/// Our sockets that redirection leads to.
#[derive(Debug)]
pub(super) struct RedirectedTo {
    pub(super) listeners: Listeners,
    /// When DNS is captured.
    pub(super) queries: Option<QuerySockets>,
}

/// Redirection in effect for as long as this lives, or the watcher does.
#[derive(Debug)]
pub(super) struct Interception {
    datapath: Datapath,
    netns_cookie: u64,
    own_addresses: Arc<ArcSwap<OwnAddresses>>,
    address_changes: AddressChanges,
}

impl Interception {
    /// Loads the programs, which needs privileges; attaches none.
    pub(super) fn prepare() -> anyhow::Result<Self> {
        let datapath = Datapath::load()?;
        let netns_cookie = datapath::netns_cookie().context("can't identify the network namespace")?;
        let address_changes = AddressChanges::subscribe()?;
        let own_addresses = Arc::new(ArcSwap::from_pointee(OwnAddresses::read()?));
        Ok(Self { datapath, netns_cookie, own_addresses, address_changes })
    }

    /// Redirects to sockets of ours, which this opens. We must be in the proxy's cgroup already.
    pub(super) fn redirect_to_us(
        &mut self,
        tree: &Tree,
        policy: &RedirectPolicy,
        capture_dns: bool,
    ) -> anyhow::Result<RedirectedTo> {
        self.datapath.attach_listener(open(&tree.proxy())?)?;
        let mut listeners =
            Listeners::open(ADDRESSES_V4, PORTS_V6).context("can't open the proxy's listeners")?;
        let queries = capture_dns
            .then(QuerySockets::open)
            .transpose()
            .context("can't open the sockets that take DNS queries")?;
        listeners.listener.relay_port = queries.as_ref().map_or(0, |queries| queries.port);
        self.attach(tree, policy, listeners.listener)?;
        Ok(RedirectedTo { listeners, queries })
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
        self.datapath.enroll(self.netns_cookie, policy, &self.own_addresses.load().0, listener)?;
        reports::follow(&mut self.datapath)?;
        self.datapath.attach_workload(open(&tree.command())?)?;
        if policy.enforced.is_some() {
            self.datapath.attach_guard(open(&tree.command())?)?;
        }
        if listener.relay_port != 0 {
            self.datapath.attach_dns(open(&tree.command())?)?;
        }
        tracing::info!("connections from {} go to port {}", tree.command().display(), listener.port);
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
            let own = OwnAddresses::read()?;
            self.datapath.update_own_addresses(self.netns_cookie, &own.0)?;
            self.own_addresses.store(Arc::new(own));
        }
        Ok(())
    }

    /// Kept up to date.
    pub(super) fn own_addresses(&self) -> Arc<ArcSwap<OwnAddresses>> {
        Arc::clone(&self.own_addresses)
    }

    pub(super) fn original_dst_reader(&self) -> OriginalDstReader {
        self.datapath.original_dst_reader()
    }

    /// Which name server stands behind a socket of the relay, by its index: IPv4 ones before IPv6 ones.
    pub(super) fn name_servers(&self, ipv4_sockets: usize) -> ServerOf {
        let (reader, netns_cookie) = (self.datapath.name_server_reader(), self.netns_cookie);
        Arc::new(move |index| reader.of_socket(netns_cookie, ipv4_sockets, index))
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
