//! How long something took on a machine that may stand still meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(5);
/// A tick that took longer was not slow: nobody ran.
const TICK_MAX: Duration = Duration::from_millis(15);

/// Counts time in which threads of this process run when they want to: what a machine that was frozen, or busy with
/// something else, takes from everybody does not count. For bounds on what a user would wait for.
#[derive(Debug)]
pub struct Stopwatch {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    nanoseconds: AtomicU64,
    is_over: AtomicBool,
}

impl Stopwatch {
    pub fn start() -> Self {
        let shared = Arc::<Shared>::default();
        let ticking = Arc::clone(&shared);
        thread::spawn(move || {
            while !ticking.is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                thread::sleep(TICK);
                let tick = u64::try_from(began.elapsed().min(TICK_MAX).as_nanos()).unwrap_or(u64::MAX);
                ticking.nanoseconds.fetch_add(tick, Ordering::Relaxed);
            }
        });
        Self { shared }
    }

    /// To within a tick.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.shared.nanoseconds.load(Ordering::Relaxed))
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_what_passes_and_no_more() {
        let (stopwatch, started) = (Stopwatch::start(), Instant::now());
        thread::sleep(TICK * 40);
        let elapsed = stopwatch.elapsed();
        assert!(elapsed > TICK && elapsed <= started.elapsed(), "{elapsed:?}");
    }
}
