//! Addresses and ports as kernel and proxy share them. The only place where byte order is converted.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Any address as 16 bytes in network order; IPv4 as the mapped `::ffff:a.b.c.d`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ip16 {
    /// Four words, each with the byte order of the wire.
    words: [u32; 4],
}

/// The third word of every mapped IPv4 address.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

impl Ip16 {
    pub const UNSPECIFIED: Self = Self { words: [0; 4] };

    /// From one word as the kernel's contexts hold an IPv4 address.
    #[inline(always)]
    pub const fn from_kernel_v4(word: u32) -> Self {
        Self { words: [0, 0, MAPPED, word] }
    }

    /// From four words as the kernel's contexts hold an IPv6 address.
    #[inline(always)]
    pub const fn from_kernel_v6(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// The word to write into a context's IPv4 field.
    #[inline(always)]
    pub const fn kernel_v4(self) -> u32 {
        self.words[3]
    }

    /// The words to write into a context's IPv6 field.
    #[inline(always)]
    pub const fn kernel_v6(self) -> [u32; 4] {
        self.words
    }

    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == MAPPED
    }

    #[inline(always)]
    pub const fn is_unspecified(self) -> bool {
        let zero_tail = self.words[3] == 0;
        self.words[0] == 0
            && self.words[1] == 0
            && (self.words[2] == 0 || self.words[2] == MAPPED)
            && zero_tail
    }

    #[inline(always)]
    pub const fn is_loopback(self) -> bool {
        if self.is_v4() {
            return self.word(3) >> 24 == 127;
        }
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == 0 && self.word(3) == 1
    }

    /// The word at `index` as a number, most significant byte first.
    #[inline(always)]
    pub(crate) const fn word(self, index: usize) -> u32 {
        u32::from_be(self.words[index])
    }

    #[inline(always)]
    pub const fn from_v4(octets: [u8; 4]) -> Self {
        Self::from_kernel_v4(u32::from_ne_bytes(octets))
    }

    pub const fn from_v6(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self {
            words: [
                u32::from_ne_bytes([a, b, c, d]),
                u32::from_ne_bytes([e, f, g, h]),
                u32::from_ne_bytes([i, j, k, l]),
                u32::from_ne_bytes([m, n, o, p]),
            ],
        }
    }

    pub const fn octets(self) -> [u8; 16] {
        let [a, b, c, d] = self.words[0].to_ne_bytes();
        let [e, f, g, h] = self.words[1].to_ne_bytes();
        let [i, j, k, l] = self.words[2].to_ne_bytes();
        let [m, n, o, p] = self.words[3].to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }
}

impl From<IpAddr> for Ip16 {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::from_v4(v4.octets()),
            IpAddr::V6(v6) => Self::from_v6(v6.octets()),
        }
    }
}

/// A mapped address comes back as the IPv4 address it stands for.
impl From<Ip16> for IpAddr {
    fn from(ip: Ip16) -> Self {
        if ip.is_v4() {
            Self::V4(Ipv4Addr::from(ip.kernel_v4().to_ne_bytes()))
        } else {
            Self::V6(Ipv6Addr::from(ip.octets()))
        }
    }
}

/// A port, in host order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port(pub u16);

impl Port {
    /// From `user_port` or `remote_port`: the kernel widens the wire's 16 bits to a word of which the rest is zero,
    /// in front or behind (`user_port` in the low half, sock_ops' `remote_port` in the high half).
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the other half is zero")]
    pub const fn from_kernel(word: u32) -> Self {
        Self(u16::from_be((word | (word >> 16)) as u16))
    }

    /// The word to write into `user_port`.
    #[inline(always)]
    pub const fn kernel(self) -> u32 {
        self.0.to_be() as u32
    }
}

/// The socket address that people and proxies name.
pub fn socket_addr(ip: Ip16, port: Port) -> SocketAddr {
    SocketAddr::new(ip.into(), port.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_address_survives_the_round_trip(ip in any::<IpAddr>()) {
            let expected = match ip {
                IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
                IpAddr::V4(_) => ip,
            };
            prop_assert_eq!(IpAddr::from(Ip16::from(ip)), expected);
            prop_assert_eq!(Ip16::from_v6(Ip16::from(ip).octets()), Ip16::from(ip));
        }

        #[test]
        fn a_port_survives_both_kernel_forms(port in any::<u16>()) {
            prop_assert_eq!(Port::from_kernel(Port(port).kernel()), Port(port));
            prop_assert_eq!(Port::from_kernel(Port(port).kernel() << 16), Port(port));
        }
    }
}
