//! How handshakes with clients end: a result that is counted, and a reason for the log.

use std::io;

use rustls::{CertificateError, Error, InvalidMessage, OtherError};

use tokio::net::TcpStream;

use super::verify::NotLetIn;

/// What became of a handshake, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum HandshakeResult {
    Completed,
    /// None was given, and one is required.
    NoCertificate,
    UnknownCa,
    /// Or not valid yet.
    Expired,
    /// Or not covered by a list of revoked ones that is up to date.
    Revoked,
    TrustDomain,
    NameMismatch,
    HashMismatch,
    /// Otherwise not in order.
    BadCertificate,
    /// No version or suite in common.
    NothingInCommon,
    /// The client sent an alert: it does not like our certificate, most of the time.
    RefusedByClient,
    /// The client closed its connection.
    Gone,
    Timeout,
    /// TLS can't be ended as asked.
    Unavailable,
    /// What the client sent is no TLS, or wrong.
    Protocol,
}

impl HandshakeResult {
    pub const ALL: [Self; 15] = [
        Self::Completed,
        Self::NoCertificate,
        Self::UnknownCa,
        Self::Expired,
        Self::Revoked,
        Self::TrustDomain,
        Self::NameMismatch,
        Self::HashMismatch,
        Self::BadCertificate,
        Self::NothingInCommon,
        Self::RefusedByClient,
        Self::Gone,
        Self::Timeout,
        Self::Unavailable,
        Self::Protocol,
    ];

    /// As in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::NoCertificate => "no_certificate",
            Self::UnknownCa => "unknown_ca",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::TrustDomain => "trust_domain",
            Self::NameMismatch => "name_mismatch",
            Self::HashMismatch => "hash_mismatch",
            Self::BadCertificate => "bad_certificate",
            Self::NothingInCommon => "nothing_in_common",
            Self::RefusedByClient => "refused_by_client",
            Self::Gone => "gone",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Protocol => "protocol",
        }
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(in crate::proxy) struct HandshakeFailure {
    pub(in crate::proxy) result: HandshakeResult,
    pub(in crate::proxy) reason: String,
    /// What is left of the connection, with an alert on its way.
    pub(in crate::proxy) stream: Option<TcpStream>,
}

impl HandshakeFailure {
    pub(in crate::proxy) fn unavailable(reason: &str) -> Self {
        Self { result: HandshakeResult::Unavailable, reason: reason.to_owned(), stream: None }
    }

    pub(super) fn timeout() -> Self {
        let reason = "the client did not finish the TLS handshake in time".to_owned();
        Self { result: HandshakeResult::Timeout, reason, stream: None }
    }

    pub(super) fn of(error: &io::Error) -> Self {
        let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
            let reason = format!("the client's connection ended during the TLS handshake: {error}");
            return Self { result: HandshakeResult::Gone, reason, stream: None };
        };
        Self { result: of_rustls(error), reason: format!("TLS_error:|{error}:TLS_error_end"), stream: None }
    }
}

fn of_rustls(error: &Error) -> HandshakeResult {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "rustls's errors are open-ended; the rest is one class"
    )]
    match error {
        Error::NoCertificatesPresented => HandshakeResult::NoCertificate,
        Error::InvalidCertificate(reason) => of_certificate(reason),
        Error::PeerIncompatible(_) => HandshakeResult::NothingInCommon,
        Error::AlertReceived(_) => HandshakeResult::RefusedByClient,
        Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion) => HandshakeResult::NothingInCommon,
        _ => HandshakeResult::Protocol,
    }
}

fn of_certificate(error: &CertificateError) -> HandshakeResult {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "rustls's errors are open-ended; the rest is one class"
    )]
    match error {
        CertificateError::Other(OtherError(reason)) => {
            reason.downcast_ref::<NotLetIn>().map_or(HandshakeResult::BadCertificate, |reason| reason.result)
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => HandshakeResult::UnknownCa,
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => HandshakeResult::Expired,
        CertificateError::Revoked
        | CertificateError::UnknownRevocationStatus
        | CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => HandshakeResult::Revoked,
        _ => HandshakeResult::BadCertificate,
    }
}
