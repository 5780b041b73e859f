//! Whom each policy chooses how often.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use super::{Choice, Policy, choose, gcd, stride};
use crate::proxy::upstream::clock::Moment;
use crate::proxy::upstream::host::{ActiveRequest, Host};
use crate::proxy::upstream::outlier::Detector;
use crate::snapshot::{OutlierDetection, Warmup};

const NOW: Moment = Moment(1_000_000);
const POLICIES: [Policy; 3] = [Policy::LeastRequest, Policy::RoundRobin, Policy::Random];

fn hosts(weights: &[u32]) -> Vec<Arc<Host>> {
    let address = |index: usize| SocketAddr::from(([10, 0, 0, u8::try_from(index).unwrap()], 80));
    weights
        .iter()
        .enumerate()
        .map(|(index, weight)| Host::new(address(index).into(), *weight, Moment(1)))
        .collect()
}

fn eject(host: &Host) {
    let settings = OutlierDetection::default();
    let ejected = Detector::new(settings, NOW).eject(&host.health, [&host.health].into_iter(), NOW);
    assert!(ejected.is_some());
}

fn counts(hosts: &[Arc<Host>], policy: Policy, rounds: usize, warmup: Option<&Warmup>) -> Vec<usize> {
    let cursor = AtomicUsize::new(0);
    let choice = Choice { everybody: false, avoid: &[], warmup, cursor: &cursor, now: NOW };
    let uniform = hosts.iter().all(|host| host.weight == hosts[0].weight);
    let mut counts = vec![0; hosts.len()];
    for _ in 0..rounds {
        let chosen = choose(hosts, uniform, policy, choice).unwrap();
        counts[hosts.iter().position(|host| Arc::ptr_eq(host, chosen)).unwrap()] += 1;
    }
    counts
}

#[track_caller]
fn assert_shares(counts: &[usize], shares: &[usize]) {
    let (total, all): (usize, usize) = (counts.iter().sum(), shares.iter().sum());
    for (count, share) in counts.iter().zip(shares) {
        let expected = total * share / all;
        assert!(count.abs_diff(expected) <= total / 20, "{counts:?} for {shares:?}");
    }
}

#[test]
fn round_robin_follows_weights_exactly() {
    for weights in [&[1, 2, 1][..], &[1, 1], &[100, 200], &[7, 5, 3, 1], &[1, 1000]] {
        let total: usize = weights.iter().map(|weight| *weight as usize).sum();
        let expected: Vec<_> = weights.iter().map(|weight| *weight as usize * 3).collect();
        assert_eq!(counts(&hosts(weights), Policy::RoundRobin, total * 3, None), expected, "{weights:?}");
    }
}

#[test]
fn round_robin_mixes_heavy_hosts() {
    // Of any ten turns in a row, about a third.
    let hosts = hosts(&[100, 200]);
    let cursor = AtomicUsize::new(0);
    let choice = Choice { everybody: true, avoid: &[], warmup: None, cursor: &cursor, now: NOW };
    let turns: Vec<bool> = (0..300)
        .map(|_| Arc::ptr_eq(choose(&hosts, false, Policy::RoundRobin, choice).unwrap(), &hosts[0]))
        .collect();
    for ten in turns.windows(10) {
        let count = ten.iter().filter(|first| **first).count();
        assert!((2..=5).contains(&count), "{ten:?}");
    }
}

#[test]
fn strides_come_to_every_turn() {
    for total in 1..2000 {
        assert_eq!(gcd(stride(total), total), 1, "{total}");
    }
}

#[test]
fn every_policy_follows_weights() {
    for policy in POLICIES {
        for shares in [[1, 1, 1], [1, 2, 5]] {
            let weights = shares.map(|share| u32::try_from(share).unwrap());
            assert_shares(&counts(&hosts(&weights), policy, 8000, None), &shares);
        }
    }
}

#[test]
fn least_request_prefers_the_idle_host() {
    let hosts = hosts(&[1, 1]);
    let _busy: Vec<_> = (0..5).map(|_| ActiveRequest::new(Arc::clone(&hosts[0]))).collect();
    assert_eq!(counts(&hosts, Policy::LeastRequest, 20, None), [0, 20]);
}

#[test]
fn least_request_weighs_load() {
    let hosts = hosts(&[1, 3]);
    // 1 / (0 + 1) against 3 / (2 + 1).
    let _busy: Vec<_> = (0..2).map(|_| ActiveRequest::new(Arc::clone(&hosts[1]))).collect();
    assert_shares(&counts(&hosts, Policy::LeastRequest, 8000, None), &[1, 1]);
}

#[test]
fn ejected_hosts_are_left_out() {
    for policy in POLICIES {
        for weights in [[1, 1, 1, 1], [1, 2, 1, 4]] {
            let hosts = hosts(&weights);
            eject(&hosts[1]);
            eject(&hosts[2]);
            let expected = [weights[0] as usize, 0, 0, weights[3] as usize];
            let counts = counts(&hosts, policy, 4000, None);
            assert_eq!((counts[1], counts[2]), (0, 0), "{policy:?}");
            assert_shares(&counts, &expected);
        }
    }
}

#[test]
fn all_ejected_is_nobody_but_in_panic() {
    let hosts = hosts(&[1, 1]);
    hosts.iter().for_each(|host| eject(host));
    let cursor = AtomicUsize::new(0);
    let choice = Choice { everybody: false, avoid: &[], warmup: None, cursor: &cursor, now: NOW };
    for policy in POLICIES {
        for hosts in [&hosts[..], &hosts[..1]] {
            assert!(choose(hosts, true, policy, choice).is_none());
            assert!(choose(hosts, true, policy, Choice { everybody: true, ..choice }).is_some());
        }
    }
}

#[test]
fn a_tried_host_is_avoided_while_there_is_another() {
    let hosts = hosts(&[1, 1, 1]);
    let cursor = AtomicUsize::new(0);
    let avoid = [hosts[0].address.clone(), hosts[2].address.clone()];
    let choice = Choice { everybody: false, avoid: &avoid, warmup: None, cursor: &cursor, now: NOW };
    for policy in POLICIES {
        for _ in 0..50 {
            assert_eq!(choose(&hosts, true, policy, choice).unwrap().address, hosts[1].address);
        }
        assert!(choose(&hosts[..1], true, policy, choice).is_some());
    }
}

#[test]
fn a_new_host_gets_what_is_due() {
    let warmup = Warmup {
        duration: Duration::from_secs(100),
        minimum_share_thousandths: 100,
        aggression_thousandths: 1000,
    };
    for policy in [Policy::LeastRequest, Policy::RoundRobin] {
        for (seconds, expected) in [(0, [10, 1]), (50, [2, 1]), (100, [1, 1])] {
            let mut hosts = hosts(&[1]);
            let address = SocketAddr::from(([10, 0, 0, 9], 80));
            hosts.push(Host::new(address.into(), 1, Moment(NOW.0 - seconds * 1000)));
            assert_shares(&counts(&hosts, policy, 8000, Some(&warmup)), &expected);
        }
    }
}
