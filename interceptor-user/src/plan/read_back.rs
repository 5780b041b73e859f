//! From what the maps hold back to a policy that says the same: for whoever takes over maps that another process
//! wrote, and for people who look at them.

use std::net::IpAddr;

use interceptor_common::policy::{PortFlags, PrefixFlags};

use super::{KernelPolicy, prefixes::range};
use crate::workload::{Cidr, Enforced, IncludeIpRanges, InterfaceRanges, RedirectPolicy};

impl KernelPolicy {
    /// A policy that decides every connection as this does. Ranges inside others that say the same are left out.
    pub fn redirect_policy(&self) -> RedirectPolicy {
        let include = self.ranges(PrefixFlags::INCLUDE);
        let is_everything = include.iter().filter(|range| range.prefix_len() == 0).count() == 2;
        RedirectPolicy {
            exclude_ip_ranges: self.ranges(PrefixFlags::EXCLUDE),
            include_ip_ranges: if is_everything {
                IncludeIpRanges::All
            } else {
                IncludeIpRanges::List(include)
            },
            exclude_ports: self.ports(PortFlags::EXCLUDE),
            include_ports: self.ports(PortFlags::INCLUDE),
            exclude_interfaces: Vec::new(),
            interface_ranges: self.interface_ranges(),
            enforced: self.enforced(),
        }
    }

    /// The workload's own addresses.
    pub fn own_addresses(&self) -> Vec<IpAddr> {
        self.ranges(PrefixFlags::OWN).into_iter().map(|range| range.network()).collect()
    }

    fn enforced(&self) -> Option<Enforced> {
        let is_enforced = self.prefixes.values().any(|flags| flags.has(PrefixFlags::ENFORCED));
        let name_servers = self.ranges(PrefixFlags::NAME_SERVER);
        is_enforced.then(|| Enforced::new(name_servers.into_iter().map(|range| range.network())))
    }

    fn interface_ranges(&self) -> InterfaceRanges {
        let leaves = |flags: &PrefixFlags| flags.has(PrefixFlags::EXCLUDE_INTERFACE);
        let said = self.prefixes.iter().filter_map(|(&prefix, flags)| Some((range(prefix)?, leaves(flags))));
        said.collect()
    }

    /// Ranges that say `flag` and are in no other that does, by address.
    fn ranges(&self, flag: PrefixFlags) -> Vec<Cidr> {
        let said = self.prefixes.iter().filter(|(_, flags)| flags.has(flag));
        let mut ranges: Vec<Cidr> = said.filter_map(|(&prefix, _)| range(prefix)).collect();
        // A range comes after those that hold it.
        ranges.sort_unstable();
        ranges.dedup_by(|range, holder| holder.contains(range.network()));
        ranges
    }

    fn ports(&self, flag: PortFlags) -> Vec<u16> {
        let said = self.ports.iter().filter(|(_, flags)| flags.has(flag));
        said.map(|(&port, _)| port).collect()
    }
}
