//! Certificates and keys from files, and what tells that a file has changed.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::snapshot::ClientIdentity;

/// What changes when each file does; `None` for one that cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::proxy) struct FileVersions(Vec<Option<FileVersion>>);

#[derive(Debug, PartialEq, Eq)]
struct FileVersion {
    modified: (i64, i64),
    changed: (i64, i64),
    bytes: u64,
    inode: u64,
}

impl FileVersion {
    fn of(metadata: &Metadata) -> Self {
        Self {
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            bytes: metadata.len(),
            inode: metadata.ino(),
        }
    }
}

impl FileVersions {
    pub(in crate::proxy) fn of(files: impl Iterator<Item = PathBuf>) -> Self {
        let version = |path: PathBuf| std::fs::metadata(path).ok().map(|metadata| FileVersion::of(&metadata));
        Self(files.map(version).collect())
    }
}

/// What was made of files is kept for those that name the same ones: there may be thousands of them.
#[derive(Debug)]
struct Made<T>(LazyLock<Mutex<ByFiles<T>>>);

type ByFiles<T> = HashMap<Vec<PathBuf>, (FileVersions, Arc<T>)>;

/// As many are kept, beside those in use.
const MADE_MAX: usize = 256;

impl<T> Made<T> {
    const fn new() -> Self {
        Self(LazyLock::new(Mutex::default))
    }

    /// What `make` makes of the files as they are now.
    fn of(&self, files: Vec<PathBuf>, make: impl FnOnce() -> Result<T, String>) -> Result<Arc<T>, String> {
        // Looked at before they are read: what changes meanwhile is read again.
        let versions = FileVersions::of(files.iter().cloned());
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = made.get(&files).filter(|(known, _)| *known == versions) {
            return Ok(Arc::clone(known));
        }
        // Nobody else makes the same meanwhile.
        made.remove(&files);
        let fresh = Arc::new(make()?);
        if made.len() >= MADE_MAX {
            made.retain(|_, (_, made)| Arc::strong_count(made) > 1);
        }
        made.insert(files, (versions, Arc::clone(&fresh)));
        Ok(fresh)
    }
}

pub(crate) fn roots_of_file(path: &Path) -> Result<Arc<RootCertStore>, String> {
    static ROOTS: Made<RootCertStore> = Made::new();
    ROOTS.of(vec![path.to_owned()], || read_roots(path))
}

fn read_roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, "CA certificates")? {
        roots.add(certificate).map_err(|error| format!("CA certificates {}: {error}", path.display()))?;
    }
    Ok(roots)
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

/// A certificate with its chain and key, as it is shown. `what` names the certificate in errors.
pub(crate) fn certified_key(files: &ClientIdentity, what: &str) -> Result<Arc<CertifiedKey>, String> {
    static KEYS: Made<CertifiedKey> = Made::new();
    KEYS.of(vec![files.certificate.clone(), files.private_key.clone()], || {
        let (chain, key) = identity(files)?;
        CertifiedKey::from_der(chain, key, &provider())
            .map_err(|error| format!("{what} {}: {error}", files.certificate.display()))
    })
}

/// Of all TLS here.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    Arc::clone(&PROVIDER)
}

fn identity(
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
