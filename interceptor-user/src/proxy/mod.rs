//! How an intercepted connection is carried: accepted, inspected, routed, sent on, recorded.
//!
//! [`Proxy`] is the whole of it from outside: workers, one single-threaded runtime for each core, that
//! share nothing but the active configuration, the resolver's answers and counters.

pub mod active;
mod connection;
pub mod copy;
mod dns_tap;
pub mod downstream;
pub mod http;
pub mod inspect;
mod listener;
pub mod names;
pub mod outcome;
pub mod stats;
mod tcp;
pub mod upstream;
pub mod worker;

use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

pub use listener::{Intercepted, InterceptedSource};

use active::Active;
use names::NameKnowledge;
use stats::{ProxyCounters, WorkerStats};
use worker::Worker;

use crate::dns::{LearnedNames, Resolver};
use crate::snapshot::Snapshot;
use crate::telemetry::AccessLog;

/// What a proxy is made of.
pub struct ProxyOptions {
    /// Sockets that intercepted connections arrive on, listening already.
    pub listeners: Vec<TcpListener>,
    pub intercepted: InterceptedSource,
    pub resolver: Resolver,
    /// What the workload's DNS answers say; `None`: they are not captured.
    pub learned: Option<Arc<LearnedNames>>,
    pub access_log: AccessLog,
    pub snapshot: Snapshot,
    /// Threads; one for each core is right.
    pub workers: usize,
}

impl std::fmt::Debug for ProxyOptions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ProxyOptions").field("workers", &self.workers).finish_non_exhaustive()
    }
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    active: Arc<ArcSwap<Active>>,
    resolver: Resolver,
    learned: Option<Arc<LearnedNames>>,
    access_log: AccessLog,
    threads: Vec<JoinHandle<()>>,
    stats: Vec<Arc<WorkerStats>>,
    /// Dropped to stop the workers.
    stop: watch::Sender<bool>,
}

impl Proxy {
    /// Starts the workers; connections are taken from then on.
    ///
    /// # Errors
    /// When a thread, a runtime or a duplicate of a listening socket cannot be made.
    pub fn start(options: ProxyOptions) -> io::Result<Self> {
        let active = Active::build(Arc::new(options.snapshot), None, &options.resolver);
        let active = Arc::new(ArcSwap::from_pointee(active));
        let (stop, stopped) = watch::channel(false);
        let mut threads = Vec::new();
        let mut stats = Vec::new();
        for number in 0..options.workers.max(1) {
            let worker_stats = Arc::new(WorkerStats::default());
            stats.push(Arc::clone(&worker_stats));
            let listeners: Vec<TcpListener> =
                options.listeners.iter().map(TcpListener::try_clone).collect::<io::Result<_>>()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (active, access_log, intercepted) =
                (Arc::clone(&active), options.access_log.clone(), Arc::clone(&options.intercepted));
            let stopped = stopped.clone();
            let names = NameKnowledge {
                learned: options.learned.clone(),
                resolver: options.resolver.clone(),
                stats: Arc::clone(&worker_stats),
            };
            let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                LocalSet::new().block_on(&runtime, async move {
                    let worker = Worker::new(active, access_log, names);
                    run(worker, worker_stats, listeners, intercepted, stopped).await;
                });
            })?;
            threads.push(thread);
        }
        Ok(Self {
            active,
            resolver: options.resolver,
            learned: options.learned,
            access_log: options.access_log,
            threads,
            stats,
            stop,
        })
    }

    /// Puts a new configuration in effect for connections and requests that come from now on. Equal to
    /// the present one, it changes nothing.
    pub fn publish(&self, snapshot: Snapshot) {
        let current = self.active.load_full();
        if *current.snapshot == snapshot {
            return;
        }
        let next = Active::build(Arc::new(snapshot), Some(&current), &self.resolver);
        self.active.store(Arc::new(next));
    }

    /// The configuration in effect.
    pub fn active(&self) -> Arc<Active> {
        self.active.load_full()
    }

    pub fn counters(&self) -> ProxyCounters {
        let mut counters = ProxyCounters {
            access_log_dropped: self.access_log.dropped(),
            dns: self.learned.as_ref().map(|learned| learned.counters()).unwrap_or_default(),
            ..Default::default()
        };
        for stats in &self.stats {
            stats.add_to(&mut counters);
        }
        counters
    }

    /// Whether a worker has ended, which only [`Self::stop`] may bring about.
    pub fn failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Lets open connections end for at most `grace`, breaks off what is left, and writes every record.
    pub fn stop(self, grace: Duration) -> ProxyCounters {
        let deadline = Instant::now() + grace;
        while self.counters().connections_open > 0 && Instant::now() < deadline && !self.failed() {
            std::thread::sleep(Duration::from_millis(2));
        }
        let _told = self.stop.send(true).is_ok();
        let counters = self.counters();
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker ended by a panic");
            }
        }
        self.access_log.close();
        counters
    }
}

/// A worker's life: accepts until it is told to stop, or can't go on, which ends the process. Connections
/// that are open then are dropped with the runtime, which writes their records.
async fn run(
    worker: Rc<Worker>,
    stats: Arc<WorkerStats>,
    listeners: Vec<TcpListener>,
    intercepted: InterceptedSource,
    mut stopped: watch::Receiver<bool>,
) {
    let mut accepting = JoinSet::new();
    for listener in listeners {
        let (worker, intercepted, stats) = (Rc::clone(&worker), Arc::clone(&intercepted), Arc::clone(&stats));
        accepting.spawn_local(async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => listener::accept(worker, listener, intercepted, stats).await,
                Err(error) => error,
            }
        });
    }
    tokio::select! {
        // An error is the sender gone, which is as good as being told.
        _told = stopped.wait_for(|stop| *stop) => {}
        Some(ended) = accepting.join_next() => match ended {
            Ok(error) => tracing::error!(%error, "a listening socket failed"),
            Err(error) => tracing::error!(%error, "accepting connections ended"),
        },
    }
}
