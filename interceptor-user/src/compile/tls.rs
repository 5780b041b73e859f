//! TLS towards endpoints, from a DestinationRule. Asked for and impossible: a reason, never plaintext.

use std::path::Path;
use std::sync::Arc;

use super::clusters::Common;
use super::destination_rules::MergedRule;
use super::registry::Service;
use super::{Client, NodePaths};
use rustls::pki_types::{DnsName, ServerName};

use crate::resource::client_tls::{ClientTls, TlsMode};
use crate::resource::destination_rule::Blocks;
use crate::snapshot::{CaSource, ClientIdentity, Credential, Svid, TlsOrigination, TlsOriginationMode};

/// Where the files that TLS is made of may be.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// Where `credentialName` finds its own.
    pub credentials_dir: Option<&'a Path>,
    /// Where the identity for ISTIO_MUTUAL is.
    pub identity_dir: Option<&'a Path>,
    /// Where it is if it is from a Workload API.
    pub svid: Option<&'a Svid>,
    /// Those that a rule may name itself.
    pub allowed: &'a NodePaths,
}

impl<'a> Files<'a> {
    pub(crate) fn of(client: &'a Client, allowed: &'a NodePaths) -> Self {
        Self {
            credentials_dir: client.credentials_dir.as_deref(),
            identity_dir: client.identity_dir.as_deref(),
            svid: client.svid.as_ref(),
            allowed,
        }
    }

    /// The identity for ISTIO_MUTUAL.
    pub(super) fn mesh_identity(self) -> Result<Credential, String> {
        match (self.svid, self.identity_dir) {
            (Some(svid), _) => Ok(Credential::Svid(svid.clone())),
            (None, Some(directory)) => Ok(Credential::MeshIdentity { directory: directory.to_owned() }),
            (None, None) => Err(NO_IDENTITY.into()),
        }
    }

    /// The first file that a rule names and must not.
    pub(crate) fn refused(self, tls: &ClientTls) -> Option<String> {
        let of_client = (tls.mode == TlsMode::Mutual)
            .then_some([("clientCertificate", &tls.client_certificate), ("privateKey", &tls.private_key)]);
        let of_server = [("caCertificates", &tls.ca_certificates), ("caCrl", &tls.ca_crl)];
        let named = of_client.into_iter().flatten().chain(of_server);
        let mut named = named.filter_map(|(field, path)| Some((field, path.as_ref()?)));
        let (field, path) = named.find(|(_, path)| !self.allowed.allow(path))?;
        let (path, allowed) = (path.display(), self.allowed);
        Some(format!("{field} {path} is a file of the node, and --allow-tls-files allows {allowed}"))
    }
}

/// What a cluster with this policy does: `port` and `subset` are its own.
pub(super) fn origination(
    Common { mesh, settings, .. }: Common<'_>,
    rule: &MergedRule,
    blocks: &Blocks,
    (service, port, subset): (&Service, u16, &str),
) -> Option<TlsOrigination> {
    if let Some(refused) = rule.refused() {
        let reason = format!("{} asks for TLS but can't be used as written", refused.meta.key);
        return Some(TlsOrigination { impossible: Some(reason.into()), ..TlsOrigination::simple() });
    }
    let tls = blocks.tls.as_ref()?;
    let mode = mode(tls)?;
    let is_of_mesh = mode == TlsOriginationMode::IstioMutual;
    let verifies = is_of_mesh || !tls.insecure_skip_verify;
    let named = &tls.subject_alt_names;
    let subject_alt_names = if named.is_empty() { &service.entry.subject_alt_names } else { named };
    let subject_alt_names = if verifies { subject_alt_names.clone() } else { Vec::new() };
    // Istio has the Host verified by the rule's names alone, before the entry's take their place.
    let verify_host = !is_of_mesh && named.is_empty() && tls.sni.is_none() && !subject_alt_names.is_empty();
    let of_mesh = || is_of_mesh.then(|| server_name_of_mesh(port, subset, &service.host).into());
    let (credential, impossible) = match credential(tls, Files::of(&settings.client, &settings.tls_files)) {
        Ok(credential) => (credential, None),
        Err(problem) => (None, Some(format!("{}: {problem}", rule.rules[0].meta.key).into())),
    };
    Some(TlsOrigination {
        mode,
        sni: tls.sni.clone().or_else(of_mesh),
        subject_alt_names,
        verify_host,
        ca: ca(tls),
        ca_crl: tls.ca_crl.clone(),
        identity: identity(tls),
        credential,
        // tlsDefaults is for all but ISTIO_MUTUAL.
        tls_1_3_only: mesh.tls_1_3_only && !is_of_mesh,
        impossible,
    })
}

/// `None`: no TLS.
fn mode(tls: &ClientTls) -> Option<TlsOriginationMode> {
    match tls.mode {
        TlsMode::Disable => None,
        TlsMode::Simple => Some(TlsOriginationMode::Simple),
        TlsMode::Mutual => Some(TlsOriginationMode::Mutual),
        TlsMode::IstioMutual => Some(TlsOriginationMode::IstioMutual),
    }
}

fn ca(tls: &ClientTls) -> CaSource {
    let verifies = tls.mode == TlsMode::IstioMutual || !tls.insecure_skip_verify;
    match &tls.ca_certificates {
        _ if !verifies => CaSource::Unverified,
        Some(path) => CaSource::File(path.clone()),
        None => CaSource::System,
    }
}

fn identity(tls: &ClientTls) -> Option<ClientIdentity> {
    match (&tls.client_certificate, &tls.private_key) {
        (Some(certificate), Some(private_key)) if tls.mode == TlsMode::Mutual => {
            Some(ClientIdentity { certificate: certificate.clone(), private_key: private_key.clone() })
        }
        _ => None,
    }
}

/// TLS with its files and nothing else, to see whether they can be used: those that are found by their names, and with `own`
/// those that the rule names by their paths; `None` where there are none to look for.
pub(crate) fn of_files(tls: &ClientTls, files: Files<'_>, own: bool) -> Option<TlsOrigination> {
    let mode = mode(tls)?;
    let credential = credential(tls, files).ok()?;
    if credential.is_none() && !own {
        return None;
    }
    let found = TlsOrigination { mode, ca: ca(tls), credential, ..TlsOrigination::simple() };
    Some(match (own, &found.ca) {
        (true, _) => TlsOrigination { ca_crl: tls.ca_crl.clone(), identity: identity(tls), ..found },
        (false, CaSource::File(_)) => TlsOrigination { ca: CaSource::System, ..found },
        (false, CaSource::System | CaSource::Unverified) => found,
    })
}

/// Why TLS can't be made as asked, before any file is looked at.
pub(crate) fn problem(tls: &ClientTls, files: Files<'_>) -> Option<String> {
    credential(tls, files).err()
}

/// Where there is no identity directory.
const NO_IDENTITY: &str = "mode ISTIO_MUTUAL needs an identity of the mesh: give --identity-dir DIR with \
                                      cert-chain.pem, key.pem and root-cert.pem, or tls.crt, tls.key and ca.crt";

/// Where there is no directory of credentials; `certificate` is the field for a file.
pub(super) fn no_credentials(name: &str, certificate: &str) -> String {
    format!(
        "credentialName {name} names a Kubernetes secret, which can't be read here; give --credentials-dir DIR with its \
         files in DIR/{}, or {certificate}, privateKey and caCertificates as files",
        name.rsplit('/').next().unwrap_or_default()
    )
}

/// The server name that is sent for the mesh's own gateways and sidecars: Istio's name of the cluster
/// (`BuildDNSSrvSubsetKey`).
pub(crate) fn server_name_of_mesh(port: u16, subset: &str, host: &str) -> String {
    format!("outbound_.{port}_.{subset}_.{host}")
}

/// The host of such a server name.
pub(crate) fn host_of_mesh_name(name: &str) -> Option<&str> {
    let (port, rest) = name.strip_prefix("outbound_.")?.split_once("_.")?;
    let (_, host) = rest.split_once("_.")?;
    port.parse::<u16>().ok().map(|_| host).filter(|host| !host.is_empty())
}

/// Whether a server name can be sent: rustls sends what is a DNS name, and no wildcard.
pub(crate) fn is_server_name(name: &str) -> bool {
    DnsName::try_from(name.strip_suffix('.').unwrap_or(name)).is_ok()
}

/// Whether a certificate can be compared with this alternative name.
fn is_alternative_name(name: &str) -> bool {
    name.contains("://")
        || name.strip_prefix("*.").map_or_else(|| ServerName::try_from(name).is_ok(), is_server_name)
}

/// The files that are found by their names, if there are such; fails where TLS can't be made as asked.
fn credential(tls: &ClientTls, files: Files<'_>) -> Result<Option<Credential>, String> {
    let unusable = tls.subject_alt_names.iter().find(|name| !is_alternative_name(name));
    if let Some(name) = unusable.filter(|_| tls.mode != TlsMode::Disable) {
        return Err(format!("subjectAltNames: {name} is neither a DNS name nor an address nor a URI"));
    }
    match (tls.mode, &tls.credential_name) {
        (TlsMode::Disable, _) => Ok(None),
        (TlsMode::IstioMutual, _) => files.mesh_identity().map(Some),
        (TlsMode::Simple | TlsMode::Mutual, Some(name)) => match files.credentials_dir {
            Some(directory) => secret(name, directory, tls.mode).map(Some),
            None => Err(no_credentials(name, "clientCertificate")),
        },
        (TlsMode::Mutual, None) if tls.client_certificate.is_none() => {
            Err("client certificate required for mutual tls".into())
        }
        (TlsMode::Mutual, None) if tls.private_key.is_none() => {
            Err("private key required for mutual tls".into())
        }
        (TlsMode::Mutual | TlsMode::Simple, None) => files.refused(tls).map_or(Ok(None), Err),
    }
}

/// Where the files of `credentialName` are: those of a secret, of its `-cacert` sibling, or of a ConfigMap.
fn secret(name: &Arc<str>, directory: &Path, mode: TlsMode) -> Result<Credential, String> {
    let credential = of_credential_name(name, directory)?;
    if name.starts_with(CONFIG_MAP) && mode == TlsMode::Mutual {
        return Err(format!("credentialName {name}: a ConfigMap holds no client certificate"));
    }
    Ok(credential)
}

/// How the name of a ConfigMap is told from that of a secret.
pub(super) const CONFIG_MAP: &str = "configmap://";

/// Where the files of a secret or ConfigMap, and of its `-cacert` sibling, are below `directory`.
pub(super) fn of_credential_name(name: &Arc<str>, directory: &Path) -> Result<Credential, String> {
    const CACERT: &str = "-cacert";
    let config_map = name.strip_prefix(CONFIG_MAP);
    let plain = config_map.or_else(|| name.strip_prefix("kubernetes://")).unwrap_or(name);
    // What is put behind a directory must not lead out of it.
    let is_name = |name: &str| {
        !name.starts_with('.')
            && !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
    };
    if !is_name(plain) {
        return Err(format!("credentialName {name} is not the name of a secret"));
    }
    let own = directory.join(plain);
    let ca_directories = if config_map.is_some() || plain.ends_with(CACERT) {
        vec![own.clone()]
    } else {
        vec![directory.join(format!("{plain}{CACERT}")), own.clone()]
    };
    Ok(Credential::Secret { name: Arc::clone(name), directory: own, ca_directories })
}
