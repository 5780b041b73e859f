//! The resolver's thread: refreshes watched names, answers questions, reads the system's configuration
//! again when it changes.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::convert::Infallible;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::MissedTickBehavior;

use super::cache::Cache;
use super::lookup::Lookups;
use super::schedule::{History, Outcome};
use super::turns::Turns;
use super::watch::Watched;
use super::{Answer, Asker, DnsError, Options, Servers};

/// Names asked for at the same time, of each kind; each takes two sockets.
const REFRESHES_MAX: usize = 64;
const LOOKUPS_MAX: usize = 64;
/// Names that clients wait for.
const NAMES_WAITING_MAX: usize = 1024;
/// How often the files are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// A name to keep up to date, until `unwatched` says that nobody watches any more.
#[derive(Debug)]
pub(super) struct WatchRequest {
    pub(super) host: Arc<str>,
    pub(super) watched: Weak<Watched>,
    pub(super) unwatched: oneshot::Receiver<Infallible>,
}

/// A name to resolve once.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) host: Arc<str>,
    pub(super) asker: Asker,
    pub(super) reply: Reply,
}

type Reply = oneshot::Sender<Result<Arc<Answer>, DnsError>>;

/// What the system's configuration gives: somebody to ask, or the reason why there is nobody.
type Loaded = Arc<Result<Lookups, Arc<str>>>;

/// Starts the thread. It ends when all senders are gone.
pub(super) fn spawn(
    options: Options,
    watches: mpsc::UnboundedReceiver<WatchRequest>,
    questions: mpsc::Receiver<Question>,
    cache: Arc<Cache>,
    servers: Arc<ArcSwap<Vec<IpAddr>>>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("dns".into()).spawn(move || {
        runtime.block_on(serve(options, watches, questions, cache, servers));
    })?;
    Ok(())
}

async fn serve(
    options: Options,
    mut watches: mpsc::UnboundedReceiver<WatchRequest>,
    mut questions: mpsc::Receiver<Question>,
    cache: Arc<Cache>,
    servers: Arc<ArcSwap<Vec<IpAddr>>>,
) {
    let options = Arc::new(options);
    let loaded = Lookups::load(&options).map_err(|reason| {
        tracing::warn!(%reason, "names can't be resolved until this is mended");
        Arc::from(reason)
    });
    if let Ok(lookups) = &loaded {
        servers.store(Arc::new(lookups.servers()));
    }
    let loaded = watch::Sender::new(Arc::new(loaded));
    let refreshes = Arc::new(Semaphore::new(REFRESHES_MAX));
    let mut asking = Asking::new(cache, loaded.subscribe(), options.refresh_rate);
    let mut files = Files::look(&options);
    let mut reload = tokio::time::interval(RELOAD_INTERVAL);
    reload.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            request = watches.recv() => match request {
                Some(request) => {
                    let refresher = Refresher {
                        host: request.host,
                        watched: request.watched,
                        refreshes: Arc::clone(&refreshes),
                        loaded: loaded.subscribe(),
                        refresh_rate: options.refresh_rate,
                    };
                    tokio::spawn(async move {
                        // The sender sends nothing: it ends when it is dropped.
                        tokio::select! {
                            _unwatched = request.unwatched => {}
                            () = refresher.run() => {}
                        }
                    });
                }
                None => return,
            },
            question = questions.recv() => match question {
                Some(question) => asking.ask(question),
                None => return,
            },
            () = asking.learn_next() => {}
            _ = reload.tick() => {
                let seen = Files::look(&options);
                if seen != files {
                    files = seen;
                    match Lookups::load(&options) {
                        Ok(lookups) => {
                            tracing::info!("resolver configuration read again");
                            servers.store(Arc::new(lookups.servers()));
                            loaded.send_replace(Arc::new(Ok(lookups)));
                        }
                        // It may be half written; what was read before is better than nothing.
                        Err(reason) => tracing::warn!(%reason, "resolver configuration not read again"),
                    }
                }
            }
        }
    }
}

/// Keeps one watched name up to date.
struct Refresher {
    host: Arc<str>,
    watched: Weak<Watched>,
    refreshes: Arc<Semaphore>,
    loaded: watch::Receiver<Loaded>,
    refresh_rate: Duration,
}

impl Refresher {
    async fn run(mut self) {
        let mut history = History::default();
        loop {
            let lookups = Arc::clone(&self.loaded.borrow_and_update());
            let outcome = {
                let _permit = self.refreshes.acquire().await;
                resolve(&lookups, &self.host).await
            };
            tell_change(&self.host, &history, &outcome);
            let (answer, pause) = history.learn(outcome, Instant::now(), self.refresh_rate, random());
            match self.watched.upgrade() {
                Some(watched) => watched.set(answer),
                None => return,
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                reloaded = self.loaded.changed() => if reloaded.is_err() { return },
            }
        }
    }
}

/// Names that clients wait for: each is asked for once, however many wait.
struct Asking {
    cache: Arc<Cache>,
    waiting: HashMap<Arc<str>, Waiting>,
    turns: Turns,
    lookups: JoinSet<Outcome>,
    /// What each of the lookups is for.
    asked_for: HashMap<Id, (Asker, Arc<str>)>,
    loaded: watch::Receiver<Loaded>,
    refresh_rate: Duration,
}

/// Who waits for a name.
#[derive(Default)]
struct Waiting {
    replies: Vec<Reply>,
    /// Those with whose turn it may be asked for.
    askers: Vec<Asker>,
    is_asked_for: bool,
}

impl Asking {
    fn new(cache: Arc<Cache>, loaded: watch::Receiver<Loaded>, refresh_rate: Duration) -> Self {
        let turns = Turns::new(NAMES_WAITING_MAX, LOOKUPS_MAX);
        let (waiting, asked_for) = (HashMap::new(), HashMap::new());
        Self { cache, waiting, turns, lookups: JoinSet::new(), asked_for, loaded, refresh_rate }
    }

    fn ask(&mut self, Question { host, asker, reply }: Question) {
        // Somebody else's question may have been answered since this one was sent.
        if let Some(known) = self.cache.get(&host) {
            return answer(reply, known);
        }
        let waiting = match self.waiting.entry(Arc::clone(&host)) {
            Entry::Occupied(waiting) => {
                let waiting = waiting.into_mut();
                // Whoever else asked for it may have to wait for longer.
                let may_be_sooner = !waiting.is_asked_for && !waiting.askers.contains(&asker);
                if may_be_sooner && self.turns.wait(asker, host) {
                    waiting.askers.push(asker);
                }
                waiting
            }
            Entry::Vacant(_) if !self.turns.wait(asker, host) => return answer(reply, Err(DnsError::Busy)),
            Entry::Vacant(waiting) => waiting.insert(Waiting { askers: vec![asker], ..Waiting::default() }),
        };
        waiting.replies.push(reply);
        self.begin();
    }

    /// Asks for what can be asked for now.
    fn begin(&mut self) {
        while let Some((asker, host)) = self.turns.begin() {
            let waiting = self.waiting.get_mut(&host).filter(|waiting| !waiting.is_asked_for);
            let Some(waiting) = waiting else {
                // It was another one's turn before.
                self.turns.end(asker);
                continue;
            };
            waiting.is_asked_for = true;
            let (lookups, name) = (Arc::clone(&self.loaded.borrow()), Arc::clone(&host));
            let lookup = self.lookups.spawn(async move { resolve(&lookups, &name).await });
            self.asked_for.insert(lookup.id(), (asker, host));
        }
    }

    /// Waits for lookups to end, and answers those who wait for them. Cancel-safe.
    async fn learn_next(&mut self) {
        let Some(first) = self.lookups.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let mut entries = Vec::new();
        let mut next = Some(first);
        while let Some(ended) = next {
            let id = match &ended {
                Ok((id, _)) => *id,
                Err(error) => error.id(),
            };
            let of = self.asked_for.remove(&id);
            if let Some((asker, _)) = of {
                self.turns.end(asker);
            }
            match (ended, of) {
                (Ok((_, outcome)), Some((_, host))) => {
                    let mut history = self.cache.history(&host);
                    // Whoever brings names does not write our log.
                    if let Outcome::Failed(reason) = &outcome {
                        tracing::debug!(%host, %reason, "a client's name can't be resolved");
                    }
                    let (answer, life) = history.learn(outcome, Instant::now(), self.refresh_rate, random());
                    let entry = self.cache.entry(&host, answer, life, history);
                    entries.push((host, entry));
                }
                (Err(error), Some((_, host))) => {
                    tracing::error!(%host, %error, "a lookup ended without an outcome");
                    self.waiting.remove(&host);
                }
                // None is begun without being written down.
                (_, None) => {}
            }
            next = self.lookups.try_join_next_with_id();
        }
        self.cache.insert(entries.clone());
        for (host, entry) in entries {
            for reply in self.waiting.remove(&host).unwrap_or_default().replies {
                answer(reply, entry.answer());
            }
        }
        self.begin();
    }
}

fn answer(reply: Reply, known: Result<Arc<Answer>, DnsError>) {
    // Whoever asked may have gone.
    drop(reply.send(known));
}

async fn resolve(loaded: &Loaded, host: &str) -> Outcome {
    match &**loaded {
        Ok(lookups) => lookups.resolve(host).await,
        Err(reason) => Outcome::Failed(Arc::clone(reason)),
    }
}

/// One line when a name fails for the first time, and one when it is back.
fn tell_change(host: &str, history: &History, outcome: &Outcome) {
    match outcome {
        Outcome::Failed(reason) if history.failures() == 0 => {
            tracing::warn!(%host, %reason, "name can't be resolved; what was known of it stands");
        }
        Outcome::Addresses { .. } if history.failures() > 0 => {
            tracing::info!(%host, "name is resolved again");
        }
        Outcome::Failed(_) | Outcome::Addresses { .. } | Outcome::Nothing { .. } => {}
    }
}

/// In 0..1.
fn random() -> f64 {
    let bits = RandomState::new().hash_one(()) >> 11;
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64")]
    let fraction = bits as f64;
    fraction / (1u64 << 53) as f64
}

/// What changes when the files do, be it in place or by rename.
#[derive(PartialEq)]
struct Files([Option<(SystemTime, u64, u64)>; 2]);

impl Files {
    fn look(options: &Options) -> Self {
        use std::os::unix::fs::MetadataExt;
        let look = |path: &Path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
        };
        let servers = match &options.servers {
            Servers::ResolvConf(path) => look(path),
            Servers::Fixed(_) => None,
        };
        Self([servers, look(&options.hosts_file)])
    }
}
