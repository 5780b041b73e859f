//! Where a gateway goes for nobody.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::EndpointAddress;

/// Addresses that a name which a client brings (DYNAMIC_DNS) must not lead to at a gateway: those that lead back to it, and
/// always those that only its own host reaches: loopback, link-local (where clouds keep their credentials), multicast and
/// unspecified ones, and where else clouds keep what they tell their machines.
///
/// Where the gateway itself answers nobody sends, however the address is known: a route that leads back runs in circles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffLimits {
    leading_back: BTreeSet<IpAddr>,
    /// Those of its servers, and of its Services.
    ports: BTreeSet<u16>,
}

/// Clouds' services for their own machines, beyond link-local: Amazon's by IPv6, Alibaba's, and Azure's (which also hands out
/// what machines are to trust).
const OF_CLOUDS: [IpAddr; 3] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

impl OffLimits {
    /// `leading_back`: addresses of the gateway, of its Services and of the others behind those; `ports`: where they answer.
    pub fn new(leading_back: impl Iterator<Item = IpAddr>, ports: impl Iterator<Item = u16>) -> Self {
        Self {
            leading_back: leading_back.map(|address| address.to_canonical()).collect(),
            ports: ports.collect(),
        }
    }

    /// Whether a connection there comes to the gateway.
    pub fn leads_back(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let is_here = ip.is_loopback() || ip.is_unspecified() || self.leading_back.contains(&ip);
        is_here && self.ports.contains(&address.port())
    }

    /// Why an endpoint is not sent to where the client itself has named the cluster: that must not lead where only the
    /// gateway's own host comes to.
    pub fn refusal(&self, endpoint: &EndpointAddress) -> Option<String> {
        match endpoint.as_ip() {
            None => Some("a unix socket is nothing that a client chooses".to_owned()),
            Some(address) if self.has(address.ip()) => {
                Some(format!("{address} is where this gateway sends nothing"))
            }
            Some(_) => None,
        }
    }

    pub fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if OF_CLOUDS.contains(&address) {
            return true;
        }
        let is_local = match address {
            IpAddr::V4(v4) => {
                v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.octets()[0] == 0
            }
            IpAddr::V6(v6) => {
                v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local()
            }
        };
        is_local || self.leading_back.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::OffLimits;

    #[test]
    fn what_leads_back_or_stays_on_the_host() {
        let leading_back = ["10.0.0.9", "fd00::9"].map(|text| text.parse().unwrap());
        let off_limits = OffLimits::new(leading_back.into_iter(), [80, 8080].into_iter());
        for (address, expected) in [
            ("10.0.0.9:80", true),
            ("[::ffff:10.0.0.9]:8080", true),
            ("127.0.0.1:80", true),
            ("10.0.0.9:81", false),
            ("127.0.0.1:81", false),
            ("10.0.0.8:80", false),
        ] {
            assert_eq!(off_limits.leads_back(address.parse().unwrap()), expected, "{address}");
        }
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
            ("fd00:ec2::254", true),
            ("100.100.100.200", true),
            ("::ffff:168.63.129.16", true),
            ("100.100.100.201", false),
            ("10.0.0.8", false),
            ("203.0.113.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(off_limits.has(address.parse().unwrap()), expected, "{address}");
        }
    }
}
