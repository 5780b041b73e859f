//! What a certificate says of its holder, for the log and for who may do what.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use super::hash::{hex, sha256};
use super::{distinguished_name, spiffe};
use crate::workload::SpiffeId;

/// Of a client's certificate that has been verified.
#[derive(Clone, Debug, Default)]
pub struct CertificateFacts {
    /// In RFC 2253's form.
    pub subject: String,
    pub issuer: String,
    /// In hex.
    pub serial: String,
    /// SHA-256 of the whole, in hex.
    pub fingerprint: String,
    pub uri_names: Vec<String>,
    pub dns_names: Vec<String>,
    /// Its only SPIFFE identity.
    pub identity: Option<Arc<SpiffeId>>,
}

impl CertificateFacts {
    pub(in crate::proxy) fn of(certificate: &CertificateDer<'_>) -> Self {
        let Ok(parsed) = EndEntityCert::try_from(certificate) else { return Self::default() };
        let owned = |name: &str| name.to_owned();
        Self {
            subject: distinguished_name::text(parsed.subject()),
            issuer: distinguished_name::text(parsed.issuer()),
            serial: hex(parsed.serial()),
            fingerprint: hex(&sha256(certificate)),
            uri_names: parsed.valid_uri_names().map(owned).collect(),
            dns_names: parsed.valid_dns_names().map(owned).collect(),
            identity: spiffe::identity(certificate).ok().map(Arc::new),
        }
    }
}
