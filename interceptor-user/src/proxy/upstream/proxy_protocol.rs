//! The PROXY header (haproxy's proxy-protocol.txt): who the client is and whom it meant, first on a connection.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::snapshot::ProxyProtocol;

const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const V2_PROXY: u8 = 0x21;
const V2_TCP_OVER_IPV4: u8 = 0x11;
const V2_TCP_OVER_IPV6: u8 = 0x21;

pub(super) fn header(version: ProxyProtocol, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
    match version {
        ProxyProtocol::V1 => {
            let ports = format!("{} {}", source.port(), destination.port());
            match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => format!("PROXY TCP4 {from} {to} {ports}\r\n"),
                (from, to) => format!("PROXY TCP6 {} {} {ports}\r\n", v6(from), v6(to)),
            }
            .into_bytes()
        }
        ProxyProtocol::V2 => {
            let mut header = V2_SIGNATURE.to_vec();
            header.push(V2_PROXY);
            match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    header.extend([V2_TCP_OVER_IPV4, 0, 12]);
                    header.extend(from.octets());
                    header.extend(to.octets());
                }
                (from, to) => {
                    header.extend([V2_TCP_OVER_IPV6, 0, 36]);
                    header.extend(v6(from).octets());
                    header.extend(v6(to).octets());
                }
            }
            header.extend(source.port().to_be_bytes());
            header.extend(destination.port().to_be_bytes());
            header
        }
    }
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::header;
    use crate::snapshot::ProxyProtocol;

    /// The examples of the specification's section 2, and headers made by hand from it.
    #[test]
    fn headers() {
        let made = |version, source: &str, destination: &str| {
            header(version, source.parse().unwrap(), destination.parse().unwrap())
        };
        for (source, destination, expected) in [
            ("192.168.0.1:56324", "192.168.0.11:443", "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"),
            ("[::1]:1", "[2001:db8::2]:65535", "PROXY TCP6 ::1 2001:db8::2 1 65535\r\n"),
            ("[::ffff:10.0.0.1]:1", "10.0.0.2:2", "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"),
            ("10.0.0.1:1", "[2001:db8::2]:2", "PROXY TCP6 ::ffff:10.0.0.1 2001:db8::2 1 2\r\n"),
        ] {
            assert_eq!(String::from_utf8(made(ProxyProtocol::V1, source, destination)).unwrap(), expected);
        }
        let v4 = made(ProxyProtocol::V2, "10.0.0.1:258", "10.0.0.2:772");
        assert_eq!(
            v4,
            b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x11\x00\x0c\x0a\x00\x00\x01\x0a\x00\x00\x02\x01\x02\x03\x04"
        );
        let v6 = made(ProxyProtocol::V2, "[::1]:258", "[::2]:772");
        assert_eq!(&v6[12..16], b"\x21\x21\x00\x24");
        assert_eq!((v6.len(), &v6[48..]), (52, &b"\x01\x02\x03\x04"[..]));
    }
}
