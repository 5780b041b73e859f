//! Watched names: one refresher each, for as long as somebody watches.

use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Weak};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{oneshot, watch};

use super::service::WatchRequest;
use super::{Answer, AnswerState, Resolver, lookup};

/// A name whose addresses are kept at hand. Clones watch the same name.
#[derive(Clone)]
pub struct NameWatch(Arc<Watched>);

pub(super) struct Watched {
    host: Arc<str>,
    answer: ArcSwap<Answer>,
    is_ready: watch::Sender<bool>,
    /// Dropped with the last watch: tells the refresher, which waits at the other end.
    _watching: Option<oneshot::Sender<Infallible>>,
    resolver: Resolver,
}

impl NameWatch {
    pub(super) fn new(resolver: &Resolver, host: &str) -> Self {
        let fixed = match host.parse() {
            Ok(address) => Some(Answer::literal(address)),
            Err(_) if lookup::is_host_name(host) => None,
            Err(_) => Some(Answer {
                addresses: Arc::new([]),
                state: AnswerState::Failed(format!("{host:?} is not a host name").into()),
            }),
        };
        if let Some(answer) = fixed {
            return Self(Arc::new(Watched::new(resolver, host.into(), answer, None)));
        }
        // Poisoned only if a panic came between two map operations that can't panic.
        let mut names = resolver.0.watched.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(watched) = names.get(host).and_then(Weak::upgrade) {
            return Self(watched);
        }
        let host: Arc<str> = host.into();
        let (watching, unwatched) = oneshot::channel();
        let watched = Watched::new(resolver, Arc::clone(&host), Answer::pending(), Some(watching));
        let watched = Arc::new(watched);
        names.insert(Arc::clone(&host), Arc::downgrade(&watched));
        let request = WatchRequest { host, watched: Arc::downgrade(&watched), unwatched };
        if resolver.0.watches.send(request).is_err() {
            let reason = "the resolver has ended".into();
            watched.set(Answer { addresses: Arc::new([]), state: AnswerState::Failed(reason) });
        }
        Self(watched)
    }

    #[cfg(test)]
    pub(super) fn resolver(&self) -> &Resolver {
        &self.0.resolver
    }

    pub fn host(&self) -> &Arc<str> {
        &self.0.host
    }

    /// What is known now. Takes no lock and never waits.
    pub fn current(&self) -> Guard<Arc<Answer>> {
        self.0.answer.load()
    }

    /// Waits for the first answer, or for the news that there is none. Any runtime will do.
    pub async fn ready(&self) {
        if self.current().state != AnswerState::Pending {
            return;
        }
        let mut is_ready = self.0.is_ready.subscribe();
        // The sender lives as long as this watch, so that waiting ends by becoming ready only.
        let became_ready = is_ready.wait_for(|is_ready| *is_ready).await;
        debug_assert!(became_ready.is_ok());
    }
}

impl Watched {
    fn new(
        resolver: &Resolver,
        host: Arc<str>,
        answer: Answer,
        watching: Option<oneshot::Sender<Infallible>>,
    ) -> Self {
        let is_ready = watch::Sender::new(answer.state != AnswerState::Pending);
        let answer = ArcSwap::from_pointee(answer);
        Self { host, answer, is_ready, _watching: watching, resolver: resolver.clone() }
    }

    pub(super) fn set(&self, answer: Answer) {
        if **self.answer.load() != answer {
            self.answer.store(Arc::new(answer));
        }
        self.is_ready.send_if_modified(|is_ready| !std::mem::replace(is_ready, true));
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut names = self.resolver.0.watched.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Somebody else may watch the name anew already.
        if names.get(&self.host).is_some_and(|watched| watched.strong_count() == 0) {
            names.remove(&self.host);
        }
    }
}

impl fmt::Debug for NameWatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("NameWatch")
            .field("host", &self.0.host)
            .field("answer", &self.current())
            .finish()
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Watched").field("host", &self.host).finish_non_exhaustive()
    }
}
