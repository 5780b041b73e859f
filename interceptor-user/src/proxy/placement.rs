//! Which thread carries a connection: the one that accepted it, as a rule. Handing it over wakes another thread and costs
//! system calls and warm caches.
//!
//! Connections that stay are spread by their number: what they will carry nobody knows, and they are where they are for
//! good. Short ones end before that matters. They stay with the thread that accepts until it has no time left, and are
//! shared out then with those that have.

use std::cell::RefCell;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use rustix::io::pread;

use super::room::Place;
use super::shares::Share;
use super::workload::Workload;

/// A thread may carry an eighth more than another one before it hands connections over.
const BEARABLE_PART: usize = 8;

/// How long threads are watched before it is judged how they do.
const WINDOW: Duration = Duration::from_millis(20);

/// A thread may carry as many more than another one as short ones have ended within such a time.
const SHORT: Duration = Duration::from_millis(5);
/// What is short: how long such a connection lives at most.
const SHORT_LIFE: Duration = Duration::from_millis(100);

/// A thread has no time left when it runs, or waits for a CPU, for so much of the time, in percent.
const BUSY: u128 = 85;
/// Others have when they use so much less of a CPU.
const CLEARLY_LESS: u128 = 25;

/// What is seen of a thread from anywhere.
#[derive(Debug, Default)]
pub(super) struct Vitals {
    /// As the kernel numbers it; 0 until it runs.
    id: AtomicI32,
    begun: AtomicUsize,
    ended: AtomicUsize,
    /// Of those that have ended, the short ones.
    short: AtomicUsize,
}

impl Vitals {
    /// To be called by the thread itself.
    pub(super) fn are_of_this_thread(&self) {
        self.id.store(rustix::thread::gettid().as_raw_pid(), Ordering::Relaxed);
    }

    /// Connections that it carries.
    fn open(&self) -> usize {
        let ended = self.ended.load(Ordering::Relaxed);
        self.begun.load(Ordering::Relaxed).wrapping_sub(ended)
    }

    /// CPU time that it has used; none when it has ended.
    fn cpu(&self) -> Duration {
        // A thread's own clock: CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED.
        let clock = ClockId::from_raw(!self.id.load(Ordering::Relaxed) << 3 | 6);
        clock_gettime(clock).map_or(Duration::ZERO, Into::into)
    }
}

/// What the kernel tells of the calling thread's times.
#[derive(Debug)]
struct Schedstat(Option<File>);

impl Schedstat {
    /// To be called by the thread itself. Without /proc nothing is known.
    fn of_this_thread() -> Self {
        Self(File::open("/proc/thread-self/schedstat").ok())
    }

    /// CPU time that the thread has used, and time that it could have used while others had the CPUs: what a thread waits
    /// for on a crowded node it has not got.
    fn cpu_and_waiting(&self) -> Option<Duration> {
        let mut buffer = [0; 64];
        let length = pread(self.0.as_ref()?, &mut buffer, 0).ok()?;
        // Documentation/scheduler/sched-stats.rst: time on the CPU, time on a run queue, in ns.
        let mut times = std::str::from_utf8(&buffer[..length]).ok()?.split_ascii_whitespace();
        let mut next = || times.next()?.parse().map(Duration::from_nanos).ok();
        next()?.checked_add(next()?)
    }
}

/// Counts a connection as one of a thread's and of a workload's for as long as it lives.
#[derive(Debug)]
pub(super) struct Load {
    thread: Arc<Vitals>,
    begun: Instant,
    _place: Place,
    /// Of what a gateway's clients share.
    _share: Option<Share>,
}

impl Load {
    fn new(thread: &Arc<Vitals>, begun: Instant, workload: &Workload, share: Option<Share>) -> Self {
        thread.begun.fetch_add(1, Ordering::Relaxed);
        Self { thread: Arc::clone(thread), begun, _place: workload.part.take_place(), _share: share }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.thread.ended.fetch_add(1, Ordering::Relaxed);
        if self.begun.elapsed() < SHORT_LIFE {
            self.thread.short.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Places what one thread accepts.
#[derive(Debug)]
pub(super) struct Placement {
    own: usize,
    schedstat: Schedstat,
    threads: Arc<[Arc<Vitals>]>,
    lately: RefCell<Lately>,
}

impl Placement {
    /// Of the calling thread.
    pub(super) fn new(own: usize, threads: Arc<[Arc<Vitals>]>) -> Self {
        let lately = RefCell::new(Lately::new(Instant::now(), threads.len()));
        Self { own, schedstat: Schedstat::of_this_thread(), threads, lately }
    }

    /// The thread for one more connection, which counts from now on; `None`: the one that asks.
    pub(super) fn place(&self, workload: &Workload, share: Option<Share>) -> (Option<usize>, Load) {
        let mut lately = self.lately.borrow_mut();
        let now = Instant::now();
        if now.saturating_duration_since(lately.since) >= WINDOW {
            let short = self.threads[self.own].short.load(Ordering::Relaxed);
            lately.judge(now, self.own, short, |number| self.used(number));
        }
        let place = lately.choose(self.own, self.threads.len(), |number| self.threads[number].open());
        (
            Some(place).filter(|place| *place != self.own),
            Load::new(&self.threads[place], now, workload, share),
        )
    }

    /// The time that a thread has used.
    fn used(&self, number: usize) -> Duration {
        let cpu = self.threads[number].cpu();
        if number != self.own {
            return cpu;
        }
        // A kernel that does not count tells zeros.
        self.schedstat.cpu_and_waiting().map_or(cpu, |used| used.max(cpu))
    }
}

/// What one thread has seen of all. Nothing is allocated when it looks.
#[derive(Debug)]
struct Lately {
    since: Instant,
    /// Short connections that had ended until then on this thread.
    ended: usize,
    /// What time each thread had used until then.
    used: Vec<Duration>,
    /// What parts of the time before that, in percent.
    parts: Vec<u128>,
    /// As many are short.
    short: usize,
    /// Threads that have time left, while this one has none.
    helpers: Vec<usize>,
    /// Threads that have none, while this one has.
    saturated: Vec<usize>,
    /// Whose turn it is among these and this thread.
    turn: usize,
}

impl Lately {
    fn new(now: Instant, threads: usize) -> Self {
        let (helpers, saturated) = (Vec::with_capacity(threads), Vec::with_capacity(threads));
        // What was before is nobody's: the first look finds nothing used.
        let (used, parts) = (vec![Duration::MAX; threads], vec![0; threads]);
        Self { since: now, ended: 0, used, parts, short: 0, helpers, saturated, turn: 0 }
    }

    /// Judges what has happened until `now`.
    fn judge(&mut self, now: Instant, own: usize, ended: usize, used: impl Fn(usize) -> Duration) {
        let passed = now.saturating_duration_since(self.since).as_nanos().max(1);
        let ended_lately = ended.wrapping_sub(self.ended) as u128;
        self.short = usize::try_from(ended_lately * SHORT.as_nanos() / passed).unwrap_or(usize::MAX);
        for (number, (before, part)) in self.used.iter_mut().zip(&mut self.parts).enumerate() {
            let used = used(number);
            *part = used.saturating_sub(*before).as_nanos() * 100 / passed;
            *before = used;
        }
        let parts = &self.parts;
        let own = parts.get(own).copied().unwrap_or_default();
        let is_clearly_less = |some: u128, than: u128| than >= BUSY && some + CLEARLY_LESS <= than;
        self.helpers.clear();
        self.helpers.extend((0..parts.len()).filter(|number| is_clearly_less(parts[*number], own)));
        self.saturated.clear();
        self.saturated.extend((0..parts.len()).filter(|number| is_clearly_less(own, parts[*number])));
        (self.since, self.ended) = (now, ended);
    }

    /// `own` or another of `threads`.
    fn choose(&mut self, own: usize, threads: usize, open: impl Fn(usize) -> usize) -> usize {
        if !self.helpers.is_empty() {
            self.turn = (self.turn + 1) % (self.helpers.len() + 1);
            return self.helpers.get(self.turn).copied().unwrap_or(own);
        }
        let others = (0..threads).filter(|number| !self.saturated.contains(number));
        let fewest = others.fold(own, |best, other| if open(other) < open(best) { other } else { best });
        let bearable = open(fewest).saturating_add(open(fewest) / BEARABLE_PART).saturating_add(self.short);
        if open(own) <= bearable { own } else { fewest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: usize = 0;

    /// Lets `window` pass, in which connections have ended at home and threads have used these parts of a CPU.
    fn pass(lately: &mut Lately, window: Duration, ended: usize, used: &[u32]) {
        let before = lately.used.clone();
        let used = |number: usize| match before[number] {
            Duration::MAX => Duration::ZERO,
            before => before + window * used[number] / 100,
        };
        lately.judge(lately.since + window, HOME, lately.ended + ended, used);
    }

    /// How many of `count` connections that stay go where, with those that are `open` already.
    fn placed<const N: usize>(lately: &mut Lately, count: usize, mut open: [usize; N]) -> [usize; N] {
        let before = open;
        for _ in 0..count {
            let place = lately.choose(HOME, N, |number| open[number]);
            open[place] += 1;
        }
        std::array::from_fn(|number| open[number] - before[number])
    }

    fn begun<const N: usize>() -> Lately {
        let mut lately = Lately::new(Instant::now(), N);
        pass(&mut lately, WINDOW, 0, &[0; N]);
        lately
    }

    #[test]
    fn what_stays_is_spread_by_number() {
        assert_eq!(placed(&mut begun::<2>(), 32, [0, 0]), [17, 15]);
        assert_eq!(placed(&mut begun::<4>(), 400, [0; 4]), [109, 97, 97, 97]);
        assert_eq!(placed(&mut begun::<2>(), 30, [0, 40]), [30, 0]);
        assert_eq!(placed(&mut begun::<2>(), 30, [40, 0]), [0, 30]);
    }

    #[test]
    fn short_ones_stay_where_they_are_accepted() {
        let mut lately = begun::<2>();
        pass(&mut lately, WINDOW, 400, &[70, 0]);
        // Few more than end within some milliseconds are short.
        assert_eq!(placed(&mut lately, 32, [0, 0]), [32, 0]);
        assert_eq!(placed(&mut lately, 300, [0, 0]), [206, 94]);
        // They have ended: what comes now is something else.
        pass(&mut lately, WINDOW, 0, &[10, 0]);
        assert_eq!(placed(&mut lately, 32, [0, 0]), [17, 15]);
    }

    #[test]
    fn seldom_ones_tell_nothing() {
        let mut lately = begun::<2>();
        pass(&mut lately, Duration::from_secs(10), 1000, &[1, 0]);
        assert_eq!(placed(&mut lately, 32, [0, 0]), [17, 15]);
    }

    #[test]
    fn who_has_no_time_left_shares_with_those_who_have() {
        let mut lately = begun::<4>();
        // However many idle ones these carry.
        pass(&mut lately, WINDOW, 400, &[97, 20, 90, 72]);
        assert_eq!(placed(&mut lately, 40, [32, 1000, 0, 1000]), [13, 13, 0, 14]);
        pass(&mut lately, WINDOW, 400, &[80, 20, 90, 72]);
        assert_eq!(placed(&mut lately, 40, [32, 1000, 0, 1000]), [40, 0, 0, 0]);
        // Nobody has: as if nothing were known.
        pass(&mut lately, WINDOW, 0, &[97, 98, 99, 99]);
        assert_eq!(placed(&mut lately, 40, [0; 4]), [11, 10, 10, 9]);
    }

    #[test]
    fn who_has_no_time_left_gets_nothing_from_who_has() {
        let mut lately = begun::<3>();
        pass(&mut lately, WINDOW, 0, &[1, 99, 50]);
        let [own, saturated, other] = placed(&mut lately, 40, [50, 5, 50]);
        assert!(own > 0 && saturated == 0 && other > 0, "{own} {saturated} {other}");
        pass(&mut lately, WINDOW, 0, &[80, 99, 99]);
        assert_eq!(placed(&mut lately, 40, [50, 5, 50]), [0, 40, 0]);
    }

    #[test]
    fn what_waits_for_a_cpu_has_no_time() {
        let vitals = Vitals::default();
        vitals.are_of_this_thread();
        let schedstat = Schedstat::of_this_thread();
        let (cpu, with_waiting) = (vitals.cpu(), schedstat.cpu_and_waiting().unwrap());
        while vitals.cpu() < cpu + Duration::from_millis(20) {}
        let grown = schedstat.cpu_and_waiting().unwrap() - with_waiting;
        // The kernel brings what it tells there up to date by its ticks.
        assert!(grown >= Duration::from_millis(10), "{grown:?}");
    }

    #[test]
    fn a_threads_cpu_time_is_its_own() {
        let (vitals, idle) = (Vitals::default(), Vitals::default());
        vitals.are_of_this_thread();
        let before = vitals.cpu();
        let (done, waits) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let idle = &idle;
            let (begun, begins) = std::sync::mpsc::channel();
            scope.spawn(move || {
                idle.are_of_this_thread();
                begun.send(()).unwrap();
                waits.recv().unwrap_err();
            });
            begins.recv().unwrap();
            while vitals.cpu() < before + Duration::from_millis(20) {}
            assert!(idle.cpu() < Duration::from_millis(10) && !idle.cpu().is_zero());
            drop(done);
        });
    }
}
