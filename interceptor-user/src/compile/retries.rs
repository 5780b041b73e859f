//! Retry policies: Istio's defaults and conditions (core/route/retry/retry.go).

use std::time::Duration;

use crate::snapshot::{RetryOn, RetryPolicy};

const DEFAULT_RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";

/// What routes get that say nothing about retries.
pub(super) fn default_policy() -> RetryPolicy {
    RetryPolicy {
        attempts: 2,
        retry_on: retry_on(DEFAULT_RETRY_ON),
        per_try_timeout: None,
        base_interval: Duration::from_millis(25),
    }
}

/// Envoy's conditions, separated by commas; unknown ones change nothing.
pub(super) fn retry_on(text: &str) -> RetryOn {
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
