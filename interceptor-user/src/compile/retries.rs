//! Retry policies: Istio's defaults and conditions (core/route/retry/retry.go).

use std::time::Duration;

use crate::resource::Retries;
use crate::snapshot::{RetryOn, RetryPolicy};

const DEFAULT_ATTEMPTS: u32 = 2;
const DEFAULT_RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";

/// What a route with this timeout gets; `None` in is a route (and mesh) that says nothing, `None` out is no
/// retries. A try that may take as long as all of them is bounded by the route's timeout alone.
pub(super) fn policy(retries: Option<&Retries>, timeout: Option<Duration>) -> Option<RetryPolicy> {
    let Some(retries) = retries else {
        return Some(RetryPolicy::new(DEFAULT_ATTEMPTS, retry_on(DEFAULT_RETRY_ON)));
    };
    let conditions = retries.retry_on.as_deref().filter(|text| !text.is_empty());
    let policy = RetryPolicy::new(retries.attempts, retry_on(conditions.unwrap_or(DEFAULT_RETRY_ON)));
    (retries.attempts > 0).then(|| RetryPolicy {
        per_try_timeout: retries.per_try_timeout.filter(|of_try| timeout.is_none_or(|all| *of_try < all)),
        avoid_previous_hosts: retries.avoid_previous_hosts,
        base_interval: retries.backoff.unwrap_or(policy.base_interval),
        ..policy
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
            "envoy-ratelimited" => on.rate_limited = true,
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
