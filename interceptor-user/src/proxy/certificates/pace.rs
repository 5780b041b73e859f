//! What several threads do for each other, once in an interval at most.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Lets the first through who comes when it is time. By a clock that is never set.
#[derive(Debug)]
pub(in crate::proxy) struct Pace {
    interval_ms: u64,
    started: Instant,
    /// Milliseconds after `started`.
    next_ms: AtomicU64,
}

impl Pace {
    /// For the first time at once.
    pub(in crate::proxy) fn from_now(interval: Duration) -> Self {
        let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        Self { interval_ms, started: Instant::now(), next_ms: AtomicU64::new(0) }
    }

    /// For the first time when the interval has passed.
    pub(in crate::proxy) fn from_later(interval: Duration) -> Self {
        let pace = Self::from_now(interval);
        Self { next_ms: AtomicU64::new(pace.interval_ms), ..pace }
    }

    /// True for one who asks, and then for nobody until the interval has passed.
    pub(in crate::proxy) fn is_due(&self) -> bool {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let next = self.next_ms.load(Ordering::Relaxed);
        let after = now.saturating_add(self.interval_ms);
        now >= next
            && self.next_ms.compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Pace;

    #[test]
    fn once_in_an_interval() {
        let hour = Duration::from_secs(3600);
        let (now, later) = (Pace::from_now(hour), Pace::from_later(hour));
        assert_eq!([now.is_due(), now.is_due(), later.is_due()], [true, false, false]);
        let always = Pace::from_later(Duration::ZERO);
        assert_eq!([always.is_due(), always.is_due()], [true, true]);
    }
}
