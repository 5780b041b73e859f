//! Which network namespaces are enrolled, with which policy. Writes the maps that programs read.
//!
//! A changed policy gets a new id, is written whole, and then the workload's entry is flipped: programs see the old
//! one or the new one, never half of one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use aya::maps::{HashMap, LpmTrie, MapData, MapError, lpm_trie};
use interceptor_common::{
    addr::{Ip16, Port},
    policy::{
        HandoverKey, NO_POLICY, OriginalDestination, PortFlags, PortKey, PrefixFlags, PrefixKey,
        WorkloadEntry,
    },
};

use super::{Datapath, DatapathError, programs::Maps, sys::Raw};
use crate::{
    plan::{KernelPolicy, Prefix, PrefixChanges},
    workload::{InterfaceRanges, RedirectPolicy},
};

/// So many connections of one workload may wait between connect(2) and the listener's queue; more are refused.
const HANDOVERS_MAX: u32 = 16_384;

/// Where the workload's connections go: the loopback addresses that the proxy's sockets take in its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    pub port: u16,
    /// 127.0.0.1 … 127.0.0.`spread_v4`, all at `port`; at most 254; 0: no IPv4.
    pub spread_v4: u16,
    /// `[::1]:port` … `[::1]:port+ports_v6-1`; 0: no IPv6.
    pub ports_v6: u16,
    /// Where the relay takes queries to name servers (see [`super::QuerySockets`]); 0: DNS is not captured.
    pub relay_port: u16,
}

/// What was written for one workload.
#[derive(Debug)]
pub(super) struct Enrolled {
    pub(super) policy: RedirectPolicy,
    pub(super) kernel: KernelPolicy,
    pub(super) entry: WorkloadEntry,
}

#[derive(Debug)]
pub(super) struct Workloads {
    workloads: HashMap<MapData, u64, Raw<WorkloadEntry>>,
    pub(super) prefixes: LpmTrie<MapData, Raw<PrefixKey>, Raw<PrefixFlags>>,
    pub(super) ports: HashMap<MapData, Raw<PortKey>, Raw<PortFlags>>,
    pub(super) handovers_open: HashMap<MapData, u64, u64>,
    pub(super) handovers: HashMap<MapData, Raw<HandoverKey>, Raw<OriginalDestination>>,
    pub(super) enrolled: BTreeMap<u64, Enrolled>,
    /// Policies written so far; ids are not used again.
    pub(super) last_policy: u32,
}

impl Workloads {
    pub(super) fn take(maps: &mut Maps<'_>) -> Result<Self, DatapathError> {
        Ok(Self {
            workloads: maps.take("WORKLOADS")?,
            prefixes: maps.take("PREFIXES")?,
            ports: maps.take("PORTS")?,
            handovers_open: maps.take("HANDOVERS_OPEN")?,
            handovers: maps.take("HANDOVERS")?,
            enrolled: BTreeMap::new(),
            last_policy: NO_POLICY,
        })
    }

    fn write_policy(&mut self, policy: u32, kernel: &KernelPolicy) -> Result<(), DatapathError> {
        for (&prefix, &flags) in &kernel.prefixes {
            self.write_prefix(policy, prefix, flags)?;
        }
        for (&port, &flags) in &kernel.ports {
            let key = Raw(PortKey { policy, port: port.into() });
            self.ports.insert(key, Raw(flags), 0).map_err(write_failed("PORTS"))?;
        }
        Ok(())
    }

    /// Has the namespace's connections go by this entry, and begins to count those that wait if it had none.
    fn turn_to(&mut self, cookie: u64, entry: WorkloadEntry) -> Result<(), DatapathError> {
        let is_new = !self.enrolled.contains_key(&cookie);
        if is_new {
            self.open_handovers(cookie)?;
        }
        let turned = self.workloads.insert(cookie, Raw(entry), 0).map_err(write_failed("WORKLOADS"));
        if turned.is_err() && is_new {
            absent_is_fine("HANDOVERS_OPEN", self.handovers_open.remove(&cookie))?;
        }
        turned
    }

    pub(super) fn remove_policy(&mut self, policy: u32, kernel: &KernelPolicy) -> Result<(), DatapathError> {
        for prefix in kernel.removal_order() {
            self.remove_prefix(policy, prefix)?;
        }
        // After all prefixes: whoever misses a port finds no prefix either.
        for &port in kernel.ports.keys() {
            absent_is_fine("PORTS", self.ports.remove(&Raw(PortKey { policy, port: port.into() })))?;
        }
        Ok(())
    }

    /// Writes what has become of `enrolled`, which knows what the maps hold also when this fails.
    fn update(
        &mut self,
        cookie: u64,
        enrolled: &mut Enrolled,
        own_addresses: &[IpAddr],
    ) -> Result<(), DatapathError> {
        let desired = KernelPolicy::new(&enrolled.policy, own_addresses);
        self.require_room(cookie, Some(&enrolled.kernel), &desired)?;
        let changes = PrefixChanges::between(&enrolled.kernel.prefixes, &desired.prefixes);
        let policy = enrolled.entry.policy;
        for (prefix, flags) in changes.write {
            self.write_prefix(policy, prefix, flags)?;
            enrolled.kernel.prefixes.insert(prefix, flags);
        }
        self.workloads.insert(cookie, Raw(enrolled.entry), 0).map_err(write_failed("WORKLOADS"))?;
        for prefix in changes.remove {
            self.remove_prefix(policy, prefix)?;
            enrolled.kernel.prefixes.remove(&prefix);
        }
        Ok(())
    }

    fn write_prefix(&mut self, policy: u32, prefix: Prefix, flags: PrefixFlags) -> Result<(), DatapathError> {
        self.prefixes.insert(&prefix_key(policy, prefix), Raw(flags), 0).map_err(write_failed("PREFIXES"))
    }

    fn remove_prefix(&mut self, policy: u32, prefix: Prefix) -> Result<(), DatapathError> {
        absent_is_fine("PREFIXES", self.prefixes.remove(&prefix_key(policy, prefix)))
    }

    /// Begins to count the namespace's connections that wait, or goes on.
    pub(super) fn open_handovers(&mut self, cookie: u64) -> Result<(), DatapathError> {
        const BPF_NOEXIST: u64 = 1;
        match self.handovers_open.insert(cookie, 0, BPF_NOEXIST) {
            Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(()),
            opened => opened.map_err(write_failed("HANDOVERS_OPEN")),
        }
    }

    pub(super) fn read_entries(&self) -> Result<BTreeMap<u64, WorkloadEntry>, DatapathError> {
        let entries: Result<_, MapError> =
            self.workloads.iter().map(|entry| entry.map(|(cookie, Raw(entry))| (cookie, entry))).collect();
        entries.map_err(read_failed("WORKLOADS"))
    }

    /// Those of connections whose hooks are gone already, and the count of them.
    pub(super) fn remove_handovers(&mut self, cookie: u64) -> Result<(), DatapathError> {
        // A handover that ends from now on finds no count to take itself from, and needs none.
        absent_is_fine("HANDOVERS_OPEN", self.handovers_open.remove(&cookie))?;
        let keys: Result<Vec<_>, MapError> = self.handovers.keys().collect();
        let keys = keys.map_err(read_failed("HANDOVERS"))?;
        for key in keys.into_iter().filter(|Raw(key)| key.netns_cookie == cookie) {
            absent_is_fine("HANDOVERS", self.handovers.remove(&key))?;
        }
        Ok(())
    }
}

impl Datapath {
    /// Applies `policy` to every connection of the network namespace `cookie`, and returns the policy's id. Called
    /// again for a namespace it replaces the policy in one step.
    pub fn enroll(
        &mut self,
        cookie: u64,
        policy: &RedirectPolicy,
        own_addresses: &[IpAddr],
        listener: Listener,
    ) -> Result<u32, DatapathError> {
        let kernel = KernelPolicy::new(policy, own_addresses);
        let workloads = &mut self.workloads;
        let had = workloads.enrolled.get(&cookie).map(|had| &had.kernel);
        workloads.require_room(cookie, had, &kernel)?;
        workloads.last_policy += 1;
        let id = workloads.last_policy;
        let entry = entry(id, own_addresses, listener);

        let written = workloads.write_policy(id, &kernel).and_then(|()| workloads.turn_to(cookie, entry));
        if let Err(error) = written {
            // The workload keeps what it had; what was written of the new policy goes.
            workloads.remove_policy(id, &kernel)?;
            return Err(error);
        }
        let enrolled = Enrolled { policy: policy.clone(), kernel, entry };
        if let Some(old) = workloads.enrolled.insert(cookie, enrolled) {
            workloads.remove_policy(old.entry.policy, &old.kernel)?;
        }
        Ok(id)
    }

    /// Forgets the network namespace, and what it has counted. From the first step on its connections are refused
    /// wherever hooks are attached, so detach them first. A namespace that is not enrolled is none of our concern.
    pub fn unenroll(&mut self, cookie: u64) -> Result<(), DatapathError> {
        let workloads = &mut self.workloads;
        absent_is_fine("WORKLOADS", workloads.workloads.remove(&cookie))?;
        if let Some(enrolled) = workloads.enrolled.get(&cookie) {
            let (policy, kernel) = (enrolled.entry.policy, enrolled.kernel.clone());
            workloads.remove_policy(policy, &kernel)?;
        }
        workloads.remove_handovers(cookie)?;
        self.count_handovers()?;
        self.name_servers.remove(cookie)?;
        self.counters.remove(cookie)?;
        self.workloads.enrolled.remove(&cookie);
        Ok(())
    }

    /// The namespace's addresses or routes changed; its policy stays.
    pub fn update_network(
        &mut self,
        cookie: u64,
        own_addresses: &[IpAddr],
        interface_ranges: &InterfaceRanges,
    ) -> Result<(), DatapathError> {
        let workloads = &mut self.workloads;
        let Some(mut enrolled) = workloads.enrolled.remove(&cookie) else {
            return Err(DatapathError::NotEnrolled { netns_cookie: cookie });
        };
        enrolled.policy.interface_ranges = interface_ranges.clone();
        (enrolled.entry.own_v4, enrolled.entry.own_v6) = first_of_each_family(own_addresses);
        let updated = workloads.update(cookie, &mut enrolled, own_addresses);
        workloads.enrolled.insert(cookie, enrolled);
        updated
    }

    /// The first port of the listener that the namespace's connections go to, whichever agent said so; `None`: it is not
    /// enrolled.
    pub fn listener_port(&self, cookie: u64) -> Result<Option<u16>, DatapathError> {
        match self.workloads.workloads.get(&cookie, 0) {
            Ok(Raw(entry)) => Ok(Some(entry.port.0)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(read_failed("WORKLOADS")(error)),
        }
    }

    /// How many connections are between connect(2) and the proxy's queue, in all namespaces.
    pub fn handovers_waiting(&self) -> Result<u64, DatapathError> {
        let mut waiting = 0;
        for key in self.workloads.handovers.keys() {
            key.map_err(read_failed("HANDOVERS"))?;
            waiting += 1;
        }
        Ok(waiting)
    }

    /// As the programs count them, for one namespace: new connections are refused when they are too many.
    pub fn handovers_open(&self, cookie: u64) -> Result<u64, DatapathError> {
        let open = self.workloads.handovers_open.get(&cookie, 0);
        open.map_err(read_failed("HANDOVERS_OPEN"))
    }

    /// The cookies of all enrolled network namespaces.
    pub fn enrolled(&self) -> BTreeSet<u64> {
        self.workloads.enrolled.keys().copied().collect()
    }
}

fn entry(policy: u32, own_addresses: &[IpAddr], listener: Listener) -> WorkloadEntry {
    let (own_v4, own_v6) = first_of_each_family(own_addresses);
    WorkloadEntry {
        own_v4,
        own_v6,
        policy,
        handovers_max: HANDOVERS_MAX,
        port: Port(listener.port),
        spread_v4: listener.spread_v4.min(254),
        ports_v6: listener.ports_v6,
        relay_port: Port(listener.relay_port),
    }
}

/// A family without any address has no route either; programs know it by the unspecified address.
fn first_of_each_family(own_addresses: &[IpAddr]) -> (Ip16, Ip16) {
    let first = |is_v4: bool| {
        let found = own_addresses.iter().map(|address| Ip16::from(*address)).find(|ip| ip.is_v4() == is_v4);
        found.unwrap_or(Ip16::UNSPECIFIED)
    };
    (first(true), first(false))
}

fn prefix_key(policy: u32, (address, bits): Prefix) -> lpm_trie::Key<Raw<PrefixKey>> {
    lpm_trie::Key::new(PrefixKey::POLICY_BITS + u32::from(bits), Raw(PrefixKey::new(policy, address)))
}

pub(super) fn write_failed(name: &'static str) -> impl FnOnce(MapError) -> DatapathError {
    move |source| {
        let hint = match errno(&source) {
            Some(libc::ENOSPC | libc::E2BIG) => "it is full; enroll fewer workloads or shorten the lists",
            Some(libc::ENOMEM) => "the kernel has no memory for it",
            _ => "the kernel refused",
        };
        DatapathError::Write { name, hint, source }
    }
}

pub(super) fn read_failed(name: &'static str) -> impl FnOnce(MapError) -> DatapathError {
    move |source| DatapathError::Read { name, source }
}

fn errno(error: &MapError) -> Option<i32> {
    if let MapError::SyscallError(error) = error { error.io_error.raw_os_error() } else { None }
}

/// Removes what may be gone already.
pub(super) fn absent_is_fine(name: &'static str, removed: Result<(), MapError>) -> Result<(), DatapathError> {
    match removed {
        Err(MapError::KeyNotFound) | Ok(()) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(source) => Err(write_failed(name)(source)),
    }
}
