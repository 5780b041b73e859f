//! How an intercepted connection is carried: accepted, inspected, routed, sent on, recorded.
//!
//! [`Proxy`] is the whole of it from outside: threads, one single-threaded runtime for each core, and the workloads
//! that they carry, which come and go. Each has its own part of each thread ([`worker`]), with connections that are
//! nobody else's; all share nothing but configurations, the resolver's answers and counters.

pub mod active;
pub(crate) mod certificates;
pub mod client_tls;
mod configured;
mod connection;
pub mod copy;
mod counting;
mod dns_tap;
mod downstream;
mod extra;
pub(crate) mod http;
pub mod inspect;
mod listener;
mod maybe_tls;
pub mod names;
mod netns;
pub mod outcome;
mod peers;
mod placement;
mod room;
mod shares;
pub mod stats;
mod tcp;
mod terminated;
mod termination;
mod threads;
pub mod upstream;
mod worker;
mod workload;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use configured::Configured;
pub use listener::{Intercepted, InterceptedSource};
pub use peers::Peers;
pub use room::Room;
pub use shares::Shares;
pub use termination::look_at_server;
pub use workload::{ProxiedWorkload, WorkloadId};

use stats::ProxyCounters;
use threads::Threads;
use worker::Shared;
use workload::Workloads;

use crate::dns::Resolver;
use crate::snapshot::Snapshot;
use crate::telemetry::{AccessLog, Flows};

/// How long threads may take to break off what is open at the end of the time to drain.
const BREAK_OFF_MAX: Duration = Duration::from_secs(1);

/// What a proxy is made of.
#[derive(Debug)]
pub struct ProxyOptions {
    pub resolver: Resolver,
    pub access_log: AccessLog,
    /// Threads; one for each core is right.
    pub threads: usize,
}

/// A running proxy. Dropped, it ends at once.
#[derive(Debug)]
pub struct Proxy {
    shared: Shared,
    workloads: Arc<Workloads>,
    threads: Threads,
    running: Vec<JoinHandle<()>>,
}

impl Proxy {
    /// Starts the threads, with nothing to carry yet.
    ///
    /// # Errors
    /// When a thread or a runtime cannot be made.
    pub fn start(options: ProxyOptions) -> io::Result<Self> {
        let ProxyOptions { resolver, access_log, threads } = options;
        let shared = Shared { resolver, access_log, flows: Flows::default() };
        let (threads, running) = Threads::start(threads, &shared)?;
        Ok(Self { shared, workloads: Arc::default(), threads, running })
    }

    /// Takes up a configuration, for all workloads that are to have it: one for each distinct client.
    pub fn configure(&self, snapshot: Snapshot) -> Configured {
        Configured::new(snapshot, &self.shared.resolver)
    }

    /// Takes connections of a workload from now on.
    ///
    /// # Errors
    /// When a listening socket is none.
    pub fn add(&self, workload: ProxiedWorkload) -> io::Result<WorkloadId> {
        for listener in &workload.listeners {
            listener.set_nonblocking(true)?;
        }
        let (workload, listeners) = self.workloads.add(workload);
        let id = workload.id;
        self.threads.serve(workload, listeners);
        Ok(id)
    }

    /// Gives a workload another configuration: that of another client, for its labels have changed. In effect for
    /// connections and requests that come from now on. False when the workload is gone.
    pub fn reconfigure(&self, id: WorkloadId, configured: &Configured) -> bool {
        self.workloads.reconfigure(id, configured)
    }

    /// Lets go of a workload, without waiting for it: accepts what waits to be accepted, lets connections end for at
    /// most `grace`, then breaks off what is left. From then on nothing is kept of it: no socket, no namespace.
    /// Called again it can only bring the end forward. False when the workload is gone.
    pub fn remove(&self, id: WorkloadId, grace: Duration) -> bool {
        self.workloads.drain(id, Instant::now() + grace)
    }

    /// Has the access log's file opened anew by its path: it was rotated away.
    pub fn reopen_access_log(&self) {
        tracing::info!("the access log is opened anew");
        self.shared.access_log.reopen();
    }

    /// Sums over all workloads, those that are gone among them.
    pub fn counters(&self) -> ProxyCounters {
        ProxyCounters { access_log_dropped: self.shared.access_log.dropped(), ..self.workloads.counters() }
    }

    /// Those of one workload; `None` when it is gone.
    pub fn counters_of(&self, id: WorkloadId) -> Option<ProxyCounters> {
        self.workloads.counters_of(id)
    }

    /// Appends all metrics in Prometheus' text format, wherever it is called: Istio's, and the proxy's own.
    pub fn metrics(&self) -> impl Fn(&mut String) + Send + Sync + use<> {
        let (workloads, access_log) = (Arc::clone(&self.workloads), self.shared.access_log.clone());
        move |out| {
            workloads.metrics.append(out);
            ProxyCounters { access_log_dropped: access_log.dropped(), ..workloads.counters() }.append(out);
            stats::append_expiries(out, &workloads.expiries());
        }
    }

    /// What becomes of connections and requests, for whoever follows.
    pub fn flows(&self) -> Flows {
        self.shared.flows.clone()
    }

    /// Why connections of a workload are not accepted any more, where a listening socket of it has failed. It is to be
    /// removed then, and added with others.
    pub fn failure(&self, id: WorkloadId) -> Option<Arc<str>> {
        self.workloads.failure(id)
    }

    /// Whether a thread has ended, which only [`Self::stop`] may bring about.
    pub fn failed(&self) -> bool {
        self.running.iter().any(JoinHandle::is_finished)
    }

    /// Removes every workload as [`Self::remove`] does, waits for it, and writes every record.
    pub fn stop(mut self, grace: Duration) -> ProxyCounters {
        let until = Instant::now() + grace;
        self.workloads.drain_all(until);
        self.workloads.wait_until_empty(until + BREAK_OFF_MAX);
        self.threads.stop();
        for thread in std::mem::take(&mut self.running) {
            if thread.join().is_err() {
                tracing::error!("a worker ended by a panic");
            }
        }
        self.shared.access_log.close();
        self.counters()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.threads.stop();
    }
}
