//! ServerTLSSettings: what a Gateway's server does with its clients' TLS.

use std::sync::Arc;

use super::decode::Field;
use super::object::Object;

/// Of TLS; those below 1.2 are not spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// A cipher suite of TLS 1.2. Those of TLS 1.3 can't be chosen, as with Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CipherSuite {
    EcdheEcdsaAes128Gcm,
    EcdheEcdsaAes256Gcm,
    EcdheEcdsaChacha20Poly1305,
    EcdheRsaAes128Gcm,
    EcdheRsaAes256Gcm,
    EcdheRsaChacha20Poly1305,
}

impl CipherSuite {
    /// With the names that Gateways use (OpenSSL's).
    pub const ALL: [(&str, Self); 6] = [
        ("ECDHE-ECDSA-AES128-GCM-SHA256", Self::EcdheEcdsaAes128Gcm),
        ("ECDHE-ECDSA-AES256-GCM-SHA384", Self::EcdheEcdsaAes256Gcm),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", Self::EcdheEcdsaChacha20Poly1305),
        ("ECDHE-RSA-AES128-GCM-SHA256", Self::EcdheRsaAes128Gcm),
        ("ECDHE-RSA-AES256-GCM-SHA384", Self::EcdheRsaAes256Gcm),
        ("ECDHE-RSA-CHACHA20-POLY1305", Self::EcdheRsaChacha20Poly1305),
    ];
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    pub mode: ServerTlsMode,
    pub https_redirect: bool,
    /// credentialName, or each of credentialNames.
    pub credential_names: Vec<Arc<str>>,
    pub server_certificate: Option<Arc<str>>,
    pub private_key: Option<Arc<str>>,
    pub ca_certificates: Option<Arc<str>>,
    /// tlsCertificates: certificates with their keys, instead of the two above.
    pub certificates: Vec<(Arc<str>, Arc<str>)>,
    /// Whose CA certificates count instead of those of the other credentials.
    pub ca_credential_name: Option<Arc<str>>,
    pub ca_crl: Option<Arc<str>>,
    /// Of clients.
    pub subject_alt_names: Vec<Arc<str>>,
    /// SHA-256 of clients' certificates, 64 hex digits in lower case.
    pub certificate_hashes: Vec<Arc<str>>,
    /// SHA-256 of clients' public keys, in base64.
    pub public_key_hashes: Vec<Arc<str>>,
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
    /// Those of TLS 1.2 that may be used; `None`: all.
    pub cipher_suites: Option<Vec<CipherSuite>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerTlsMode {
    Passthrough,
    Simple,
    Mutual,
    AutoPassthrough,
    IstioMutual,
    OptionalMutual,
}

impl ServerTlsMode {
    pub fn terminates(self) -> bool {
        match self {
            Self::Passthrough | Self::AutoPassthrough => false,
            Self::Simple | Self::Mutual | Self::IstioMutual | Self::OptionalMutual => true,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Passthrough => "PASSTHROUGH",
            Self::Simple => "SIMPLE",
            Self::Mutual => "MUTUAL",
            Self::AutoPassthrough => "AUTO_PASSTHROUGH",
            Self::IstioMutual => "ISTIO_MUTUAL",
            Self::OptionalMutual => "OPTIONAL_MUTUAL",
        }
    }

    /// Whether a client's certificate is looked at.
    fn verifies_clients(self) -> bool {
        match self {
            Self::Passthrough | Self::AutoPassthrough | Self::Simple => false,
            Self::Mutual | Self::IstioMutual | Self::OptionalMutual => true,
        }
    }

    const ALL: [Self; 6] = [
        Self::Passthrough,
        Self::Simple,
        Self::Mutual,
        Self::AutoPassthrough,
        Self::IstioMutual,
        Self::OptionalMutual,
    ];
}

/// Unknown fields are errors here: a mistyped one could let in whom it should keep out.
pub(super) fn read(field: &Field<'_>) -> Option<ServerTls> {
    let tls = field.object()?.strict();
    let names: Vec<_> = ServerTlsMode::ALL.iter().map(|mode| (mode.name(), *mode)).collect();
    let mode = tls.get("mode").map_or(Some(ServerTlsMode::Passthrough), |field| field.one_of(&names));
    let text = |name| tls.text(name).filter(|text| !text.is_empty());
    let mut credential_names: Vec<_> = text("credentialName").into_iter().collect();
    credential_names.extend(tls.texts("credentialNames"));
    let (min_version, max_version) = read_versions(&tls);
    let read = ServerTls {
        https_redirect: tls.boolean("httpsRedirect").unwrap_or(false),
        credential_names,
        server_certificate: text("serverCertificate"),
        private_key: text("privateKey"),
        ca_certificates: text("caCertificates"),
        certificates: tls.list("tlsCertificates", |item| read_certificate(&item)),
        ca_credential_name: text("caCertCredentialName"),
        ca_crl: text("caCrl"),
        subject_alt_names: tls.texts("subjectAltNames"),
        certificate_hashes: tls.list("verifyCertificateHash", |item| read_certificate_hash(&item)),
        public_key_hashes: tls.list("verifyCertificateSpki", |item| read_public_key_hash(&item)),
        min_version,
        max_version,
        cipher_suites: read_cipher_suites(&tls),
        mode: mode?,
    };
    if min_version == TlsVersion::Tls12
        && max_version == TlsVersion::Tls12
        && read.cipher_suites.as_ref().is_some_and(Vec::is_empty)
    {
        field.error(
            "no TLS can be spoken: none of cipherSuites is available, and maxProtocolVersion is TLSV1_2",
        );
    }
    check_certificates(field, &tls, &read);
    Some(read)
}

fn read_certificate(item: &Field<'_>) -> Option<(Arc<str>, Arc<str>)> {
    let certificate = item.object()?.strict();
    certificate.not_applied(&["caCertificates"], "write it beside tlsCertificates");
    let own = certificate.require("serverCertificate").and_then(|field| field.text());
    let key = certificate.require("privateKey").and_then(|field| field.text());
    Some((own?, key?))
}

/// 64 hex digits, with or without colons.
fn read_certificate_hash(item: &Field<'_>) -> Option<Arc<str>> {
    let digits: String = item.text()?.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
    if digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Some(digits.into());
    }
    item.error(
        "expected the SHA-256 of a certificate: 64 hex digits (openssl x509 -noout -fingerprint -sha256)",
    );
    None
}

/// 32 bytes in base64.
fn read_public_key_hash(item: &Field<'_>) -> Option<Arc<str>> {
    let text = item.text()?;
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    if text.len() == 44 && text.strip_suffix('=').is_some_and(|digits| digits.bytes().all(is_digit)) {
        return Some(text);
    }
    item.error("expected the SHA-256 of a public key in base64: 44 characters, the last of them `=`");
    None
}

fn read_versions(tls: &Object<'_>) -> (TlsVersion, TlsVersion) {
    const ALL: [&str; 5] = ["TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3"];
    let names = ALL.map(|name| (name, name));
    let version = |field: &Field<'_>| field.one_of(&names);
    let min = tls.get("minProtocolVersion").and_then(|field| match version(&field)? {
        "TLSV1_3" => Some(TlsVersion::Tls13),
        old @ ("TLSV1_0" | "TLSV1_1") => {
            field.warning(format!("{old} is not spoken here: nothing below TLS 1.2 is"));
            None
        }
        _ => None,
    });
    let max = tls.get("maxProtocolVersion").and_then(|field| match version(&field)? {
        "TLSV1_2" => Some(TlsVersion::Tls12),
        old @ ("TLSV1_0" | "TLSV1_1") => {
            field.error(format!("{old} is not spoken here: nothing below TLS 1.2 is"));
            None
        }
        _ => None,
    });
    let (min, max) = (min.unwrap_or(TlsVersion::Tls12), max.unwrap_or(TlsVersion::Tls13));
    if min > max {
        tls.field().error("minProtocolVersion is above maxProtocolVersion");
    }
    (min, max)
}

/// Istio leaves out the suites that it does not know, with all of them gone as if none were given; here nothing else takes
/// their place.
fn read_cipher_suites(tls: &Object<'_>) -> Option<Vec<CipherSuite>> {
    let suites = tls.get("cipherSuites")?;
    let read = |item: Field<'_>| {
        let name = item.text()?;
        let known = CipherSuite::ALL.iter().find(|(known, _)| *known == &*name);
        if known.is_none() {
            let names: Vec<_> = CipherSuite::ALL.iter().map(|(name, _)| *name).collect();
            item.warning(format!(
                "cipher suite {name} is not available, left out; there are {}",
                names.join(", ")
            ));
        }
        known.map(|(_, suite)| *suite)
    };
    let known = suites.list(read);
    if known.is_empty() && tls.is_empty_list("cipherSuites") {
        return None;
    }
    if known.is_empty() {
        suites.warning("none of cipherSuites is available: TLS 1.2 can't be spoken, TLS 1.3 has its own");
    }
    Some(known)
}

/// Which certificates a mode needs, in Istio's words.
fn check_certificates(field: &Field<'_>, object: &Object<'_>, tls: &ServerTls) {
    let name = tls.mode.name();
    let (certificate, key) = (tls.server_certificate.is_some(), tls.private_key.is_some());
    let ca = tls.ca_certificates.is_some();
    let any = certificate || key || ca || !tls.credential_names.is_empty() || object.has("tlsCertificates");
    let of_clients = [
        (tls.ca_crl.is_some(), "caCrl"),
        (tls.ca_credential_name.is_some(), "caCertCredentialName"),
        (!tls.certificate_hashes.is_empty(), "verifyCertificateHash"),
        (!tls.public_key_hashes.is_empty(), "verifyCertificateSpki"),
        (!tls.subject_alt_names.is_empty(), "subjectAltNames"),
    ];
    if let Some((_, unused)) = of_clients.iter().find(|(given, _)| *given)
        && !tls.mode.verifies_clients()
    {
        field.error(format!("{unused} is about certificates of clients, which mode {name} asks nobody for"));
    }
    match tls.mode {
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => {
            if any {
                field.warning(format!("certificates are not used with mode {name}"));
            }
        }
        ServerTlsMode::IstioMutual => {
            if any || tls.ca_credential_name.is_some() || tls.ca_crl.is_some() {
                field.error(
                    "ISTIO_MUTUAL TLS cannot have associated certificates, keys or credentialName: its own are used",
                );
            }
        }
        ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => {
            let is_without_ca = !ca && tls.ca_credential_name.is_none() && tls.mode != ServerTlsMode::Simple;
            if !tls.credential_names.is_empty() {
                return;
            }
            if object.has("tlsCertificates") {
                if certificate || key {
                    field.error("serverCertificate and privateKey, or tlsCertificates: not both");
                }
            } else {
                if !certificate {
                    field.error(format!("{name} TLS requires a server certificate"));
                }
                if !key {
                    field.error(format!("{name} TLS requires a private key"));
                }
            }
            if is_without_ca {
                field.error(format!("{name} TLS requires a client CA bundle"));
            }
        }
    }
}
