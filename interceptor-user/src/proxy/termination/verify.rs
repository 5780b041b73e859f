//! Which clients are let in: by the chain of their certificate, its dates and what is revoked, then by its names, its
//! hashes, and the trust domain of its identity.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};

use super::HandshakeResult;
use crate::proxy::certificates::hash::{base64, hex, sha256};
use crate::proxy::certificates::names::Name;
use crate::proxy::certificates::spiffe;
use crate::snapshot::TlsTermination;

#[derive(Debug)]
pub(super) struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    /// One of these; empty: any.
    names: Vec<Name>,
    /// With ISTIO_MUTUAL an identity of one of these.
    trust_domains: Option<Vec<Arc<str>>>,
    /// SHA-256 in hex and base64; one of either; both empty: any.
    certificate_hashes: Vec<Arc<str>>,
    public_key_hashes: Vec<Arc<str>>,
}

/// A certificate that is in order, of somebody who is not let in.
#[derive(Debug)]
pub(super) struct NotLetIn {
    pub(super) result: HandshakeResult,
    reason: String,
}

impl fmt::Display for NotLetIn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.reason)
    }
}

impl std::error::Error for NotLetIn {}

fn not_let_in(result: HandshakeResult, reason: String) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(NotLetIn { result, reason }))))
}

impl ClientVerifier {
    pub(super) fn new(
        provider: &Arc<CryptoProvider>,
        roots: Arc<RootCertStore>,
        revoked: Option<Vec<CertificateRevocationListDer<'static>>>,
        trust_domains: Option<Vec<Arc<str>>>,
        termination: &TlsTermination,
    ) -> Result<Self, String> {
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider));
        // As OpenSSL's CRL_CHECK_ALL, which Envoy sets.
        if let Some(revoked) = revoked {
            builder = builder.with_crls(revoked).enforce_revocation_expiration();
        }
        if !termination.mode.requires_certificate() {
            builder = builder.allow_unauthenticated();
        }
        let chain = builder.build().map_err(|error| format!("CA certificates for clients: {error}"))?;
        let names = termination.subject_alt_names.iter().map(Name::new).collect::<Result<_, _>>()?;
        Ok(Self {
            chain,
            names,
            trust_domains,
            certificate_hashes: termination.certificate_hashes.clone(),
            public_key_hashes: termination.public_key_hashes.clone(),
        })
    }

    /// Whose identities are let in, where one has to be shown.
    pub(super) fn trust_domains(&self) -> Option<Vec<Arc<str>>> {
        self.trust_domains.clone()
    }

    fn verify_trust_domain(&self, end_entity: &CertificateDer<'_>) -> Result<(), Error> {
        let Some(ours) = &self.trust_domains else { return Ok(()) };
        match spiffe::trust_domain(end_entity) {
            Ok(theirs) if ours.contains(&theirs) => Ok(()),
            Ok(theirs) => Err(not_let_in(
                HandshakeResult::TrustDomain,
                format!(
                    "the client's identity is of trust domain {theirs}, ours of {}: name it in trustDomainAliases",
                    ours.join(", ")
                ),
            )),
            Err(reason) => Err(not_let_in(
                HandshakeResult::TrustDomain,
                format!("the client's certificate is no identity of the mesh: {reason}"),
            )),
        }
    }

    fn verify_names(&self, end_entity: &CertificateDer<'_>) -> Result<(), Error> {
        if self.names.is_empty() || self.names.iter().any(|name| name.verify(end_entity).is_ok()) {
            return Ok(());
        }
        let reason = "the client's certificate has none of the names in subjectAltNames".to_owned();
        Err(not_let_in(HandshakeResult::NameMismatch, reason))
    }

    fn verify_hashes(&self, end_entity: &CertificateDer<'_>) -> Result<(), Error> {
        if self.certificate_hashes.is_empty() && self.public_key_hashes.is_empty() {
            return Ok(());
        }
        let hash = hex(&sha256(end_entity));
        if self.certificate_hashes.iter().any(|known| **known == *hash) {
            return Ok(());
        }
        if !self.public_key_hashes.is_empty() {
            let bad_encoding = |_error| Error::InvalidCertificate(CertificateError::BadEncoding);
            let parsed = webpki::EndEntityCert::try_from(end_entity).map_err(bad_encoding)?;
            let hash = base64(&sha256(&parsed.subject_public_key_info()));
            if self.public_key_hashes.iter().any(|known| **known == *hash) {
                return Ok(());
            }
        }
        let reason =
            "the client's certificate is none of verifyCertificateHash and verifyCertificateSpki".to_owned();
        Err(not_let_in(HandshakeResult::HashMismatch, reason))
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        self.verify_trust_domain(end_entity)?;
        self.verify_names(end_entity)?;
        self.verify_hashes(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
