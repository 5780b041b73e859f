//! Which destinations leave by an excluded interface, by the routes of a network namespace. Pure.
//!
//! As the kernel looks a route up by the rules that every namespace begins with: table local, then table main; in a table
//! the longest prefix, and of those the lowest metric. (IPv4 looks both tables up as one until there are other rules. What
//! is local stays in the namespace, so with local first nothing more leaves than with both as one.) Where it is not
//! certain that a route leads out by an excluded interface, it does not.

use std::collections::BTreeMap;

use crate::workload::{Cidr, InterfaceRanges};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Local,
    Main,
}

/// A route to a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub table: Table,
    pub range: Cidr,
    /// The lowest goes first.
    pub metric: u32,
    /// It is for some packets alone: those of a TOS, or of a source.
    pub is_conditional: bool,
    /// All its next hops are behind excluded interfaces.
    pub leaves: bool,
}

/// What the routes to one range say together.
#[derive(Clone, Copy, Debug, Default)]
struct Together {
    /// The lowest metric, and whether all routes that have it leave by an excluded interface.
    best: Option<(u32, bool)>,
    /// Some packets go elsewhere.
    has_other: bool,
}

impl Together {
    fn add(&mut self, route: &Route) {
        if route.is_conditional {
            self.has_other |= !route.leaves;
            return;
        }
        self.best = match self.best {
            Some((metric, leaves)) if metric == route.metric => Some((metric, leaves && route.leaves)),
            Some(best) if best.0 < route.metric => Some(best),
            Some(_) | None => Some((route.metric, route.leaves)),
        };
    }

    fn leaves(self) -> bool {
        !self.has_other && self.best.is_some_and(|(_, leaves)| leaves)
    }
}

pub fn interface_ranges(routes: impl IntoIterator<Item = Route>) -> InterfaceRanges {
    let mut said: BTreeMap<Cidr, [Option<Together>; 2]> = BTreeMap::new();
    for route in routes {
        let of_range = said.entry(route.range).or_default();
        let table = match route.table {
            Table::Local => &mut of_range[0],
            Table::Main => &mut of_range[1],
        };
        table.get_or_insert_default().add(&route);
    }
    // In this order a range comes after those that hold it: of each table, the last that does is on this stack.
    let mut holders: Vec<(Cidr, [Option<bool>; 2])> = Vec::new();
    let ranges = said.into_iter().map(|(range, tables)| {
        while holders.last().is_some_and(|(holder, _)| !holder.contains(range.network())) {
            holders.pop();
        }
        let [of_local, of_main] = holders.last().map(|(_, tables)| *tables).unwrap_or_default();
        let [local, main] = tables.map(|table| table.map(Together::leaves));
        let tables = [local.or(of_local), main.or(of_main)];
        holders.push((range, tables));
        // What table local holds is not looked up in table main.
        (range, tables[0].or(tables[1]).unwrap_or_default())
    });
    ranges.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::IpAddr;

    /// The kernel's lookup, one table after the other, one route after the other.
    fn model(routes: &[Route], address: IpAddr) -> bool {
        for table in [Table::Local, Table::Main] {
            let holding = routes.iter().filter(|route| route.table == table && route.range.contains(address));
            let longest = holding.clone().map(|route| route.range.prefix_len()).max();
            let Some(longest) = longest else { continue };
            let chosen: Vec<&Route> = holding.filter(|route| route.range.prefix_len() == longest).collect();
            let for_all = || chosen.iter().filter(|route| !route.is_conditional);
            let metric = for_all().map(|route| route.metric).min();
            let may_be_taken =
                chosen.iter().filter(|route| route.is_conditional || Some(route.metric) == metric);
            return metric.is_some() && may_be_taken.clone().all(|route| route.leaves);
        }
        false
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (10..12u8, 0..3u8, 0..3u8).prop_map(|(a, b, c)| IpAddr::from([a, b, 0, c])),
            (0..3u16, 0..3u16).prop_map(|(a, b)| IpAddr::from([0x2001, a, 0, 0, 0, 0, 0, b])),
        ]
    }

    fn route() -> impl Strategy<Value = Route> {
        let table = prop_oneof![1 => Just(Table::Local), 3 => Just(Table::Main)];
        let conditional = prop_oneof![5 => Just(false), 1 => Just(true)];
        (table, address(), any::<u8>(), 0..3u32, conditional, any::<bool>()).prop_map(
            |(table, address, length, metric, is_conditional, leaves)| {
                let full = if address.is_ipv4() { 32 } else { 128 };
                let range = Cidr::new(address, length % (full + 1)).expect("the length fits the family");
                Route { table, range, metric, is_conditional, leaves }
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn ranges_say_what_the_routes_say(
            routes in proptest::collection::vec(route(), 0..12),
            addresses in proptest::collection::vec(address(), 1..30),
        ) {
            let ranges = interface_ranges(routes.iter().copied());
            for address in addresses {
                let leaves = ranges.holding(address).is_some_and(|(_, leaves)| leaves);
                prop_assert_eq!(leaves, model(&routes, address), "{} in {:?}", address, ranges);
            }
        }

        #[test]
        fn no_range_says_what_the_one_around_it_says(routes in proptest::collection::vec(route(), 0..12)) {
            let ranges = interface_ranges(routes);
            for (range, leaves) in ranges.iter() {
                let others = ranges.iter().filter(|(other, _)| *other != range);
                let around = others.filter(|(other, _)| other.contains(range.network()) && other.prefix_len() < range.prefix_len());
                let around = around.max_by_key(|(other, _)| other.prefix_len());
                prop_assert_ne!(leaves, around.is_some_and(|(_, leaves)| leaves));
            }
        }
    }

    #[test]
    fn a_default_route_and_what_is_carved_out_of_it() {
        let route = |range: &str, leaves| Route {
            table: Table::Main,
            range: range.parse().unwrap(),
            metric: 0,
            is_conditional: false,
            leaves,
        };
        let routes = [
            route("0.0.0.0/0", true),
            route("10.0.0.0/8", false),
            route("10.1.0.0/16", true),
            route("::/0", false),
            route("fd00:9::/64", true),
        ];
        let texts = ["0.0.0.0/0", "!10.0.0.0/8", "10.1.0.0/16", "fd00:9::/64"];
        assert_eq!(interface_ranges(routes).texts(), texts);
    }
}
