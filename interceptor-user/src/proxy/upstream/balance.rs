//! Chooses one host of several: LEAST_REQUEST, ROUND_ROBIN or RANDOM, with weights.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::snapshot::LoadBalancer;

/// One address, and how many requests it has now.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) address: SocketAddr,
    pub(super) weight: u32,
    active: AtomicU32,
}

impl Host {
    pub(super) fn new(address: SocketAddr, weight: u32) -> Arc<Self> {
        Arc::new(Self { address, weight: weight.max(1), active: AtomicU32::new(0) })
    }

    /// Requests per unit of weight, as far as two hosts are compared.
    fn load(&self) -> u64 {
        (u64::from(self.active.load(Ordering::Relaxed)) + 1) * 1_000_000 / u64::from(self.weight)
    }
}

/// Counts a request against a host for as long as it lives.
#[derive(Debug)]
pub(crate) struct ActiveRequest(Arc<Host>);

impl ActiveRequest {
    pub(super) fn new(host: Arc<Host>) -> Self {
        host.active.fetch_add(1, Ordering::Relaxed);
        Self(host)
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How often a host that was tried already is chosen again before it is taken nevertheless (Istio's
/// hostSelectionRetryMaxAttempts).
const SELECTIONS_MAX: usize = 5;

/// A host of `hosts`, one that is not in `avoid` when chance allows.
pub(super) fn choose<'a>(
    hosts: &'a [Arc<Host>],
    policy: LoadBalancer,
    cursor: &AtomicUsize,
    avoid: &[SocketAddr],
) -> Option<&'a Arc<Host>> {
    match hosts {
        [] => return None,
        [only] => return Some(only),
        [_, _, ..] => {}
    }
    let mut chosen = choose_once(hosts, policy, cursor);
    for _ in 0..SELECTIONS_MAX {
        if !avoid.contains(&chosen.address) {
            return Some(chosen);
        }
        chosen = choose_once(hosts, policy, cursor);
    }
    // Chance kept on choosing what was tried: take any other, else the chosen one.
    Some(hosts.iter().find(|host| !avoid.contains(&host.address)).unwrap_or(chosen))
}

fn choose_once<'a>(hosts: &'a [Arc<Host>], policy: LoadBalancer, cursor: &AtomicUsize) -> &'a Arc<Host> {
    match policy {
        LoadBalancer::LeastRequest | LoadBalancer::RingHash { .. } | LoadBalancer::Maglev { .. } => {
            let first = random_below(hosts.len());
            let second = (first + 1 + random_below(hosts.len() - 1)) % hosts.len();
            let (first, second) = (&hosts[first], &hosts[second]);
            if second.load() < first.load() { second } else { first }
        }
        LoadBalancer::RoundRobin => {
            by_weight(hosts, |total| cursor.fetch_add(1, Ordering::Relaxed) as u64 % total)
        }
        LoadBalancer::Random => by_weight(hosts, |total| random() % total),
    }
}

/// The host in whose share of the total weight the point lies.
fn by_weight(hosts: &[Arc<Host>], point: impl FnOnce(u64) -> u64) -> &Arc<Host> {
    let total: u64 = hosts.iter().map(|host| u64::from(host.weight)).sum();
    let mut point = point(total);
    for host in hosts {
        let weight = u64::from(host.weight);
        if point < weight {
            return host;
        }
        point -= weight;
    }
    &hosts[0]
}

fn random_below(bound: usize) -> usize {
    // A bound below 2^32 loses nothing by going through u64, and the result is below it again.
    usize::try_from(random() % (bound as u64)).unwrap_or(0)
}

/// xorshift64* per thread: balancing and jitter need spread, not secrecy.
pub(crate) fn random() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(seed());
    }
    STATE.with(|state| {
        let mut value = state.get();
        value ^= value >> 12;
        value ^= value << 25;
        value ^= value >> 27;
        state.set(value);
        value.wrapping_mul(0x2545_F491_4F6C_DD1D)
    })
}

fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // Never zero, where xorshift would stay.
    std::collections::hash_map::RandomState::new().build_hasher().finish() | 1
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::{ActiveRequest, Host, choose};
    use crate::snapshot::LoadBalancer;

    fn hosts(weights: &[u32]) -> Vec<Arc<Host>> {
        let address = |index: usize| SocketAddr::from(([10, 0, 0, u8::try_from(index).unwrap()], 80));
        weights.iter().enumerate().map(|(index, weight)| Host::new(address(index), *weight)).collect()
    }

    fn counts(hosts: &[Arc<Host>], policy: LoadBalancer, rounds: usize) -> Vec<usize> {
        let cursor = AtomicUsize::new(0);
        let mut counts = vec![0; hosts.len()];
        for _ in 0..rounds {
            let chosen = choose(hosts, policy, &cursor, &[]).unwrap();
            counts[hosts.iter().position(|host| Arc::ptr_eq(host, chosen)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn round_robin_follows_weights_exactly() {
        assert_eq!(counts(&hosts(&[1, 2, 1]), LoadBalancer::RoundRobin, 40), [10, 20, 10]);
    }

    #[test]
    fn random_reaches_every_host() {
        assert!(counts(&hosts(&[1, 1, 1]), LoadBalancer::Random, 600).iter().all(|count| *count > 100));
    }

    #[test]
    fn least_request_prefers_the_idle_host() {
        let hosts = hosts(&[1, 1]);
        let _busy: Vec<_> = (0..5).map(|_| ActiveRequest::new(Arc::clone(&hosts[0]))).collect();
        assert_eq!(counts(&hosts, LoadBalancer::LeastRequest, 20), [0, 20]);
    }

    #[test]
    fn a_tried_host_is_avoided_while_there_is_another() {
        let hosts = hosts(&[1, 1, 1]);
        let cursor = AtomicUsize::new(0);
        let avoid = [hosts[0].address, hosts[2].address];
        for policy in [LoadBalancer::LeastRequest, LoadBalancer::RoundRobin, LoadBalancer::Random] {
            for _ in 0..50 {
                assert_eq!(choose(&hosts, policy, &cursor, &avoid).unwrap().address, hosts[1].address);
            }
        }
        assert!(choose(&hosts[..1], LoadBalancer::Random, &cursor, &avoid).is_some());
    }
}
