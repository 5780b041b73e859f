//! Where a gateway goes for nobody.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// Addresses that a name which a client brings (DYNAMIC_DNS) must not lead to at a gateway: those that lead back to it, and
/// always those that only its own host reaches: loopback, link-local (where clouds keep their credentials), multicast and
/// unspecified ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffLimits(BTreeSet<IpAddr>);

impl FromIterator<IpAddr> for OffLimits {
    fn from_iter<T: IntoIterator<Item = IpAddr>>(leading_back: T) -> Self {
        Self(leading_back.into_iter().map(|address| address.to_canonical()).collect())
    }
}

impl OffLimits {
    pub fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let is_local = match address {
            IpAddr::V4(v4) => {
                v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.octets()[0] == 0
            }
            IpAddr::V6(v6) => {
                v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local()
            }
        };
        is_local || self.0.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::OffLimits;

    #[test]
    fn what_leads_back_or_stays_on_the_host() {
        let off_limits: OffLimits =
            ["10.0.0.9", "fd00::9"].map(|text| text.parse().unwrap()).into_iter().collect();
        for (address, expected) in [
            ("10.0.0.9", true),
            ("::ffff:10.0.0.9", true),
            ("fd00::9", true),
            ("127.0.0.2", true),
            ("::ffff:127.0.0.1", true),
            ("0.0.0.0", true),
            ("0.1.2.3", true),
            ("169.254.169.254", true),
            ("224.0.0.1", true),
            ("::1", true),
            ("::", true),
            ("fe80::1", true),
            ("ff02::1", true),
            ("10.0.0.8", false),
            ("203.0.113.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(off_limits.has(address.parse().unwrap()), expected, "{address}");
        }
    }
}
