//! Keys and values of the maps that programs and agent share. No padding anywhere: the verifier refuses
//! uninitialised bytes in a key, and hashes would differ.

use crate::addr::{Ip16, Port};

/// The version of everything below that stays in the kernel from one agent to the next. Agents of one schema take over
/// each other's maps; so a field that is added, moved or given another meaning needs a new one.
pub const SCHEMA: u32 = 2;

/// The policy of connections from network namespaces that are not enrolled, in events.
pub const NO_POLICY: u32 = 0;

/// The cookie of counters for network namespaces that are not enrolled: no namespace has it.
pub const NOT_ENROLLED: u64 = 0;

/// Addresses and ranges that all policies together may speak of.
pub const PREFIXES_MAX: u32 = 1 << 20;

/// Ports that all policies together may speak of.
pub const PORTS_MAX: u32 = 1 << 16;

/// Connections of all workloads that may wait between connect(2) and the listener's queue.
pub const HANDOVERS_MAX: u32 = 1 << 17;

/// Whether one more connection of a workload may wait there: of `own` that wait already, where its own limit is `own_max` and
/// `all` of all workloads wait. However many take what they get, there is room for one more: a workload has no more than are
/// left for others, half of all when it is alone, a third beside another one that takes what it gets, and so on.
#[inline(always)]
pub const fn may_wait(own: u64, own_max: u32, all: u64) -> bool {
    // What is removed while it is counted can leave a sum that is too small by a few.
    let all = if all > i64::MAX as u64 { 0 } else { all };
    own < own_max as u64 && own < (HANDOVERS_MAX as u64).saturating_sub(all)
}

/// What a policy says about one port.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortFlags(pub u32);

impl PortFlags {
    pub const NONE: Self = Self(0);
    pub const EXCLUDE: Self = Self(1);
    pub const INCLUDE: Self = Self(2);

    #[inline(always)]
    pub const fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    pub const fn with(self, flag: Self) -> Self {
        Self(self.0 | flag.0)
    }
}

/// What a policy says about one prefix, the flags of every shorter prefix that holds it included (but for
/// [`Self::EXCLUDE_INTERFACE`]).
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixFlags(pub u32);

impl PrefixFlags {
    pub const NONE: Self = Self(0);
    pub const EXCLUDE: Self = Self(1);
    pub const INCLUDE: Self = Self(2);
    /// An address of the workload itself.
    pub const OWN: Self = Self(4);
    /// All that leaves the workload goes through the proxy, whatever is excluded: said of all addresses or of none.
    pub const ENFORCED: Self = Self(8);
    /// A name server that an enforced workload may ask itself.
    pub const NAME_SERVER: Self = Self(16);
    /// The workload's routes lead there by an excluded interface. Unlike the others this is not said of what a prefix
    /// holds: a longer route says it anew.
    pub const EXCLUDE_INTERFACE: Self = Self(32);

    #[inline(always)]
    pub const fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    pub const fn with(self, flag: Self) -> Self {
        Self(self.0 | flag.0)
    }

    pub const fn without(self, flag: Self) -> Self {
        Self(self.0 & !flag.0)
    }
}

/// A workload, found by its network namespace's cookie.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkloadEntry {
    /// What getsockname(2) shows on a redirected socket; unspecified: the loopback address stays visible.
    pub own_v4: Ip16,
    pub own_v6: Ip16,
    pub policy: u32,
    /// At most so many connections may wait between connect(2) and accept(2).
    pub handovers_max: u32,
    /// The first port of the listener.
    pub port: Port,
    /// IPv4 connections are spread over 127.0.0.1 … 127.0.0.`spread_v4`; 0: no IPv4 listener.
    pub spread_v4: u16,
    /// IPv6 connections are spread over `[::1]:port` … `[::1]:port+ports_v6-1`; 0: no IPv6 listener.
    pub ports_v6: u16,
    /// Where the relay takes queries to name servers; 0: they are left alone.
    pub relay_port: Port,
}

/// What follows the prefix length in a key of the prefix trie.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixKey {
    /// Big-endian, so that the trie's first 32 bits are the whole policy.
    policy_be: u32,
    address: Ip16,
}

impl PrefixKey {
    /// Bits in front of the address.
    pub const POLICY_BITS: u32 = 32;
    /// The length that matches one address of one policy.
    pub const FULL_BITS: u32 = Self::POLICY_BITS + 128;

    #[inline(always)]
    pub const fn new(policy: u32, address: Ip16) -> Self {
        Self { policy_be: policy.to_be(), address }
    }

    pub const fn policy(&self) -> u32 {
        u32::from_be(self.policy_be)
    }

    pub const fn address(&self) -> Ip16 {
        self.address
    }

    /// How many bits of the address count in a key of this length. None: it is no key of ours.
    pub fn prefix_length(&self, key_length: u32) -> Option<u8> {
        key_length.checked_sub(Self::POLICY_BITS)?.try_into().ok().filter(|length| *length <= 128)
    }
}

/// A port of one policy.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortKey {
    pub policy: u32,
    pub port: u32,
}

/// One counter. Keyed by workload, not by policy: a policy that is replaced takes no counts with it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterKey {
    /// [`NOT_ENROLLED`] for all namespaces together that are not.
    pub netns_cookie: u64,
    pub reason: u32,
    pub unused: u32,
}

/// A connection on its way to the listener. All four of the tuple: listeners spread over several addresses, so the
/// same source port is in use many times at once.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandoverKey {
    pub netns_cookie: u64,
    pub source: Ip16,
    pub destination: Ip16,
    pub source_port: Port,
    pub destination_port: Port,
    pub unused: u32,
}

/// Where a redirected connection was going; the value of an accepted socket's storage.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OriginalDestination {
    pub netns_cookie: u64,
    pub address: Ip16,
    pub policy: u32,
    pub port: Port,
    pub unused: u16,
}

/// The connecting socket's storage, from connect(2) until it closes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Connecting {
    pub original: OriginalDestination,
    /// Meaningful while `handover_open` is 1.
    pub handover: HandoverKey,
    pub handover_open: u32,
    /// The device the application had bound the socket to; 0: none.
    pub bound_ifindex: u32,
}

const _: () = {
    // Whoever changes a size, or what a field means, changes SCHEMA.
    assert!(SCHEMA == 2);
    assert!(size_of::<WorkloadEntry>() == 48);
    assert!(size_of::<PrefixKey>() == 20);
    assert!(size_of::<PortKey>() == 8);
    assert!(size_of::<CounterKey>() == 16);
    assert!(size_of::<HandoverKey>() == 48);
    assert!(size_of::<OriginalDestination>() == 32);
    assert!(size_of::<Connecting>() == 88);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_places_to_wait() {
        let max = u64::from(HANDOVERS_MAX);
        for (own, own_max, all, expected) in [
            (0, 16, 0, true),
            (15, 16, 15, true),
            (16, 16, 16, false),
            (max / 2 - 1, u32::MAX, max / 2 - 1, true),
            (max / 2, u32::MAX, max / 2, false),
            // A third beside another one.
            (max / 3, u32::MAX, 2 * (max / 3), true),
            (max / 3 + 1, u32::MAX, 2 * (max / 3 + 1), false),
            // Whatever others have, for as long as there is one place.
            (0, 16, max - 1, true),
            (0, 16, max, false),
            // Less than nothing.
            (0, 16, u64::MAX, true),
        ] {
            assert_eq!(may_wait(own, own_max, all), expected, "{own} of {own_max}, {all} of all");
        }
    }
}
