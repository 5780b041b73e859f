//! Certificates and keys from files, and what tells that a file has changed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use crate::snapshot::ClientIdentity;

/// Modification time and length of each file; `None` for one that cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::proxy) struct FileVersions(Vec<Option<(SystemTime, u64)>>);

impl FileVersions {
    pub(in crate::proxy) fn of(files: impl Iterator<Item = PathBuf>) -> Self {
        let version = |path: &Path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        Self(files.map(|path| version(&path)).collect())
    }
}

pub(in crate::proxy) fn roots_of_file(path: &Path) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, "CA certificates")? {
        roots.add(certificate).map_err(|error| format!("CA certificates {}: {error}", path.display()))?;
    }
    Ok(Arc::new(roots))
}

/// The system's roots, or those of SSL_CERT_FILE and SSL_CERT_DIR; read once for the whole process.
pub(in crate::proxy) fn system_roots() -> Result<Arc<RootCertStore>, String> {
    static ROOTS: Mutex<Option<Arc<RootCertStore>>> = Mutex::new(None);
    let mut cached = ROOTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(roots) = &*cached {
        return Ok(Arc::clone(roots));
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _unusable) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let reason = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(format!(
            "the system has no CA certificates{reason}: install ca-certificates or set caCertificates"
        ));
    }
    Ok(Arc::clone(cached.insert(Arc::new(roots))))
}

/// The lists of revoked certificates in a file.
pub(in crate::proxy) fn revocations(
    path: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let at_path = |error| format!("caCrl {}: {}", path.display(), describe(error));
    let lists = CertificateRevocationListDer::pem_file_iter(path)
        .map_err(at_path)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(at_path)?;
    if lists.is_empty() {
        return Err(format!("caCrl {}: no revocation list in PEM form there", path.display()));
    }
    Ok(lists)
}

pub(in crate::proxy) fn identity(
    identity: &ClientIdentity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let chain = certificates(&identity.certificate, "client certificate")?;
    let key = PrivateKeyDer::from_pem_file(&identity.private_key)
        .map_err(|error| format!("private key {}: {}", identity.private_key.display(), describe(error)))?;
    Ok((chain, key))
}

fn certificates(path: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let at_path = |error| format!("{what} {}: {}", path.display(), describe(error));
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(at_path)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("{what} {}: {}", path.display(), describe(error)))?;
    if certificates.is_empty() {
        return Err(format!("{what} {}: no certificate in PEM form there", path.display()));
    }
    Ok(certificates)
}

/// As people put it: the kernel's words for a file, the parser's for what is in it.
fn describe(error: rustls::pki_types::pem::Error) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the parser's own words serve for the rest")]
    match error {
        rustls::pki_types::pem::Error::Io(error) => error.to_string(),
        rustls::pki_types::pem::Error::NoItemsFound => "nothing in PEM form there".to_owned(),
        other => other.to_string(),
    }
}
