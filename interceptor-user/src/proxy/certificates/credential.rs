//! Files that are found by their names: those of a credentialName, and those of the proxy's own identity in the mesh.

use std::path::{Path, PathBuf};

use crate::snapshot::{ClientIdentity, Credential, Svid};

/// Certificate and key, of kubernetes.io/tls and of Opaque secrets.
const OF_SECRETS: [(&str, &str); 2] = [("tls.crt", "tls.key"), ("cert", "key")];
/// CA certificates and the list of what they have revoked.
const CA_OF_SECRETS: [(&str, &str); 2] = [("ca.crt", "ca.crl"), ("cacert", "crl")];

/// As Istio mounts them (`OUTPUT_CERTS`, ProxyConfig's file-mounted certificates), and cert-manager's CSI driver.
const OF_IDENTITY: [(&str, &str); 2] = [("cert-chain.pem", "key.pem"), ("tls.crt", "tls.key")];
const CA_OF_IDENTITY: [&str; 2] = ["root-cert.pem", "ca.crt"];

/// Every file that counts if it is there.
pub(in crate::proxy) fn candidates(credential: &Credential) -> Vec<PathBuf> {
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
        Credential::Svid(svid) => vec![svid.pair.certificate.clone(), svid.ca.clone()],
    }
}

/// The certificate and key that are there.
///
/// # Errors
/// That there are none, and where they were looked for.
pub(in crate::proxy) fn identity(credential: &Credential) -> Result<ClientIdentity, String> {
    match credential {
        Credential::Secret { name, directory, .. } => pair(directory, &OF_SECRETS).ok_or_else(|| {
            let directory = directory.display();
            format!("credentialName {name}: no tls.crt and tls.key, or cert and key, in {directory}")
        }),
        Credential::MeshIdentity { directory } => pair(directory, &OF_IDENTITY).ok_or_else(|| {
            let names = "cert-chain.pem and key.pem, or tls.crt and tls.key,";
            format!("the identity for ISTIO_MUTUAL: no {names} in {}", directory.display())
        }),
        Credential::Svid(svid) if has_come(svid) => Ok(svid.pair.clone()),
        Credential::Svid(svid) => Err(none_has_come(svid)),
    }
}

/// The CA certificates that are there, and the list of what they have revoked if there is one.
///
/// # Errors
/// That there are none, and where they were looked for.
pub(in crate::proxy) fn ca(credential: &Credential) -> Result<(PathBuf, Option<PathBuf>), String> {
    match credential {
        Credential::Secret { name, ca_directories, .. } => {
            let found = ca_directories.iter().find_map(|directory| {
                let mut names =
                    CA_OF_SECRETS.iter().map(|(ca, crls)| (directory.join(ca), directory.join(crls)));
                names.find(|(ca, _)| is_there(ca))
            });
            let (ca, crls) = found.ok_or_else(|| {
                let places: Vec<_> = ca_directories.iter().map(|path| path.display().to_string()).collect();
                format!("credentialName {name}: no ca.crt or cacert in {}", places.join(" or "))
            })?;
            Ok((ca, Some(crls).filter(|crls| is_there(crls))))
        }
        Credential::MeshIdentity { directory } => {
            let mut names = CA_OF_IDENTITY.iter().map(|name| directory.join(name));
            let ca = names.find(|ca| is_there(ca)).ok_or_else(|| {
                let directory = directory.display();
                format!("the identity for ISTIO_MUTUAL: no root-cert.pem or ca.crt in {directory}")
            })?;
            Ok((ca, None))
        }
        Credential::Svid(svid) if has_come(svid) => Ok((svid.ca.clone(), None)),
        Credential::Svid(svid) => Err(none_has_come(svid)),
    }
}

/// What certificates of a credential are called: files in memory have no names that say anything.
pub(in crate::proxy) fn known_as(credential: Option<&Credential>, file: &Path) -> PathBuf {
    match credential {
        Some(Credential::Svid(svid)) => svid.socket.clone(),
        Some(Credential::Secret { .. } | Credential::MeshIdentity { .. }) | None => file.to_owned(),
    }
}

fn has_come(svid: &Svid) -> bool {
    std::fs::metadata(&svid.pair.certificate).is_ok_and(|file| file.len() > 0)
}

fn none_has_come(svid: &Svid) -> String {
    format!(
        "the identity for ISTIO_MUTUAL: none has come yet from the Workload API {}",
        svid.socket.display()
    )
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
