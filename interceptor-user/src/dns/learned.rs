//! What a workload's own DNS answers say: which names an address was given for. One table for each workload, bounded;
//! read without a lock by those who carry its connections.
//!
//! A workload chooses whom it asks, so a name here is what the workload believes, and no more: it may select among
//! what is allowed anyway.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::Resolver;
use super::answer::{self, Answer, Asked};

/// A change copies one shard.
const SHARDS: usize = 64;
/// Those not used for the longest are forgotten first.
const SHARD_ADDRESSES_MAX: usize = 64;
/// Names of one address: the last ones learned.
const NAMES_MAX: usize = 8;

/// How long a name outlives its answer's TTL, and its last use: connection pools and many programs keep addresses for
/// longer than they were given them.
const GRACE: Duration = Duration::from_secs(3600);
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug)]
pub struct LearnedNames {
    shards: Box<[ArcSwap<Shard>]>,
    hasher: RandomState,
    started: Instant,
    pub(super) counters: Counters,
}

type Shard = HashMap<IpAddr, Arc<Names>>;

/// The names of one address, the last learned first.
#[derive(Debug)]
pub struct Names {
    names: Box<[Name]>,
    /// In seconds since the table was made, like all times here.
    last_used: AtomicU64,
}

#[derive(Clone, Debug)]
struct Name {
    name: Arc<str>,
    expires: u64,
    /// Learned from a server that we ask ourselves.
    is_trusted: bool,
}

/// One address as an answer gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lesson {
    pub(super) address: IpAddr,
    /// The name asked for, then those that it is an alias of; in lower case, without a dot at the end.
    pub(super) names: Vec<Arc<str>>,
    pub(super) ttl: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) queries: AtomicU64,
    pub(super) answers: AtomicU64,
    pub(super) learned: AtomicU64,
    pub(super) malformed: AtomicU64,
    pub(super) unasked: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) forgotten: AtomicU64,
}

/// What the capture of DNS did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct DnsCounters {
    /// Datagrams that were sent on to name servers.
    pub dns_queries: u64,
    /// Datagrams and messages that name servers sent.
    pub dns_answers: u64,
    /// Addresses in them whose names were learned.
    pub dns_learned: u64,
    /// Answers that could not be read: passed on all the same.
    pub dns_malformed: u64,
    /// Answers to what was not asked: passed on, and not believed.
    pub dns_unasked: u64,
    /// Queries that found no room in the relay, as if the network had lost them.
    pub dns_dropped: u64,
    /// Addresses that were forgotten for newer ones.
    pub dns_forgotten: u64,
}

impl DnsCounters {
    pub(crate) fn add(&mut self, other: &Self) {
        let Self {
            dns_queries,
            dns_answers,
            dns_learned,
            dns_malformed,
            dns_unasked,
            dns_dropped,
            dns_forgotten,
        } = other;
        self.dns_queries += dns_queries;
        self.dns_answers += dns_answers;
        self.dns_learned += dns_learned;
        self.dns_malformed += dns_malformed;
        self.dns_unasked += dns_unasked;
        self.dns_dropped += dns_dropped;
        self.dns_forgotten += dns_forgotten;
    }
}

impl Default for LearnedNames {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| ArcSwap::default()).collect(),
            hasher: RandomState::new(),
            started: Instant::now(),
            counters: Counters::default(),
        }
    }
}

impl LearnedNames {
    /// The names that `address` was given for. Takes no lock.
    pub fn names(&self, address: IpAddr) -> Option<Arc<Names>> {
        self.shard(address).load().get(&address).cloned()
    }

    /// Those of the names that still hold, the last learned first; `trusted_only`: those that a server gave which we ask,
    /// too.
    pub fn held<'a>(&self, names: &'a Names, trusted_only: bool) -> impl Iterator<Item = &'a Arc<str>> {
        names.held(self.now(), trusted_only).map(|name| &name.name)
    }

    /// Whether `name` was given for the address; `trusted_only` as above.
    pub fn has(&self, names: &Names, name: &str, trusted_only: bool) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        let now = self.now();
        let has = names.held(now, trusted_only).any(|held| held.name.eq_ignore_ascii_case(name));
        if has {
            names.last_used.store(now, Ordering::Relaxed);
        }
        has
    }

    /// A name of the address was of use: they are kept for longer.
    pub fn used(&self, names: &Names) {
        names.last_used.store(self.now(), Ordering::Relaxed);
    }

    pub fn counters(&self) -> DnsCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DnsCounters {
            dns_queries: read(&self.counters.queries),
            dns_answers: read(&self.counters.answers),
            dns_learned: read(&self.counters.learned),
            dns_malformed: read(&self.counters.malformed),
            dns_unasked: read(&self.counters.unasked),
            dns_dropped: read(&self.counters.dropped),
            dns_forgotten: read(&self.counters.forgotten),
        }
    }

    /// Learns what `server` answers on a connection that nobody else can write to.
    pub(crate) fn learn_from(&self, message: &[u8], server: SocketAddr, resolver: &Resolver) {
        self.learn_if(message, server, resolver, |_| true);
    }

    /// Learns what `server` answers, if `was_asked` says that it was asked for that.
    pub(super) fn learn_if(
        &self,
        message: &[u8],
        server: SocketAddr,
        resolver: &Resolver,
        was_asked: impl FnOnce(&Asked) -> bool,
    ) {
        self.counters.answers.fetch_add(1, Ordering::Relaxed);
        match answer::read(message) {
            Answer::Malformed => {
                self.counters.malformed.fetch_add(1, Ordering::Relaxed);
            }
            Answer::Read { asked: Some(asked), lessons } if was_asked(&asked) => {
                let is_trusted = resolver.asks(server.ip());
                lessons.iter().for_each(|lesson| self.learn(lesson, is_trusted));
            }
            Answer::Read { .. } => {
                self.counters.unasked.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn learn(&self, lesson: &Lesson, is_trusted: bool) {
        self.learn_at(lesson, is_trusted, self.now());
    }

    fn learn_at(&self, lesson: &Lesson, is_trusted: bool, now: u64) {
        let mut forgotten = 0;
        self.shard(lesson.address).rcu(|shard| {
            let mut shard = Shard::clone(shard);
            let names =
                Names::with(lesson, is_trusted, shard.get(&lesson.address).map(|names| &**names), now);
            shard.insert(lesson.address, Arc::new(names));
            let before = shard.len();
            if before > SHARD_ADDRESSES_MAX {
                shard.retain(|_, names| names.held(now, false).next().is_some());
                make_room(&mut shard, lesson.address);
            }
            forgotten = before - shard.len();
            shard
        });
        self.counters.learned.fetch_add(1, Ordering::Relaxed);
        self.counters.forgotten.fetch_add(forgotten as u64, Ordering::Relaxed);
    }

    fn shard(&self, address: IpAddr) -> &ArcSwap<Shard> {
        let hash = self.hasher.hash_one(address);
        let index = usize::try_from(hash % SHARDS as u64).unwrap_or_default();
        &self.shards[index]
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_secs()
    }
}

/// Forgets the address not used for the longest, but not the one just learned.
fn make_room(shard: &mut Shard, learned: IpAddr) {
    while shard.len() > SHARD_ADDRESSES_MAX {
        let oldest = shard
            .iter()
            .filter(|(address, _)| **address != learned)
            .min_by_key(|(_, names)| names.last_used.load(Ordering::Relaxed))
            .map(|(address, _)| *address);
        let Some(oldest) = oldest else { return };
        shard.remove(&oldest);
    }
}

impl Names {
    fn with(lesson: &Lesson, is_trusted: bool, before: Option<&Self>, now: u64) -> Self {
        let expires = now + (lesson.ttl.clamp(TTL_MIN, TTL_MAX) + GRACE).as_secs();
        let mut names: Vec<Name> = lesson
            .names
            .iter()
            .take(NAMES_MAX)
            .map(|name| Name { name: Arc::clone(name), expires, is_trusted })
            .collect();
        for old in before.into_iter().flat_map(|before| before.held(now, false)) {
            match names.iter_mut().find(|name| name.name == old.name) {
                // What a trusted server said is not undone by what another repeats, nor made to last.
                Some(same) if old.is_trusted && !is_trusted => {
                    same.is_trusted = true;
                    same.expires = old.expires;
                }
                Some(_) => {}
                None => names.push(old.clone()),
            }
        }
        names.truncate(NAMES_MAX);
        Self { names: names.into(), last_used: AtomicU64::new(now) }
    }

    fn held(&self, now: u64, trusted_only: bool) -> impl Iterator<Item = &Name> {
        let in_use_until = self.last_used.load(Ordering::Relaxed) + GRACE.as_secs();
        self.names
            .iter()
            .filter(move |name| now < name.expires.max(in_use_until) && (name.is_trusted || !trusted_only))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lesson(address: &str, names: &[&str], ttl_s: u64) -> Lesson {
        Lesson {
            address: address.parse().unwrap(),
            names: names.iter().map(|name| Arc::from(*name)).collect(),
            ttl: Duration::from_secs(ttl_s),
        }
    }

    fn held(table: &LearnedNames, address: &str, now: u64) -> Vec<String> {
        let names = table.names(address.parse().unwrap());
        let names = names.as_deref().map(|names| names.held(now, false).map(|name| name.name.to_string()));
        names.map(Iterator::collect).unwrap_or_default()
    }

    #[test]
    fn the_last_learned_name_goes_first() {
        let table = LearnedNames::default();
        table.learn_at(&lesson("192.0.2.1", &["a.test", "alias.test"], 60), false, 0);
        table.learn_at(&lesson("192.0.2.1", &["b.test"], 60), false, 1);
        assert_eq!(held(&table, "192.0.2.1", 1), ["b.test", "a.test", "alias.test"]);
        table.learn_at(&lesson("192.0.2.1", &["a.test"], 60), false, 2);
        assert_eq!(held(&table, "192.0.2.1", 2), ["a.test", "b.test", "alias.test"]);
        assert_eq!(held(&table, "192.0.2.2", 2), [""; 0]);
    }

    #[test]
    fn names_expire_after_ttl_and_grace_unless_used() {
        let table = LearnedNames::default();
        let grace = GRACE.as_secs();
        table.learn_at(&lesson("192.0.2.1", &["a.test"], 300), false, 0);
        assert_eq!(held(&table, "192.0.2.1", 299 + grace), ["a.test"]);
        assert_eq!(held(&table, "192.0.2.1", 300 + grace), [""; 0]);
        let names = table.names("192.0.2.1".parse().unwrap()).unwrap();
        names.last_used.store(grace, Ordering::Relaxed);
        assert_eq!(held(&table, "192.0.2.1", 300 + grace), ["a.test"]);
        // A TTL of nothing is a second, and one of 68 years a day.
        table.learn_at(&lesson("192.0.2.2", &["b.test"], 0), false, 0);
        table.learn_at(&lesson("192.0.2.3", &["c.test"], u64::from(u32::MAX)), false, 0);
        assert_eq!(held(&table, "192.0.2.2", grace), ["b.test"]);
        assert_eq!(held(&table, "192.0.2.3", 24 * 3600 + grace), [""; 0]);
    }

    #[test]
    fn memory_is_bounded_and_what_was_used_last_stays() {
        let table = LearnedNames::default();
        let used = "203.0.113.7";
        table.learn_at(&lesson(used, &["used.test"], 60), false, 0);
        for number in 0..20_000_u32 {
            let address = IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + number));
            table.learn_at(&lesson(&address.to_string(), &["other.test"], 60), false, 1);
            let names = table.names(used.parse().unwrap()).unwrap();
            names.last_used.store(2, Ordering::Relaxed);
        }
        let known: usize = table.shards.iter().map(|shard| shard.load().len()).sum();
        assert!(known <= SHARDS * SHARD_ADDRESSES_MAX, "{known}");
        assert_eq!(held(&table, used, 2), ["used.test"]);
        assert_eq!(table.counters().dns_forgotten, 20_001 - known as u64);
        for number in 0..100 {
            table.learn_at(&lesson(used, &[&format!("{number}.test")], 60), false, 3);
        }
        assert_eq!(held(&table, used, 3).len(), NAMES_MAX);
    }

    #[test]
    fn who_said_it_is_remembered() {
        let table = LearnedNames::default();
        let address = "192.0.2.1".parse().unwrap();
        table.learn(&lesson("192.0.2.1", &["a.test"], 60), false);
        let names = table.names(address).unwrap();
        assert!(table.has(&names, "A.test.", false) && !table.has(&names, "a.test", true));
        table.learn(&lesson("192.0.2.1", &["a.test"], 60), true);
        table.learn(&lesson("192.0.2.1", &["a.test"], 60), false);
        let names = table.names(address).unwrap();
        assert!(table.has(&names, "a.test", true) && !table.has(&names, "b.test", false));
    }
}
