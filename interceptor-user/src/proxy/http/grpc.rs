//! What differs for gRPC: replies of our own, and the deadline that a client brings along.

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Whether a request is one: `application/grpc`, also with a subtype, but not `application/grpc-web`.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(rest) = headers
        .get(CONTENT_TYPE)
        .and_then(|content_type| content_type.as_bytes().strip_prefix(b"application/grpc"))
    else {
        return false;
    };
    rest.is_empty() || rest.starts_with(b"+")
}

/// A reply without body whose head says what went wrong.
pub(super) fn set_status(headers: &mut HeaderMap, status: u8, message: &[u8]) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(status)));
    let message = percent_encoded(message);
    if let Some(message) = HeaderValue::from_str(&message).ok().filter(|message| !message.is_empty()) {
        headers.insert(GRPC_MESSAGE, message);
    }
}

/// What a response's headers or trailers say.
pub(super) fn status_in(headers: &HeaderMap) -> Option<u8> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// The gRPC status of an HTTP status (gRPC's http-grpc-status-mapping).
pub(crate) fn status_of(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// gRPC's Percent-Encoded: all but printable ASCII, and the percent sign.
fn percent_encoded(message: &[u8]) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message {
        match byte {
            b' '..=b'~' if *byte != b'%' => encoded.push(char::from(*byte)),
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// How long the client waits (`100m`: at most eight digits and a unit); no limit without a valid header.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    // 0 is no limit to Envoy, and nothing else is rounded down to it.
    (!timeout.is_zero()).then(|| timeout.max(Duration::from_millis(1)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::header::{CONTENT_TYPE, HeaderValue};
    use http::{HeaderMap, StatusCode};

    use super::{GRPC_TIMEOUT, is_grpc, percent_encoded, status_of, timeout};

    #[test]
    fn requests() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
            assert_eq!(is_grpc(&headers), expected, "{content_type}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn statuses_and_messages() {
        for (http, grpc) in [(400, 13), (401, 16), (403, 7), (404, 12), (503, 14), (504, 14), (500, 2)] {
            assert_eq!(status_of(StatusCode::from_u16(http).unwrap()), grpc, "{http}");
        }
        assert_eq!(percent_encoded("50 % \u{e9}\n".as_bytes()), "50 %25 %C3%A9%0A");
    }

    #[test]
    fn timeouts() {
        for (text, milliseconds) in [
            ("1H", Some(3_600_000)),
            ("2M", Some(120_000)),
            ("3S", Some(3_000)),
            ("250m", Some(250)),
            ("1500u", Some(1)),
            ("1n", Some(1)),
            ("0S", None),
            ("99999999H", Some(359_999_996_400_000)),
            ("100000000S", None),
            ("S", None),
            ("", None),
            ("1s", None),
            ("-1S", None),
            ("1.5S", None),
        ] {
            let headers = HeaderMap::from_iter([(GRPC_TIMEOUT, HeaderValue::from_static(text))]);
            assert_eq!(timeout(&headers).map(|timeout| timeout.as_millis()), milliseconds, "{text}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None::<Duration>);
    }
}
