//! The proxy's threads: one single-threaded runtime each. A workload has its home on one of them, which accepts for
//! it; a connection is carried there or where [`Placement`] has it, and stays there.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use super::active::{Active, Live};
use super::listener::{self, Accepted};
use super::placement::{Placement, Vitals};
use super::worker::{Shared, Worker};
use super::workload::{Workload, WorkloadId};
use crate::datapath;

/// How often pools are rid of what is closed or idle for too long, and what open connections carry is counted (Istio's
/// tcp_reporting_duration).
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// After so many connections have let go of their buffers, the allocator is to let go of them, too: some megabytes.
const RESTED_MANY: usize = 128;

/// What a thread is told.
#[derive(Debug)]
pub(super) enum Command {
    /// To accept a workload's connections.
    Serve(Arc<Workload>, Vec<TcpListener>),
    /// A connection that another thread has accepted.
    Carry(Box<Accepted>),
    /// To drop everything.
    Stop,
}

/// All threads, as seen from anywhere. What is sent to one that has ended is dropped.
///
/// Bounded by who sends: a command for each workload, and connections that are counted as a thread's.
#[derive(Clone, Debug)]
pub(super) struct Threads(Arc<[UnboundedSender<Command>]>);

impl Threads {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// When a thread or a runtime cannot be made; those that were end.
    pub(super) fn start(count: usize, shared: &Shared) -> io::Result<(Self, Vec<JoinHandle<()>>)> {
        let (commands, receivers): (Vec<_>, Vec<_>) = (0..count.max(1)).map(|_| unbounded_channel()).unzip();
        let threads = Self(commands.into());
        let vitals: Arc<[_]> = receivers.iter().map(|_| Arc::<Vitals>::default()).collect();
        let started: io::Result<Vec<_>> = receivers
            .into_iter()
            .enumerate()
            .map(|(number, commands)| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let (threads, shared, vitals) = (threads.clone(), shared.clone(), Arc::clone(&vitals));
                std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                    vitals[number].are_of_this_thread();
                    LocalSet::new().block_on(&runtime, async move {
                        let placement = Rc::new(Placement::new(number, vitals));
                        let (workers, rested) = (RefCell::default(), Cell::default());
                        let thread = Rc::new(Thread { placement, threads, shared, workers, rested });
                        // A task of its own: what is blocked on is looked at whenever anything happens.
                        let ended = tokio::task::spawn_local(run(thread, commands)).await;
                        if let Err(error) = ended {
                            tracing::error!(%error, "a worker ended");
                        }
                    });
                })
            })
            .collect();
        started.inspect_err(|_| threads.stop()).map(|started| (threads.clone(), started))
    }

    pub(super) fn stop(&self) {
        for number in 0..self.0.len() {
            self.tell(number, Command::Stop);
        }
    }

    /// Has `workload` accepted for by its home.
    pub(super) fn serve(&self, workload: Arc<Workload>, listeners: Vec<TcpListener>) {
        let home = workload.id.home(self.0.len());
        self.tell(home, Command::Serve(workload, listeners));
    }

    pub(super) fn carry(&self, number: usize, accepted: Accepted) {
        self.tell(number, Command::Carry(Box::new(accepted)));
    }

    fn tell(&self, number: usize, command: Command) {
        if let Some(commands) = self.0.get(number) {
            // One that has ended takes the process with it.
            drop(commands.send(command));
        }
    }
}

/// One thread, seen from inside.
#[derive(Debug)]
struct Thread {
    placement: Rc<Placement>,
    threads: Threads,
    shared: Shared,
    workers: RefCell<HashMap<WorkloadId, Carried>>,
    /// Connections that let go of their buffers, which the allocator may still hold.
    rested: Cell<usize>,
}

/// A workload's part of a thread. Its tasks are a set of their own: they end with it, whatever they wait for.
#[derive(Clone, Debug)]
struct Carried {
    worker: Rc<Worker>,
    tasks: Rc<LocalSet>,
}

/// A thread's life. What is open when it is told to stop is dropped, which writes its records.
async fn run(thread: Rc<Thread>, mut commands: UnboundedReceiver<Command>) {
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Serve(workload, listeners)) => thread.serve(&workload, listeners),
                Some(Command::Carry(accepted)) => thread.carry(*accepted),
                Some(Command::Stop) | None => break,
            },
            _ = sweep.tick() => thread.sweep(),
        }
    }
    drop(thread.workers.take());
}

impl Thread {
    fn serve(self: &Rc<Self>, workload: &Arc<Workload>, listeners: Vec<TcpListener>) {
        let Carried { worker, tasks } = self.carried(workload);
        for listener in listeners {
            let (threads, placement) = (self.threads.clone(), Rc::clone(&self.placement));
            let accepting = listener::accept(Rc::clone(&worker), listener, threads, placement);
            drop(tasks.spawn_local(accepting));
        }
    }

    fn carry(self: &Rc<Self>, accepted: Accepted) {
        let Carried { worker, tasks } = self.carried(&accepted.workload);
        if let Some(connection) = accepted.carry(&worker) {
            drop(tasks.spawn_local(connection));
        }
    }

    /// The part of a workload that is on this thread; made when there is none.
    fn carried(self: &Rc<Self>, workload: &Arc<Workload>) -> Carried {
        let id = workload.id;
        if let Some(carried) = self.workers.borrow().get(&id) {
            return carried.clone();
        }
        let worker = Worker::new(Arc::clone(workload), &self.shared);
        let carried = Carried { worker, tasks: Rc::new(LocalSet::new()) };
        self.workers.borrow_mut().insert(id, carried.clone());
        let (thread, Carried { worker, tasks }) = (Rc::downgrade(self), carried.clone());
        tokio::task::spawn_local(async move {
            // Another connection may have come before the end was heard of.
            while !worker.is_done() {
                // A task of its own, too: what the set runs until is looked at whenever anything happens.
                let (end, ended) = oneshot::channel::<()>();
                let worker = Rc::clone(&worker);
                tasks.spawn_local(async move {
                    worker.ended().await;
                    drop(end);
                });
                drop(tasks.run_until(ended).await);
            }
            // Dropped here, together with the tasks, and not while the list is borrowed.
            let _last = thread.upgrade().and_then(|thread| thread.workers.borrow_mut().remove(&id));
        });
        carried
    }

    fn sweep(&self) {
        // Workloads of one client have the same configuration, and the same clusters are alive for them.
        let mut alive: HashMap<*const Active, Live> = HashMap::new();
        let mut tended: HashSet<*const Active> = HashSet::new();
        for Carried { worker, .. } in self.workers.borrow().values() {
            // Also lets go of a configuration that is not in effect any more.
            let active = worker.current();
            self.rested.set(self.rested.get() + worker.take_rested());
            if tended.insert(std::ptr::from_ref(&*active)) {
                active.tend_certificates();
            }
            worker.counting().count_open();
            let (pools, counting, usages) = (worker.pools(), worker.counting(), &worker.origin().usages);
            if pools.is_empty() && counting.is_empty() && usages.is_empty() {
                continue;
            }
            let live = alive.entry(std::ptr::from_ref(&*active)).or_insert_with(|| active.live());
            pools.sweep(|runtime| live.runtimes.contains(&runtime));
            counting.sweep(|runtime| live.runtimes.contains(&runtime));
            usages.sweep(|bounds| live.bounds.contains(&bounds));
            worker.stats().pooled(pools.idle(), pools.shared());
        }
        if self.rested.get() >= RESTED_MANY {
            self.rested.set(0);
            // Some milliseconds, which nobody's request is to wait for.
            drop(tokio::task::spawn_blocking(datapath::release_free_memory));
        }
    }
}
