//! Whom a cluster's hosts, their places and their health make a request go to.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::{HostSet, Terms};
use crate::proxy::upstream::balance::Choice;
use crate::proxy::upstream::clock::Moment;
use crate::proxy::upstream::host::Host;
use crate::proxy::upstream::outlier::Detector;
use crate::proxy::upstream::ring_hash::Ring;
use crate::resource::UnixPath;
use crate::snapshot::{EndpointAddress, LoadBalancer, OffLimits, OutlierDetection, Placement};

const NOW: Moment = Moment(1000);
const HASHING: [LoadBalancer; 2] =
    [LoadBalancer::RingHash { minimum_size: 1024 }, LoadBalancer::Maglev { table_size: 1021 }];
const ALL: [LoadBalancer; 5] =
    [LoadBalancer::LeastRequest, LoadBalancer::RoundRobin, LoadBalancer::Random, HASHING[0], HASHING[1]];

/// A cluster whose every host may be ejected.
struct Cluster {
    hosts: HostSet,
    detector: Detector,
    cursor: AtomicUsize,
}

impl Cluster {
    /// Hosts `10.PRIORITY.LOCALITY.n`, so many in each of the places.
    fn new(places: &[(Placement, u8)], settings: OutlierDetection) -> Self {
        let hosts = places.iter().flat_map(|(placement, count)| {
            let [priority, locality] =
                [placement.priority, placement.locality].map(|part| u8::try_from(part).unwrap());
            let host = move |number| {
                let address = SocketAddr::from(([10, priority, locality, number], 80));
                (Host::new(address.into(), 1, NOW), *placement)
            };
            (0..*count).map(host)
        });
        let settings = OutlierDetection { max_ejection_percent: 100, ..settings };
        Self {
            hosts: HostSet::new(hosts),
            detector: Detector::new(settings, NOW),
            cursor: AtomicUsize::default(),
        }
    }

    fn of(count: u8) -> Self {
        Self::new(&[(Placement::default(), count)], OutlierDetection::default())
    }

    fn eject(&self, which: impl Fn(SocketAddr) -> bool) {
        for host in self.hosts.iter().filter(|host| which(host.address.as_ip().unwrap())) {
            let all = self.hosts.iter().map(|host| &host.health);
            assert!(self.detector.eject(&host.health, all, NOW).is_some());
        }
    }

    fn choose(
        &self,
        load_balancer: LoadBalancer,
        hash: Option<u64>,
        avoid: &[SocketAddr],
    ) -> Option<SocketAddr> {
        let avoid: Vec<_> = avoid.iter().copied().map(EndpointAddress::from).collect();
        let choice = Choice { everybody: true, avoid: &avoid, warmup: None, cursor: &self.cursor, now: NOW };
        let detector = Some(&self.detector).filter(|detector| detector.has_ejected());
        self.hosts.choose(Terms { load_balancer, detector, hash, choice })?.address.as_ip()
    }

    /// How many of 10,000 requests go where, by the second and third byte of the address.
    fn spread(&self, load_balancer: LoadBalancer) -> HashMap<(u8, u8), usize> {
        let mut counts = HashMap::new();
        for _ in 0..10_000 {
            if let Some(SocketAddr::V4(address)) = self.choose(load_balancer, None, &[]) {
                let [_, priority, locality, _] = address.ip().octets();
                *counts.entry((priority, locality)).or_default() += 1;
            }
        }
        counts
    }
}

fn level(priority: u32) -> Placement {
    Placement { priority, ..Placement::default() }
}

fn last(address: SocketAddr) -> u8 {
    let SocketAddr::V4(address) = address else { panic!("not IPv4") };
    address.ip().octets()[3]
}

#[track_caller]
fn assert_about(count: Option<&usize>, per_cent: usize) {
    let count = count.copied().unwrap_or(0);
    assert!(count.abs_diff(per_cent * 100) <= 300, "{count} of 10,000 are not {per_cent} %");
}

#[test]
fn the_nearest_get_all_they_can_carry() {
    // (healthy of ten near, healthy of ten far) → per cent that stay near.
    for (near, far, expected) in
        [(10, 10, 100), (8, 10, 100), (5, 10, 70), (1, 10, 14), (0, 10, 0), (1, 1, 50)]
    {
        let cluster = Cluster::new(&[(level(0), 10), (level(1), 10)], OutlierDetection::default());
        cluster.eject(|address| match address {
            SocketAddr::V4(v4) if v4.ip().octets()[1] == 0 => last(address) >= near,
            SocketAddr::V4(_) | SocketAddr::V6(_) => last(address) >= far,
        });
        for load_balancer in ALL {
            let counts = cluster.spread(load_balancer);
            assert_about(counts.get(&(0, 0)), expected);
            assert_about(counts.get(&(1, 0)), 100 - expected);
        }
    }
}

#[test]
fn nobody_healthy_is_nobody_but_in_panic() {
    for (percent, expected) in [(0, false), (50, true)] {
        let settings = OutlierDetection { min_health_percent: percent, ..OutlierDetection::default() };
        for places in [&[(level(0), 2)][..], &[(level(0), 1)], &[(level(0), 2), (level(1), 1)]] {
            let cluster = Cluster::new(places, settings);
            cluster.eject(|_| true);
            for load_balancer in ALL {
                assert_eq!(
                    cluster.choose(load_balancer, None, &[]).is_some(),
                    expected,
                    "{percent} {places:?}"
                );
            }
        }
    }
}

#[test]
fn panic_uses_everybody_when_too_few_are_left() {
    for (percent, healthy, expected) in [(50, 4, true), (50, 5, false), (30, 4, false), (90, 8, false)] {
        let settings = OutlierDetection { min_health_percent: percent, ..OutlierDetection::default() };
        let cluster = Cluster::new(&[(level(0), 10)], settings);
        cluster.eject(|address| last(address) >= healthy);
        for load_balancer in ALL {
            let ejected = (0..1000)
                .any(|_| cluster.choose(load_balancer, None, &[]).is_some_and(|host| last(host) >= healthy));
            // From 72 % on the healthy carry all: nobody panics.
            assert_eq!(ejected, expected, "{percent} {healthy} {load_balancer:?}");
        }
    }
}

#[test]
fn localities_share_by_weight_and_health() {
    let place = |locality, weight| Placement { priority: 0, locality, weight };
    let cluster = Cluster::new(&[(place(0, 80), 4), (place(1, 20), 4)], OutlierDetection::default());
    for load_balancer in ALL {
        let counts = cluster.spread(load_balancer);
        assert_about(counts.get(&(0, 0)), 80);
        assert_about(counts.get(&(0, 1)), 20);
    }
    // Of the first, two of four: 80 × 0.7 against 20.
    cluster.eject(|address| address.to_string().starts_with("10.0.0.") && last(address) < 2);
    for load_balancer in ALL {
        let counts = cluster.spread(load_balancer);
        assert_about(counts.get(&(0, 0)), 74);
        assert_about(counts.get(&(0, 1)), 26);
    }
}

#[test]
fn a_hash_goes_to_one_place() {
    let place = |priority, locality| Placement { priority, locality, weight: 50 };
    let places = [(place(0, 0), 5), (place(0, 1), 5), (place(1, 0), 5)];
    let cluster = Cluster::new(&places, OutlierDetection::default());
    cluster.eject(|address| last(address) < 3);
    for load_balancer in HASHING {
        for hash in 0..200_u64 {
            let chosen = cluster.choose(load_balancer, Some(hash), &[]);
            assert!(chosen.is_some());
            assert!((0..5).all(|_| cluster.choose(load_balancer, Some(hash), &[]) == chosen));
        }
    }
}

/// Envoy hashes what it prints: the bare path of a unix socket.
#[test]
fn a_unix_socket_is_hashed_by_its_path() {
    let ip = SocketAddr::from(([10, 0, 0, 1], 80));
    let unix = UnixPath::of_address("unix:///run/a.sock").unwrap().unwrap();
    let hosts = [ip.into(), EndpointAddress::Unix(unix)].map(|address| Host::new(address, 1, NOW));
    let cursor = AtomicUsize::default();
    let choice = Choice { everybody: true, avoid: &[], warmup: None, cursor: &cursor, now: NOW };
    let ring = Ring::new([("10.0.0.1:80", 1), ("/run/a.sock", 1)].into_iter(), 1024);
    let set = HostSet::new(hosts.iter().map(|host| (Arc::clone(host), Placement::default())));
    for hash in (0..100_u64).map(|hash| hash.wrapping_mul(0x9E37_79B9_7F4A_7C15)) {
        let terms = Terms { load_balancer: HASHING[0], detector: None, hash: Some(hash), choice };
        let expected = &hosts[ring.walk(hash).next().unwrap()];
        assert_eq!(set.choose(terms).unwrap().address, expected.address);
    }
}

#[test]
fn another_try_goes_elsewhere() {
    let cluster = Cluster::of(4);
    for load_balancer in ALL {
        for hash in 0..100 {
            let mut tried = Vec::new();
            for _ in 0..4 {
                let chosen = cluster.choose(load_balancer, Some(hash), &tried).expect("a host");
                assert!(!tried.contains(&chosen), "{load_balancer:?} {hash}");
                tried.push(chosen);
            }
            assert!(cluster.choose(load_balancer, Some(hash), &tried).is_some());
        }
    }
}

#[test]
fn tables_outlive_a_change_of_order() {
    let cluster = Cluster::of(5);
    let hosts: Vec<Arc<Host>> = cluster.hosts.iter().cloned().collect();
    let chosen = |set: &HostSet| -> Vec<_> {
        let cursor = AtomicUsize::default();
        let choice = Choice { everybody: true, avoid: &[], warmup: None, cursor: &cursor, now: NOW };
        (0..100_u64)
            .map(|hash| {
                let hash = Some(hash.wrapping_mul(0x9E37_79B9_7F4A_7C15));
                let terms = Terms { load_balancer: HASHING[0], detector: None, hash, choice };
                set.choose(terms).map(|host| host.address.clone())
            })
            .collect()
    };
    let before = chosen(&cluster.hosts);
    let turned = hosts.iter().rev().map(|host| (Arc::clone(host), Placement::default()));
    let mut set = HostSet::new(turned);
    set.keep_tables(&cluster.hosts);
    let table = |set: &HostSet| set.groups[0].table.get().map(Arc::as_ptr);
    assert!(table(&set).is_some() && table(&set) == table(&cluster.hosts));
    assert_eq!(chosen(&set), before);

    let fewer = hosts.iter().skip(1).map(|host| (Arc::clone(host), Placement::default()));
    let mut set = HostSet::new(fewer);
    set.keep_tables(&cluster.hosts);
    assert!(table(&set).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// An ejected host's requests go to the others; those of the others stay where they are.
    #[test]
    fn ejection_moves_the_ejected_hosts_requests_only(count in 2_u8..12, ejected in 0_u8..12, hashing in 0_usize..2) {
        let ejected = ejected % count;
        let cluster = Cluster::of(count);
        let hashes: Vec<u64> = (0..300).map(|number: u64| number.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect();
        let chosen = |hash: &u64| cluster.choose(HASHING[hashing], Some(*hash), &[]).map(last);
        let before: Vec<_> = hashes.iter().map(chosen).collect();
        cluster.eject(|address| last(address) == ejected);
        for (hash, before) in hashes.iter().zip(before) {
            let after = chosen(hash);
            prop_assert!(after.is_some() && after != Some(ejected));
            prop_assert!(before == Some(ejected) || after == before);
        }
    }
}

/// Clients that choose a cluster are led to what is left of it, near or far.
#[test]
fn what_is_off_limits_is_not_there() {
    let nearest = Placement { priority: 0, ..Placement::default() };
    let next = Placement { priority: 1, ..Placement::default() };
    let cluster = Cluster::new(&[(nearest, 2), (next, 3)], OutlierDetection::default());
    let addresses = |hosts: &HostSet| -> Vec<SocketAddr> {
        hosts.iter().map(|host| host.address.as_ip().unwrap()).collect()
    };
    let all = addresses(&cluster.hosts);
    let without =
        |refused: &[SocketAddr]| OffLimits::new(refused.iter().map(SocketAddr::ip), std::iter::empty());
    for (refused, left) in
        [(&all[..0], &all[..]), (&all[..1], &all[1..]), (&all[..3], &all[3..]), (&all, &[])]
    {
        let off_limits = without(refused);
        let within = cluster.hosts.within(Some(&off_limits));
        assert_eq!(addresses(&within), left);
        assert_eq!(matches!(within, Cow::Borrowed(_)), refused.is_empty(), "made only where it has to be");
        let choice = Choice { everybody: true, avoid: &[], warmup: None, cursor: &cluster.cursor, now: NOW };
        for load_balancer in ALL {
            for hash in 0..20 {
                let terms = Terms { load_balancer, detector: None, hash: Some(hash), choice };
                let chosen = within.choose(terms).map(|host| host.address.as_ip().unwrap());
                assert_eq!(chosen.is_some(), !left.is_empty());
                assert!(chosen.is_none_or(|chosen| left.contains(&chosen)), "{load_balancer:?}: {chosen:?}");
            }
        }
    }
}

/// A service with one endpoint off limits and a table of the largest size must not cost a table for each connection.
#[test]
fn hashing_over_what_is_left_needs_no_table() {
    let hosts: Vec<Arc<Host>> =
        (1..=4).map(|n| Host::new(SocketAddr::from(([10, 0, 0, n], 80)).into(), u32::from(n), NOW)).collect();
    let all = HostSet::new(hosts.iter().map(|host| (Arc::clone(host), Placement::default())));
    let off_limits = OffLimits::new([[10, 0, 0, 4].into()].into_iter(), std::iter::empty());
    let cursor = Default::default();
    let choice = Choice { everybody: true, avoid: &[], warmup: None, cursor: &cursor, now: NOW };
    for load_balancer in HASHING {
        let left = all.within(Some(&off_limits));
        let chosen = |hash, choice: Choice<'_>| {
            let terms = Terms { load_balancer, detector: None, hash: Some(hash), choice };
            Arc::clone(left.choose(terms).unwrap())
        };
        let mut taken = [0_u32; 3];
        for hash in 0..6000 {
            let first = chosen(hash, choice);
            assert!(Arc::ptr_eq(&first, &chosen(hash, choice)), "the same for the same");
            taken[hosts.iter().position(|host| Arc::ptr_eq(host, &first)).unwrap()] += 1;
            let avoid = [first.address.clone()];
            assert!(!Arc::ptr_eq(&first, &chosen(hash, Choice { avoid: &avoid, ..choice })), "another one");
        }
        for (weight, taken) in (1..).zip(taken) {
            assert!(taken.abs_diff(1000 * weight) < 200, "{taken} of 6000 by weight {weight} of 6");
        }
        assert!(left.groups.iter().all(|group| group.table.get().is_none()));
    }
}
