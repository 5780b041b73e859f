//! What is counted under one set of labels: by one worker, and the sum of several.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::histogram::{Histogram, HistogramSum, add};
use super::labels::RequestProtocol;

/// One worker's counts. Written by that worker alone, read by anybody.
#[derive(Debug)]
pub(crate) enum Series {
    Requests(Box<Requests>),
    Connections(Connections),
}

#[derive(Debug, Default)]
pub(crate) struct Requests {
    duration_ms: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
}

#[derive(Debug, Default)]
pub(crate) struct Connections {
    opened: AtomicU64,
    closed: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
}

impl Series {
    pub(super) fn new(protocol: RequestProtocol) -> Self {
        match protocol {
            RequestProtocol::Http | RequestProtocol::Grpc(_) => Self::Requests(Box::default()),
            RequestProtocol::Tcp => Self::Connections(Connections::default()),
        }
    }

    /// A request has ended. Sizes are those of bodies.
    pub(crate) fn request(&self, duration: Duration, request_bytes: u64, response_bytes: u64) {
        if let Self::Requests(requests) = self {
            let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
            requests.duration_ms.record_thousandths(microseconds);
            requests.request_bytes.record_thousandths(request_bytes.saturating_mul(1000));
            requests.response_bytes.record_thousandths(response_bytes.saturating_mul(1000));
        }
    }

    pub(crate) fn connection_opened(&self) {
        if let Self::Connections(connections) = self {
            add(&connections.opened, 1);
        }
    }

    pub(crate) fn connection_carried(&self, received_bytes: u64, sent_bytes: u64) {
        if let Self::Connections(connections) = self {
            add(&connections.received_bytes, received_bytes);
            add(&connections.sent_bytes, sent_bytes);
        }
    }

    pub(crate) fn connection_closed(&self) {
        if let Self::Connections(connections) = self {
            add(&connections.closed, 1);
        }
    }
}

/// Several series of the same labels, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) duration_ms: HistogramSum,
    pub(super) request_bytes: HistogramSum,
    pub(super) response_bytes: HistogramSum,
    pub(super) opened: u64,
    pub(super) closed: u64,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
}

impl Sum {
    pub(super) fn add(&mut self, series: &Series) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        match series {
            Series::Requests(requests) => {
                self.duration_ms.add(&requests.duration_ms);
                self.request_bytes.add(&requests.request_bytes);
                self.response_bytes.add(&requests.response_bytes);
            }
            Series::Connections(connections) => {
                self.opened += read(&connections.opened);
                self.closed += read(&connections.closed);
                self.received_bytes = self.received_bytes.wrapping_add(read(&connections.received_bytes));
                self.sent_bytes = self.sent_bytes.wrapping_add(read(&connections.sent_bytes));
            }
        }
    }
}
