//! What hyper's errors mean for a request: whose fault it was, and whether anything was answered.

use super::upload::UploadError;
use crate::proxy::upstream::pool::NoAnswer;
use crate::proxy::upstream::{ResetReason, UpstreamError, tls_failure};

/// The error of a body that the client did not finish.
pub(super) fn is_client_error(error: &hyper::Error) -> bool {
    find_source::<UploadError>(error).is_some_and(|error| matches!(error, UploadError::Downstream(_)))
}

/// What the client is told, and the log.
pub(super) fn upstream_error(error: &hyper::Error) -> UpstreamError {
    if error.is_parse() || is_no_answer(error) {
        return UpstreamError::Reset(ResetReason::ProtocolError);
    }
    if let Some(error) = find_source::<h2::Error>(error) {
        return UpstreamError::Reset(http2_reset_reason(error));
    }
    match find_source::<std::io::Error>(error).and_then(tls_failure) {
        Some(reason) => UpstreamError::Tls(reason.into()),
        None => UpstreamError::Reset(ResetReason::ConnectionTermination),
    }
}

/// Whether the server has sent all sorts of things, and no answer.
fn is_no_answer(error: &hyper::Error) -> bool {
    let error = find_source::<std::io::Error>(error).and_then(std::io::Error::get_ref);
    error.is_some_and(|error| error.is::<NoAnswer>())
}

fn http2_reset_reason(error: &h2::Error) -> ResetReason {
    if error.is_io() || error.is_go_away() && error.is_remote() {
        ResetReason::ConnectionTermination
    } else if error.is_remote() {
        match error.reason() {
            Some(h2::Reason::REFUSED_STREAM) => ResetReason::RemoteRefusedStream,
            _ => ResetReason::RemoteReset,
        }
    } else {
        // What we found wrong with what the server sent.
        ResetReason::ProtocolError
    }
}

fn find_source<E: std::error::Error + 'static>(error: &hyper::Error) -> Option<&E> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        source = error.source();
    }
    None
}
