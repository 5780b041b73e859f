//! A histogram that one thread fills and others read.

use std::sync::atomic::{AtomicU64, Ordering};

/// Envoy's default buckets (source/common/stats/histogram_impl.cc), which Istio leaves as they are: milliseconds and
/// bytes alike. Each holds what is not more.
pub(super) const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// How many values fell between one bound and the next, and beyond the last.
const COUNTS: usize = BOUNDS.len() + 1;

/// Adds without a lock: only the thread that owns the counter writes it.
pub(super) fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

#[derive(Debug, Default)]
pub(super) struct Histogram {
    counts: [AtomicU64; COUNTS],
    /// Of the values, in thousandths.
    sum_thousandths: AtomicU64,
}

/// A histogram at one moment, or several together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HistogramSum {
    counts: [u64; COUNTS],
    sum_thousandths: u64,
}

impl Histogram {
    pub(super) fn record_thousandths(&self, value_thousandths: u64) {
        add(&self.counts[bucket(value_thousandths)], 1);
        add(&self.sum_thousandths, value_thousandths);
    }
}

fn bucket(value_thousandths: u64) -> usize {
    const THOUSANDTHS: [u64; BOUNDS.len()] = thousandths();
    THOUSANDTHS.partition_point(|bound| *bound < value_thousandths)
}

const fn thousandths() -> [u64; BOUNDS.len()] {
    let mut bounds = [0; BOUNDS.len()];
    let mut index = 0;
    while index < BOUNDS.len() {
        #[expect(clippy::cast_possible_truncation, reason = "every bound has no more than three decimals")]
        #[expect(clippy::cast_sign_loss, reason = "no bound is below zero")]
        let bound = (BOUNDS[index] * 1000.0) as u64;
        bounds[index] = bound;
        index += 1;
    }
    bounds
}

impl HistogramSum {
    pub(super) fn add(&mut self, histogram: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(&histogram.counts) {
            *count += more.load(Ordering::Relaxed);
        }
        let more = histogram.sum_thousandths.load(Ordering::Relaxed);
        self.sum_thousandths = self.sum_thousandths.wrapping_add(more);
    }

    /// How many values are not more than each of [`BOUNDS`].
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        BOUNDS.into_iter().zip(&self.counts).scan(0, |sum, (bound, count)| {
            *sum += count;
            Some((bound, *sum))
        })
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(super) fn sum_thousandths(&self) -> u64 {
        self.sum_thousandths
    }
}

#[cfg(test)]
mod tests {
    use super::{BOUNDS, Histogram, HistogramSum};

    #[test]
    fn values_fall_where_they_belong() {
        for (thousandths, bound) in [
            (0, 0.5),
            (500, 0.5),
            (501, 1.0),
            (1_000, 1.0),
            (1_001, 5.0),
            (3_600_000_000, 3_600_000.0),
            (3_600_000_001, f64::INFINITY),
            (u64::MAX, f64::INFINITY),
        ] {
            let histogram = Histogram::default();
            histogram.record_thousandths(thousandths);
            let mut sum = HistogramSum::default();
            sum.add(&histogram);
            let first = sum.cumulative().find(|(_, count)| *count == 1).map_or(f64::INFINITY, |(at, _)| at);
            assert_eq!(first, bound, "{thousandths}");
            assert_eq!((sum.count(), sum.sum_thousandths()), (1, thousandths));
        }
    }

    #[test]
    fn several_are_one() {
        let (one, two) = (Histogram::default(), Histogram::default());
        for thousandths in [400, 700, 7_000] {
            one.record_thousandths(thousandths);
        }
        two.record_thousandths(700);
        let mut sum = HistogramSum::default();
        sum.add(&one);
        sum.add(&two);
        let counts: Vec<u64> = sum.cumulative().map(|(_, count)| count).collect();
        assert_eq!(counts[..5], [1, 3, 3, 4, 4]);
        assert_eq!(counts.len(), BOUNDS.len());
        assert_eq!((sum.count(), sum.sum_thousandths()), (4, 8_800));
    }
}
