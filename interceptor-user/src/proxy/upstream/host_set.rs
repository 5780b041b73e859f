//! The hosts of a cluster at one time, and the choice of one: by distance first, then by policy. Tables for
//! hashing are made once for a list of hosts, when the first request needs one.

use std::borrow::Cow;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use twox_hash::XxHash64;

use super::balance::{self, Choice, Policy, SELECTIONS_MAX, fraction, random};
use super::clock::Moment;
use super::host::Host;
use super::maglev::Maglev;
use super::outlier::Detector;
use super::ring_hash::Ring;
use crate::snapshot::{EndpointAddress, LoadBalancer, OffLimits, Placement};

#[derive(Clone, Debug, Default)]
pub(super) struct HostSet {
    /// The nearest first.
    groups: Vec<Group>,
}

/// Hosts of one place.
#[derive(Clone, Debug)]
struct Group {
    placement: Placement,
    hosts: Vec<Arc<Host>>,
    /// All weights are the same.
    uniform: bool,
    /// When the last of them came.
    newest: Moment,
    table: OnceLock<Arc<Table>>,
    /// Made for one choice, which a table would outweigh by far.
    is_passing: bool,
}

/// Which table, and its size.
#[derive(Clone, Copy, Debug)]
enum Hashing {
    Ring(u32),
    Maglev(u32),
}

#[derive(Debug)]
enum Table {
    Ring(Ring),
    Maglev(Maglev),
}

impl Table {
    /// Of a list of hosts by their index.
    fn new(hosts: &[Arc<Host>], kind: Hashing) -> Self {
        let addresses: Vec<String> = hosts.iter().map(|host| host.address.to_string()).collect();
        let keyed = addresses.iter().zip(hosts).map(|(address, host)| (&**address, host.weight));
        match kind {
            Hashing::Ring(minimum_size) => Self::Ring(Ring::new(keyed, minimum_size)),
            Hashing::Maglev(size) => Self::Maglev(Maglev::new(keyed, size)),
        }
    }
}

/// What the choice of a cluster depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'a> {
    pub(super) load_balancer: LoadBalancer,
    /// Set while a host may be ejected.
    pub(super) detector: Option<&'a Detector>,
    /// Of the request; without it hashing goes anywhere.
    pub(super) hash: Option<u64>,
    pub(super) choice: Choice<'a>,
}

impl HostSet {
    pub(super) fn new(hosts: impl IntoIterator<Item = (Arc<Host>, Placement)>) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for (host, placement) in hosts {
            match groups.iter_mut().find(|group| group.placement == placement) {
                Some(group) => group.hosts.push(host),
                None => groups.push(Group {
                    placement,
                    hosts: vec![host],
                    uniform: true,
                    newest: Moment(0),
                    table: OnceLock::new(),
                    is_passing: false,
                }),
            }
        }
        groups.sort_by_key(|group| group.placement.priority);
        for group in &mut groups {
            group.uniform = group.hosts.iter().all(|host| host.weight == group.hosts[0].weight);
            group.newest = group.hosts.iter().map(|host| host.known_since).max().unwrap_or(Moment(0));
        }
        Self { groups }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.groups.iter().flat_map(|group| &group.hosts)
    }

    pub(super) fn find(&self, address: &EndpointAddress, weight: u32) -> Option<&Arc<Host>> {
        self.iter().find(|host| host.is(address, weight))
    }

    /// Takes over the tables of lists that are the same as before, whatever their order.
    pub(super) fn keep_tables(&mut self, previous: &Self) {
        for group in &mut self.groups {
            if let Some(before) = previous.groups.iter().find(|before| before.is_same(group)) {
                group.hosts.clone_from(&before.hosts);
                group.table.clone_from(&before.table);
            }
        }
    }

    /// Without those that are refused to clients that choose. Mostly all may stay: a set without some is made for one
    /// choice.
    pub(super) fn within(&self, off_limits: Option<&OffLimits>) -> Cow<'_, Self> {
        let Some(off_limits) = off_limits else { return Cow::Borrowed(self) };
        let stays = |host: &Arc<Host>| off_limits.refusal(&host.address).is_none();
        if self.iter().all(stays) {
            return Cow::Borrowed(self);
        }
        let all = self.groups.iter().flat_map(|group| group.hosts.iter().map(|host| (host, group.placement)));
        let left = all.filter(|(host, _)| stays(host));
        let mut left = Self::new(left.map(|(host, placement)| (Arc::clone(host), placement)));
        for group in &mut left.groups {
            group.is_passing = true;
        }
        Cow::Owned(left)
    }

    pub(super) fn choose(&self, terms: Terms<'_>) -> Option<&Arc<Host>> {
        let (group, everybody) = match (&self.groups[..], terms.detector) {
            ([], _) => return None,
            ([only], None) => (only, true),
            (groups, detector) => choose_group(groups, detector, terms.hash)?,
        };
        group.choose(Terms { choice: Choice { everybody, ..terms.choice }, ..terms })
    }
}

impl Group {
    fn healthy(&self) -> usize {
        self.hosts.iter().filter(|host| !host.health.is_ejected()).count()
    }

    /// Whether it is the same hosts, and a table was made of them.
    fn is_same(&self, other: &Self) -> bool {
        self.table.get().is_some()
            && self.placement == other.placement
            && self.hosts.len() == other.hosts.len()
            && self.hosts.iter().all(|host| other.hosts.iter().any(|known| Arc::ptr_eq(host, known)))
    }

    fn choose(&self, terms: Terms<'_>) -> Option<&Arc<Host>> {
        let Terms { load_balancer, hash, mut choice, detector: _ } = terms;
        choice.warmup = choice.warmup.filter(|warmup| choice.now.since(self.newest) < warmup.duration);
        let policy = match load_balancer {
            LoadBalancer::LeastRequest => Policy::LeastRequest,
            LoadBalancer::RoundRobin => Policy::RoundRobin,
            LoadBalancer::Random => Policy::Random,
            LoadBalancer::RingHash { minimum_size } => {
                return self.choose_by_hash(Hashing::Ring(minimum_size), hash, choice);
            }
            LoadBalancer::Maglev { table_size } => {
                return self.choose_by_hash(Hashing::Maglev(table_size), hash, choice);
            }
        };
        balance::choose(&self.hosts, self.uniform, policy, choice)
    }

    /// The host that the hash belongs to, else who takes over from it.
    fn choose_by_hash(&self, hashing: Hashing, hash: Option<u64>, choice: Choice<'_>) -> Option<&Arc<Host>> {
        if let [only] = &self.hosts[..] {
            return Some(only).filter(|host| choice.allows(host));
        }
        let hash = hash.unwrap_or_else(random);
        if self.is_passing {
            return self.choose_by_rendezvous(hash, choice);
        }
        match &**self.table.get_or_init(|| Arc::new(Table::new(&self.hosts, hashing))) {
            Table::Ring(ring) => self.first_of(ring.walk(hash), choice),
            Table::Maglev(maglev) => self.first_of(maglev.walk(hash), choice),
        }
    }

    /// The host that makes most of the hash and its weight (rendezvous hashing): consistent without a table.
    fn choose_by_rendezvous(&self, hash: u64, choice: Choice<'_>) -> Option<&Arc<Host>> {
        const STEPS: f64 = (1_u64 << 53) as f64;
        let score = |host: &Arc<Host>| {
            let mut hasher = XxHash64::with_seed(hash);
            host.address.hash(&mut hasher);
            let uniform = ((hasher.finish() >> 11) as f64 + 0.5) / STEPS;
            f64::from(host.weight) / -uniform.ln()
        };
        let rank = |host: &Arc<Host>| (!choice.avoid.contains(&host.address), score(host));
        let allowed = self.hosts.iter().filter(|host| choice.allows(host)).map(|host| (rank(host), host));
        let best = allowed
            .max_by(|((a_is_new, a), _), ((b_is_new, b), _)| a_is_new.cmp(b_is_new).then(a.total_cmp(b)));
        best.map(|(_, host)| host)
    }

    fn first_of(&self, walk: impl Iterator<Item = usize>, choice: Choice<'_>) -> Option<&Arc<Host>> {
        if !self.hosts.iter().any(|host| choice.allows(host)) {
            return None;
        }
        let mut allowed = walk.filter_map(|index| self.hosts.get(index)).filter(|host| choice.allows(host));
        let first = allowed.next()?;
        let not_tried = |host: &&Arc<Host>| !choice.avoid.contains(&host.address);
        if not_tried(&first) {
            return Some(first);
        }
        let next = allowed.take(SELECTIONS_MAX).find(not_tried);
        let any = || self.hosts.iter().filter(|host| choice.allows(host)).find(not_tried);
        Some(next.or_else(any).unwrap_or(first))
    }
}

/// Healthy hosts count for so much more in per cent, so that losing a few does not move load (Envoy's
/// overprovisioning factor).
const OVERPROVISIONING: usize = 140;

/// A group as its hosts' health has it, and whether ejected hosts are used, too: of the nearest as much as
/// they can carry, of the next what is left (Envoy's priority levels and locality weights).
fn choose_group<'a>(
    groups: &'a [Group],
    detector: Option<&Detector>,
    hash: Option<u64>,
) -> Option<(&'a Group, bool)> {
    let seed = hash.unwrap_or_else(random);
    let levels = || groups.chunk_by(|a, b| a.placement.priority == b.placement.priority);
    let Some(detector) = detector else {
        return Some((choose_locality(levels().next()?, true, seed)?, true));
    };
    let available: usize = levels().map(availability).sum();
    // While all together carry the load, nobody panics.
    let panics = |level: &[Group]| {
        let (healthy, total) = count(level);
        available < 100 && detector.is_panicking(healthy, total)
    };
    if available == 0 || levels().all(panics) {
        let nearest = levels().next()?;
        let everybody = panics(nearest);
        return Some((choose_locality(nearest, everybody, seed)?, everybody));
    }
    let mut point = fraction(mix(seed, 1)) * available.min(100) as f64;
    for level in levels() {
        point -= availability(level) as f64;
        if point < 0.0 {
            let everybody = panics(level);
            return Some((choose_locality(level, everybody, seed)?, everybody));
        }
    }
    None
}

fn count(level: &[Group]) -> (usize, usize) {
    level
        .iter()
        .fold((0, 0), |(healthy, total), group| (healthy + group.healthy(), total + group.hosts.len()))
}

/// How much of the load it can carry, in per cent.
fn availability(level: &[Group]) -> usize {
    let (healthy, total) = count(level);
    (healthy * OVERPROVISIONING / total.max(1)).min(100)
}

/// One of the groups of a level, by weight and health.
fn choose_locality(level: &[Group], everybody: bool, seed: u64) -> Option<&Group> {
    if let [only] = level {
        return Some(only);
    }
    let weight = |group: &Group| {
        let weight = f64::from(group.placement.weight);
        let available = if everybody { 100 } else { availability(std::slice::from_ref(group)) };
        weight * available as f64
    };
    let mut point = fraction(mix(seed, 2)) * level.iter().map(weight).sum::<f64>();
    level
        .iter()
        .find(|group| {
            point -= weight(group);
            point < 0.0
        })
        .or(level.first())
}

/// Numbers that have nothing to do with each other, of the same hash.
fn mix(seed: u64, stage: u64) -> u64 {
    XxHash64::oneshot(stage, &seed.to_ne_bytes())
}

#[cfg(test)]
mod tests;
