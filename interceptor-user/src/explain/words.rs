//! Lists and settings as people read them.

use std::fmt::Write;
use std::time::Duration;

use crate::snapshot::{RetryOn, RetryPolicy};

/// The first few of a list, and how many more there are.
const FEW: usize = 5;

pub(super) fn few(items: impl IntoIterator<Item = String>) -> String {
    let items: Vec<String> = items.into_iter().collect();
    let shown = items.get(..FEW.min(items.len())).unwrap_or_default().join(", ");
    match items.len().saturating_sub(FEW) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

pub(super) fn duration(limit: Option<Duration>) -> String {
    limit.map_or_else(|| "none".into(), |limit| format!("{limit:?}"))
}

pub(super) fn retries(policy: Option<&RetryPolicy>) -> String {
    let Some(policy) = policy else { return "none".into() };
    let mut text = format!("{} more tries on {}", policy.attempts, retry_on(&policy.retry_on));
    if let Some(limit) = policy.per_try_timeout {
        // Writing to a String never fails.
        let _written = write!(text, ", {limit:?} each").is_ok();
    }
    text
}

/// The conditions by Envoy's names.
fn retry_on(on: &RetryOn) -> String {
    let named = [
        (on.connect_failure, "connect-failure"),
        (on.refused_stream, "refused-stream"),
        (on.server_error, "5xx"),
        (on.gateway_error, "gateway-error"),
        (on.reset, "reset"),
        (on.reset_before_request, "reset-before-request"),
        (on.retriable_4xx, "retriable-4xx"),
    ];
    let grpc = on.grpc_statuses.iter().map(|status| match status {
        1 => "cancelled".to_owned(),
        4 => "deadline-exceeded".to_owned(),
        8 => "resource-exhausted".to_owned(),
        13 => "internal".to_owned(),
        14 => "unavailable".to_owned(),
        other => format!("grpc-status {other}"),
    });
    let names = named.into_iter().filter(|(is_on, _)| *is_on).map(|(_, name)| name.to_owned());
    let codes = on.status_codes.iter().map(ToString::to_string);
    names.chain(grpc).chain(codes).collect::<Vec<_>>().join(",")
}
