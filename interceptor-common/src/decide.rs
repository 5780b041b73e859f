//! The verdict on one connection, as a pure function: called by connect4 and connect6, and tested here.
//!
//! Precedence is Istio's (tools/istio-iptables, nat OUTPUT): excluded ports, then what is never redirected, then
//! excluded ranges, included ports, included ranges; what nothing includes is left alone.

use crate::{
    addr::Ip16,
    flow::Flow,
    policy::{PortFlags, PrefixFlags},
    verdict::{Reason, Verdict},
};

/// `ports` are the policy's flags for the flow's port; `prefix` those of the longest prefix that holds its
/// destination, which carry the flags of every shorter one too. A port that is not found is `NONE`; a policy has
/// something to say of every address.
#[inline(always)]
pub fn decide(flow: &Flow, ports: PortFlags, prefix: PrefixFlags) -> Verdict {
    if ports.has(PortFlags::EXCLUDE) {
        return Verdict::Bypass(Reason::ExcludedPort);
    }
    if let Some(reason) = left_alone(flow.destination) {
        return Verdict::Bypass(reason);
    }
    if prefix.has(PrefixFlags::OWN) {
        return Verdict::Bypass(Reason::OwnAddress);
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
    use crate::addr::Port;
    use core::net::IpAddr;
    use proptest::prelude::*;

    /// The same decision, slow and obvious, from the standard library's idea of addresses.
    fn model(ip: IpAddr, ports: PortFlags, prefix: PrefixFlags) -> Verdict {
        let ip = ip.to_canonical();
        let link_local = match ip {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let ordered = [
            (ports.has(PortFlags::EXCLUDE), Verdict::Bypass(Reason::ExcludedPort)),
            (ip.is_unspecified(), Verdict::Bypass(Reason::Unspecified)),
            (ip.is_loopback(), Verdict::Bypass(Reason::Loopback)),
            (ip.is_multicast(), Verdict::Bypass(Reason::Multicast)),
            (link_local, Verdict::Bypass(Reason::LinkLocal)),
            (prefix.has(PrefixFlags::OWN), Verdict::Bypass(Reason::OwnAddress)),
            (prefix.has(PrefixFlags::EXCLUDE), Verdict::Bypass(Reason::ExcludedRange)),
            (ports.has(PortFlags::INCLUDE), Verdict::Redirect(Reason::IncludedPort)),
            (prefix.has(PrefixFlags::INCLUDE), Verdict::Redirect(Reason::IncludedRange)),
            (true, Verdict::Bypass(Reason::NotIncluded)),
        ];
        ordered.into_iter().find(|(applies, _)| *applies).expect("the last row applies").1
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn equals_the_model(ip in addresses(), port in any::<u16>(), ports in 0..4u32, prefix in 0..8u32) {
            let flow = Flow { destination: ip.into(), port: Port(port) };
            let (ports, prefix) = (PortFlags(ports), PrefixFlags(prefix));
            prop_assert_eq!(decide(&flow, ports, prefix), model(ip, ports, prefix));
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
