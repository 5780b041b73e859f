//! The files of a credentialName, by the names that keys of a Kubernetes secret have.

use std::path::{Path, PathBuf};

use crate::snapshot::{CaSource, ClientIdentity, Credential, TlsOrigination, TlsOriginationMode};

/// Certificate and key, of kubernetes.io/tls and of Opaque secrets.
const IDENTITY: [(&str, &str); 2] = [("tls.crt", "tls.key"), ("cert", "key")];
/// CA certificates and the list of what they have revoked.
const CA: [(&str, &str); 2] = [("ca.crt", "ca.crl"), ("cacert", "crl")];

/// Every file that counts if it is there.
pub(super) fn candidates(credential: &Credential) -> Vec<PathBuf> {
    let own = std::iter::once(&credential.directory);
    let identity = own.flat_map(|directory| IDENTITY.iter().map(move |names| (directory, names)));
    let ca = credential.ca_directories.iter();
    let ca = ca.flat_map(|directory| CA.iter().map(move |names| (directory, names)));
    identity
        .chain(ca)
        .flat_map(|(directory, (first, second))| [directory.join(first), directory.join(second)])
        .collect()
}

/// The same with the files that are there; `None` without a credential.
pub(super) fn found(origination: &TlsOrigination) -> Result<Option<TlsOrigination>, String> {
    let Some(credential) = &origination.credential else { return Ok(None) };
    let mut found = TlsOrigination { credential: None, ..origination.clone() };
    let Credential { name, directory, ca_directories } = credential;
    if origination.mode == TlsOriginationMode::Mutual {
        let identity = IDENTITY.iter().find_map(|(certificate, key)| {
            let (certificate, private_key) = (directory.join(certificate), directory.join(key));
            let are_there = is_there(&certificate) && is_there(&private_key);
            are_there.then_some(ClientIdentity { certificate, private_key })
        });
        let missing = || {
            format!(
                "credentialName {name}: no tls.crt and tls.key, or cert and key, in {}",
                directory.display()
            )
        };
        found.identity = Some(identity.ok_or_else(missing)?);
    }
    if origination.ca != CaSource::Unverified {
        let ca = ca_directories.iter().find_map(|directory| {
            let mut names = CA.iter().map(|(ca, crls)| (directory.join(ca), directory.join(crls)));
            names.find(|(ca, _)| is_there(ca))
        });
        let missing = || {
            let places: Vec<_> = ca_directories.iter().map(|path| path.display().to_string()).collect();
            format!("credentialName {name}: no ca.crt or cacert in {}", places.join(" or "))
        };
        let (ca, crls) = ca.ok_or_else(missing)?;
        found.ca = CaSource::File(ca);
        found.ca_crl = Some(crls).filter(|crls| is_there(crls));
    }
    Ok(Some(found))
}

fn is_there(path: &Path) -> bool {
    path.exists()
}
