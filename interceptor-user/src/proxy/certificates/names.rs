//! Subject alternative names that a certificate must have.

use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, DnsName, ServerName};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, OtherError};

/// A subject alternative name.
#[derive(Debug)]
pub(in crate::proxy) enum Name {
    /// Of a host, which a certificate may cover with a wildcard, or an address.
    Server(ServerName<'static>),
    /// `*.…`, compared as it is written: a certificate has to bear this very wildcard, as with Envoy's exact match.
    Wildcard(Arc<str>),
    /// `spiffe://…`, compared byte for byte.
    Uri(Arc<str>),
}

impl Name {
    pub(in crate::proxy) fn new(name: &Arc<str>) -> Result<Self, String> {
        if name.contains("://") {
            return Ok(Self::Uri(Arc::clone(name)));
        }
        if name.strip_prefix("*.").is_some_and(|suffix| DnsName::try_from(suffix).is_ok()) {
            return Ok(Self::Wildcard(Arc::clone(name)));
        }
        ServerName::try_from(name.to_string()).map(Self::Server).map_err(|_invalid| {
            format!("subjectAltNames: {name} is neither a DNS name nor an address nor a URI")
        })
    }

    pub(in crate::proxy) fn verify(&self, end_entity: &CertificateDer<'_>) -> Result<(), Error> {
        match self {
            Self::Server(name) => verify_server_name(&ParsedCertificate::try_from(end_entity)?, name),
            Self::Wildcard(name) => {
                let bears = parsed(end_entity)?.valid_dns_names().any(|own| own.eq_ignore_ascii_case(name));
                one_of_its(bears, name)
            }
            Self::Uri(uri) => one_of_its(parsed(end_entity)?.valid_uri_names().any(|own| own == &**uri), uri),
        }
    }
}

fn parsed<'a>(end_entity: &'a CertificateDer<'a>) -> Result<webpki::EndEntityCert<'a>, Error> {
    let bad_encoding = |_error| Error::InvalidCertificate(CertificateError::BadEncoding);
    webpki::EndEntityCert::try_from(end_entity).map_err(bad_encoding)
}

fn one_of_its(is_one: bool, name: &str) -> Result<(), Error> {
    if is_one { Ok(()) } else { Err(invalid(format!("certificate not valid for name \"{name}\""))) }
}

/// A certificate that is refused for a reason of ours.
pub(in crate::proxy) fn invalid(reason: String) -> Error {
    let reason = Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(reason));
    Error::InvalidCertificate(CertificateError::Other(OtherError(reason)))
}
