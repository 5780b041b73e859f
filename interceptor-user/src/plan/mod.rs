//! What the kernel's maps should hold for a policy, and the difference to what they hold. Pure.

mod prefixes;
mod read_back;
mod routes;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use interceptor_common::{
    addr::{Ip16, Port},
    decide::decide,
    flow::Flow,
    policy::{PortFlags, PrefixFlags},
    verdict::Verdict,
};

pub use routes::{Route, Table, interface_ranges};

use crate::workload::RedirectPolicy;

/// A prefix as the trie holds it: how many of the 128 bits count.
pub type Prefix = (Ip16, u8);

/// One policy as the maps hold it, without its id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelPolicy {
    pub prefixes: BTreeMap<Prefix, PrefixFlags>,
    pub ports: BTreeMap<u16, PortFlags>,
}

impl KernelPolicy {
    /// `own_addresses` are those of the workload's network namespace; connections to them are left alone.
    pub fn new(policy: &RedirectPolicy, own_addresses: &[IpAddr]) -> Self {
        let mut ports: BTreeMap<u16, PortFlags> = BTreeMap::new();
        for (list, flag) in
            [(&policy.exclude_ports, PortFlags::EXCLUDE), (&policy.include_ports, PortFlags::INCLUDE)]
        {
            for &port in list {
                let flags = ports.entry(port).or_default();
                *flags = flags.with(flag);
            }
        }
        Self { prefixes: prefixes::prefixes(policy, own_addresses), ports }
    }

    /// What the kernel programs decide about a connection to `destination`.
    pub fn verdict(&self, destination: SocketAddr) -> Verdict {
        let flow = Flow { destination: destination.ip().into(), port: Port(destination.port()) };
        let ports = self.ports.get(&destination.port()).copied().unwrap_or(PortFlags::NONE);
        decide(&flow, ports, self.flags_of(destination.ip()).unwrap_or(PrefixFlags::NONE))
    }

    /// Those of the longest prefix that holds the address; `None` while a policy is being removed.
    fn flags_of(&self, address: IpAddr) -> Option<PrefixFlags> {
        let bits = |ip: Ip16| u128::from_be_bytes(ip.octets());
        let lengths = (0..=128_u8).rev();
        let shortened = |length: u8| {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            (Ip16::from_v6((bits(address.into()) & mask).to_be_bytes()), length)
        };
        lengths.map(shortened).find_map(|prefix| self.prefixes.get(&prefix).copied())
    }

    /// The shortest first: at every moment the longest prefix that holds an address is the right one, or none is left
    /// that does.
    pub fn removal_order(&self) -> Vec<Prefix> {
        let mut order: Vec<Prefix> = self.prefixes.keys().copied().collect();
        order.sort_by_key(|(_, length)| *length);
        order
    }
}

/// What turns one set of prefixes into another: first what to write, in this order, then what to remove, in this order. The
/// longest is written first and the shortest removed first, so that each address has its old flags or its new ones at
/// every moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixChanges {
    pub write: Vec<(Prefix, PrefixFlags)>,
    pub remove: Vec<Prefix>,
}

impl PrefixChanges {
    pub fn between(applied: &BTreeMap<Prefix, PrefixFlags>, desired: &BTreeMap<Prefix, PrefixFlags>) -> Self {
        let changed = |(prefix, flags): &(&Prefix, &PrefixFlags)| applied.get(prefix) != Some(*flags);
        let write = desired.iter().filter(changed).map(|(prefix, flags)| (*prefix, *flags));
        let mut write: Vec<(Prefix, PrefixFlags)> = write.collect();
        write.sort_by_key(|((_, length), _)| std::cmp::Reverse(*length));
        let gone = applied.keys().filter(|prefix| !desired.contains_key(prefix)).copied();
        let mut remove: Vec<Prefix> = gone.collect();
        remove.sort_by_key(|(_, length)| *length);
        Self { write, remove }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some_prefixes() -> impl Strategy<Value = BTreeMap<Prefix, PrefixFlags>> {
        let entry = ((0..4u8, 120..=128u8), 1..8u32);
        proptest::collection::btree_map(
            entry.clone().prop_map(|(key, _)| key),
            entry.prop_map(|(_, flags)| flags),
            0..8,
        )
        .prop_map(|map| {
            map.into_iter()
                .map(|((last, length), flags)| {
                    let network = last & u8::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                    ((Ip16::from_v4([10, 0, 0, network]), length), PrefixFlags(flags))
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn applied_changes_give_what_is_desired(before in some_prefixes(), after in some_prefixes()) {
            let changes = PrefixChanges::between(&before, &after);
            let mut state = before;
            state.extend(changes.write);
            for prefix in changes.remove {
                state.remove(&prefix);
            }
            prop_assert_eq!(state, after);
        }

        #[test]
        fn in_between_each_address_has_its_old_flags_or_its_new_ones(
            before in some_prefixes(),
            after in some_prefixes(),
        ) {
            let addresses: Vec<IpAddr> = (0..4u8).map(|last| IpAddr::from([10, 0, 0, last])).collect();
            let flags = |prefixes: &BTreeMap<Prefix, PrefixFlags>| -> Vec<Option<PrefixFlags>> {
                let policy = KernelPolicy { prefixes: prefixes.clone(), ports: BTreeMap::new() };
                addresses.iter().map(|address| policy.flags_of(*address)).collect()
            };
            let (old, new) = (flags(&before), flags(&after));
            let changes = PrefixChanges::between(&before, &after);
            let mut state = before;
            let mut states = vec![state.clone()];
            for (prefix, flags) in changes.write {
                state.insert(prefix, flags);
                states.push(state.clone());
            }
            for prefix in changes.remove {
                state.remove(&prefix);
                states.push(state.clone());
            }
            for state in states {
                for ((now, old), new) in flags(&state).into_iter().zip(&old).zip(&new) {
                    prop_assert!(now == *old || now == *new);
                }
            }
        }

        #[test]
        fn nothing_changes_between_equals(state in some_prefixes()) {
            prop_assert_eq!(PrefixChanges::between(&state, &state), PrefixChanges::default());
        }
    }
}
