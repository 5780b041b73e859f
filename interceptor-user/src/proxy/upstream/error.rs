//! Why an upstream could not be used, in Envoy's words: what the client is told, what the log says.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::sync::Arc;

use super::bounds::Overflow;
use super::outlier::Outcome;
use crate::proxy::outcome::{ResponseFlag, ResponseFlags};
use crate::snapshot::EndpointAddress;

/// Envoy's StreamResetReason, as far as a reply can name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetReason {
    RemoteConnectionFailure,
    ConnectionTimeout,
    ConnectionTermination,
    RemoteReset,
    RemoteRefusedStream,
    ProtocolError,
    /// A bound of the cluster: nothing was sent.
    Overflow,
}

impl ResetReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RemoteConnectionFailure => "remote connection failure",
            Self::ConnectionTimeout => "connection timeout",
            Self::ConnectionTermination => "connection termination",
            Self::RemoteReset => "remote reset",
            Self::RemoteRefusedStream => "remote refused stream reset",
            Self::ProtocolError => "protocol error",
            Self::Overflow => "overflow",
        }
    }
}

/// Why there is no answer from the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamError {
    /// No endpoint to choose from, and why if that is known.
    NoHealthyUpstream(Option<Arc<str>>),
    /// The name of a DYNAMIC_DNS request has no address.
    DnsResolution(Arc<str>),
    /// No connection, for the transport failure reason given.
    Connect(Arc<str>),
    ConnectTimeout,
    /// The TLS handshake failed.
    Tls(Arc<str>),
    /// TLS was asked for and cannot be made: nothing was sent.
    TlsUnavailable(Arc<str>),
    /// A connection was there, and failed before the response's headers.
    Reset(ResetReason),
}

/// Why there is no connection for opaque bytes, and who was to be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectError {
    pub error: UpstreamError,
    /// `None` when no endpoint was chosen.
    pub host: Option<EndpointAddress>,
}

impl From<UpstreamError> for ConnectError {
    fn from(error: UpstreamError) -> Self {
        Self { error, host: None }
    }
}

impl From<Overflow> for UpstreamError {
    fn from(_: Overflow) -> Self {
        Self::Reset(ResetReason::Overflow)
    }
}

impl UpstreamError {
    /// The same, of a connection to `host`.
    pub(super) fn at(self, host: EndpointAddress) -> ConnectError {
        ConnectError { error: self, host: Some(host) }
    }

    /// A connect that the kernel refused.
    pub fn connect(error: &io::Error) -> Self {
        // Known without asking anybody.
        let immediate = matches!(
            error.kind(),
            io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::AddrNotAvailable
                | io::ErrorKind::PermissionDenied
        );
        if immediate {
            return Self::connect_at_once(error);
        }
        Self::Connect(format!("delayed connect error: {}", describe(error)).into())
    }

    /// A connect that failed before it returned, as Envoy tells those.
    pub fn connect_at_once(error: &io::Error) -> Self {
        Self::Connect(format!("immediate connect error: {}", describe(error)).into())
    }

    pub fn flag(&self) -> ResponseFlag {
        match self {
            Self::NoHealthyUpstream(_) => ResponseFlag::NoHealthyUpstream,
            Self::DnsResolution(_) => ResponseFlag::DnsResolutionFailed,
            Self::Connect(_) | Self::ConnectTimeout | Self::Tls(_) | Self::TlsUnavailable(_) => {
                ResponseFlag::UpstreamConnectionFailure
            }
            Self::Reset(reason) => match reason {
                ResetReason::RemoteConnectionFailure | ResetReason::ConnectionTimeout => {
                    ResponseFlag::UpstreamConnectionFailure
                }
                ResetReason::ConnectionTermination => ResponseFlag::UpstreamConnectionTermination,
                ResetReason::RemoteReset | ResetReason::RemoteRefusedStream => {
                    ResponseFlag::UpstreamRemoteReset
                }
                ResetReason::ProtocolError => ResponseFlag::UpstreamProtocolError,
                ResetReason::Overflow => ResponseFlag::UpstreamOverflow,
            },
        }
    }

    pub fn flags(&self) -> ResponseFlags {
        self.flag().into()
    }

    /// `None` when nothing was tried that could be reset.
    pub fn reset_reason(&self) -> Option<ResetReason> {
        match self {
            Self::NoHealthyUpstream(_) | Self::DnsResolution(_) => None,
            Self::Connect(_) | Self::Tls(_) | Self::TlsUnavailable(_) => {
                Some(ResetReason::RemoteConnectionFailure)
            }
            Self::ConnectTimeout => Some(ResetReason::ConnectionTimeout),
            Self::Reset(reason) => Some(*reason),
        }
    }

    /// What it says of the endpoint; `None` when the endpoint has no part in it.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::NoHealthyUpstream(_)
            | Self::DnsResolution(_)
            | Self::TlsUnavailable(_)
            | Self::Reset(ResetReason::Overflow) => None,
            Self::ConnectTimeout | Self::Reset(ResetReason::ConnectionTimeout) => Some(Outcome::TimedOut),
            Self::Connect(_)
            | Self::Tls(_)
            | Self::Reset(
                ResetReason::RemoteConnectionFailure
                | ResetReason::ConnectionTermination
                | ResetReason::RemoteReset
                | ResetReason::RemoteRefusedStream
                | ResetReason::ProtocolError,
            ) => Some(Outcome::Broken),
        }
    }

    /// %UPSTREAM_TRANSPORT_FAILURE_REASON%.
    pub fn transport_failure_reason(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Connect(reason)
            | Self::Tls(reason)
            | Self::TlsUnavailable(reason)
            | Self::DnsResolution(reason)
            | Self::NoHealthyUpstream(Some(reason)) => Some(Cow::Owned(reason.to_string())),
            Self::NoHealthyUpstream(None) | Self::ConnectTimeout | Self::Reset(_) => None,
        }
    }

    /// %RESPONSE_CODE_DETAILS%.
    pub fn details(&self) -> Cow<'static, str> {
        let Some(reason) = self.reset_reason() else {
            return match self {
                Self::DnsResolution(_) => Cow::Borrowed("dns_resolution_failure"),
                Self::NoHealthyUpstream(_)
                | Self::Connect(_)
                | Self::ConnectTimeout
                | Self::Tls(_)
                | Self::TlsUnavailable(_)
                | Self::Reset(_) => Cow::Borrowed("no_healthy_upstream"),
            };
        };
        let failure = self.transport_failure_reason();
        let details = format!(
            "upstream_reset_before_response_started{{{}{}{}}}",
            reason.as_str(),
            if failure.is_some() { "|" } else { "" },
            failure.as_deref().unwrap_or_default()
        );
        Cow::Owned(details.replace(' ', "_"))
    }

    pub fn status(&self) -> http::StatusCode {
        match self {
            Self::Reset(ResetReason::ProtocolError) => http::StatusCode::BAD_GATEWAY,
            Self::NoHealthyUpstream(_)
            | Self::DnsResolution(_)
            | Self::Connect(_)
            | Self::ConnectTimeout
            | Self::Tls(_)
            | Self::TlsUnavailable(_)
            | Self::Reset(_) => http::StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// What the client reads; `retried` when this was not the first try.
    pub fn body(&self, retried: bool) -> Cow<'static, str> {
        let Some(reason) = self.reset_reason() else {
            return match self {
                Self::DnsResolution(_) => Cow::Borrowed("DNS resolution failure"),
                Self::NoHealthyUpstream(_)
                | Self::Connect(_)
                | Self::ConnectTimeout
                | Self::Tls(_)
                | Self::TlsUnavailable(_)
                | Self::Reset(_) => Cow::Borrowed("no healthy upstream"),
            };
        };
        let failure = self.transport_failure_reason();
        Cow::Owned(format!(
            "upstream connect error or disconnect/reset before headers. {}reset reason: {}{}{}",
            if retried { "retried and the latest " } else { "" },
            reason.as_str(),
            if failure.is_some() { ", transport failure reason: " } else { "" },
            failure.as_deref().unwrap_or_default()
        ))
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DnsResolution(reason) => formatter.write_str(reason),
            Self::NoHealthyUpstream(_)
            | Self::Connect(_)
            | Self::ConnectTimeout
            | Self::Tls(_)
            | Self::TlsUnavailable(_)
            | Self::Reset(_) => formatter.write_str(&self.body(false)),
        }
    }
}

impl std::error::Error for UpstreamError {}

/// The kernel's words without the number that std adds.
fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{ResetReason, UpstreamError};

    #[test]
    fn a_refused_connection_is_told_as_envoy_tells_it() {
        let error = UpstreamError::connect(&io::Error::from_raw_os_error(libc::ECONNREFUSED));
        assert_eq!(
            error.body(false),
            "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, \
             transport failure reason: delayed connect error: Connection refused"
        );
        assert_eq!(
            error.details(),
            "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
        );
        assert_eq!(error.flags().to_string(), "UF");
    }

    #[test]
    fn a_bound_is_told_as_envoy_tells_it() {
        let error = UpstreamError::Reset(ResetReason::Overflow);
        assert_eq!(error.body(false).len(), 81);
        assert_eq!(error.details(), "upstream_reset_before_response_started{overflow}");
        assert_eq!((error.flags().to_string().as_str(), error.status().as_u16()), ("UO", 503));
    }

    #[test]
    fn a_closed_connection_has_a_body_of_95_bytes() {
        let error = UpstreamError::Reset(ResetReason::ConnectionTermination);
        assert_eq!(error.body(false).len(), 95);
        assert_eq!(error.details(), "upstream_reset_before_response_started{connection_termination}");
        assert_eq!(error.flags().to_string(), "UC");
    }
}
