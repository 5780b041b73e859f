//! The kernel half as the rest of the agent sees it: load, attach, enroll, read. The only module that names aya.
//!
//! A [`Datapath`] owns the programs, their maps and their links. One that was made by [`Datapath::load`] detaches
//! everything when it is dropped, unless somebody else holds the file descriptors that [`Datapath::links`] gives; one
//! that was made by [`Datapath::open`] leaves what it attached to pods, and to its own listeners, pinned. Redirects
//! that stay without a listener refuse the connections.

mod adopt;
mod attach;
mod attached;
mod cleanup;
mod counters;
mod error;
mod events;
mod inspection;
mod links;
mod listeners;
#[cfg(feature = "log")]
mod log;
mod name_servers;
mod netlink;
mod netns;
mod node;
mod original_dst;
mod other_schemas;
mod pins;
mod pod_records;
mod preflight;
mod programs;
mod query_sockets;
mod redirected;
mod room;
mod routes;
mod shape;
pub(crate) mod sock_diag;
mod sys;
mod workloads;

use std::{
    fmt, io,
    os::fd::{AsFd, OwnedFd},
};

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};

pub use adopt::Prepared;
pub use attached::{Attached, ProgramNames, Sharing, attached};
pub use cleanup::{Cleaned, cleanup};
pub use counters::Counter;
pub use error::DatapathError;
pub use events::{ConnectEvent, Events};
pub use inspection::{Inspection, Workload};
pub use links::Besides;
pub use listeners::{LISTENER_PORTS, Listeners, ephemeral_ports};
pub use name_servers::NameServerReader;
pub use netns::{netns_cookie, own_addresses};
pub use node::{NodeSettings, OnAgentDown, Undecided};
pub use original_dst::{OriginalDst, OriginalDstReader};
pub use pins::{CgroupId, DEFAULT_PINS};
pub use pod_records::PodRecord;
pub use preflight::{KERNEL_MIN, kernel_version, preflight};
pub use programs::knows_less_than_kernel;
pub use query_sockets::QuerySockets;
pub use redirected::Redirected;
pub use routes::{InterfaceNote, InterfaceRoutes};
pub use sys::{duplicate_inherited, readable, release_free_memory, release_startup_code};
pub use workloads::Listener;

use counters::Counters;
use name_servers::NameServers;
use node::Node;
use pins::{Pins, Place};
use pod_records::PodRecords;
use programs::Maps;
use room::HandoversAll;
use workloads::Workloads;

/// Programs loaded into the kernel, with their maps and links.
pub struct Datapath {
    ebpf: Ebpf,
    /// None: everything goes with this process.
    pins: Option<Pins>,
    links: Vec<OwnedFd>,
    workloads: Workloads,
    handovers_all: HandoversAll,
    counters: Counters,
    node: Node,
    pod_records: PodRecords,
    original_dst: OriginalDstReader,
    name_servers: NameServers,
    events: Option<RingBuf<MapData>>,
}

impl fmt::Debug for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datapath").field("links", &self.links).finish_non_exhaustive()
    }
}

impl Datapath {
    /// Loads the embedded object into the kernel. Nothing is attached yet.
    pub fn load() -> Result<Self, DatapathError> {
        preflight()?;
        Self::with(programs::load(None)?, None)
    }

    fn with(mut ebpf: Ebpf, pins: Option<Pins>) -> Result<Self, DatapathError> {
        let mut maps = Maps::Object(&mut ebpf);
        let original_dst = OriginalDstReader::take(&mut maps)?;
        let name_servers = NameServers::take(&mut maps)?;
        let counters = Counters::take(&mut maps)?;
        let node = Node::take(&mut maps)?;
        let pod_records = PodRecords::take(&mut maps)?;
        let workloads = Workloads::take(&mut maps)?;
        let handovers_all = HandoversAll::take(&mut maps)?;
        let events = maps.take("EVENTS")?;
        Ok(Self {
            ebpf,
            pins,
            links: Vec::new(),
            workloads,
            handovers_all,
            counters,
            node,
            pod_records,
            original_dst,
            name_servers,
            events: Some(events),
        })
    }

    /// Every connect(2) and bind(2) of sockets made in `cgroup`, or below it, from now on. Sockets of network
    /// namespaces that are not enrolled are refused, so enroll first.
    pub fn attach_workload(&mut self, cgroup: impl AsFd) -> Result<(), DatapathError> {
        self.attach_all(programs::WORKLOAD, &cgroup)
    }

    /// What sockets made in `cgroup`, or below it, send around the proxy from now on is refused: for policies that are
    /// enforced. Before [`Self::attach_dns`], whose programs turn datagrams elsewhere.
    pub fn attach_guard(&mut self, cgroup: impl AsFd) -> Result<(), DatapathError> {
        self.attach_all(programs::GUARD, &cgroup)
    }

    /// Every datagram that sockets made in `cgroup`, or below it, send to a name server from now on goes to the relay
    /// that [`Listener::relay_port`] names.
    pub fn attach_dns(&mut self, cgroup: impl AsFd) -> Result<(), DatapathError> {
        self.attach_all(programs::DNS, &cgroup)
    }

    /// Lets listeners that are made in `cgroup` after this receive original destinations. With pins it is pinned: a
    /// listener that is handed to the next agent is still one of this cgroup, even when that has been removed.
    pub fn attach_listener(&mut self, cgroup: impl AsFd) -> Result<(), DatapathError> {
        if self.pins.is_some() {
            return self.attach_pinned(Place::Listener, cgroup.as_fd(), programs::LISTENER).map(drop);
        }
        self.attach_all(programs::LISTENER, &cgroup)
    }

    /// As [`Self::attach_listener`], and answers getsockopt(SO_ORIGINAL_DST) there.
    pub fn attach_original_dst(&mut self, cgroup: impl AsFd) -> Result<(), DatapathError> {
        self.attach_all(programs::ORIGINAL_DST, &cgroup)
    }

    fn attach_all(
        &mut self,
        names: &'static [&'static str],
        cgroup: &impl AsFd,
    ) -> Result<(), DatapathError> {
        // All or nothing: half the hooks would redirect connections that can't be answered.
        let links: Result<Vec<OwnedFd>, DatapathError> =
            names.iter().map(|name| attach::attach(&self.ebpf, name, cgroup.as_fd())).collect();
        self.links.extend(links?);
        Ok(())
    }

    /// Duplicates of the file descriptors that keep the programs attached.
    pub fn links(&self) -> io::Result<Vec<OwnedFd>> {
        self.links.iter().map(OwnedFd::try_clone).collect()
    }

    /// Reads original destinations; cheap to clone, for any thread.
    pub fn original_dst_reader(&self) -> OriginalDstReader {
        self.original_dst.clone()
    }

    /// Tells which name server a query at the relay is for; cheap to clone, for any thread.
    pub fn name_server_reader(&self) -> NameServerReader {
        self.name_servers.reader.clone()
    }

    /// The stream of events; there is one, and the first caller gets it. Needs a tokio runtime.
    pub fn events(&mut self) -> Result<Option<Events>, DatapathError> {
        self.events.take().map(Events::new).transpose().map_err(DatapathError::Events)
    }
}
