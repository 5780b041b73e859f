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
use crate::datapath::{
    self, Datapath, InterfaceNote, InterfaceRoutes, Listener, Listeners, OriginalDstReader, QuerySockets,
};
use crate::dns::ServerOf;
use crate::enroll::NetworkChanges;
use crate::settings::ExternalProxy;
use crate::workload::{InterfaceName, InterfaceRanges, RedirectPolicy};

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
    network_changes: NetworkChanges,
    /// Those that the policy excludes.
    interfaces: Vec<InterfaceName>,
    /// What was told of them last.
    note: Option<InterfaceNote>,
}

impl Interception {
    /// Loads the programs, which needs privileges; attaches none.
    pub(super) fn prepare(redirect: &RedirectPolicy) -> anyhow::Result<Self> {
        let datapath = Datapath::load()?;
        let netns_cookie = datapath::netns_cookie().context("can't identify the network namespace")?;
        let network_changes = NetworkChanges::subscribe(redirect.asks_routes())?;
        let own_addresses = Arc::new(ArcSwap::from_pointee(OwnAddresses::read()?));
        let interfaces =
            if redirect.asks_routes() { redirect.exclude_interfaces.clone() } else { Vec::new() };
        Ok(Self { datapath, netns_cookie, own_addresses, network_changes, interfaces, note: None })
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
        let policy = &RedirectPolicy { interface_ranges: self.interface_ranges()?, ..policy.clone() };
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
    pub(super) fn refresh_network(&mut self) -> anyhow::Result<()> {
        if self.network_changes.happened()? {
            let (own, ranges) = (OwnAddresses::read()?, self.interface_ranges()?);
            self.datapath.update_network(self.netns_cookie, &own.0, &ranges)?;
            self.own_addresses.store(Arc::new(own));
        }
        Ok(())
    }

    /// What leaves by excluded interfaces now. What is to be told of them is told once.
    fn interface_ranges(&mut self) -> anyhow::Result<InterfaceRanges> {
        let read = InterfaceRoutes::read(&self.interfaces).context("can't read this host's routes")?;
        if let Some(note) = read.note.as_ref().filter(|note| self.note.as_ref() != Some(note)) {
            tracing::warn!("{note}");
        }
        self.note = read.note;
        Ok(read.ranges)
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
        self.network_changes.as_fd()
    }
}

fn open(cgroup: &std::path::Path) -> anyhow::Result<File> {
    File::open(cgroup).with_context(|| format!("can't open the cgroup {}", cgroup.display()))
}
