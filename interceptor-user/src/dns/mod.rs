//! Names to addresses: one resolver for the whole process, on a thread of its own.
//!
//! Names that the configuration names are watched: asked for once per process, refreshed before they
//! expire, read without waiting. Names that clients bring are resolved one by one through a bounded
//! cache. Either way a server that does not answer leaves the last good answer standing.
//!
//! Beside it, names learned from what the workload itself asks name servers: [`Relay`], [`LearnedNames`].

mod answer;
mod cache;
mod learned;
mod lookup;
mod relay;
mod schedule;
mod service;
mod system;
mod turns;
mod watch;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

pub use learned::{DnsCounters, LearnedNames, Names};
pub use relay::{Relay, RelayOptions, ServerOf};
pub use system::{look_up, name_servers};
pub use watch::NameWatch;

use cache::Cache;
use service::{Question, WatchRequest};
use watch::Watched;

/// Questions that may wait for the resolver's thread to take them.
const QUESTIONS_MAX: usize = 1024;

#[derive(Clone, Debug)]
pub struct Options {
    pub servers: Servers,
    pub hosts_file: PathBuf,
    /// MeshConfig.dnsRefreshRate: the longest time between two tries of a name that can't be resolved.
    pub refresh_rate: Duration,
    /// How many names that clients brought are remembered.
    pub cache_names_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            servers: Servers::ResolvConf("/etc/resolv.conf".into()),
            hosts_file: "/etc/hosts".into(),
            refresh_rate: Duration::from_secs(60),
            cache_names_max: 1024,
        }
    }
}

/// Who is asked.
#[derive(Clone, Debug)]
pub enum Servers {
    /// Servers and search list of this file, read again when it changes.
    ResolvConf(PathBuf),
    /// These, and no search list.
    Fixed(Vec<SocketAddr>),
}

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// IPv4 before IPv6, each in the order answered. Empty when the name does not exist, has no address,
    /// or was never answered for.
    pub addresses: Arc<[IpAddr]>,
    pub state: AnswerState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerState {
    /// As the server says: also that there is no address.
    Fresh,
    /// Expired, but servers do not answer.
    Stale,
    /// Servers never answered for it; says why not.
    Failed(Arc<str>),
    /// The first question is on its way.
    Pending,
}

impl Answer {
    fn pending() -> Self {
        Self { addresses: Arc::new([]), state: AnswerState::Pending }
    }

    fn literal(address: IpAddr) -> Self {
        Self { addresses: Arc::new([address]), state: AnswerState::Fresh }
    }
}

/// Who asks for names that clients bring: nobody's are asked for at the cost of all others'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Asker {
    /// A workload, by a number of its own.
    pub workload: u64,
    /// Whoever of its clients, where it has many.
    pub client: Option<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    #[error("{host:?} is not a host name")]
    InvalidName { host: String },
    #[error("{host} could not be resolved: {reason}")]
    Failed { host: Arc<str>, reason: Arc<str> },
    #[error("too many names are being resolved")]
    Busy,
    #[error("the resolver has ended")]
    Ended,
}

/// Handle to the resolver; clones share it. Its thread ends when the last handle and watch are gone.
#[derive(Clone, Debug)]
pub struct Resolver(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Watched names. Locked when a watch is made or dropped, which configurations do.
    watched: Mutex<HashMap<Arc<str>, Weak<Watched>>>,
    watches: mpsc::UnboundedSender<WatchRequest>,
    questions: mpsc::Sender<Question>,
    cache: Arc<Cache>,
    /// Who is asked.
    servers: Arc<ArcSwap<Vec<IpAddr>>>,
}

impl Resolver {
    /// # Errors
    /// When its thread can't be started. Servers that can't be reached are no error here.
    pub fn start(options: Options) -> io::Result<Self> {
        let (watches, watch_requests) = mpsc::unbounded_channel();
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let cache = Arc::new(Cache::new(options.cache_names_max));
        let servers = Arc::default();
        service::spawn(options, watch_requests, asked, Arc::clone(&cache), Arc::clone(&servers))?;
        Ok(Self(Arc::new(Shared { watched: Mutex::default(), watches, questions, cache, servers })))
    }

    /// Whether this is one of the servers that it asks itself.
    pub fn asks(&self, server: IpAddr) -> bool {
        self.0.servers.load().contains(&server)
    }

    /// What is remembered of a name that a client brought; never waits.
    pub fn remembered(&self, host: &str) -> Option<Arc<Answer>> {
        self.0.cache.get(&normalized(host))?.ok()
    }

    /// Keeps the name's addresses at hand from now on, until the last watch of the name is dropped.
    pub fn watch(&self, host: &str) -> NameWatch {
        NameWatch::new(self, &normalized(host))
    }

    /// The addresses of a name: from the cache, or from the server.
    ///
    /// # Errors
    /// When the name is none, or no server answers for it.
    pub async fn resolve(&self, host: &str, asker: Asker) -> Result<Arc<Answer>, DnsError> {
        let host = normalized(host);
        if let Ok(address) = host.parse() {
            return Ok(Arc::new(Answer::literal(address)));
        }
        if !lookup::is_host_name(&host) {
            return Err(DnsError::InvalidName { host: host.into_owned() });
        }
        if let Some(known) = self.0.cache.get(&host) {
            return known;
        }
        let (reply, replied) = tokio::sync::oneshot::channel();
        match self.0.questions.try_send(Question { host: host.into(), asker, reply }) {
            Ok(()) => replied.await.unwrap_or(Err(DnsError::Ended)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(DnsError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(DnsError::Ended),
        }
    }
}

/// One spelling for each name.
fn normalized(host: &str) -> std::borrow::Cow<'_, str> {
    let host = host.strip_suffix('.').filter(|host| !host.is_empty()).unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        host.to_ascii_lowercase().into()
    } else {
        host.into()
    }
}

#[cfg(test)]
mod tests;
