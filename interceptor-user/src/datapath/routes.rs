//! Which destinations leave the calling thread's network namespace by an excluded interface, read from its links and routes
//! (rtnetlink(7)).

use std::{
    collections::BTreeSet,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::netlink::{Attributes, aligned, dump, u16_at, u32_at};
use crate::{
    plan::{Route, Table, interface_ranges},
    workload::{Cidr, InterfaceName, InterfaceRanges},
};

const RTM_GETLINK: u16 = 18;
const RTM_GETROUTE: u16 = 26;
const IFLA_IFNAME: u16 = 3;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PRIORITY: u16 = 6;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RT_TABLE_MAIN: u32 = 254;
const RT_TABLE_LOCAL: u32 = 255;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
/// A copy that the kernel keeps of what it has learned of one destination.
const RTM_F_CLONED: u32 = 0x200;
/// The kernel does not take it.
const RTNH_F_DEAD: u8 = 1;
/// Sizes of `struct ifinfomsg`, `rtmsg` and `rtnexthop`.
const LINK: usize = 16;
const ROUTE: usize = 12;
const NEXT_HOP: usize = 8;

/// With more routes, in all its tables, a namespace's are not read to their end.
const ROUTES_MAX: usize = 65_536;
/// What a workload may have of the map of all workloads' prefixes for its routes.
const RANGES_MAX: usize = 1024;

/// What became of a list of excluded interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceRoutes {
    pub ranges: InterfaceRanges,
    /// What is to be told of it.
    pub note: Option<InterfaceNote>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceNote {
    /// No interface has this name; one may come.
    Absent(Vec<InterfaceName>),
    TooManyRoutes,
    TooManyRanges,
}

impl fmt::Display for InterfaceNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(names) => {
                let names: Vec<String> = names.iter().map(ToString::to_string).collect();
                write!(f, "excludeInterfaces: it has no interface {} yet", names.join(", "))
            }
            Self::TooManyRoutes => {
                write!(f, "excludeInterfaces does nothing: there are more than {ROUTES_MAX} routes")
            }
            Self::TooManyRanges => write!(
                f,
                "excludeInterfaces does nothing: its routes make more than {RANGES_MAX} ranges; exclude ranges that hold \
                 them by excludeOutboundIPRanges"
            ),
        }
    }
}

impl InterfaceRoutes {
    /// Where there are more routes than can be followed nothing is excluded.
    pub fn read(names: &[InterfaceName]) -> io::Result<Self> {
        if names.is_empty() {
            return Ok(Self::default());
        }
        let links = links()?;
        let is_there = |name: &InterfaceName| links.iter().any(|link| name.is_of(&link.name));
        let absent: Vec<InterfaceName> = names.iter().filter(|name| !is_there(name)).cloned().collect();
        let note = (!absent.is_empty()).then_some(InterfaceNote::Absent(absent));
        let excluded = links.into_iter().filter(|link| names.iter().any(|name| name.is_of(&link.name)));
        let excluded: BTreeSet<u32> = excluded.map(|link| link.index).collect();
        if excluded.is_empty() {
            return Ok(Self { ranges: InterfaceRanges::default(), note });
        }
        let Some(routes) = routes(&excluded)? else {
            return Ok(Self::without_any(InterfaceNote::TooManyRoutes));
        };
        let ranges = interface_ranges(routes);
        if ranges.len() > RANGES_MAX {
            return Ok(Self::without_any(InterfaceNote::TooManyRanges));
        }
        Ok(Self { ranges, note })
    }

    fn without_any(note: InterfaceNote) -> Self {
        Self { ranges: InterfaceRanges::default(), note: Some(note) }
    }
}

struct Link {
    index: u32,
    name: String,
}

fn links() -> io::Result<Vec<Link>> {
    let mut links = Vec::new();
    dump(None, RTM_GETLINK, &[0; LINK], |message| {
        links.extend(read_link(message));
        Ok(())
    })?;
    Ok(links)
}

fn read_link(message: &[u8]) -> Option<Link> {
    let (_, name) = Attributes(message.get(LINK..)?).find(|(kind, _)| *kind == IFLA_IFNAME)?;
    let name = name.split(|byte| *byte == 0).next()?;
    Some(Link { index: u32_at(message, 4)?, name: String::from_utf8_lossy(name).into_owned() })
}

/// `None`: there are too many.
fn routes(excluded: &BTreeSet<u32>) -> io::Result<Option<Vec<Route>>> {
    let (mut routes, mut seen) = (Vec::new(), 0);
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut request = [0; ROUTE];
        request[0] = u8::try_from(family).map_err(io::Error::other)?;
        let read = dump(None, RTM_GETROUTE, &request, |message| {
            seen += 1;
            routes.extend(read_route(message, excluded));
            if seen > ROUTES_MAX { Err(io::ErrorKind::QuotaExceeded.into()) } else { Ok(()) }
        });
        match read {
            Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => return Ok(None),
            read => read?,
        }
    }
    Ok(Some(routes))
}

/// `None` for what no lookup of an ordinary socket meets.
fn read_route(message: &[u8], excluded: &BTreeSet<u32>) -> Option<Route> {
    let &[family, length, source_length, tos, table, _protocol, _scope, kind] = message.first_chunk::<8>()?;
    if u32_at(message, 8)? & RTM_F_CLONED != 0 {
        return None;
    }
    let is_v4 = i32::from(family) == libc::AF_INET;
    let (mut table, mut metric) = (u32::from(table), 0);
    let mut network: IpAddr = if is_v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let mut leaves = false;
    for (attribute, value) in Attributes(message.get(ROUTE..)?) {
        match attribute {
            RTA_DST if is_v4 => network = <[u8; 4]>::try_from(value).ok()?.into(),
            RTA_DST => network = <[u8; 16]>::try_from(value).ok()?.into(),
            RTA_OIF => leaves = excluded.contains(&u32_at(value, 0)?),
            RTA_MULTIPATH => leaves = all_leave(value, excluded),
            RTA_PRIORITY => metric = u32_at(value, 0)?,
            RTA_TABLE => table = u32_at(value, 0)?,
            _ => {}
        }
    }
    Some(Route {
        table: match table {
            RT_TABLE_MAIN => Table::Main,
            RT_TABLE_LOCAL if kind == RTN_LOCAL => Table::Local,
            // Broadcasts and their like, which TCP does not reach; and tables that rules of the namespace's own lead to.
            _ => return None,
        },
        range: Cidr::new(network, length)?,
        metric,
        is_conditional: source_length != 0 || tos != 0,
        // What is local stays; blackholes and their like lead nowhere.
        leaves: kind == RTN_UNICAST && leaves,
    })
}

/// Of next hops that are taken in turn.
fn all_leave(mut hops: &[u8], excluded: &BTreeSet<u32>) -> bool {
    let mut any = false;
    while let (Some(length), Some(flags), Some(index)) =
        (u16_at(hops, 0), hops.get(2).copied(), u32_at(hops, 4))
    {
        if usize::from(length) < NEXT_HOP {
            return false;
        }
        if flags & RTNH_F_DEAD == 0 {
            if !excluded.contains(&index) {
                return false;
            }
            any = true;
        }
        hops = hops.get(aligned(length.into())..).unwrap_or_default();
    }
    any
}
