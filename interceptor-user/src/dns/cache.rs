//! Answers for names that clients brought: read without a lock, written by the resolver's thread alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::schedule::History;
use super::{Answer, AnswerState, DnsError};

type Names = HashMap<Arc<str>, Arc<Entry>>;

#[derive(Debug)]
pub(super) struct Cache {
    names: ArcSwap<Names>,
    names_max: usize,
    started: Instant,
}

#[derive(Debug)]
pub(super) struct Entry {
    answer: Result<Arc<Answer>, DnsError>,
    expires: Instant,
    pub(super) history: History,
    /// Milliseconds since the cache was made.
    last_used: AtomicU64,
}

impl Cache {
    pub(super) fn new(names_max: usize) -> Self {
        Self { names: ArcSwap::default(), names_max: names_max.max(1), started: Instant::now() }
    }

    /// What is known and has not expired, errors among it.
    pub(super) fn get(&self, host: &str) -> Option<Result<Arc<Answer>, DnsError>> {
        let names = self.names.load();
        let entry = names.get(host)?;
        entry.last_used.store(self.now(), Ordering::Relaxed);
        (Instant::now() < entry.expires).then(|| entry.answer.clone())
    }

    /// What was learned about the name before, expired or not.
    pub(super) fn history(&self, host: &str) -> History {
        self.names.load().get(host).map(|entry| entry.history.clone()).unwrap_or_default()
    }

    /// Remembers answers, and forgets the names not asked for the longest. For the one writer only.
    pub(super) fn insert(&self, entries: Vec<(Arc<str>, Arc<Entry>)>) {
        let mut names = Names::clone(&self.names.load());
        names.extend(entries);
        if names.len() > self.names_max {
            let mut by_use: Vec<_> = names
                .iter()
                .map(|(host, entry)| (entry.last_used.load(Ordering::Relaxed), Arc::clone(host)))
                .collect();
            let excess = names.len() - self.names_max;
            by_use.select_nth_unstable(excess - 1);
            for (_, host) in &by_use[..excess] {
                names.remove(host);
            }
        }
        self.names.store(Arc::new(names));
    }

    pub(super) fn entry(
        &self,
        host: &Arc<str>,
        answer: Answer,
        life: Duration,
        history: History,
    ) -> Arc<Entry> {
        let answer = match &answer.state {
            AnswerState::Failed(reason) => {
                Err(DnsError::Failed { host: Arc::clone(host), reason: Arc::clone(reason) })
            }
            AnswerState::Fresh | AnswerState::Stale | AnswerState::Pending => Ok(Arc::new(answer)),
        };
        let last_used = AtomicU64::new(self.now());
        Arc::new(Entry { answer, expires: Instant::now() + life, history, last_used })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Entry {
    pub(super) fn answer(&self) -> Result<Arc<Answer>, DnsError> {
        self.answer.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::Cache;
    use crate::dns::Answer;
    use crate::dns::schedule::History;

    #[test]
    fn the_names_not_asked_for_the_longest_are_forgotten() {
        let cache = Cache::new(3);
        let add = |host: &str| {
            let host: Arc<str> = host.into();
            let answer = Answer::literal("192.0.2.1".parse().unwrap());
            let entry = cache.entry(&host, answer, Duration::from_secs(60), History::default());
            cache.insert(vec![(host, entry)]);
            std::thread::sleep(Duration::from_millis(2)); // uses are told apart by the millisecond
        };
        for host in ["a", "b", "c"] {
            add(host);
        }
        assert!(cache.get("a").is_some());
        std::thread::sleep(Duration::from_millis(2));
        add("d");
        let known: Vec<_> =
            ["a", "b", "c", "d"].into_iter().filter(|host| cache.get(host).is_some()).collect();
        assert_eq!(known, ["a", "c", "d"]);
    }

    #[test]
    fn what_has_expired_is_asked_for_again() {
        let cache = Cache::new(3);
        let host: Arc<str> = "a".into();
        let answer = Answer::literal("192.0.2.1".parse().unwrap());
        let entry = cache.entry(&host, answer, Duration::ZERO, History::default());
        cache.insert(vec![(host, entry)]);
        assert!(cache.get("a").is_none());
    }
}
