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
            serial: hex(magnitude(parsed.serial())),
            fingerprint: hex(&sha256(certificate)),
            uri_names: parsed.valid_uri_names().map(owned).collect(),
            dns_names: parsed.valid_dns_names().map(owned).collect(),
            identity: spiffe::identity(certificate).ok().map(Arc::new),
        }
    }
}

/// Without the byte that tells a number with a leading one from a negative one; OpenSSL and Envoy don't show it.
fn magnitude(integer: &[u8]) -> &[u8] {
    match integer {
        [0, rest @ ..] if !rest.is_empty() => rest,
        _ => integer,
    }
}

#[cfg(test)]
mod tests {
    use super::magnitude;

    #[test]
    fn a_serial_number_is_shown_as_openssl_does() {
        for (integer, shown) in
            [(&[0, 0xff, 1][..], &[0xff, 1][..]), (&[4, 0x3d], &[4, 0x3d]), (&[0], &[0]), (&[], &[])]
        {
            assert_eq!(magnitude(integer), shown);
        }
    }
}
