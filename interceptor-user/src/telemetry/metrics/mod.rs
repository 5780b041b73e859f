//! Istio's standard metrics: requests and connections by who made them, for whom, and how they ended.
//!
//! Each worker counts for itself, in series that nobody else writes; whoever reads adds them up. Pods that Istio's
//! labels don't tell apart (those of one workload) are one source. Its series live as long as one of its pods: what
//! pods counted that are gone stays until then, so that no counter goes back. A source has a bounded number of series,
//! because names are the clients' to choose: whatever is beyond is counted under the destination `overflow`.

mod histogram;
mod labels;
mod series;
mod text;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

pub(crate) use labels::{Destination, NAME_MAX, Outcome, RequestProtocol, SourceLabels, cut};
pub(crate) use series::Series;

use crate::workload::SourceWorkload;
use labels::SeriesLabels;
use series::Sum;

/// Sets of labels that a source may have.
const SERIES_MAX: usize = 1000;
/// Those of all clients of a gateway.
const CLIENTS_SERIES_MAX: usize = 10_000;

/// All sources that there are.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    sources: Mutex<HashMap<SourceLabels, Weak<SourceMetrics>>>,
}

impl Metrics {
    /// To be kept by each workload of the source for as long as it lives.
    pub(crate) fn source(&self, workload: &SourceWorkload) -> Arc<SourceMetrics> {
        let labels = SourceLabels::new(workload);
        let mut sources = lock(&self.sources);
        if let Some(source) = sources.get(&labels).and_then(Weak::upgrade) {
            return source;
        }
        sources.retain(|_, source| source.strong_count() > 0);
        let source = Arc::new(SourceMetrics {
            labels: labels.clone(),
            own: Mutex::default(),
            of_clients: Mutex::default(),
        });
        sources.insert(labels, Arc::downgrade(&source));
        source
    }

    /// Appends everything in Prometheus' text format.
    pub(crate) fn append(&self, out: &mut String) {
        let sources: Vec<_> = lock(&self.sources).values().filter_map(Weak::upgrade).collect();
        let mut read: Vec<_> = sources.iter().map(|source| (source, source.read())).collect();
        read.sort_unstable_by(|(a, _), (b, _)| a.labels.cmp(&b.labels));
        text::append(out, &read);
    }
}

/// What workloads with the same labels have counted.
#[derive(Debug)]
pub(crate) struct SourceMetrics {
    labels: SourceLabels,
    own: Mutex<Sets>,
    /// Of a gateway's clients.
    of_clients: Mutex<Sets>,
}

type Sets = HashMap<SeriesLabels, Counted>;

#[derive(Debug, Default)]
struct Counted {
    workers: Vec<(WorkerId, Arc<Series>)>,
    /// By workers that are gone.
    past: Sum,
}

/// Tells the workers of a source apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WorkerId(u64);

impl SourceMetrics {
    fn read(&self) -> BTreeMap<SeriesLabels, Sum> {
        let add = |(labels, counted): (&SeriesLabels, &Counted)| {
            let mut sum = counted.past.clone();
            counted.workers.iter().for_each(|(_, series)| sum.add(series));
            (labels.clone(), sum)
        };
        let mut read: BTreeMap<_, _> = lock(&self.own).iter().map(add).collect();
        read.extend(lock(&self.of_clients).iter().map(add));
        read
    }
}

/// One worker's way to its series.
#[derive(Debug)]
pub(crate) struct WorkerSeries {
    source: Arc<SourceMetrics>,
    id: WorkerId,
}

impl WorkerSeries {
    pub(crate) fn new(source: &Arc<SourceMetrics>) -> Self {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let id = WorkerId(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        Self { source: Arc::clone(source), id }
    }

    /// This worker's series for these labels; `None` when there are too many, in which case [`Self::overflow`] is to be
    /// used. Takes a lock: what is found is to be remembered.
    pub(crate) fn find(
        &self,
        client: Option<&Arc<SourceLabels>>,
        destination: &Destination,
        outcome: Outcome,
    ) -> Option<Arc<Series>> {
        let max = if client.is_some() { CLIENTS_SERIES_MAX } else { SERIES_MAX };
        let labels = SeriesLabels { client: client.cloned(), destination: destination.clone(), outcome };
        self.of(labels, max)
    }

    /// The series for whatever has none.
    pub(crate) fn overflow(&self, protocol: RequestProtocol) -> Arc<Series> {
        let (protocol, response_code, flags) = (protocol.alone(), 0, Default::default());
        let labels = SeriesLabels {
            client: None,
            destination: Destination::overflow(),
            outcome: Outcome { protocol, response_code, flags },
        };
        // There is one for each protocol.
        self.of(labels, usize::MAX).unwrap_or_else(|| Arc::new(Series::new(protocol)))
    }

    fn of(&self, labels: SeriesLabels, max: usize) -> Option<Arc<Series>> {
        let all = if labels.client.is_some() { &self.source.of_clients } else { &self.source.own };
        let mut all = lock(all);
        if all.len() >= max && !all.contains_key(&labels) {
            return None;
        }
        let protocol = labels.outcome.protocol;
        let counted = all.entry(labels).or_default();
        if let Some((_, series)) = counted.workers.iter().find(|(worker, _)| *worker == self.id) {
            return Some(Arc::clone(series));
        }
        let series = Arc::new(Series::new(protocol));
        counted.workers.push((self.id, Arc::clone(&series)));
        Some(series)
    }
}

impl Drop for WorkerSeries {
    fn drop(&mut self) {
        for all in [&self.source.own, &self.source.of_clients] {
            for counted in lock(all).values_mut() {
                if let Some(position) = counted.workers.iter().position(|(worker, _)| *worker == self.id) {
                    let (_, series) = counted.workers.swap_remove(position);
                    counted.past.add(&series);
                }
            }
        }
    }
}

/// What is guarded is whole after each statement: a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
