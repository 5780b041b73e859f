//! Istio's standard metrics in Prometheus' text format.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::SourceMetrics;
use super::histogram::HistogramSum;
use super::labels::{RequestProtocol, SeriesLabels};
use super::series::Sum;
use crate::telemetry::exposition::Family;

/// The series of all sources, in the order in which they are written.
type Read<'a> = [(&'a Arc<SourceMetrics>, BTreeMap<SeriesLabels, Sum>)];

pub(super) fn append(out: &mut String, read: &Read<'_>) {
    let mut requests = Vec::new();
    let mut connections = Vec::new();
    for (source, series) in read {
        for (labels, sum) in series {
            let mut text = labels.client.as_deref().unwrap_or(&source.labels).0.clone();
            labels.append(&mut text);
            let kind = match labels.outcome.protocol {
                RequestProtocol::Http | RequestProtocol::Grpc(_) => &mut requests,
                RequestProtocol::Tcp => &mut connections,
            };
            kind.push((text, sum));
        }
    }

    counters(out, "istio_requests_total", "Requests that have ended.", &requests, |sum| {
        sum.duration_ms.count()
    });
    histograms(
        out,
        "istio_request_duration_milliseconds",
        "How long requests took, from the head to the end of the response.",
        &requests,
        |sum| &sum.duration_ms,
    );
    histograms(out, "istio_request_bytes", "Sizes of requests' bodies.", &requests, |sum| &sum.request_bytes);
    histograms(out, "istio_response_bytes", "Sizes of responses' bodies.", &requests, |sum| {
        &sum.response_bytes
    });
    counters(
        out,
        "istio_tcp_connections_opened_total",
        "Connections of opaque bytes that were made.",
        &connections,
        |sum| sum.opened,
    );
    counters(
        out,
        "istio_tcp_connections_closed_total",
        "Connections of opaque bytes that have ended.",
        &connections,
        |sum| sum.closed,
    );
    counters(
        out,
        "istio_tcp_received_bytes_total",
        "Opaque bytes that came from the workload.",
        &connections,
        |sum| sum.received_bytes,
    );
    counters(
        out,
        "istio_tcp_sent_bytes_total",
        "Opaque bytes that went to the workload.",
        &connections,
        |sum| sum.sent_bytes,
    );
}

fn counters(
    out: &mut String,
    name: &'static str,
    help: &str,
    series: &[(String, &Sum)],
    value: impl Fn(&Sum) -> u64,
) {
    if series.is_empty() {
        return;
    }
    let mut family = Family::counter(out, name, help);
    for (labels, sum) in series {
        family.written("", format_args!("{labels}"), value(sum));
    }
}

fn histograms(
    out: &mut String,
    name: &'static str,
    help: &str,
    series: &[(String, &Sum)],
    histogram: impl Fn(&Sum) -> &HistogramSum,
) {
    if series.is_empty() {
        return;
    }
    let mut family = Family::histogram(out, name, help);
    for (labels, sum) in series {
        let histogram = histogram(sum);
        for (bound, count) in histogram.cumulative() {
            family.written("_bucket", format_args!("{labels},le=\"{bound}\""), count);
        }
        family.written("_bucket", format_args!("{labels},le=\"+Inf\""), histogram.count());
        let (whole, thousandths) = (histogram.sum_thousandths() / 1000, histogram.sum_thousandths() % 1000);
        family.written("_sum", format_args!("{labels}"), format_args!("{whole}.{thousandths:03}"));
        family.written("_count", format_args!("{labels}"), histogram.count());
    }
}
