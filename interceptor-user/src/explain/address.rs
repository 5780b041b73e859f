//! The address that a connection goes to. When it is not known, one that nothing has a word about stands for all others,
//! and what has a word is named in the steps.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Context;
use crate::workload::{Cidr, IncludeIpRanges};

/// An address that stands for others, or is meant itself.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    pub(super) address: IpAddr,
    pub(super) is_known: bool,
    pub(super) because: String,
}

pub(super) fn choose(context: Context<'_>) -> Chosen {
    if let Some((address, because)) = &context.question.address {
        return Chosen { address: address.to_canonical(), is_known: true, because: because.clone() };
    }
    let host = &context.question.target.host;
    if let Ok(address) = host.parse::<IpAddr>() {
        return Chosen {
            address: address.to_canonical(),
            is_known: true,
            because: "as in the target".into(),
        };
    }
    if let Some((address, service)) =
        super::places::virtual_address(context, host, context.question.target.port)
    {
        return Chosen {
            address,
            is_known: true,
            because: format!("the address that {service} gives {host}"),
        };
    }
    let because = "any: not known without --address or --resolve".into();
    let address = stand_ins().find(|address| is_nobodys(context, *address)).unwrap_or(stand_ins_first());
    Chosen { address, is_known: false, because }
}

/// Addresses that are for documentation and benchmarks only, so that few configurations name them.
fn stand_ins() -> impl Iterator<Item = IpAddr> {
    let v4 = [
        [203, 0, 113, 1],
        [198, 51, 100, 1],
        [192, 0, 2, 1],
        [198, 18, 0, 1],
        [8, 255, 255, 1],
        [150, 0, 0, 1],
    ];
    let v6 =
        [Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0x2600, 0xffff, 0, 0, 0, 0, 0, 1)];
    v4.into_iter().map(|octets| IpAddr::V4(Ipv4Addr::from(octets))).chain(v6.into_iter().map(IpAddr::V6))
}

fn stand_ins_first() -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1))
}

fn is_nobodys(context: Context<'_>, address: IpAddr) -> bool {
    let (snapshot, port) = (context.snapshot, context.question.target.port);
    let in_list = |ranges: &[Cidr]| ranges.iter().any(|range| range.contains(address));
    let redirect = &context.question.redirect;
    let included = match &redirect.include_ip_ranges {
        IncludeIpRanges::All => false,
        IncludeIpRanges::List(ranges) => in_list(ranges),
    };
    let in_chain = snapshot
        .by_port
        .get(&port)
        .is_some_and(|listener| listener.cidrs.iter().any(|chain| chain.contains(address)));
    let in_route =
        redirect.interface_ranges.holding(address).is_some_and(|(range, _)| range.prefix_len() > 0);
    !included
        && !in_route
        && !in_list(&redirect.exclude_ip_ranges)
        && !snapshot.by_address.contains_key(&(address, port))
        && !in_chain
}
