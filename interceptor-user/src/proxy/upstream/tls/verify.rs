//! Whom we speak to: the chain and its dates always, then the declared alternative names, or else the
//! name of the handshake.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::proxy::certificates::names::{Name, invalid};
use crate::proxy::certificates::spiffe;

/// Whom the certificate has to be for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'a> {
    /// One of these; none: the name of the handshake.
    pub(super) declared: &'a [Arc<str>],
    /// The name of the handshake in any case.
    pub(super) verify_host: bool,
    /// With ISTIO_MUTUAL, where none is declared: an identity of this trust domain, and not the name of the handshake.
    pub(super) trust_domain: Option<&'a str>,
}

#[derive(Debug)]
pub(super) struct Verifier {
    /// `None` is insecureSkipVerify.
    roots: Option<Arc<RootCertStore>>,
    /// Empty: the name of the handshake.
    names: Vec<Name>,
    verify_host: bool,
    trust_domain: Option<Arc<str>>,
    /// Verifies against `caCrl`, too.
    with_revocation: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// A server of the mesh, whoever it is there.
fn verify_identity(end_entity: &CertificateDer<'_>, trust_domain: &str) -> Result<ServerCertVerified, Error> {
    match spiffe::trust_domain(end_entity) {
        Ok(found) if *found == *trust_domain => Ok(ServerCertVerified::assertion()),
        Ok(found) => Err(invalid(format!(
            "the server's identity is of trust domain {found}, ours of {trust_domain}: name it in subjectAltNames"
        ))),
        Err(reason) => Err(invalid(format!("the server's certificate is no identity of the mesh: {reason}"))),
    }
}

impl Verifier {
    pub(super) fn new(
        provider: &Arc<CryptoProvider>,
        roots: Option<Arc<RootCertStore>>,
        revoked: Option<Vec<CertificateRevocationListDer<'static>>>,
        Names { declared, verify_host, trust_domain }: Names<'_>,
    ) -> Result<Self, String> {
        let names = declared.iter().map(Name::new).collect::<Result<Vec<_>, _>>()?;
        let with_revocation = match (&roots, revoked) {
            (Some(roots), Some(revoked)) => Some(with_revocation(roots, provider, revoked)?),
            (None, Some(_)) => return Err("caCrl needs a server that is verified".into()),
            (_, None) => None,
        };
        let algorithms = provider.signature_verification_algorithms;
        let trust_domain = trust_domain.filter(|_| names.is_empty()).map(Into::into);
        Ok(Self { roots, names, verify_host, trust_domain, with_revocation, algorithms })
    }

    /// The signatures up to a root, the dates, and that nothing is revoked.
    fn verify_chain(
        &self,
        roots: &RootCertStore,
        (end_entity, intermediates): (&CertificateDer<'_>, &[CertificateDer<'_>]),
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let Some(verifier) = &self.with_revocation else {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.algorithms.all;
            return verify_server_cert_signed_by_trust_anchor(
                &certificate,
                roots,
                intermediates,
                now,
                algorithms,
            );
        };
        match verifier.verify_server_cert(end_entity, intermediates, server_name, &[], now) {
            // The name is looked at last, when all else is in order; which names count is decided elsewhere.
            Ok(_)
            | Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// As OpenSSL's CRL_CHECK_ALL, which Envoy sets: each certificate of the chain must be covered by a list
/// that is not out of date.
fn with_revocation(
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
) -> Result<Arc<WebPkiServerVerifier>, String> {
    WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
        .with_crls(revoked)
        .enforce_revocation_expiration()
        .build()
        .map_err(|error| format!("caCrl: {error}"))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(roots) = &self.roots else { return Ok(ServerCertVerified::assertion()) };
        self.verify_chain(roots, (end_entity, intermediates), server_name, now)?;
        if let Some(trust_domain) = &self.trust_domain {
            return verify_identity(end_entity, trust_domain);
        }
        if self.names.is_empty() || self.verify_host {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        }
        if let Some((last, others)) = self.names.split_last()
            && !others.iter().any(|name| name.verify(end_entity).is_ok())
        {
            last.verify(end_entity)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
