//! The prefixes of a policy, each with the flags of all that hold it.
//!
//! The kernel's trie finds the longest prefix only, but an exclude wins over an include whatever their lengths: so
//! each entry carries the flags of every shorter one. Only what leaves by an excluded interface is for the longest route to
//! say, whatever the shorter ones say: each entry has it from the longest. IPv4 lives below `::ffff:0:0/96` of the same trie; that prefix
//! gets an entry of its own, so that IPv6 ranges which hold it (`::/0`) say nothing about IPv4.

use std::{collections::BTreeMap, net::IpAddr};

use interceptor_common::{addr::Ip16, policy::PrefixFlags};

use super::Prefix;
use crate::workload::{Cidr, IncludeIpRanges, RedirectPolicy};

const V4_BITS: u8 = 96;

pub(super) fn prefixes(policy: &RedirectPolicy, own_addresses: &[IpAddr]) -> BTreeMap<Prefix, PrefixFlags> {
    let mut prefixes = BTreeMap::new();
    // In the order of said a range comes after all that hold it: those of the last one are on this stack.
    let mut holders: Vec<(Cidr, PrefixFlags)> = Vec::new();
    for (range, Said { flags, leaves }) in everything_said(policy, own_addresses) {
        while holders.last().is_some_and(|(holder, _)| !holder.contains(range.network())) {
            holders.pop();
        }
        let inherited = holders.last().map_or(PrefixFlags::NONE, |(_, flags)| *flags);
        let flags = match leaves {
            None => flags.with(inherited),
            Some(leaves) => {
                let said = if leaves { PrefixFlags::EXCLUDE_INTERFACE } else { PrefixFlags::NONE };
                flags.with(inherited.without(PrefixFlags::EXCLUDE_INTERFACE)).with(said)
            }
        };
        holders.push((range, flags));
        prefixes.insert(prefix(range), flags);
    }
    prefixes
}

/// What is said of one range.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    flags: PrefixFlags,
    /// Whether it leaves by an excluded interface.
    leaves: Option<bool>,
}

/// What is said of each range itself, by network and then by length. All of IPv4 and all of IPv6 are among them even
/// if nothing is said of them: programs know by finding nothing that a policy has been replaced.
fn everything_said(policy: &RedirectPolicy, own_addresses: &[IpAddr]) -> BTreeMap<Cidr, Said> {
    let families: Vec<Cidr> = ["0.0.0.0", "::"].into_iter().filter_map(whole_family).collect();
    let mut said: BTreeMap<Cidr, Said> = families.iter().map(|&range| (range, Said::default())).collect();
    for (range, leaves) in policy.interface_ranges.iter() {
        said.entry(range).or_default().leaves = Some(leaves);
    }
    let mut add = |range: Cidr, flag: PrefixFlags| {
        let flags = &mut said.entry(range).or_default().flags;
        *flags = flags.with(flag);
    };
    for &range in &policy.exclude_ip_ranges {
        add(range, PrefixFlags::EXCLUDE);
    }
    match &policy.include_ip_ranges {
        IncludeIpRanges::List(ranges) => ranges.iter().for_each(|&range| add(range, PrefixFlags::INCLUDE)),
        IncludeIpRanges::All => {
            families.iter().for_each(|&range| add(range, PrefixFlags::INCLUDE));
        }
    }
    if let Some(enforced) = &policy.enforced {
        families.iter().for_each(|&range| add(range, PrefixFlags::ENFORCED));
        for range in enforced.name_servers.iter().filter_map(|address| single(address.to_canonical())) {
            add(range, PrefixFlags::NAME_SERVER);
        }
    }
    for range in own_addresses.iter().filter_map(|address| single(address.to_canonical())) {
        add(range, PrefixFlags::OWN);
    }
    said
}

fn prefix(range: Cidr) -> Prefix {
    let offset = if range.network().is_ipv4() { V4_BITS } else { 0 };
    (Ip16::from(range.network()), offset + range.prefix_len())
}

/// The range that a prefix of the trie stands for.
pub(super) fn range((network, length): Prefix) -> Option<Cidr> {
    let network = IpAddr::from(network);
    let offset = if network.is_ipv4() { V4_BITS } else { 0 };
    Cidr::new(network, length.checked_sub(offset)?)
}

fn whole_family(unspecified: &str) -> Option<Cidr> {
    Cidr::new(unspecified.parse().ok()?, 0)
}

fn single(address: IpAddr) -> Option<Cidr> {
    Cidr::new(address, if address.is_ipv4() { 32 } else { 128 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::KernelPolicy;
    use crate::workload::Enforced;
    use interceptor_common::{
        addr::Port,
        decide::decide,
        flow::Flow,
        policy::PortFlags,
        verdict::{Reason, Verdict},
    };
    use proptest::prelude::*;
    use std::net::SocketAddr;

    /// The kernel's lookup: the longest stored prefix that holds the address.
    fn longest(prefixes: &BTreeMap<Prefix, PrefixFlags>, address: IpAddr) -> Option<PrefixFlags> {
        let bits = |ip: Ip16| u128::from_be_bytes(ip.octets());
        let holds = |&(&(network, length), _): &(&Prefix, &PrefixFlags)| {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            bits(network) & mask == bits(address.into()) & mask
        };
        let found = prefixes.iter().filter(holds).max_by_key(|((_, length), _)| *length);
        found.map(|(_, flags)| *flags)
    }

    /// Istio's order of decisions, straight from what the person wrote.
    fn model(policy: &RedirectPolicy, own: &[IpAddr], address: IpAddr, port: u16) -> Verdict {
        let held_by = |ranges: &[Cidr]| ranges.iter().any(|range| range.contains(address));
        if let Some(enforced) = &policy.enforced {
            return if own.contains(&address) {
                Verdict::Bypass(Reason::OwnAddress)
            } else if enforced.name_servers.contains(&address) && port == 53 {
                Verdict::Bypass(Reason::OwnNameServer)
            } else {
                Verdict::Redirect(Reason::Enforced)
            };
        }
        let included = match &policy.include_ip_ranges {
            IncludeIpRanges::All => true,
            IncludeIpRanges::List(ranges) => held_by(ranges),
        };
        if policy.exclude_ports.contains(&port) {
            Verdict::Bypass(Reason::ExcludedPort)
        } else if own.contains(&address) {
            Verdict::Bypass(Reason::OwnAddress)
        } else if policy.interface_ranges.holding(address).is_some_and(|(_, leaves)| leaves) {
            Verdict::Bypass(Reason::ExcludedInterface)
        } else if held_by(&policy.exclude_ip_ranges) {
            Verdict::Bypass(Reason::ExcludedRange)
        } else if policy.include_ports.contains(&port) {
            Verdict::Redirect(Reason::IncludedPort)
        } else if included {
            Verdict::Redirect(Reason::IncludedRange)
        } else {
            Verdict::Bypass(Reason::NotIncluded)
        }
    }

    /// Addresses so close together that ranges overlap all the time; none of those that are never redirected.
    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (10..12u8, 0..3u8, 0..3u8).prop_map(|(a, b, c)| IpAddr::from([a, b, 0, c])),
            (0..3u16, 0..3u16).prop_map(|(a, b)| IpAddr::from([0x2001, a, 0, 0, 0, 0, 0, b])),
        ]
    }

    fn port() -> impl Strategy<Value = u16> {
        prop_oneof![4 => 0..4u16, 1 => Just(53)]
    }

    fn range() -> impl Strategy<Value = Cidr> {
        (address(), any::<u8>()).prop_map(|(address, length)| {
            let full = if address.is_ipv4() { 32 } else { 128 };
            Cidr::new(address, length % (full + 1)).expect("the length fits the family")
        })
    }

    fn policy() -> impl Strategy<Value = RedirectPolicy> {
        let ranges = || proptest::collection::vec(range(), 0..6);
        let ports = || proptest::collection::vec(0..4u16, 0..3);
        let include = prop_oneof![Just(IncludeIpRanges::All), ranges().prop_map(IncludeIpRanges::List)];
        let servers = proptest::collection::vec(address(), 0..3);
        let enforced = proptest::option::of(servers.prop_map(Enforced::new));
        let routes = proptest::collection::vec((range(), any::<bool>()), 0..6);
        (ranges(), include, ports(), ports(), routes, enforced).prop_map(
            |(exclude_ip_ranges, include_ip_ranges, exclude_ports, include_ports, routes, enforced)| {
                RedirectPolicy {
                    exclude_ip_ranges,
                    include_ip_ranges,
                    exclude_ports,
                    include_ports,
                    exclude_interfaces: Vec::new(),
                    interface_ranges: routes.into_iter().collect(),
                    enforced,
                }
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn trie_and_decision_equal_istios_order(
            policy in policy(),
            own in proptest::collection::vec(address(), 0..3),
            connections in proptest::collection::vec((address(), port()), 1..30),
        ) {
            let kernel = KernelPolicy::new(&policy, &own);
            for (address, port) in connections {
                let ports = kernel.ports.get(&port).copied().unwrap_or(PortFlags::NONE);
                let flow = Flow { destination: address.into(), port: Port(port) };
                let found = longest(&kernel.prefixes, address).expect("a policy knows every address");
                let verdict = decide(&flow, ports, found);
                prop_assert_eq!(kernel.verdict(SocketAddr::new(address, port)), verdict, "{} {}", address, port);
                prop_assert_eq!(verdict, model(&policy, &own, address, port), "{} {}", address, port);
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_read_back_decides_the_same(
            policy in policy(),
            own in proptest::collection::vec(address(), 0..3),
            moved in proptest::collection::vec(address(), 0..3),
            connections in proptest::collection::vec((address(), port()), 1..30),
        ) {
            let kernel = KernelPolicy::new(&policy, &own);
            let expected: std::collections::BTreeSet<IpAddr> = own.iter().copied().collect();
            prop_assert_eq!(kernel.own_addresses().into_iter().collect::<std::collections::BTreeSet<_>>(), expected);
            let read_back = kernel.redirect_policy();
            for own in [own, moved] {
                let (written, read) = (KernelPolicy::new(&policy, &own), KernelPolicy::new(&read_back, &own));
                for &(address, port) in &connections {
                    let to = SocketAddr::new(address, port);
                    prop_assert_eq!(written.verdict(to), read.verdict(to), "{} {:?}", to, read_back);
                }
            }
        }

        /// A program that holds a policy's id while the policy is removed finds what the whole policy says, or nothing.
        #[test]
        fn while_it_is_removed_a_policy_is_whole_or_gone(
            policy in policy(),
            addresses in proptest::collection::vec(address(), 1..10),
        ) {
            let whole = KernelPolicy::new(&policy, &[]);
            let mut left = whole.prefixes.clone();
            for removed in whole.removal_order() {
                left.remove(&removed);
                for &address in &addresses {
                    let found = longest(&left, address);
                    prop_assert!(found.is_none() || found == longest(&whole.prefixes, address));
                }
            }
            prop_assert!(left.is_empty());
        }
    }
}
