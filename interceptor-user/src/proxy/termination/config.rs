//! Makes what rustls needs to end TLS, of files as they are now: what is shown, who is verified, what is spoken.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

use super::verify::ClientVerifier;
use crate::proxy::certificates::credential::known_as;
use crate::proxy::certificates::expiry::Expiry;
use crate::proxy::certificates::{credential, files, spiffe};
use crate::snapshot::{
    CertificateSource, CipherSuite, ClientCaSource, TlsTermination, TlsTerminationMode, TlsVersion,
};

/// By what the client offers.
#[derive(Clone, Debug)]
pub(super) struct Configs {
    with_alpn: Arc<ServerConfig>,
    /// For clients that offer other protocols only, whom rustls would refuse: a client may offer what it likes, as with
    /// Envoy.
    without_alpn: Arc<ServerConfig>,
    /// Of what is shown.
    pub(super) expiries: Vec<Expiry>,
    /// Of clients' certificates.
    pub(super) verifier: Option<Arc<ClientVerifier>>,
}

impl Configs {
    pub(super) fn for_client(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let ours = &self.with_alpn.alpn_protocols;
        let fits =
            hello.alpn().is_none_or(|mut theirs| theirs.any(|name| ours.iter().any(|our| our == name)));
        Arc::clone(if fits { &self.with_alpn } else { &self.without_alpn })
    }
}

/// Fails with why TLS can't be ended.
pub(super) fn configs(termination: &TlsTermination) -> Result<Configs, String> {
    if let Some(reason) = &termination.impossible {
        return Err(reason.to_string());
    }
    let provider = Arc::new(provider(termination));
    let (mut keys, mut expiries) = (Vec::new(), Vec::new());
    for source in &termination.certificates {
        let (file, certified) = key(source)?;
        expiries.extend(Expiry::of(file, &certified.cert));
        keys.push(certified);
    }
    let certificates = Arc::new(Certificates(keys));
    let verifier =
        termination.client_ca.as_ref().map(|ca| verifier(termination, ca, &certificates, &provider));
    let verifier = verifier.transpose()?;
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions(termination))
        .map_err(|error| format!("TLS as asked can't be spoken: {error}"))?;
    let builder = match &verifier {
        Some(verifier) => {
            builder.with_client_cert_verifier(Arc::clone(verifier) as Arc<dyn ClientCertVerifier>)
        }
        None => builder.with_no_client_auth(),
    };
    let without_alpn = builder.with_cert_resolver(certificates);
    let mut with_alpn = without_alpn.clone();
    with_alpn.alpn_protocols = termination.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Configs { with_alpn: Arc::new(with_alpn), without_alpn: Arc::new(without_alpn), expiries, verifier })
}

/// With the suites that are asked for; those of TLS 1.3 in any case.
fn provider(termination: &TlsTermination) -> CryptoProvider {
    let mut provider = ring::default_provider();
    if let Some(wanted) = &termination.cipher_suites {
        let wanted: Vec<_> = wanted.iter().map(|suite| supported(*suite).suite()).collect();
        provider.cipher_suites.retain(|suite| suite.tls13().is_some() || wanted.contains(&suite.suite()));
    }
    provider
}

fn supported(suite: CipherSuite) -> SupportedCipherSuite {
    use ring::cipher_suite as known;
    match suite {
        CipherSuite::EcdheEcdsaAes128Gcm => known::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheEcdsaAes256Gcm => known::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheEcdsaChacha20Poly1305 => known::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::EcdheRsaAes128Gcm => known::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheRsaAes256Gcm => known::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheRsaChacha20Poly1305 => known::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}

/// Without TLS 1.2 where none of its suites may be used.
fn versions(termination: &TlsTermination) -> Vec<&'static SupportedProtocolVersion> {
    let range = termination.min_version..=termination.max_version;
    let has_suites = termination.cipher_suites.as_ref().is_none_or(|suites| !suites.is_empty());
    let all = [
        (TlsVersion::Tls13, true, &rustls::version::TLS13),
        (TlsVersion::Tls12, has_suites, &rustls::version::TLS12),
    ];
    all.into_iter()
        .filter(|(version, may, _)| *may && range.contains(version))
        .map(|(.., known)| known)
        .collect()
}

/// With the file of the certificate.
fn key(source: &CertificateSource) -> Result<(PathBuf, Arc<CertifiedKey>), String> {
    let found = match source {
        CertificateSource::Files(pair) => pair.clone(),
        CertificateSource::Credential(credential) => credential::identity(credential)?,
    };
    let certified = files::certified_key(&found, "certificate")?;
    let credential = match source {
        CertificateSource::Credential(credential) => Some(credential),
        CertificateSource::Files(_) => None,
    };
    Ok((known_as(credential, &found.certificate), certified))
}

fn verifier(
    termination: &TlsTermination,
    ca: &ClientCaSource,
    Certificates(own): &Certificates,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<ClientVerifier>, String> {
    let (file, mut crl) = match ca {
        ClientCaSource::File(file) => (file.clone(), None),
        ClientCaSource::Credential(credential) => credential::ca(credential)?,
    };
    if termination.ca_crl.is_some() {
        crl.clone_from(&termination.ca_crl);
    }
    let revoked = crl.as_deref().map(files::revocations).transpose()?;
    let trust_domains = match (termination.mode, own.first().and_then(|key| key.cert.first())) {
        (TlsTerminationMode::IstioMutual, Some(certificate)) => {
            let own = spiffe::trust_domain(certificate)
                .map_err(|reason| format!("the identity for ISTIO_MUTUAL can't be used: {reason}"))?;
            Some([own].into_iter().chain(termination.trust_domain_aliases.iter().cloned()).collect())
        }
        _ => None,
    };
    let verifier =
        ClientVerifier::new(provider, files::roots_of_file(&file)?, revoked, trust_domains, termination)?;
    Ok(Arc::new(verifier))
}

/// What is shown: the first that the client can verify.
#[derive(Debug)]
struct Certificates(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        self.0.iter().find(fits).or(self.0.first()).cloned()
    }
}
