//! The proxy's threads: one single-threaded runtime each. A workload has its home on one of them, which accepts for
//! it; a connection is carried there, or by the thread that carries the fewest where those are fewer by an eighth, and
//! stays there.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use super::active::{Active, Live};
use super::listener::{self, Accepted};
use super::shares::Share;
use super::worker::{Shared, Worker};
use super::workload::{Workload, WorkloadId};
use crate::datapath;

/// How often pools are rid of what is closed or idle for too long, and what open connections carry is counted (Istio's
/// tcp_reporting_duration).
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// After so many connections have let go of their buffers, the allocator is to let go of them, too: some megabytes.
const RESTED_MANY: usize = 128;

/// A thread may carry an eighth more than another one before it hands connections over.
const BEARABLE_PART: usize = 8;

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
#[derive(Clone, Debug)]
pub(super) struct Threads(Arc<[Handle]>);

#[derive(Debug)]
struct Handle {
    /// Bounded by who sends: a command for each workload, and connections that are counted in `open`.
    commands: UnboundedSender<Command>,
    open: Arc<AtomicUsize>,
}

/// Counts a connection as one of a thread's and of a workload's for as long as it lives.
#[derive(Debug)]
pub(super) struct Load {
    counts: [Arc<AtomicUsize>; 2],
    /// Of what a gateway's clients share.
    _share: Option<Share>,
}

impl Load {
    fn new(counts: [&Arc<AtomicUsize>; 2], share: Option<Share>) -> Self {
        let counts = counts.map(|count| {
            count.fetch_add(1, Ordering::Relaxed);
            Arc::clone(count)
        });
        Self { counts, _share: share }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for count in &self.counts {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Threads {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// When a thread or a runtime cannot be made; those that were end.
    pub(super) fn start(count: usize, shared: &Shared) -> io::Result<(Self, Vec<JoinHandle<()>>)> {
        let (handles, receivers): (Vec<_>, Vec<_>) = (0..count.max(1))
            .map(|_| {
                let (commands, received) = unbounded_channel();
                (Handle { commands, open: Arc::default() }, received)
            })
            .unzip();
        let threads = Self(handles.into());
        let started: io::Result<Vec<_>> = receivers
            .into_iter()
            .enumerate()
            .map(|(number, commands)| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let (threads, shared) = (threads.clone(), shared.clone());
                std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                    LocalSet::new().block_on(&runtime, async move {
                        let workers = RefCell::default();
                        let thread =
                            Rc::new(Thread { number, threads, shared, workers, rested: Cell::default() });
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

    /// The thread for one more connection, which counts from now on: the one that carries the fewest, or `own` where it
    /// carries hardly more. Handing a connection over wakes a thread and costs four system calls.
    pub(super) fn place(&self, own: usize, workload: &Workload, share: Option<Share>) -> (usize, Load) {
        let open =
            |number: usize| self.0.get(number).map_or(usize::MAX, |it| it.open.load(Ordering::Relaxed));
        let fewest =
            (0..self.0.len()).fold(own, |best, other| if open(other) < open(best) { other } else { best });
        let bearable = open(fewest).saturating_add(open(fewest) / BEARABLE_PART);
        let place = if open(own) <= bearable { own } else { fewest };
        (place, Load::new([&self.0[place].open, &workload.open], share))
    }

    pub(super) fn carry(&self, number: usize, accepted: Accepted) {
        self.tell(number, Command::Carry(Box::new(accepted)));
    }

    fn tell(&self, number: usize, command: Command) {
        if let Some(thread) = self.0.get(number) {
            // One that has ended takes the process with it.
            drop(thread.commands.send(command));
        }
    }
}

/// One thread, seen from inside.
#[derive(Debug)]
struct Thread {
    number: usize,
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
            let accepting = listener::accept(Rc::clone(&worker), listener, self.threads.clone(), self.number);
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
