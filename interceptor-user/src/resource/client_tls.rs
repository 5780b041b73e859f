//! ClientTLSSettings: TLS towards a service.

use std::path::PathBuf;
use std::sync::Arc;

use super::decode::Field;
use super::diagnostic::Position;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    pub mode: TlsMode,
    pub client_certificate: Option<PathBuf>,
    pub private_key: Option<PathBuf>,
    pub ca_certificates: Option<PathBuf>,
    pub ca_crl: Option<PathBuf>,
    pub credential_name: Option<Arc<str>>,
    pub subject_alt_names: Vec<Arc<str>>,
    pub sni: Option<Arc<str>>,
    pub insecure_skip_verify: bool,
    pub position: Position,
}

/// Unknown fields are errors here: a mistyped one could turn TLS off.
pub(super) fn read(field: &Field<'_>) -> Option<ClientTls> {
    let tls = field.object()?.strict();
    let mode = tls.get("mode").map_or(Some(TlsMode::Disable), |field| {
        field.one_of(&[
            ("DISABLE", TlsMode::Disable),
            ("SIMPLE", TlsMode::Simple),
            ("MUTUAL", TlsMode::Mutual),
            ("ISTIO_MUTUAL", TlsMode::IstioMutual),
        ])
    });
    let path = |name| tls.text(name).filter(|path| !path.is_empty()).map(|path| PathBuf::from(&*path));
    let read = ClientTls {
        client_certificate: path("clientCertificate"),
        private_key: path("privateKey"),
        ca_certificates: path("caCertificates"),
        ca_crl: path("caCrl"),
        credential_name: tls.text("credentialName").filter(|name| !name.is_empty()),
        subject_alt_names: tls.texts("subjectAltNames"),
        sni: tls.text("sni").filter(|sni| !sni.is_empty()),
        insecure_skip_verify: tls.boolean("insecureSkipVerify").unwrap_or(false),
        mode: mode?,
        position: field.position(),
    };
    let files = [&read.client_certificate, &read.private_key, &read.ca_certificates, &read.ca_crl];
    let files = files.iter().any(|path| path.is_some());
    if read.credential_name.is_some() && files {
        field
            .error("cannot specify client certificates or CA certificate or CA CRL If credentialName is set");
    }
    if read.insecure_skip_verify && read.ca_crl.is_some() {
        field.error("cannot specify CaCrl when InsecureSkipVerify is set true: nothing would be verified");
    }
    if read.insecure_skip_verify && (read.ca_certificates.is_some() || !read.subject_alt_names.is_empty()) {
        field.error("cannot specify CaCertificates or SubjectAltNames when InsecureSkipVerify is set true");
    }
    if read.mode == TlsMode::IstioMutual && (files || read.credential_name.is_some()) {
        field.error("certificates and keys can't be given with mode ISTIO_MUTUAL");
    }
    Some(read)
}
