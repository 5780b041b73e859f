//! Replies of our own: what a client gets when no upstream answers it.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, SERVER};
use http::{HeaderMap, Response, StatusCode};

use super::body::ResponseBody;
use super::log::RequestLog;
use super::{grpc, headers};
use crate::proxy::outcome::{ResponseFlag, ResponseFlags, SURPLUS_DETAILS};
use crate::proxy::upstream::{ResetReason, UpstreamError};
use crate::snapshot::{AbortStatus, DirectResponse, ProxyHeaders, Refusal};

const PREFLIGHT_DETAILS: &str = "cors_response";

const X_ENVOY_OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

/// Marks a reply to what the client should not have sent: its connection is closed (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug)]
pub(super) struct ProtocolError;

/// A reply, and what the log says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    pub(crate) flags: ResponseFlags,
    pub(crate) details: Cow<'static, str>,
    transport_failure_reason: Option<Cow<'static, str>>,
    /// What it adds to its head.
    pub(crate) headers: Option<Box<HeaderMap>>,
    /// What a gRPC client is told, when it does not follow from the status.
    grpc_status: Option<u8>,
    /// x-envoy-overloaded: the cluster's bounds, not the upstream.
    overloaded: bool,
}

impl Reply {
    fn empty(status: StatusCode, flags: ResponseFlags, details: &'static str) -> Self {
        Self {
            status,
            body: Bytes::new(),
            flags,
            details: Cow::Borrowed(details),
            transport_failure_reason: None,
            headers: None,
            grpc_status: None,
            overloaded: false,
        }
    }

    /// What no route, no cluster or no reading of the request allows.
    pub(super) fn refused(refusal: Refusal) -> Self {
        Self {
            body: Bytes::from_static(refusal.body().as_bytes()),
            ..Self::empty(refusal.status(), refusal.into(), refusal.details())
        }
    }

    pub(super) fn direct(direct: &DirectResponse) -> Self {
        Self {
            body: direct.body.clone(),
            ..Self::empty(
                StatusCode::from_u16(direct.status).unwrap_or(StatusCode::BAD_GATEWAY),
                ResponseFlags::NONE,
                "direct_response",
            )
        }
    }

    /// Sends the client elsewhere.
    pub(super) fn redirect(status: u16, location: &str) -> Self {
        let location = HeaderValue::from_str(location).ok();
        Self {
            headers: location.map(|location| Box::new(HeaderMap::from_iter([(LOCATION, location)]))),
            ..Self::empty(
                StatusCode::from_u16(status).unwrap_or(StatusCode::MOVED_PERMANENTLY),
                ResponseFlags::NONE,
                "direct_response",
            )
        }
    }

    /// To a request that is one too many for its workload.
    pub(super) fn surplus() -> Self {
        Self {
            body: Bytes::from_static(b"too many requests at one time"),
            ..Self::empty(
                StatusCode::SERVICE_UNAVAILABLE,
                ResponseFlag::OverloadManager.into(),
                SURPLUS_DETAILS,
            )
        }
    }

    /// An injected fault.
    pub(crate) fn fault(status: AbortStatus) -> Self {
        let (status, grpc_status) = match status {
            AbortStatus::Http(status) => (StatusCode::from_u16(status).ok(), None),
            AbortStatus::Grpc(status) => (None, Some(status)),
        };
        Self {
            body: Bytes::from_static(b"fault filter abort"),
            grpc_status,
            ..Self::empty(
                status.unwrap_or(StatusCode::OK),
                ResponseFlag::FaultInjected.into(),
                "fault_filter_abort",
            )
        }
    }

    /// The answer to a CORS preflight.
    pub(crate) fn preflight(headers: HeaderMap) -> Self {
        Self {
            headers: Some(Box::new(headers)),
            ..Self::empty(StatusCode::OK, ResponseFlags::NONE, PREFLIGHT_DETAILS)
        }
    }

    pub(super) fn timeout(details: &'static str) -> Self {
        Self {
            body: Bytes::from_static(b"upstream request timeout"),
            ..Self::empty(StatusCode::GATEWAY_TIMEOUT, ResponseFlag::UpstreamRequestTimeout.into(), details)
        }
    }

    /// `retried` when it was not the first try that failed.
    pub(super) fn upstream_error(error: &UpstreamError, retried: bool) -> Self {
        Self {
            status: error.status(),
            body: match error.body(retried) {
                Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
                Cow::Owned(text) => Bytes::from(text),
            },
            flags: error.flags(),
            details: error.details(),
            transport_failure_reason: error.transport_failure_reason(),
            headers: None,
            grpc_status: None,
            overloaded: error.reset_reason() == Some(ResetReason::Overflow),
        }
    }

    /// What a gRPC client is told in place of the HTTP status; a preflight is answered as such whatever the request
    /// claims to be.
    pub(crate) fn grpc_status(&self) -> Option<u8> {
        let is_preflight = self.details == PREFLIGHT_DETAILS;
        (!is_preflight).then(|| self.grpc_status.unwrap_or_else(|| grpc::status_of(self.status)))
    }

    /// The last of the tries that the retry policy allows.
    pub(super) fn with_flag(mut self, flag: ResponseFlag) -> Self {
        self.flags.insert(flag);
        self
    }

    pub(super) fn send(mut self, settings: &ProxyHeaders, mut log: RequestLog) -> Response<ResponseBody> {
        let mut headers = self.headers.take().map(|headers| *headers).unwrap_or_default();
        if let Some(status) = self.grpc_status().filter(|_| log.is_grpc()) {
            grpc::set_status(&mut headers, status, &std::mem::take(&mut self.body));
            self.status = StatusCode::OK;
        } else if !self.body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        log.replied(self.status.as_u16(), self.flags, self.details);
        log.set(|record| record.upstream_transport_failure_reason = self.transport_failure_reason);
        let is_protocol_error = self.flags.contains(ResponseFlag::DownstreamProtocolError);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        if self.overloaded && settings.envoy_debug_headers {
            headers.insert(X_ENVOY_OVERLOADED, HeaderValue::from_static("true"));
        }
        headers.insert(SERVER, headers::own_server(settings));
        log.headers(&headers);
        let mut response = Response::new(ResponseBody::own(self.body, log));
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        if is_protocol_error {
            response.extensions_mut().insert(ProtocolError);
        }
        response
    }
}
