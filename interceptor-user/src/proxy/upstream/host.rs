//! One address of a cluster, and what is known of it: load, age, health. It outlives the lists it is in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::clock::Moment;
use super::outlier::Health;
use crate::snapshot::{EndpointAddress, Warmup};

#[derive(Debug)]
pub(super) struct Host {
    pub(super) address: EndpointAddress,
    pub(super) weight: u32,
    pub(super) known_since: Moment,
    pub(super) health: Health,
    active: AtomicU32,
}

impl Host {
    pub(super) fn new(address: EndpointAddress, weight: u32, now: Moment) -> Arc<Self> {
        Arc::new(Self {
            address,
            weight: weight.max(1),
            known_since: now,
            health: Health::default(),
            active: AtomicU32::new(0),
        })
    }

    /// Whether it stands for an endpoint of this address and weight.
    pub(super) fn is(&self, address: &EndpointAddress, weight: u32) -> bool {
        self.address == *address && self.weight == weight.max(1)
    }

    /// Requests that it has now.
    pub(super) fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Its weight, or what of it is due by now.
    pub(super) fn weight_at(&self, now: Moment, warmup: Option<&Warmup>) -> f64 {
        f64::from(self.weight) * warmup.map_or(1.0, |warmup| share(warmup, now.since(self.known_since)))
    }
}

/// The part of the full share that a host of this age gets (Envoy's slow start).
fn share(warmup: &Warmup, age: Duration) -> f64 {
    if age >= warmup.duration {
        return 1.0;
    }
    let elapsed = age.as_secs_f64().max(0.001) / warmup.duration.as_secs_f64();
    let grown = elapsed.powf(1000.0 / f64::from(warmup.aggression_thousandths.max(1)));
    grown.max(f64::from(warmup.minimum_share_thousandths) / 1000.0).min(1.0)
}

/// Counts a request against a host for as long as it lives.
#[derive(Debug)]
pub(crate) struct ActiveRequest(Arc<Host>);

impl ActiveRequest {
    pub(super) fn new(host: Arc<Host>) -> Self {
        host.active.fetch_add(1, Ordering::Relaxed);
        Self(host)
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::share;
    use crate::snapshot::Warmup;

    #[test]
    fn shares_grow_as_envoys() {
        let warmup = |minimum_share_thousandths, aggression_thousandths| Warmup {
            duration: Duration::from_secs(60),
            minimum_share_thousandths,
            aggression_thousandths,
        };
        for (warmup, seconds, expected) in [
            (warmup(100, 1000), 0, 0.1),
            (warmup(100, 1000), 3, 0.1),
            (warmup(100, 1000), 15, 0.25),
            (warmup(100, 1000), 30, 0.5),
            (warmup(100, 1000), 60, 1.0),
            (warmup(100, 1000), 6000, 1.0),
            (warmup(0, 2000), 15, 0.5),
            (warmup(0, 1500), 30, 0.629_961),
            (warmup(1000, 1000), 0, 1.0),
        ] {
            let share = share(&warmup, Duration::from_secs(seconds));
            assert!((share - expected).abs() < 1e-5, "{warmup:?} after {seconds} s: {share}");
        }
    }
}
