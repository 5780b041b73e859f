//! Name servers of a workload whose DNS is captured: each gets a stand-in on loopback, where a relay takes queries, and
//! by which answers are mapped back. One stand-in for each, because a resolver may ask several servers from one
//! socket and looks at where an answer came from.

use crate::addr::{Ip16, Port};

/// Where name servers listen.
pub const NAME_SERVER_PORT: Port = Port(53);

/// How many name servers of one workload are told apart: IPv4 ones by address, 127.0.53.1 …, and IPv6 ones by the port
/// of `[::1]`. More are asked directly.
pub const SLOTS_V4: u16 = 32;
pub const SLOTS_V6: u16 = 8;

/// A name server's place among those of its workload.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameServerKey {
    pub netns_cookie: u64,
    pub slot: u32,
    /// 1: an IPv6 name server.
    pub is_v6: u32,
}

const _: () = assert!(size_of::<NameServerKey>() == 16);

impl NameServerKey {
    #[inline(always)]
    pub const fn new(netns_cookie: u64, slot: u16, is_v6: bool) -> Self {
        Self { netns_cookie, slot: slot as u32, is_v6: is_v6 as u32 }
    }
}

/// Whether queries to this address can be captured: to one server, in a scope that an address alone names. Loopback is
/// among them, because that is where local resolvers listen.
#[inline(always)]
pub const fn is_name_server(address: Ip16) -> bool {
    let first = address.word(0);
    let is_v4_multicast = address.is_v4() && address.word(3) >> 28 == 0xe;
    let is_v4_broadcast = address.is_v4() && address.word(3) == u32::MAX;
    let is_v6_multicast = first >> 24 == 0xff;
    let is_v6_link_local = first >> 22 == 0xfe80 >> 6;
    !(address.is_unspecified() || is_v4_multicast || is_v4_broadcast || is_v6_multicast || is_v6_link_local)
}

/// Where the search for a server's slot begins; the next ones follow, round to the first.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a remainder of a u16")]
pub const fn first_slot(server: Ip16, slots: u16) -> u16 {
    let mixed = server.word(0)
        ^ server.word(1).rotate_left(8)
        ^ server.word(2).rotate_left(16)
        ^ server.word(3).wrapping_mul(0x9e37_79b1);
    let mixed = mixed ^ (mixed >> 16);
    match mixed.checked_rem(slots as u32) {
        Some(slot) => slot as u16,
        None => 0,
    }
}

/// The address that an IPv4 server in `slot` has on loopback.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "slots are fewer than 254")]
pub const fn stand_in_v4(slot: u16) -> Ip16 {
    Ip16::from_v4([127, 0, 53, (slot as u8).wrapping_add(1)])
}

/// The slot whose stand-in this is.
#[inline(always)]
pub const fn slot_of_v4(address: Ip16) -> Option<u16> {
    let word = address.word(3);
    let last = (word & 0xff) as u16;
    let is_stand_in = address.is_v4() && word >> 8 == 0x007f_0035 && last >= 1 && last <= SLOTS_V4;
    if is_stand_in { Some(last - 1) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{collections::BTreeSet, net::IpAddr};

    fn ip(text: &str) -> Ip16 {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn stand_ins_are_distinct_and_found_again() {
        let all: BTreeSet<Ip16> = (0..SLOTS_V4).map(stand_in_v4).collect();
        assert_eq!(all.len(), usize::from(SLOTS_V4));
        for slot in 0..SLOTS_V4 {
            assert_eq!(slot_of_v4(stand_in_v4(slot)), Some(slot));
        }
        for other in ["127.0.53.0", "127.0.53.33", "127.0.52.1", "::1", "::", "8.8.8.8", "fd00::7f00:3501"] {
            assert_eq!(slot_of_v4(ip(other)), None, "{other}");
        }
    }

    #[test]
    fn one_server_at_one_place() {
        for (address, expected) in [
            ("8.8.8.8", true),
            ("127.0.0.53", true),
            ("169.254.169.253", true),
            ("::1", true),
            ("2001:db8::53", true),
            ("fd00::10", true),
            ("0.0.0.0", false),
            ("::", false),
            ("::ffff:0.0.0.0", false),
            ("224.0.0.251", false),
            ("255.255.255.255", false),
            ("fe80::1", false),
            ("ff02::fb", false),
        ] {
            assert_eq!(is_name_server(ip(address)), expected, "{address}");
        }
    }

    proptest! {
        #[test]
        fn a_slot_is_one_of_those_there_are(address in any::<IpAddr>(), slots in 1..=SLOTS_V4) {
            prop_assert!(first_slot(address.into(), slots) < slots);
        }
    }

    #[test]
    fn neighbours_are_spread() {
        let used: BTreeSet<u16> =
            (1..=32_u8).map(|last| first_slot(Ip16::from_v4([10, 0, 0, last]), SLOTS_V4)).collect();
        assert!(used.len() > 12, "{used:?}");
    }
}
