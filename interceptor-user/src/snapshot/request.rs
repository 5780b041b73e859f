//! What of an HTTP request must hold before it is routed, and what a client gets when it does not, or when nobody takes
//! the request. The proxy answers with it, `explain` prints it.

use http::header::{HOST, HeaderValue, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode, Uri, Version};

/// Why a request is answered here with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// HTTP/1.0.
    LowVersion,
    MissingHost,
    /// Its framing or head can be read in two ways.
    Ambiguous,
    /// Of two ways to tell where its body ends it has both.
    TwoLengths,
    /// A transfer coding other than chunked.
    UnsupportedTransferEncoding,
    NoRoute,
    NoCluster,
    /// The policy is strict, and the host is not one of the address asked for. As Envoy answers what its external
    /// authorization denies.
    NameMismatch,
    /// The host is not for this workload. As Envoy's RBAC filter answers.
    NotAllowed,
    /// The connection was let in by settings that are gone (RFC 9110 §15.5.20).
    Misdirected,
    /// The egress gateway is enforced, and this leads elsewhere.
    AroundGateway,
}

impl Refusal {
    pub const fn status(self) -> StatusCode {
        match self {
            Self::LowVersion => StatusCode::UPGRADE_REQUIRED,
            Self::MissingHost | Self::Ambiguous | Self::TwoLengths => StatusCode::BAD_REQUEST,
            Self::UnsupportedTransferEncoding => StatusCode::NOT_IMPLEMENTED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoCluster => StatusCode::SERVICE_UNAVAILABLE,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::NameMismatch | Self::NotAllowed | Self::AroundGateway => StatusCode::FORBIDDEN,
        }
    }

    /// Envoy's response code details.
    pub const fn details(self) -> &'static str {
        match self {
            Self::LowVersion => "low_version",
            Self::MissingHost => "missing_host_header",
            Self::Ambiguous => "http1.codec_error",
            Self::TwoLengths => "http1.content_length_and_chunked_not_allowed",
            Self::UnsupportedTransferEncoding => "http1.unsupported_transfer_encoding",
            Self::NoRoute => "route_not_found",
            Self::NoCluster => "cluster_not_found",
            Self::NameMismatch => "name_does_not_match_address",
            Self::NotAllowed => "rbac_access_denied_matched_policy[none]",
            Self::Misdirected => "tls_settings_changed",
            Self::AroundGateway => "leads_around_enforced_gateway",
        }
    }

    pub const fn body(self) -> &'static str {
        match self {
            Self::Ambiguous | Self::TwoLengths => "Bad Request",
            Self::NotAllowed => "RBAC: access denied",
            Self::AroundGateway => "the egress gateway is enforced, and this leads around it",
            Self::LowVersion
            | Self::MissingHost
            | Self::UnsupportedTransferEncoding
            | Self::NoRoute
            | Self::NoCluster
            | Self::NameMismatch
            | Self::Misdirected => "",
        }
    }
}

/// What makes a request impossible to route, or to carry safely; else its host as sent.
pub fn check(
    version: Version,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<HeaderValue, Refusal> {
    if version == Version::HTTP_10 {
        return Err(Refusal::LowVersion);
    }
    let host = host(uri, headers)?;
    if headers.get_all(TRANSFER_ENCODING).iter().any(|coding| !is_chunked(coding)) {
        return Err(Refusal::UnsupportedTransferEncoding);
    }
    if method == Method::CONNECT {
        // No route of a mesh accepts it.
        return Err(Refusal::NoRoute);
    }
    Ok(host)
}

fn is_chunked(coding: &HeaderValue) -> bool {
    coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked")
}

/// The authority of the target, which goes before the Host header (RFC 9112 §3.2.2).
fn host(uri: &Uri, headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::Ambiguous);
    }
    if let Some(authority) = uri.authority() {
        let authority = authority.as_str();
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        return HeaderValue::from_str(host).map_err(|_invalid| Refusal::Ambiguous);
    }
    match header {
        Some(host) if host.to_str().is_ok_and(is_host) => Ok(host.clone()),
        Some(_) => Err(Refusal::Ambiguous),
        None => Err(Refusal::MissingHost),
    }
}

/// Characters that can be in a host and port, an empty host included (RFC 9110 §7.2).
fn is_host(host: &str) -> bool {
    host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+,;=".contains(&byte))
}
