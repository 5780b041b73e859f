//! TLS that a Gateway's server ends. Asked for and impossible: a reason that each handshake fails with, never plaintext.

use std::path::PathBuf;
use std::sync::Arc;

use super::tls::{CONFIG_MAP, Files, no_credentials, of_credential_name};
use crate::resource::server_tls::{ServerTls, ServerTlsMode};
use crate::snapshot::{
    CertificateSource, ClientCaSource, ClientIdentity, TlsTermination, TlsTerminationMode,
};

/// What a server with these settings does; `None` where it ends no TLS. With `has_http` its requests are routed, and
/// HTTP is offered in the handshake. `aliases` are the mesh's trust domains beside our own.
pub fn termination(
    tls: &ServerTls,
    has_http: bool,
    files: Files<'_>,
    aliases: &[Arc<str>],
) -> Option<TlsTermination> {
    let mode = mode(tls.mode)?;
    let (certificates, client_ca, impossible) = match sources(tls, mode, files) {
        Ok((certificates, client_ca)) => (certificates, client_ca, None),
        Err(reason) => (Vec::new(), None, Some(reason.into())),
    };
    Some(TlsTermination {
        mode,
        certificates,
        client_ca,
        ca_crl: tls.ca_crl.as_deref().map(PathBuf::from),
        subject_alt_names: tls.subject_alt_names.clone(),
        certificate_hashes: tls.certificate_hashes.clone(),
        public_key_hashes: tls.public_key_hashes.clone(),
        trust_domain_aliases: aliases.to_vec(),
        min_version: tls.min_version,
        max_version: tls.max_version,
        cipher_suites: tls.cipher_suites.clone(),
        alpn: if has_http { TlsTermination::ALPN_HTTP } else { &[] },
        impossible,
    })
}

fn mode(mode: ServerTlsMode) -> Option<TlsTerminationMode> {
    match mode {
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => None,
        ServerTlsMode::Simple => Some(TlsTerminationMode::Simple),
        ServerTlsMode::Mutual => Some(TlsTerminationMode::Mutual),
        ServerTlsMode::OptionalMutual => Some(TlsTerminationMode::OptionalMutual),
        ServerTlsMode::IstioMutual => Some(TlsTerminationMode::IstioMutual),
    }
}

/// Where the server's certificates are, and those that clients' must be signed by; fails where there can be none.
fn sources(
    tls: &ServerTls,
    mode: TlsTerminationMode,
    files: Files<'_>,
) -> Result<(Vec<CertificateSource>, Option<ClientCaSource>), String> {
    if mode == TlsTerminationMode::IstioMutual {
        let credential = files.mesh_identity()?;
        let certificate = CertificateSource::Credential(credential.clone());
        return Ok((vec![certificate], Some(ClientCaSource::Credential(credential))));
    }
    let named_files = named_files(tls);
    if let Some((field, path)) = named_files.iter().find(|(_, path)| !files.allowed.allow(path)) {
        let path = path.display();
        return Err(format!(
            "{field} {path} is a file of the node, and --allow-tls-files allows {}",
            files.allowed
        ));
    }
    let credential = |name: &Arc<str>| {
        let directory = files.credentials_dir.ok_or_else(|| no_credentials(name, "serverCertificate"))?;
        of_credential_name(name, directory)
    };
    let certificates = if tls.credential_names.is_empty() {
        pairs(tls).map(|files| Ok(CertificateSource::Files(files))).collect::<Result<Vec<_>, String>>()
    } else {
        let of_name = |name: &Arc<str>| {
            if name.starts_with(CONFIG_MAP) {
                return Err(format!("credentialName {name}: a ConfigMap holds no server certificate"));
            }
            credential(name).map(CertificateSource::Credential)
        };
        tls.credential_names.iter().map(of_name).collect()
    }?;
    let client_ca = match (&tls.ca_credential_name, &tls.ca_certificates, tls.credential_names.first()) {
        _ if mode == TlsTerminationMode::Simple => None,
        (Some(name), ..) => Some(ClientCaSource::Credential(credential(name)?)),
        (None, Some(path), None) => Some(ClientCaSource::File(PathBuf::from(&**path))),
        (None, _, Some(name)) => Some(ClientCaSource::Credential(credential(name)?)),
        (None, None, None) => return Err("no CA certificates for those of clients".into()),
    };
    if certificates.is_empty() {
        return Err("no server certificate".into());
    }
    Ok((certificates, client_ca))
}

/// Certificates with their keys that are files.
fn pairs(tls: &ServerTls) -> impl Iterator<Item = ClientIdentity> {
    let own = tls.server_certificate.iter().zip(&tls.private_key);
    let listed = tls.certificates.iter().map(|(certificate, key)| (certificate, key));
    own.chain(listed).map(|(certificate, private_key)| ClientIdentity {
        certificate: PathBuf::from(&**certificate),
        private_key: PathBuf::from(&**private_key),
    })
}

/// With the fields that name them.
fn named_files(tls: &ServerTls) -> Vec<(&'static str, PathBuf)> {
    let of_pairs = pairs(tls)
        .flat_map(|pair| [("serverCertificate", pair.certificate), ("privateKey", pair.private_key)]);
    let path = |path: &Arc<str>| PathBuf::from(&**path);
    let of_clients = tls.ca_certificates.as_ref().map(|file| ("caCertificates", path(file)));
    let crl = tls.ca_crl.as_ref().map(|file| ("caCrl", path(file)));
    of_pairs.chain(of_clients).chain(crl).collect()
}
