//! The verdict on one connection, as a pure function: called by connect4 and connect6, and tested here.
//!
//! Precedence is Istio's (tools/istio-iptables, nat OUTPUT): excluded ports, then what is never redirected, then
//! excluded interfaces (which Istio asks first, and which are left alone all the same), excluded ranges, included ports, included ranges; what nothing includes is left alone. Of an enforced workload nothing
//! is left alone that leaves it, but for its own name servers.

use crate::{
    addr::{Ip16, Port},
    flow::Flow,
    name_server::NAME_SERVER_PORT,
    policy::{PortFlags, PrefixFlags},
    verdict::{Reason, Verdict},
};

/// `ports` are the policy's flags for the flow's port; `prefix` those of the longest prefix that holds its
/// destination, which carry the flags of every shorter one too. A port that is not found is `NONE`; a policy has
/// something to say of every address.
#[inline(always)]
pub fn decide(flow: &Flow, ports: PortFlags, prefix: PrefixFlags) -> Verdict {
    if prefix.has(PrefixFlags::ENFORCED) {
        return match stays_or_asks(flow, prefix) {
            Some(reason) => Verdict::Bypass(reason),
            None => Verdict::Redirect(Reason::Enforced),
        };
    }
    if ports.has(PortFlags::EXCLUDE) {
        return Verdict::Bypass(Reason::ExcludedPort);
    }
    if let Some(reason) = left_alone(flow.destination) {
        return Verdict::Bypass(reason);
    }
    if prefix.has(PrefixFlags::OWN) {
        return Verdict::Bypass(Reason::OwnAddress);
    }
    if prefix.has(PrefixFlags::EXCLUDE_INTERFACE) {
        return Verdict::Bypass(Reason::ExcludedInterface);
    }
    if prefix.has(PrefixFlags::EXCLUDE) {
        return Verdict::Bypass(Reason::ExcludedRange);
    }
    if ports.has(PortFlags::INCLUDE) {
        return Verdict::Redirect(Reason::IncludedPort);
    }
    if prefix.has(PrefixFlags::INCLUDE) {
        return Verdict::Redirect(Reason::IncludedRange);
    }
    Verdict::Bypass(Reason::NotIncluded)
}

/// The verdict on a datagram of a workload that the guard sits on, or on connect(2) of its socket.
#[inline(always)]
pub fn decide_datagram(flow: &Flow, prefix: PrefixFlags) -> Verdict {
    const QUIC_PORT: Port = Port(443);
    match stays_or_asks(flow, prefix) {
        Some(reason) => Verdict::Bypass(reason),
        None if flow.port.0 == QUIC_PORT.0 => Verdict::Deny(Reason::EnforcedQuic),
        None if flow.port.0 == NAME_SERVER_PORT.0 => Verdict::Deny(Reason::EnforcedNameServer),
        None => Verdict::Deny(Reason::EnforcedDatagram),
    }
}

/// Why an enforced workload may reach this without the proxy: it does not leave the workload, or it is a question to a
/// name server of its own.
#[inline(always)]
fn stays_or_asks(flow: &Flow, prefix: PrefixFlags) -> Option<Reason> {
    if flow.destination.is_unspecified() {
        Some(Reason::Unspecified)
    } else if flow.destination.is_loopback() {
        Some(Reason::Loopback)
    } else if prefix.has(PrefixFlags::OWN) {
        Some(Reason::OwnAddress)
    } else if is_question(flow, prefix) {
        Some(Reason::OwnNameServer)
    } else {
        None
    }
}

/// Whether it is for a name server that an enforced workload may ask itself.
#[inline(always)]
pub fn is_question(flow: &Flow, prefix: PrefixFlags) -> bool {
    prefix.has(PrefixFlags::NAME_SERVER) && flow.port.0 == NAME_SERVER_PORT.0
}

/// What becomes of a new socket of a workload that the guard sits on, by what socket(2) asked for: only kinds whose
/// destinations hooks see.
#[inline(always)]
pub fn is_kind_allowed(kind: u32, protocol: u32) -> bool {
    const SOCK_STREAM: u32 = 1;
    const SOCK_DGRAM: u32 = 2;
    const IPPROTO_ICMP: u32 = 1;
    const IPPROTO_TCP: u32 = 6;
    const IPPROTO_UDP: u32 = 17;
    const IPPROTO_ICMPV6: u32 = 58;
    const IPPROTO_MPTCP: u32 = 262;
    match kind {
        SOCK_STREAM => protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP,
        // Echo requests: what the guard lets out of them stays in the workload.
        SOCK_DGRAM => protocol == IPPROTO_UDP || protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6,
        _ => false,
    }
}

/// The verdict on a connection from a network namespace that is not enrolled: its loopback is its own affair
/// (sandboxes and build tools make namespaces that have nothing else), everything else is refused.
#[inline(always)]
pub fn decide_unknown(destination: Ip16) -> Verdict {
    if destination.is_unspecified() {
        Verdict::Bypass(Reason::Unspecified)
    } else if destination.is_loopback() {
        Verdict::Bypass(Reason::Loopback)
    } else {
        Verdict::Deny(Reason::UnknownWorkload)
    }
}

/// The verdict on a connection of a pod about which nobody has decided yet. None: it stays in the pod.
#[inline(always)]
pub fn decide_undecided(destination: Ip16, allow: bool) -> Option<Verdict> {
    if destination.is_unspecified() || destination.is_loopback() {
        None
    } else if allow {
        Some(Verdict::Bypass(Reason::UndecidedAllowed))
    } else {
        Some(Verdict::Deny(Reason::UndecidedRefused))
    }
}

/// Addresses that never leave the host or the link, whatever the policy.
#[inline(always)]
fn left_alone(ip: Ip16) -> Option<Reason> {
    if ip.is_unspecified() {
        return Some(Reason::Unspecified);
    }
    if ip.is_loopback() {
        return Some(Reason::Loopback);
    }
    if ip.is_v4() {
        let word = ip.word(3);
        return match word >> 24 {
            224..=239 => Some(Reason::Multicast),
            169 if word >> 16 == 0xa9fe => Some(Reason::LinkLocal),
            _ => None,
        };
    }
    let first = ip.word(0);
    if first >> 24 == 0xff {
        return Some(Reason::Multicast);
    }
    if first >> 22 == 0xfe80 >> 6 {
        return Some(Reason::LinkLocal);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;
    use proptest::prelude::*;

    /// The same decision, slow and obvious, from the standard library's idea of addresses.
    fn model(ip: IpAddr, port: u16, ports: PortFlags, prefix: PrefixFlags) -> Verdict {
        let ip = ip.to_canonical();
        let link_local = match ip {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let may_ask = prefix.has(PrefixFlags::NAME_SERVER) && port == 53;
        let enforced = [
            (ip.is_unspecified(), Verdict::Bypass(Reason::Unspecified)),
            (ip.is_loopback(), Verdict::Bypass(Reason::Loopback)),
            (prefix.has(PrefixFlags::OWN), Verdict::Bypass(Reason::OwnAddress)),
            (may_ask, Verdict::Bypass(Reason::OwnNameServer)),
            (true, Verdict::Redirect(Reason::Enforced)),
        ];
        let first = |rows: &[(bool, Verdict)]| {
            rows.iter().find(|(applies, _)| *applies).expect("the last row applies").1
        };
        if prefix.has(PrefixFlags::ENFORCED) {
            return first(&enforced);
        }
        let ordered = [
            (ports.has(PortFlags::EXCLUDE), Verdict::Bypass(Reason::ExcludedPort)),
            (ip.is_unspecified(), Verdict::Bypass(Reason::Unspecified)),
            (ip.is_loopback(), Verdict::Bypass(Reason::Loopback)),
            (ip.is_multicast(), Verdict::Bypass(Reason::Multicast)),
            (link_local, Verdict::Bypass(Reason::LinkLocal)),
            (prefix.has(PrefixFlags::OWN), Verdict::Bypass(Reason::OwnAddress)),
            (prefix.has(PrefixFlags::EXCLUDE_INTERFACE), Verdict::Bypass(Reason::ExcludedInterface)),
            (prefix.has(PrefixFlags::EXCLUDE), Verdict::Bypass(Reason::ExcludedRange)),
            (ports.has(PortFlags::INCLUDE), Verdict::Redirect(Reason::IncludedPort)),
            (prefix.has(PrefixFlags::INCLUDE), Verdict::Redirect(Reason::IncludedRange)),
            (true, Verdict::Bypass(Reason::NotIncluded)),
        ];
        first(&ordered)
    }

    /// As [`model`], for datagrams of a guarded workload.
    fn datagram_model(ip: IpAddr, port: u16, prefix: PrefixFlags) -> Verdict {
        match (model(ip, port, PortFlags::NONE, prefix.with(PrefixFlags::ENFORCED)), port) {
            (Verdict::Redirect(_), 443) => Verdict::Deny(Reason::EnforcedQuic),
            (Verdict::Redirect(_), 53) => Verdict::Deny(Reason::EnforcedNameServer),
            (Verdict::Redirect(_), _) => Verdict::Deny(Reason::EnforcedDatagram),
            (verdict, _) => verdict,
        }
    }

    fn ports() -> impl Strategy<Value = u16> {
        prop_oneof![Just(53), Just(443), any::<u16>()]
    }

    /// Random addresses, many of them at the borders that matter.
    fn addresses() -> impl Strategy<Value = IpAddr> {
        let borders = [
            "0.0.0.0",
            "0.0.0.1",
            "126.255.255.255",
            "127.0.0.0",
            "127.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.254.0.0",
            "169.254.255.255",
            "169.255.0.0",
            "223.255.255.255",
            "224.0.0.0",
            "239.255.255.255",
            "240.0.0.0",
            "255.255.255.255",
            "::",
            "::1",
            "::2",
            "::1:0:0",
            "0:0:0:1::1",
            "fe7f:ffff::",
            "fe80::",
            "febf:ffff::1",
            "fec0::",
            "feff::",
            "ff00::",
            "ffff::",
            "::ffff:0.0.0.0",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:224.0.0.1",
            "::fffe:127.0.0.1",
            "::ffff:169.254.169.254",
            "::7f00:1",
        ];
        let borders: std::vec::Vec<IpAddr> =
            borders.iter().map(|text| text.parse().expect("a literal address")).collect();
        prop_oneof![any::<IpAddr>(), proptest::sample::select(borders)]
    }

    #[test]
    fn sockets_that_no_hook_follows_are_not_made() {
        for (what, kind, protocol, expected) in [
            ("TCP", 1, 6, true),
            ("MPTCP", 1, 262, true),
            ("UDP", 2, 17, true),
            ("ping", 2, 1, true),
            ("IPv6 ping", 2, 58, true),
            ("UDP-Lite", 2, 136, false),
            ("L2TP", 2, 115, false),
            ("SCTP", 1, 132, false),
            ("SCTP, one to many", 5, 132, false),
            ("DCCP", 6, 33, false),
            ("raw ICMP", 3, 1, false),
            ("raw TCP", 3, 6, false),
            ("raw IP", 3, 255, false),
        ] {
            assert_eq!(is_kind_allowed(kind, protocol), expected, "{what}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn equals_the_model(ip in addresses(), port in ports(), ports in 0..4u32, prefix in 0..64u32) {
            let flow = Flow { destination: ip.into(), port: Port(port) };
            let (ports, prefix) = (PortFlags(ports), PrefixFlags(prefix));
            prop_assert_eq!(decide(&flow, ports, prefix), model(ip, port, ports, prefix));
            prop_assert_eq!(decide_datagram(&flow, prefix), datagram_model(ip, port, prefix));
        }

        /// What nobody may lose: an enforced workload reaches nothing else without the proxy.
        #[test]
        fn what_leaves_an_enforced_workload_is_redirected_or_a_question(
            ip in addresses(), port in ports(), ports in 0..4u32, prefix in 0..64u32,
        ) {
            let flow = Flow { destination: ip.into(), port: Port(port) };
            let prefix = PrefixFlags(prefix).with(PrefixFlags::ENFORCED);
            let standard = ip.to_canonical();
            let stays = standard.is_loopback() || standard.is_unspecified() || prefix.has(PrefixFlags::OWN);
            let asks = prefix.has(PrefixFlags::NAME_SERVER) && port == 53;
            let tcp_passes = matches!(decide(&flow, PortFlags(ports), prefix), Verdict::Bypass(_));
            let udp_passes = matches!(decide_datagram(&flow, prefix), Verdict::Bypass(_));
            prop_assert_eq!((tcp_passes, udp_passes), (stays || asks, stays || asks));
        }

        #[test]
        fn undecided_pods_reach_their_loopback_and_no_more_unless_allowed(ip in addresses(), allow in any::<bool>()) {
            let standard = ip.to_canonical();
            let expected = match (standard.is_unspecified() || standard.is_loopback(), allow) {
                (true, _) => None,
                (false, true) => Some(Verdict::Bypass(Reason::UndecidedAllowed)),
                (false, false) => Some(Verdict::Deny(Reason::UndecidedRefused)),
            };
            prop_assert_eq!(decide_undecided(ip.into(), allow), expected);
        }

        #[test]
        fn unknown_namespaces_reach_their_loopback_only(ip in addresses()) {
            let standard = ip.to_canonical();
            let expected = match (standard.is_unspecified(), standard.is_loopback()) {
                (true, _) => Verdict::Bypass(Reason::Unspecified),
                (_, true) => Verdict::Bypass(Reason::Loopback),
                (false, false) => Verdict::Deny(Reason::UnknownWorkload),
            };
            prop_assert_eq!(decide_unknown(ip.into()), expected);
        }
    }
}
