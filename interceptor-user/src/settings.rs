//! What the command line and the environment asked for, as values that stay as they are for the process's life.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

/// Everything `interceptor exec` was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecSettings {
    /// Where resources are read from, in the order given; empty: an empty registry.
    pub config: Vec<ConfigInput>,
    pub mesh_config: Option<PathBuf>,
    /// Overrides the mesh configuration's `outboundTrafficPolicy.mode`.
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    pub redirect: RedirectSettings,
    pub access_log: Option<AccessLogOutput>,
    pub access_log_format: Option<AccessLogFormat>,
    /// As written by the user: NAME, UID or either with `:GID`.
    pub user: Option<UserRequest>,
    pub external_proxy: Option<ExternalProxy>,
    /// Where counters are written on exit.
    pub stats: Option<PathBuf>,
    /// The program and its arguments; never empty.
    pub command: Vec<OsString>,
}

/// One `-c`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigInput {
    /// A file, or a directory whose YAML files are read.
    Path(PathBuf),
    Stdin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OutboundTrafficPolicy {
    /// Hosts that no ServiceEntry names pass through
    #[value(name = "ALLOW_ANY")]
    AllowAny,
    /// Hosts that no ServiceEntry names are blocked
    #[value(name = "REGISTRY_ONLY")]
    RegistryOnly,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogOutput {
    Stdout,
    File(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum AccessLogFormat {
    /// Istio's default text line
    Text,
    /// One JSON object a line, with Istio's keys
    Json,
}

/// Which connections are redirected, in the terms of Istio's annotations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RedirectSettings {
    pub include_ranges: IncludeRanges,
    pub exclude_ranges: Vec<Cidr>,
    pub include_ports: Vec<u16>,
    pub exclude_ports: Vec<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum IncludeRanges {
    #[default]
    All,
    /// Only these; none at all when empty.
    Only(Vec<Cidr>),
}

/// A prefix, host bits cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    pub address: IpAddr,
    pub prefix_len: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRequest {
    pub user: NameOrId,
    pub gid: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameOrId {
    Name(String),
    Id(u32),
}

/// A proxy of the user's own that reads SO_ORIGINAL_DST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalProxy {
    pub port: u16,
    pub cgroup: PathBuf,
}

/// `-` is standard input.
pub fn parse_config_input(text: &str) -> Result<ConfigInput, String> {
    match text {
        "" => Err("expected a file, a directory or - for standard input".to_owned()),
        "-" => Ok(ConfigInput::Stdin),
        path => Ok(ConfigInput::Path(path.into())),
    }
}

/// `-` is standard output.
pub fn parse_access_log(text: &str) -> Result<AccessLogOutput, String> {
    match text {
        "" => Err("expected a file, or - for standard output".to_owned()),
        "-" | "/dev/stdout" => Ok(AccessLogOutput::Stdout),
        path => Ok(AccessLogOutput::File(path.into())),
    }
}

/// `*`, or a list of prefixes; as Istio's `includeOutboundIPRanges`.
pub fn parse_include_ranges(text: &str) -> Result<IncludeRanges, String> {
    match text {
        "*" => Ok(IncludeRanges::All),
        list => parse_ranges(list).map(IncludeRanges::Only),
    }
}

/// A list of prefixes separated by commas, IPv4 and IPv6 mixed; as Istio's `excludeOutboundIPRanges`.
pub fn parse_ranges(text: &str) -> Result<Vec<Cidr>, String> {
    items(text).map(parse_cidr).collect()
}

/// A list of ports separated by commas; as Istio's `excludeOutboundPorts`.
pub fn parse_ports(text: &str) -> Result<Vec<u16>, String> {
    items(text).map(parse_port).collect()
}

fn parse_port(item: &str) -> Result<u16, String> {
    item.parse().map_err(|error| match item.split_once(['-', ':']) {
        Some(_) => format!("{item:?} is a range: write each port, separated by commas"),
        None => format!("{item:?} is no port: expected a number from 0 to 65535 ({error})"),
    })
}

fn parse_cidr(item: &str) -> Result<Cidr, String> {
    if item == "*" {
        return Err("* stands alone in --include-ip-ranges, and nowhere else".to_owned());
    }
    let Some((address, length)) = item.split_once('/') else {
        return Err(match item.parse::<IpAddr>() {
            Ok(ip) => format!("{item:?} is an address without a prefix length: write {ip}/{}", bits(ip)),
            Err(_) => format!("{item:?} is no CIDR: expected for example 10.0.0.0/8 or 2001:db8::/32"),
        });
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(format!("{address:?} in {item:?} is no IPv4 or IPv6 address"));
    };
    match length.parse::<u8>() {
        Ok(prefix_len) if prefix_len <= bits(address) && !length.starts_with('+') => {
            Ok(Cidr { address: masked(address, prefix_len), prefix_len })
        }
        Ok(_) | Err(_) => {
            Err(format!("{length:?} in {item:?} is no prefix length: expected 0 to {}", bits(address)))
        }
    }
}

const fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn masked(address: IpAddr, prefix_len: u8) -> IpAddr {
    let length = u32::from(prefix_len);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

/// The empty text is the empty list; an empty item is an item, so that a stray comma is reported.
fn items(text: &str) -> impl Iterator<Item = &str> {
    let whole = text.trim();
    whole.split(',').map(str::trim).filter(move |_| !whole.is_empty())
}

/// `NAME`, `UID`, `NAME:GID` or `UID:GID`.
pub fn parse_user(text: &str) -> Result<UserRequest, String> {
    let (user, gid) = match text.split_once(':') {
        Some((user, gid)) => {
            let gid = gid
                .parse()
                .map_err(|error| format!("{gid:?} is no group id: expected a number ({error})"))?;
            (user, Some(gid))
        }
        None => (text, None),
    };
    if user.is_empty() {
        return Err("expected NAME, UID, NAME:GID or UID:GID".to_owned());
    }
    let user = match user.parse::<u32>() {
        Ok(id) => NameOrId::Id(id),
        Err(_) if user.starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
            return Err(format!("{user:?} is neither a user's name nor an id"));
        }
        Err(_) => NameOrId::Name(user.to_owned()),
    };
    Ok(UserRequest { user, gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(text: &str) -> Result<String, String> {
        let written = |cidr: &Cidr| format!("{}/{}", cidr.address, cidr.prefix_len);
        Ok(parse_ranges(text)?.iter().map(written).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn ranges_as_istio_writes_them() {
        for (text, expected) in [
            ("", ""),
            ("10.10.0.4/32", "10.10.0.4/32"),
            ("10.10.0.4/16", "10.10.0.0/16"),
            ("10.0.0.0/8,2001:db8::1/32", "10.0.0.0/8 2001:db8::/32"),
            ("10.0.0.0/8, 1.2.3.4/32", "10.0.0.0/8 1.2.3.4/32"),
            ("255.1.2.3/0,::/0", "0.0.0.0/0 ::/0"),
        ] {
            assert_eq!(ranges(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_bad_range_says_how_to_mend_it() {
        for (text, expected) in [
            ("10.0.0.1", "write 10.0.0.1/32"),
            ("::1", "write ::1/128"),
            ("10.0.0.0/8,", "\"\" is no CIDR"),
            ("10.0.0.0/33", "expected 0 to 32"),
            ("::/129", "expected 0 to 128"),
            ("10.0.0.0/x", "expected 0 to 32"),
            ("10.0.0.0/+8", "expected 0 to 32"),
            ("10.0.0/8", "no IPv4 or IPv6 address"),
            ("fe80::1%eth0/64", "no IPv4 or IPv6 address"),
            ("*,10.0.0.0/8", "* stands alone"),
            ("example.org", "is no CIDR"),
        ] {
            let error = ranges(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn include_ranges_know_the_asterisk() {
        assert_eq!(parse_include_ranges("*"), Ok(IncludeRanges::All));
        assert_eq!(parse_include_ranges(""), Ok(IncludeRanges::Only(vec![])));
        assert!(parse_include_ranges("*,10.0.0.0/8").is_err());
    }

    #[test]
    fn ports_are_a_list_without_ranges() {
        assert_eq!(parse_ports(" 3306 , 5432 "), Ok(vec![3306, 5432]));
        assert_eq!(parse_ports(""), Ok(vec![]));
        for (text, expected) in [
            ("80-90", "is a range"),
            ("65536", "0 to 65535"),
            ("http", "0 to 65535"),
            ("80,", "\"\" is no port"),
        ] {
            let error = parse_ports(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn users_by_name_and_id() {
        let request = |user, gid| Ok(UserRequest { user, gid });
        assert_eq!(parse_user("www-data"), request(NameOrId::Name("www-data".to_owned()), None));
        assert_eq!(parse_user("www-data:5"), request(NameOrId::Name("www-data".to_owned()), Some(5)));
        assert_eq!(parse_user("0"), request(NameOrId::Id(0), None));
        assert_eq!(parse_user("1000:1001"), request(NameOrId::Id(1000), Some(1001)));
        for text in ["", ":5", "me:staff", "-1", "12x"] {
            assert!(parse_user(text).is_err(), "{text}");
        }
    }
}
