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
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

#[derive(Debug)]
pub(super) struct Verifier {
    /// `None` is insecureSkipVerify.
    roots: Option<Arc<RootCertStore>>,
    /// Empty: the name of the handshake.
    names: Vec<ServerName<'static>>,
    /// Verifies against `caCrl`, too.
    with_revocation: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(
        provider: &Arc<CryptoProvider>,
        roots: Option<Arc<RootCertStore>>,
        revoked: Option<Vec<CertificateRevocationListDer<'static>>>,
        subject_alt_names: &[Arc<str>],
    ) -> Result<Self, String> {
        let name = |name: &Arc<str>| {
            ServerName::try_from(name.to_string())
                .map_err(|_invalid| format!("subjectAltNames: {name} is neither a DNS name nor an address"))
        };
        let names = subject_alt_names.iter().map(name).collect::<Result<_, _>>()?;
        let with_revocation = match (&roots, revoked) {
            (Some(roots), Some(revoked)) => Some(with_revocation(roots, provider, revoked)?),
            (None, Some(_)) => return Err("caCrl needs a server that is verified".into()),
            (_, None) => None,
        };
        let algorithms = provider.signature_verification_algorithms;
        Ok(Self { roots, names, with_revocation, algorithms })
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
        if let Some(verifier) = &self.with_revocation {
            let verify = |name| verifier.verify_server_cert(end_entity, intermediates, name, &[], now);
            let (last, others) = self.names.split_last().unwrap_or((server_name, &[]));
            return others.iter().find_map(|name| verify(name).ok()).map_or_else(|| verify(last), Ok);
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        let Some((last, others)) = self.names.split_last() else {
            verify_server_name(&certificate, server_name)?;
            return Ok(ServerCertVerified::assertion());
        };
        if !others.iter().any(|name| verify_server_name(&certificate, name).is_ok()) {
            verify_server_name(&certificate, last)?;
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
