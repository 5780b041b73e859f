//! What a person says about which connections of a workload are redirected, parsed as Istio's annotations are.
//! Pure: the strings come in, values or one clear sentence come out. And who a workload is ([`SourceWorkload`]).

mod annotations;
mod interfaces;
mod source;
mod spiffe_id;

use std::{collections::BTreeSet, fmt, net::IpAddr, str::FromStr};

pub use annotations::{Annotation, AnnotationError};
pub use interfaces::{InterfaceName, InterfaceRanges, parse_interfaces};
pub use source::SourceWorkload;
pub use spiffe_id::SpiffeId;

use serde::{Serialize, Serializer};

/// Which outbound connections go to the proxy. The default is Istio's: all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RedirectPolicy {
    pub exclude_ip_ranges: Vec<Cidr>,
    pub include_ip_ranges: IncludeIpRanges,
    pub exclude_ports: Vec<u16>,
    pub include_ports: Vec<u16>,
    pub exclude_interfaces: Vec<InterfaceName>,
    /// What the routes of the workload's network namespace make of `exclude_interfaces`.
    pub interface_ranges: InterfaceRanges,
    /// All that leaves the workload goes through the proxy, whatever the others say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforced: Option<Enforced>,
}

/// What an enforced workload may reach beside its proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Enforced {
    /// Sorted, each once.
    pub name_servers: Vec<IpAddr>,
}

impl RedirectPolicy {
    /// Whether the workload's routes have a say.
    pub fn asks_routes(&self) -> bool {
        !self.exclude_interfaces.is_empty() && self.enforced.is_none()
    }
}

impl Enforced {
    pub fn new(name_servers: impl IntoIterator<Item = IpAddr>) -> Self {
        let each: BTreeSet<IpAddr> = name_servers.into_iter().map(|server| server.to_canonical()).collect();
        Self { name_servers: each.into_iter().collect() }
    }
}

/// Istio's includeOutboundIPRanges: `*`, or a list; an empty list redirects nothing by address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum IncludeIpRanges {
    #[default]
    All,
    List(Vec<Cidr>),
}

/// An IP range. Bits behind the prefix are zero; what was written with others (`10.10.0.4/16`) means the same range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    network: IpAddr,
    prefix_len: u8,
}

/// Why a list of ranges or ports can't be read: one sentence, with what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error(
        "{text:?} is not an IP range: expected ADDRESS/LENGTH without spaces, such as 10.0.0.0/8 or fd00::/8"
    )]
    Range { text: String },
    #[error("{text:?} has no prefix length: write {text}/{full} for this one address")]
    NoLength { text: String, full: u8 },
    #[error("{text:?} has a wrong prefix length: an {family} range takes 0 to {full}, without leading zeros")]
    Length { text: String, family: &'static str, full: u8 },
    #[error("{text:?} is an IPv4 range in IPv6 form: write it as IPv4, such as 10.0.0.0/8")]
    Mapped { text: String },
    #[error("an item of the list {list:?} is empty: remove the extra comma")]
    EmptyItem { list: String },
    #[error(
        "{text:?} is not a list of ranges to exclude: `*` is for includes only; write 0.0.0.0/0,::/0 to exclude all"
    )]
    StarExcluded { text: String },
    #[error("{text:?} mixes `*` with ranges: write `*` alone for all addresses, or only ranges")]
    StarMixed { text: String },
    #[error(
        "{text:?} is not a port: expected a decimal number from 0 to 65535; port ranges are not supported"
    )]
    Port { text: String },
    #[error(
        "{text:?} is not the name of a network interface: expected at most 15 bytes without spaces, '/' or ':', such as \
         net1 (or net+ for all that begin so)"
    )]
    Interface { text: String },
}

/// As it is written in an annotation.
impl Serialize for IncludeIpRanges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("*"),
            Self::List(ranges) => ranges.serialize(serializer),
        }
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Cidr {
    /// Keeps the first `prefix_len` bits of `address`; None if the family has fewer.
    pub fn new(address: IpAddr, prefix_len: u8) -> Option<Self> {
        let network = match address {
            IpAddr::V4(v4) if prefix_len <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0);
                IpAddr::V4((v4.to_bits() & mask).into())
            }
            IpAddr::V6(v6) if prefix_len <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix_len)).unwrap_or(0);
                IpAddr::V6((v6.to_bits() & mask).into())
            }
            IpAddr::V4(_) | IpAddr::V6(_) => return None,
        };
        Some(Self { network, prefix_len })
    }

    pub fn network(&self) -> IpAddr {
        self.network
    }

    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// Families never mix: `::/0` holds no IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.network.is_ipv4() == address.is_ipv4()
            && Self::new(address, self.prefix_len).is_some_and(|masked| masked.network == self.network)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_len)
    }
}

/// As strict as Go's netip.ParsePrefix, which Istio uses: no bare address, no spaces, no zone.
impl FromStr for Cidr {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let malformed = || ParseError::Range { text: text.to_owned() };
        let Some((address, length)) = text.split_once('/') else {
            let address: IpAddr = text.parse().map_err(|_not_even_an_address| malformed())?;
            return Err(ParseError::NoLength { text: text.to_owned(), full: full_length(address) });
        };
        let address: IpAddr = address.parse().map_err(|_not_an_address| malformed())?;
        if address.to_canonical() != address {
            return Err(ParseError::Mapped { text: text.to_owned() });
        }
        let wrong_length = || ParseError::Length {
            text: text.to_owned(),
            family: if address.is_ipv4() { "IPv4" } else { "IPv6" },
            full: full_length(address),
        };
        let canonical = !length.is_empty()
            && length.bytes().all(|byte| byte.is_ascii_digit())
            && (length.len() == 1 || !length.starts_with('0'));
        let length: u8 = if canonical { length.parse().ok() } else { None }.ok_or_else(wrong_length)?;
        Self::new(address, length).ok_or_else(wrong_length)
    }
}

fn full_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Istio's excludeOutboundIPRanges: comma-separated ranges, or nothing.
pub fn parse_exclude_ip_ranges(text: &str) -> Result<Vec<Cidr>, ParseError> {
    if text == "*" {
        return Err(ParseError::StarExcluded { text: text.to_owned() });
    }
    parse_ranges(text)
}

/// Istio's includeOutboundIPRanges: `*`, comma-separated ranges, or nothing.
pub fn parse_include_ip_ranges(text: &str) -> Result<IncludeIpRanges, ParseError> {
    if text == "*" {
        return Ok(IncludeIpRanges::All);
    }
    if text.split(',').any(|item| item.trim() == "*") {
        return Err(ParseError::StarMixed { text: text.to_owned() });
    }
    parse_ranges(text).map(IncludeIpRanges::List)
}

/// Istio's include- and excludeOutboundPorts: comma-separated numbers, or nothing. Spaces around items are allowed.
pub fn parse_ports(text: &str) -> Result<Vec<u16>, ParseError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    text.split(',').map(|item| parse_port(text, item.trim())).collect()
}

fn parse_port(list: &str, item: &str) -> Result<u16, ParseError> {
    if item.is_empty() {
        return Err(ParseError::EmptyItem { list: list.to_owned() });
    }
    let malformed = || ParseError::Port { text: item.to_owned() };
    if !item.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed());
    }
    item.parse().map_err(|_too_large| malformed())
}

fn parse_ranges(text: &str) -> Result<Vec<Cidr>, ParseError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(',')
        .map(|item| match item {
            "" => Err(ParseError::EmptyItem { list: text.to_owned() }),
            item => item.parse(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let rows = [
            ("10.0.0.0/8", Ok("10.0.0.0/8")),
            ("10.10.0.4/16", Ok("10.10.0.0/16")),
            ("10.10.0.4/32", Ok("10.10.0.4/32")),
            ("0.0.0.0/0", Ok("0.0.0.0/0")),
            ("fd00::1/8", Ok("fd00::/8")),
            ("::/0", Ok("::/0")),
            ("10.10.0.4", Err("write 10.10.0.4/32")),
            ("fd00::1", Err("write fd00::1/128")),
            (" 10.0.0.0/8", Err("without spaces")),
            ("10.0.0.0/8 ", Err("wrong prefix length")),
            ("10.0.0/8", Err("not an IP range")),
            ("010.0.0.0/8", Err("not an IP range")),
            ("10.0.0.0/33", Err("an IPv4 range takes 0 to 32")),
            ("10.0.0.0/08", Err("without leading zeros")),
            ("10.0.0.0/+8", Err("wrong prefix length")),
            ("10.0.0.0/", Err("wrong prefix length")),
            ("fe80::1%eth0/64", Err("not an IP range")),
            ("::ffff:10.0.0.0/104", Err("write it as IPv4")),
            ("", Err("not an IP range")),
            ("example.com/8", Err("not an IP range")),
        ];
        for (text, expected) in rows {
            match (text.parse::<Cidr>(), expected) {
                (Ok(cidr), Ok(wanted)) => assert_eq!(cidr.to_string(), wanted, "{text:?}"),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{text:?}: {error}"),
                (got, wanted) => panic!("{text:?}: got {got:?}, expected {wanted:?}"),
            }
        }
    }

    #[test]
    fn lists() {
        let cidr = |text: &str| text.parse::<Cidr>().unwrap();
        assert_eq!(parse_exclude_ip_ranges(""), Ok(vec![]));
        assert_eq!(
            parse_exclude_ip_ranges("10.0.0.0/8,fd00::/8"),
            Ok(vec![cidr("10.0.0.0/8"), cidr("fd00::/8")])
        );
        assert_eq!(parse_include_ip_ranges("*"), Ok(IncludeIpRanges::All));
        assert_eq!(parse_include_ip_ranges(""), Ok(IncludeIpRanges::List(vec![])));
        assert_eq!(parse_ports(" 80, 443 "), Ok(vec![80, 443]));
        assert_eq!(parse_ports(""), Ok(vec![]));
        let rows = [
            (parse_exclude_ip_ranges("*").map(drop), "includes only"),
            (parse_exclude_ip_ranges("10.0.0.0/8,").map(drop), "extra comma"),
            (parse_exclude_ip_ranges("10.0.0.0/8, 11.0.0.0/8").map(drop), "\" 11.0.0.0/8\""),
            (parse_include_ip_ranges("*,10.0.0.0/8").map(drop), "mixes"),
            (parse_ports("80,").map(drop), "extra comma"),
            (parse_ports("8000-9000").map(drop), "port ranges"),
            (parse_ports("65536").map(drop), "0 to 65535"),
            (parse_ports("+80").map(drop), "not a port"),
        ];
        for (result, part) in rows {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(part), "{error} should say {part:?}");
        }
    }

    #[test]
    fn families_do_not_mix() {
        let all_v6: Cidr = "::/0".parse().unwrap();
        assert!(all_v6.contains("2001:db8::1".parse().unwrap()));
        assert!(!all_v6.contains("10.0.0.1".parse().unwrap()));
    }
}
