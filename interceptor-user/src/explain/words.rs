//! Lists and settings as people read them.

use std::fmt::Write;
use std::time::Duration;

use crate::snapshot::{Changes, HeaderChanges, PathRewrite, RetryOn, RetryPolicy};

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
        (on.rate_limited, "envoy-ratelimited"),
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

/// What a route changes in requests and responses.
pub(super) fn changes(changes: &Changes) -> String {
    let path = changes.path.as_ref().map(|path| match path {
        PathRewrite::Prefix { replacement, .. } => format!("the matched prefix becomes {replacement}"),
        PathRewrite::Whole(path) => format!("the path becomes {path}"),
        PathRewrite::Regex { pattern, replacement } => format!("in the path {pattern} becomes {replacement}"),
    });
    let authority = changes.authority.as_ref();
    let authority =
        authority.map(|host| format!("the Host becomes {}", String::from_utf8_lossy(host.as_bytes())));
    let request = headers("request", &changes.request);
    let response = headers("response", &changes.response);
    path.into_iter().chain(authority).chain(request).chain(response).collect::<Vec<_>>().join("; ")
}

fn headers(of: &str, changes: &HeaderChanges) -> Option<String> {
    let removed = changes.remove.iter().map(|name| format!("-{name}"));
    let added = changes.add.iter().map(|(name, _)| format!("+{name}"));
    let set = changes.set.iter().map(|(name, _)| format!("={name}"));
    let all: Vec<String> = removed.chain(added).chain(set).collect();
    (!all.is_empty()).then(|| format!("{of} headers {}", all.join(", ")))
}
