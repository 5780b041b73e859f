//! Whether a try that failed is worth another one, and how long to wait before it.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, StatusCode};

use crate::proxy::upstream::{ResetReason, UpstreamError, random};
use crate::snapshot::{RetryOn, RetryPolicy};

/// An upstream that is a proxy, too, has refused the request for being one too many.
const X_ENVOY_RATELIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// Envoy's upper bound of the back-off, in multiples of its base.
const BACK_OFF_GROWTH_MAX: u32 = 10;

/// Whether `policy` asks for another try after this failure.
pub(super) fn on_error(policy: &RetryOn, error: &UpstreamError) -> bool {
    match error {
        // Not tried at all: another try would not be either.
        UpstreamError::NoHealthyUpstream(_)
        | UpstreamError::DnsResolution(_)
        | UpstreamError::TlsUnavailable(_)
        | UpstreamError::Reset(ResetReason::Overflow) => false,
        UpstreamError::Connect(_) | UpstreamError::ConnectTimeout | UpstreamError::Tls(_) => {
            policy.connect_failure || policy.reset_before_request || on_any_reset(policy)
        }
        UpstreamError::Reset(reason) => {
            let refused = *reason == ResetReason::RemoteRefusedStream
                && (policy.refused_stream || policy.reset_before_request);
            refused || on_any_reset(policy)
        }
    }
}

/// Whether `policy` asks for another try after a try ran into its own timeout.
pub(super) fn on_per_try_timeout(policy: &RetryOn) -> bool {
    on_any_reset(policy)
}

/// What Envoy tries again whichever way a try broke off (`wouldRetryFromReset`).
fn on_any_reset(policy: &RetryOn) -> bool {
    policy.reset || policy.server_error || policy.gateway_error
}

/// Whether `policy` asks for another try after this answer.
pub(super) fn on_response(policy: &RetryOn, status: StatusCode, headers: &HeaderMap) -> bool {
    if headers.contains_key(X_ENVOY_RATELIMITED) {
        return policy.rate_limited;
    }
    let code = status.as_u16();
    (policy.server_error && status.is_server_error())
        || (policy.gateway_error && matches!(code, 502..=504))
        || (policy.retriable_4xx && code == 409)
        || policy.status_codes.contains(&code)
        || (!policy.grpc_statuses.is_empty()
            && grpc_status(headers).is_some_and(|status| policy.grpc_statuses.contains(&status)))
}

/// The status of a gRPC answer that consists of nothing but it.
fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    let content_type = headers.get(CONTENT_TYPE)?.as_bytes();
    if !content_type.starts_with(b"application/grpc") {
        return None;
    }
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// The status that an answer stands for: gRPC's own, in HTTP's terms, when it is nothing but one (Envoy's
/// `grpcToHttpStatus`).
pub(super) fn status_of(status: StatusCode, headers: &HeaderMap) -> u16 {
    match grpc_status(headers) {
        None => status.as_u16(),
        Some(0) => 200,
        Some(1) => 499,
        Some(3 | 9 | 11) => 400,
        Some(4) => 504,
        Some(5) => 404,
        Some(6 | 10) => 409,
        Some(7) => 403,
        Some(8) => 429,
        Some(12) => 501,
        Some(14) => 503,
        Some(16) => 401,
        Some(_) => 500,
    }
}

/// How long to wait before try `attempt` + 1: exponential, with full jitter.
pub(super) fn back_off(policy: &RetryPolicy, attempt: u32) -> Duration {
    let growth = 2_u32.saturating_pow(attempt).saturating_sub(1).clamp(1, BACK_OFF_GROWTH_MAX);
    let bound = u64::try_from((policy.base_interval * growth).as_micros()).unwrap_or(u64::MAX).max(1);
    Duration::from_micros(random() % bound)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

    use super::{back_off, on_error, on_per_try_timeout, on_response, status_of};
    use crate::proxy::upstream::{ResetReason, UpstreamError};
    use crate::snapshot::{RetryOn, RetryPolicy};

    /// `connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes` with 503.
    fn istio_default() -> RetryOn {
        RetryOn {
            connect_failure: true,
            refused_stream: true,
            status_codes: vec![503],
            grpc_statuses: vec![14, 1],
            ..RetryOn::default()
        }
    }

    #[test]
    fn istios_default_retries_what_did_not_start() {
        let policy = istio_default();
        for (error, expected) in [
            (UpstreamError::Connect("refused".into()), true),
            (UpstreamError::ConnectTimeout, true),
            (UpstreamError::Tls("expired".into()), true),
            (UpstreamError::TlsUnavailable("no file".into()), false),
            (UpstreamError::NoHealthyUpstream(None), false),
            (UpstreamError::Reset(ResetReason::RemoteRefusedStream), true),
            (UpstreamError::Reset(ResetReason::ConnectionTermination), false),
            (UpstreamError::Reset(ResetReason::RemoteReset), false),
        ] {
            assert_eq!(on_error(&policy, &error), expected, "{error:?}");
        }
    }

    #[test]
    fn any_reset_is_a_gateway_error() {
        let errors = [
            (UpstreamError::Connect("refused".into()), true),
            (UpstreamError::ConnectTimeout, true),
            (UpstreamError::Tls("expired".into()), true),
            (UpstreamError::TlsUnavailable("no file".into()), false),
            (UpstreamError::NoHealthyUpstream(None), false),
            (UpstreamError::Reset(ResetReason::RemoteRefusedStream), true),
            (UpstreamError::Reset(ResetReason::ConnectionTermination), true),
            (UpstreamError::Reset(ResetReason::RemoteReset), true),
            (UpstreamError::Reset(ResetReason::Overflow), false),
        ];
        for policy in [
            RetryOn { gateway_error: true, ..RetryOn::default() },
            RetryOn { server_error: true, ..RetryOn::default() },
            RetryOn { reset: true, ..RetryOn::default() },
        ] {
            for (error, expected) in &errors {
                assert_eq!(on_error(&policy, error), *expected, "{policy:?} {error:?}");
            }
            assert!(on_per_try_timeout(&policy));
        }
    }

    #[test]
    fn answers_are_retried_by_status() {
        let grpc = |status: &'static str| {
            HeaderMap::from_iter([
                (HeaderName::from_static("content-type"), HeaderValue::from_static("application/grpc+proto")),
                (HeaderName::from_static("grpc-status"), HeaderValue::from_static(status)),
            ])
        };
        let policy = istio_default();
        for (status, headers, expected, means) in [
            (503, HeaderMap::new(), true, 503),
            (502, HeaderMap::new(), false, 502),
            (200, HeaderMap::new(), false, 200),
            (200, grpc("14"), true, 503),
            (200, grpc("13"), false, 500),
            (200, grpc("5"), false, 404),
            (200, grpc("0"), false, 200),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(status_of(status, &headers), means, "{status} {headers:?}");
            assert_eq!(on_response(&policy, status, &headers), expected, "{status} {headers:?}");
        }
    }

    #[test]
    fn the_back_off_stays_below_its_bound() {
        let policy = RetryPolicy::new(9, istio_default());
        for attempt in 1..40 {
            let bound = Duration::from_millis(if attempt == 1 { 25 } else { 250 });
            assert!(back_off(&policy, attempt) < bound, "attempt {attempt}");
        }
    }
}
