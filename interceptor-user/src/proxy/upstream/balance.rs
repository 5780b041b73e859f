//! Chooses one host of several that are equally near: LEAST_REQUEST, ROUND_ROBIN or RANDOM, with weights.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::clock::Moment;
use super::host::Host;
use crate::snapshot::{EndpointAddress, Warmup};

/// How often a host that was tried already is chosen again before it is taken nevertheless (Istio's
/// hostSelectionRetryMaxAttempts).
pub(super) const SELECTIONS_MAX: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    LeastRequest,
    RoundRobin,
    Random,
}

/// Who may be chosen, and what else the choice depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice<'a> {
    /// Ejected hosts, too.
    pub(super) everybody: bool,
    /// Not these, when chance allows.
    pub(super) avoid: &'a [EndpointAddress],
    /// Set while a host may be new.
    pub(super) warmup: Option<&'a Warmup>,
    pub(super) cursor: &'a AtomicUsize,
    pub(super) now: Moment,
}

impl Choice<'_> {
    pub(super) fn allows(&self, host: &Host) -> bool {
        self.everybody || !host.health.is_ejected()
    }
}

/// A host of `hosts`, whose weights are all the same when they are `uniform`.
pub(super) fn choose<'a>(
    hosts: &'a [Arc<Host>],
    uniform: bool,
    policy: Policy,
    choice: Choice<'_>,
) -> Option<&'a Arc<Host>> {
    if let [only] = hosts {
        return Some(only).filter(|host| choice.allows(host));
    }
    let allowed =
        if choice.everybody { hosts.len() } else { hosts.iter().filter(|host| choice.allows(host)).count() };
    let from = From { hosts, allowed, uniform, choice };
    let mut chosen = from.once(policy)?;
    for _ in 0..SELECTIONS_MAX {
        if !choice.avoid.contains(&chosen.address) {
            return Some(chosen);
        }
        chosen = from.once(policy)?;
    }
    // Chance kept on choosing what was tried: take any other, else the chosen one.
    let other = from.all().find(|host| !choice.avoid.contains(&host.address));
    Some(other.unwrap_or(chosen))
}

/// What is chosen from.
struct From<'a, 'c> {
    hosts: &'a [Arc<Host>],
    /// How many of them may be chosen.
    allowed: usize,
    uniform: bool,
    choice: Choice<'c>,
}

impl<'a> From<'a, '_> {
    fn once(&self, policy: Policy) -> Option<&'a Arc<Host>> {
        if self.allowed == 0 {
            return None;
        }
        let even = self.uniform && self.choice.warmup.is_none();
        match policy {
            Policy::LeastRequest if even => Some(self.less_loaded_of_two()),
            // As Envoy weighs: the more a host has to do, the less it counts.
            Policy::LeastRequest => self.by_weight(random_fraction(), |host| {
                self.weight_now(host) / (f64::from(host.active()) + 1.0)
            }),
            Policy::RoundRobin if even => Some(self.nth(self.turn() % self.allowed)),
            Policy::RoundRobin if self.choice.warmup.is_some() => {
                self.by_weight(fraction(spread(self.turn() as u64)), |host| self.weight_now(host))
            }
            Policy::RoundRobin => self.in_turn_by_weight(),
            Policy::Random if self.uniform => Some(self.nth(random_below(self.allowed))),
            Policy::Random => self.by_weight(random_fraction(), |host| f64::from(host.weight)),
        }
    }

    fn all(&self) -> impl Iterator<Item = &'a Arc<Host>> {
        let choice = self.choice;
        self.hosts.iter().filter(move |host| choice.allows(host))
    }

    /// Of those that are allowed; hosts may have been ejected since they were counted.
    fn nth(&self, index: usize) -> &'a Arc<Host> {
        if self.allowed == self.hosts.len() {
            return &self.hosts[index];
        }
        self.all().nth(index).unwrap_or(&self.hosts[index])
    }

    fn turn(&self) -> usize {
        self.choice.cursor.fetch_add(1, Ordering::Relaxed)
    }

    fn weight_now(&self, host: &Host) -> f64 {
        host.weight_at(self.choice.now, self.choice.warmup)
    }

    fn less_loaded_of_two(&self) -> &'a Arc<Host> {
        if self.allowed == 1 {
            return self.nth(0);
        }
        let first = random_below(self.allowed);
        let second = (first + 1 + random_below(self.allowed - 1)) % self.allowed;
        let (first, second) = (self.nth(first), self.nth(second));
        if second.active() < first.active() { second } else { first }
    }

    /// Exact over as many turns as all weights add up to, and mixed within them.
    fn in_turn_by_weight(&self) -> Option<&'a Arc<Host>> {
        let total: u64 = self.all().map(|host| u64::from(host.weight)).sum();
        let mut point = (self.turn() as u64 % total.max(1)).wrapping_mul(stride(total)) % total.max(1);
        for host in self.all() {
            let weight = u64::from(host.weight);
            if point < weight {
                return Some(host);
            }
            point -= weight;
        }
        self.all().next()
    }

    /// The host in whose share of the total weight the point, a part of it, lies.
    fn by_weight(&self, point: f64, weight: impl Fn(&Host) -> f64) -> Option<&'a Arc<Host>> {
        let total: f64 = self.all().map(|host| weight(host)).sum();
        let mut point = point * total;
        let mut last = None;
        for host in self.all() {
            point -= weight(host);
            last = Some(host);
            if point < 0.0 {
                break;
            }
        }
        last
    }
}

/// Steps of about the golden section of `total`, without a common divisor: they come to every number below
/// it once before they come to any again.
fn stride(total: u64) -> u64 {
    // Below 2^31 the product of a turn and a stride fits; beyond, mixing is not worth an overflow.
    if !(3..1 << 31).contains(&total) {
        return 1;
    }
    let golden = total * 618 / 1000;
    (golden.max(1)..total).find(|stride| gcd(*stride, total) == 1).unwrap_or(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Neighbours come far apart.
fn spread(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// A part of one: at least 0, less than 1.
pub(super) fn fraction(number: u64) -> f64 {
    const BITS: u32 = f64::MANTISSA_DIGITS;
    (number >> (u64::BITS - BITS)) as f64 / (1_u64 << BITS) as f64
}

fn random_fraction() -> f64 {
    fraction(random())
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
mod tests;
