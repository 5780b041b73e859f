//! What makes a certificate an identity of the mesh: its URI `spiffe://TRUST-DOMAIN/PATH` (SPIFFE's X.509-SVID), and its
//! dates.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage};

/// What an identity's URI starts with.
const SCHEME: &str = "spiffe://";

/// The trust domain of a certificate's only SPIFFE identity.
///
/// # Errors
/// Why it has none.
pub(super) fn trust_domain(certificate: &CertificateDer<'_>) -> Result<Arc<str>, String> {
    let parsed =
        EndEntityCert::try_from(certificate).map_err(|error| format!("it can't be read: {error}"))?;
    let mut identities = parsed.valid_uri_names().filter_map(of_uri);
    match (identities.next(), identities.next()) {
        (Some(trust_domain), None) => Ok(trust_domain.into()),
        (Some(_), Some(_)) => Err(format!("it has several identities {SCHEME}…, where one is allowed")),
        (None, _) => Err(format!("it has no identity: none of its names is {SCHEME}TRUST-DOMAIN/…")),
    }
}

fn of_uri(uri: &str) -> Option<&str> {
    let (trust_domain, path) = uri.strip_prefix(SCHEME)?.split_once('/')?;
    (!trust_domain.is_empty() && !path.is_empty()).then_some(trust_domain)
}

/// Why a chain can't be shown at this time: a certificate of it has expired, or is not valid yet.
pub(super) fn out_of_date(chain: &[CertificateDer<'_>], now: UnixTime) -> Option<String> {
    chain.iter().find_map(|certificate| {
        let parsed = EndEntityCert::try_from(certificate).ok()?;
        // Its dates are looked at first, before who has signed it: nobody has, here.
        let checked = parsed.verify_for_usage(&[], &[], &[], now, KeyUsage::client_auth(), None, None);
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "what else is wrong with it is for the server to say"
        )]
        match checked.err()? {
            Error::CertExpired { not_after, .. } => Some(format!("it expired at {}", at(not_after))),
            Error::CertNotValidYet { not_before, .. } => Some(format!("it is valid from {}", at(not_before))),
            _ => None,
        }
    })
}

/// RFC 3339, in UTC.
fn at(time: UnixTime) -> String {
    let since_epoch = jiff::SignedDuration::try_from(Duration::from_secs(time.as_secs()));
    let time = since_epoch.ok().and_then(|time| jiff::Timestamp::from_duration(time).ok());
    time.map_or_else(|| "no time that can be written".into(), |time| time.to_string())
}
