//! HTTPRetry: how often, on what, how long each try may take.

use std::sync::Arc;
use std::time::Duration;

use super::decode::Field;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Tries after the first; 0, or absent, turns retries off.
    pub attempts: u32,
    pub per_try_timeout: Option<Duration>,
    /// Envoy's conditions, separated by commas; `None` for Istio's defaults.
    pub retry_on: Option<Arc<str>>,
    /// retryIgnorePreviousHosts: another try goes to another endpoint.
    pub avoid_previous_hosts: bool,
    /// First interval of the back-off.
    pub backoff: Option<Duration>,
}

pub(super) fn read(field: &Field<'_>) -> Option<Retries> {
    let retries = field.object()?;
    // Whether another locality is tried follows from the endpoints that are there.
    retries.ignore(&["retryRemoteLocalities"]);
    let attempts =
        retries.get("attempts").and_then(|field| field.integer(i64::from(i32::MIN)..=i64::from(i32::MAX)));
    let attempts = attempts.and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(0);
    let per_try_timeout = retries.get("perTryTimeout").and_then(|field| at_least_a_millisecond(&field));
    // Empty is as good as absent, as protobuf has it.
    let retry_on = retries.get("retryOn").filter(|field| field.peek_text() != Some(""));
    if attempts == 0 && (per_try_timeout.is_some() || retry_on.is_some()) {
        field.error("http retry policy configured when attempts are set to 0 (disabled): give attempts");
    }
    Some(Retries {
        attempts,
        per_try_timeout,
        retry_on: retry_on.and_then(|field| read_retry_on(&field)),
        avoid_previous_hosts: retries.boolean("retryIgnorePreviousHosts").unwrap_or(true),
        backoff: retries
            .get("backoff")
            .and_then(|field| field.duration())
            .filter(|interval| !interval.is_zero()),
    })
}

fn read_retry_on(field: &Field<'_>) -> Option<Arc<str>> {
    const CONDITIONS: [&str; 16] = [
        "5xx",
        "gateway-error",
        "reset",
        "reset-before-request",
        "connect-failure",
        "envoy-ratelimited",
        "retriable-4xx",
        "refused-stream",
        "retriable-status-codes",
        "retriable-headers",
        "http3-post-connect-failure",
        "cancelled",
        "deadline-exceeded",
        "internal",
        "resource-exhausted",
        "unavailable",
    ];
    let text = field.text()?;
    for condition in text.split(',').map(str::trim) {
        let status = condition.parse::<u16>().is_ok_and(|status| (100..600).contains(&status));
        if !status && !CONDITIONS.contains(&condition) {
            field.error(format!("{condition} is not a valid retryOn value"));
        }
    }
    Some(text)
}

/// Istio's webhook refuses durations below one millisecond.
pub(super) fn at_least_a_millisecond(field: &Field<'_>) -> Option<Duration> {
    let duration = field.duration()?;
    if duration < Duration::from_millis(1) {
        field.error("duration must be greater than 1ms");
        return None;
    }
    Some(duration)
}
