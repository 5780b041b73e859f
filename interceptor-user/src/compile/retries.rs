//! Retry policies: Istio's defaults and conditions (core/route/retry/retry.go).

use std::time::Duration;

use crate::resource::Retries;
use crate::snapshot::{RetryOn, RetryPolicy};

const DEFAULT_ATTEMPTS: u32 = 2;
const DEFAULT_RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
const DEFAULT_INTERVAL: Duration = Duration::from_millis(25);

/// What a route gets; `None` in is a route (and mesh) that says nothing, `None` out is no retries.
pub(super) fn policy(retries: Option<&Retries>) -> Option<RetryPolicy> {
    let Some(retries) = retries else {
        return Some(RetryPolicy {
            attempts: DEFAULT_ATTEMPTS,
            retry_on: retry_on(DEFAULT_RETRY_ON),
            per_try_timeout: None,
            base_interval: DEFAULT_INTERVAL,
        });
    };
    (retries.attempts > 0).then(|| RetryPolicy {
        attempts: retries.attempts,
        retry_on: retry_on(
            retries.retry_on.as_deref().filter(|text| !text.is_empty()).unwrap_or(DEFAULT_RETRY_ON),
        ),
        per_try_timeout: retries.per_try_timeout,
        base_interval: retries.backoff.unwrap_or(DEFAULT_INTERVAL),
    })
}

/// Envoy's conditions, separated by commas; unknown ones change nothing.
fn retry_on(text: &str) -> RetryOn {
    let mut on = RetryOn::default();
    for condition in text.split(',').map(str::trim) {
        match condition {
            "connect-failure" => on.connect_failure = true,
            "refused-stream" => on.refused_stream = true,
            "5xx" => on.server_error = true,
            "gateway-error" => on.gateway_error = true,
            "reset" => on.reset = true,
            "reset-before-request" => on.reset_before_request = true,
            "retriable-4xx" => on.retriable_4xx = true,
            "cancelled" => on.grpc_statuses.push(1),
            "deadline-exceeded" => on.grpc_statuses.push(4),
            "resource-exhausted" => on.grpc_statuses.push(8),
            "internal" => on.grpc_statuses.push(13),
            "unavailable" => on.grpc_statuses.push(14),
            number => {
                on.status_codes.extend(number.parse::<u16>().ok().filter(|code| (100..600).contains(code)))
            }
        }
    }
    on
}
