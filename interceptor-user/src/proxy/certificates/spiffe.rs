//! What makes a certificate an identity of the mesh: its URI `spiffe://TRUST-DOMAIN/PATH` (SPIFFE's X.509-SVID), and its
//! dates.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage};

use crate::workload::SpiffeId;

/// The trust domain of a certificate's only SPIFFE identity.
///
/// # Errors
/// Why it has none.
pub(in crate::proxy) fn trust_domain(certificate: &CertificateDer<'_>) -> Result<Arc<str>, String> {
    identity(certificate).map(|identity| Arc::clone(identity.trust_domain()))
}

/// A certificate's SPIFFE identity, which is the only URI among its names (X.509-SVID §2).
///
/// # Errors
/// Why it has none.
pub(crate) fn identity(certificate: &CertificateDer<'_>) -> Result<SpiffeId, String> {
    let parsed =
        EndEntityCert::try_from(certificate).map_err(|error| format!("it can't be read: {error}"))?;
    let mut names = parsed.valid_uri_names();
    match (names.next().map(SpiffeId::parse), names.next()) {
        (Some(Some(identity)), None) => Ok(identity),
        (Some(_), Some(_)) => {
            Err("it has several URIs among its names, where its identity has to be the only one".into())
        }
        (Some(None) | None, _) => {
            Err("it has no identity: none of its names is spiffe://TRUST-DOMAIN/…".into())
        }
    }
}

/// Why a chain can't be shown at this time: a certificate of it has expired, or is not valid yet.
pub(in crate::proxy) fn out_of_date(chain: &[CertificateDer<'_>], now: UnixTime) -> Option<String> {
    chain.iter().find_map(|certificate| {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "what else is wrong with it is for the server to say"
        )]
        match verify_at(certificate, now)? {
            Error::CertExpired { not_after, .. } => Some(format!("it expired at {}", at(not_after))),
            Error::CertNotValidYet { not_before, .. } => Some(format!("it is valid from {}", at(not_before))),
            _ => None,
        }
    })
}

/// The last moment at which a certificate is valid; `None` when it can't be read.
pub(crate) fn not_after(certificate: &CertificateDer<'_>) -> Option<UnixTime> {
    // No certificate of today lives as long.
    let never = UnixTime::since_unix_epoch(Duration::from_secs(u64::from(u32::MAX) * 1000));
    #[expect(clippy::wildcard_enum_match_arm, reason = "whatever else is wrong says nothing of its dates")]
    match verify_at(certificate, never)? {
        Error::CertExpired { not_after, .. } => Some(not_after),
        _ => None,
    }
}

/// The first moment at which a certificate is valid; `None` when it can't be read.
pub(super) fn not_before(certificate: &CertificateDer<'_>) -> Option<UnixTime> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "whatever else is wrong says nothing of its dates")]
    match verify_at(certificate, UnixTime::since_unix_epoch(Duration::ZERO))? {
        Error::CertNotValidYet { not_before, .. } => Some(not_before),
        _ => None,
    }
}

/// What is wrong with a certificate at this time. Its dates are looked at first, before who has signed it: nobody has,
/// here. There is no other way to learn them.
fn verify_at(certificate: &CertificateDer<'_>, now: UnixTime) -> Option<Error> {
    let parsed = EndEntityCert::try_from(certificate).ok()?;
    parsed.verify_for_usage(&[], &[], &[], now, KeyUsage::client_auth(), None, None).err()
}

/// RFC 3339, in UTC.
pub(crate) fn at(time: UnixTime) -> String {
    let since_epoch = jiff::SignedDuration::try_from(Duration::from_secs(time.as_secs()));
    let time = since_epoch.ok().and_then(|time| jiff::Timestamp::from_duration(time).ok());
    time.map_or_else(|| "no time that can be written".into(), |time| time.to_string())
}
