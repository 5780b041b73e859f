//! Files that are found by their names: those of a credentialName, and those of the proxy's own identity in the mesh.

use std::path::{Path, PathBuf};

use crate::snapshot::{CaSource, ClientIdentity, Credential, TlsOrigination, TlsOriginationMode};

/// Certificate and key, of kubernetes.io/tls and of Opaque secrets.
const OF_SECRETS: [(&str, &str); 2] = [("tls.crt", "tls.key"), ("cert", "key")];
/// CA certificates and the list of what they have revoked.
const CA_OF_SECRETS: [(&str, &str); 2] = [("ca.crt", "ca.crl"), ("cacert", "crl")];

/// As Istio mounts them (`OUTPUT_CERTS`, ProxyConfig's file-mounted certificates), and cert-manager's CSI driver.
const OF_IDENTITY: [(&str, &str); 2] = [("cert-chain.pem", "key.pem"), ("tls.crt", "tls.key")];
const CA_OF_IDENTITY: [&str; 2] = ["root-cert.pem", "ca.crt"];

/// Every file that counts if it is there.
pub(super) fn candidates(credential: &Credential) -> Vec<PathBuf> {
    let both = |directory: &PathBuf, names: &[(&str, &str)]| -> Vec<PathBuf> {
        names.iter().flat_map(|(first, second)| [directory.join(first), directory.join(second)]).collect()
    };
    match credential {
        Credential::Secret { directory, ca_directories, .. } => {
            let ca = ca_directories.iter().flat_map(|directory| both(directory, &CA_OF_SECRETS));
            both(directory, &OF_SECRETS).into_iter().chain(ca).collect()
        }
        Credential::MeshIdentity { directory } => {
            let ca = CA_OF_IDENTITY.iter().map(|name| directory.join(name));
            both(directory, &OF_IDENTITY).into_iter().chain(ca).collect()
        }
    }
}

/// The same with the files that are there; `None` without a credential.
pub(super) fn found(origination: &TlsOrigination) -> Result<Option<TlsOrigination>, String> {
    let Some(credential) = &origination.credential else { return Ok(None) };
    let mut found = TlsOrigination { credential: None, ..origination.clone() };
    match credential {
        Credential::Secret { name, directory, ca_directories } => {
            if origination.mode != TlsOriginationMode::Simple {
                found.identity = Some(pair(directory, &OF_SECRETS).ok_or_else(|| {
                    let directory = directory.display();
                    format!("credentialName {name}: no tls.crt and tls.key, or cert and key, in {directory}")
                })?);
            }
            if origination.ca != CaSource::Unverified {
                let ca = ca_directories.iter().find_map(|directory| {
                    let mut names =
                        CA_OF_SECRETS.iter().map(|(ca, crls)| (directory.join(ca), directory.join(crls)));
                    names.find(|(ca, _)| is_there(ca))
                });
                let (ca, crls) = ca.ok_or_else(|| {
                    let places: Vec<_> =
                        ca_directories.iter().map(|path| path.display().to_string()).collect();
                    format!("credentialName {name}: no ca.crt or cacert in {}", places.join(" or "))
                })?;
                found.ca = CaSource::File(ca);
                found.ca_crl = Some(crls).filter(|crls| is_there(crls));
            }
        }
        Credential::MeshIdentity { directory } => {
            let missing =
                |what| format!("the identity for ISTIO_MUTUAL: no {what} in {}", directory.display());
            let identity = pair(directory, &OF_IDENTITY);
            let names = "cert-chain.pem and key.pem, or tls.crt and tls.key,";
            found.identity = Some(identity.ok_or_else(|| missing(names))?);
            let mut ca = CA_OF_IDENTITY.iter().map(|name| directory.join(name));
            let ca = ca.find(|ca| is_there(ca)).ok_or_else(|| missing("root-cert.pem or ca.crt"))?;
            found.ca = CaSource::File(ca);
        }
    }
    Ok(Some(found))
}

fn pair(directory: &Path, names: &[(&str, &str)]) -> Option<ClientIdentity> {
    names.iter().find_map(|(certificate, key)| {
        let (certificate, private_key) = (directory.join(certificate), directory.join(key));
        let are_there = is_there(&certificate) && is_there(&private_key);
        are_there.then_some(ClientIdentity { certificate, private_key })
    })
}

fn is_there(path: &Path) -> bool {
    path.exists()
}
