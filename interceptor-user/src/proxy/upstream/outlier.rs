//! Outlier detection as Envoy does it: a host that fails several times in a row is ejected for a while,
//! longer each time. What is counted is atomic; ejecting and readmitting, which are rare, take turns.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::clock::Moment;
use crate::snapshot::OutlierDetection;

/// Envoy's max_ejection_time, unless the first ejection is to last longer.
const EJECTION_TIME_MAX: Duration = Duration::from_secs(300);

/// What came of a request or connection, as far as its host is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The connection for a request is there.
    Connected,
    /// The connection for opaque bytes is there, which is all that can be known.
    ConnectedForGood,
    /// No connection, or none any more before there was an answer.
    Broken,
    TimedOut,
    /// By this status.
    Answered(u16),
}

/// What is known of one host.
#[derive(Debug, Default)]
pub(super) struct Health {
    consecutive_5xx: AtomicU32,
    consecutive_gateway_errors: AtomicU32,
    consecutive_local_origin_failures: AtomicU32,
    /// A [`Moment`]; 0 when it is not ejected.
    ejected_until: AtomicU64,
    /// Ejections in a row, as far as they make the next one longer.
    ejections: AtomicU32,
    /// A [`Moment`]; 0 when it was never ejected.
    readmitted_at: AtomicU64,
}

impl Health {
    pub(super) fn is_ejected(&self) -> bool {
        self.ejected_until.load(Ordering::Relaxed) != 0
    }

    pub(super) fn ejected_until(&self) -> Option<Moment> {
        Some(self.ejected_until.load(Ordering::Relaxed)).filter(|until| *until != 0).map(Moment)
    }

    fn readmit(&self, at: Moment) {
        self.consecutive_5xx.store(0, Ordering::Relaxed);
        self.consecutive_gateway_errors.store(0, Ordering::Relaxed);
        self.consecutive_local_origin_failures.store(0, Ordering::Relaxed);
        self.readmitted_at.store(at.0, Ordering::Relaxed);
        self.ejected_until.store(0, Ordering::Relaxed);
    }
}

/// The detection of one cluster.
#[derive(Debug)]
pub(super) struct Detector {
    settings: OutlierDetection,
    /// A [`Moment`].
    next_sweep: AtomicU64,
    /// Hosts that are ejected; may still count one that is gone until the next sweep.
    ejected: AtomicUsize,
    /// Held while hosts are ejected or readmitted.
    turn: Mutex<()>,
}

impl Detector {
    pub(super) fn new(settings: OutlierDetection, now: Moment) -> Self {
        let next_sweep = AtomicU64::new(now.after(settings.interval).0);
        Self { settings, next_sweep, ejected: AtomicUsize::new(0), turn: Mutex::default() }
    }

    /// Hosts that another detection may have ejected are of this one now.
    pub(super) fn take_over<'a>(&self, hosts: impl Iterator<Item = &'a Health>) {
        self.ejected.store(hosts.filter(|health| health.is_ejected()).count(), Ordering::Relaxed);
    }

    /// Whether any host may be ejected now.
    pub(super) fn has_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed) > 0
    }

    /// Whether so few are healthy that all are used.
    pub(super) fn is_panicking(&self, healthy: usize, total: usize) -> bool {
        healthy * 100 < total * usize::from(self.settings.min_health_percent)
    }

    /// Takes an outcome into account; true when it is one too many, and the host is to be ejected.
    pub(super) fn count(&self, health: &Health, outcome: Outcome) -> bool {
        let local = self.settings.consecutive_local_origin_failures;
        match (outcome, local) {
            (Outcome::Connected | Outcome::ConnectedForGood, Some(_)) => {
                reset(&health.consecutive_local_origin_failures);
                false
            }
            (Outcome::Broken | Outcome::TimedOut, Some(limit)) => {
                reaches(&health.consecutive_local_origin_failures, limit)
            }
            (Outcome::Connected, None) => false,
            (Outcome::ConnectedForGood, None) => self.count_status(health, 200),
            (Outcome::Broken, None) => self.count_status(health, 503),
            (Outcome::TimedOut, None) => self.count_status(health, 504),
            (Outcome::Answered(status), _) => self.count_status(health, status),
        }
    }

    fn count_status(&self, health: &Health, status: u16) -> bool {
        if !(500..600).contains(&status) {
            reset(&health.consecutive_5xx);
            reset(&health.consecutive_gateway_errors);
            return false;
        }
        let gateway = if matches!(status, 502..=504) {
            reaches(&health.consecutive_gateway_errors, self.settings.consecutive_gateway_errors)
        } else {
            reset(&health.consecutive_gateway_errors);
            false
        };
        reaches(&health.consecutive_5xx, self.settings.consecutive_5xx) || gateway
    }

    /// Ejects a host, unless too many of `hosts`, which it is one of, are ejected already. How long it is
    /// ejected for, if it is.
    pub(super) fn eject<'a>(
        &self,
        health: &Health,
        hosts: impl Iterator<Item = &'a Health>,
        now: Moment,
    ) -> Option<Duration> {
        let _turn = self.turn.lock().ok()?;
        let (mut ejected, mut total) = (0, 0);
        for host in hosts {
            total += 1;
            ejected += usize::from(host.is_ejected());
        }
        if health.is_ejected() || !self.may_eject(ejected, total) {
            return None;
        }
        let longest = self.settings.base_ejection_time.max(EJECTION_TIME_MAX);
        let times = health.ejections.load(Ordering::Relaxed);
        let before = self.settings.base_ejection_time.saturating_mul(times);
        // No use in counting what makes no difference any more.
        let times = if before < longest { times + 1 } else { times };
        health.ejections.store(times, Ordering::Relaxed);
        let lasting = self.settings.base_ejection_time.saturating_mul(times).min(longest);
        health.ejected_until.store(now.after(lasting).0, Ordering::Relaxed);
        self.ejected.store(ejected + 1, Ordering::Relaxed);
        Some(lasting)
    }

    /// One host may always be ejected.
    fn may_eject(&self, ejected: usize, total: usize) -> bool {
        ejected == 0 || (ejected + 1) * 100 <= total * usize::from(self.settings.max_ejection_percent)
    }

    /// Whether the interval is over.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        now.0 >= self.next_sweep.load(Ordering::Relaxed)
    }

    /// Readmits hosts whose time is over, and forgets ejections of those that went well since.
    pub(super) fn sweep<'a>(&self, hosts: impl Iterator<Item = &'a Health>, now: Moment) {
        // Somebody else is at it.
        let Ok(_turn) = self.turn.try_lock() else { return };
        if !self.is_due(now) {
            return;
        }
        self.next_sweep.store(now.after(self.settings.interval).0, Ordering::Relaxed);
        let mut ejected = 0;
        for health in hosts {
            match health.ejected_until() {
                Some(until) if now >= until => health.readmit(until),
                Some(_) => {
                    ejected += 1;
                    continue;
                }
                None => {}
            }
            self.forget_ejections(health, now);
        }
        self.ejected.store(ejected, Ordering::Relaxed);
    }

    /// One for each interval that has passed; nobody may have looked for several of them.
    fn forget_ejections(&self, health: &Health, now: Moment) {
        let readmitted_at = health.readmitted_at.load(Ordering::Relaxed);
        let times = health.ejections.load(Ordering::Relaxed);
        if readmitted_at == 0 || times == 0 {
            return;
        }
        let since = now.since(Moment(readmitted_at)).as_millis();
        let intervals = since / self.settings.interval.as_millis().max(1);
        let forgotten = u32::try_from(intervals).unwrap_or(u32::MAX);
        if forgotten > 0 {
            health.ejections.store(times.saturating_sub(forgotten), Ordering::Relaxed);
            health.readmitted_at.store(now.0, Ordering::Relaxed);
        }
    }
}

fn reset(count: &AtomicU32) {
    // Mostly zero: the line stays shared.
    if count.load(Ordering::Relaxed) != 0 {
        count.store(0, Ordering::Relaxed);
    }
}

/// Counts one more; at the limit it starts anew. A limit of 0 is never reached.
fn reaches(count: &AtomicU32, limit: u32) -> bool {
    let reached = count.fetch_add(1, Ordering::Relaxed).saturating_add(1) == limit;
    if reached {
        count.store(0, Ordering::Relaxed);
    }
    reached
}

#[cfg(test)]
mod tests;
