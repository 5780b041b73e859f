//! TLS towards endpoints, from a DestinationRule. Asked for and impossible: a reason, never plaintext.

use std::path::Path;
use std::sync::Arc;

use super::NodePaths;
use super::clusters::Common;
use super::destination_rules::MergedRule;
use crate::resource::ServiceEntry;
use crate::resource::client_tls::{ClientTls, TlsMode};
use crate::resource::destination_rule::Blocks;
use crate::snapshot::{CaSource, ClientIdentity, Credential, TlsOrigination, TlsOriginationMode};

/// Where the files that TLS is made of may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Files<'a> {
    /// Where `credentialName` finds its own.
    pub(crate) credentials_dir: Option<&'a Path>,
    /// Those that a rule may name itself.
    pub(crate) allowed: &'a NodePaths,
}

impl Files<'_> {
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

/// What a cluster with this policy does.
pub(super) fn origination(
    Common { mesh, settings }: Common<'_>,
    rule: &MergedRule,
    blocks: &Blocks,
    entry: &ServiceEntry,
) -> Option<TlsOrigination> {
    if let Some(refused) = rule.refused() {
        let reason = format!("{} asks for TLS but can't be used as written", refused.meta.key);
        return Some(TlsOrigination { impossible: Some(reason.into()), ..TlsOrigination::simple() });
    }
    let tls = blocks.tls.as_ref()?;
    let mode = mode(tls)?;
    let ca = match &tls.ca_certificates {
        _ if tls.insecure_skip_verify => CaSource::Unverified,
        Some(path) => CaSource::File(path.clone()),
        None => CaSource::System,
    };
    let identity = match (&tls.client_certificate, &tls.private_key) {
        (Some(certificate), Some(private_key)) if tls.mode == TlsMode::Mutual => {
            Some(ClientIdentity { certificate: certificate.clone(), private_key: private_key.clone() })
        }
        _ => None,
    };
    let named = &tls.subject_alt_names;
    let subject_alt_names = if named.is_empty() { &entry.subject_alt_names } else { named };
    let subject_alt_names = if tls.insecure_skip_verify { Vec::new() } else { subject_alt_names.clone() };
    // Istio has the Host verified by the rule's names alone, before the entry's take their place.
    let verify_host = named.is_empty() && tls.sni.is_none() && !subject_alt_names.is_empty();
    let credentials_dir = settings.client.credentials_dir.as_deref();
    let files = Files { credentials_dir, allowed: &settings.tls_files };
    let (credential, problem) = match (&tls.credential_name, credentials_dir) {
        (Some(name), Some(directory)) => match credential(name, directory, tls.mode) {
            Ok(credential) => (Some(credential), None),
            Err(problem) => (None, Some(problem)),
        },
        _ => (None, problem(tls, files)),
    };
    let impossible =
        problem.map(|problem| -> Arc<str> { format!("{}: {problem}", rule.rules[0].meta.key).into() });
    Some(TlsOrigination {
        mode,
        sni: tls.sni.clone(),
        subject_alt_names,
        verify_host,
        ca,
        ca_crl: tls.ca_crl.clone(),
        identity,
        credential,
        tls_1_3_only: mesh.tls_1_3_only,
        impossible,
    })
}

/// `None`: no TLS.
fn mode(tls: &ClientTls) -> Option<TlsOriginationMode> {
    match tls.mode {
        TlsMode::Disable => None,
        TlsMode::Simple => Some(TlsOriginationMode::Simple),
        TlsMode::Mutual | TlsMode::IstioMutual => Some(TlsOriginationMode::Mutual),
    }
}

/// TLS with the files of a credential and nothing else, to see whether they can be used; `None` without a
/// credential that can be looked for.
pub(crate) fn of_credential(tls: &ClientTls, directory: &Path) -> Option<TlsOrigination> {
    let credential = credential(tls.credential_name.as_ref()?, directory, tls.mode).ok()?;
    let ca = if tls.insecure_skip_verify { CaSource::Unverified } else { CaSource::System };
    Some(TlsOrigination { mode: mode(tls)?, ca, credential: Some(credential), ..TlsOrigination::simple() })
}

/// Why TLS can't be made as asked, before any file is looked at.
pub(crate) fn problem(tls: &ClientTls, files: Files<'_>) -> Option<String> {
    match (tls.mode, &tls.credential_name) {
        (TlsMode::Disable, _) => None,
        (TlsMode::IstioMutual, _) => {
            Some("mode ISTIO_MUTUAL needs a mesh identity, which there is none of here".into())
        }
        (TlsMode::Simple | TlsMode::Mutual, Some(name)) => match files.credentials_dir {
            Some(directory) => credential(name, directory, tls.mode).err(),
            None => Some(format!(
                "credentialName {name} names a Kubernetes secret, which can't be read here; give \
                 --credentials-dir DIR with its files in DIR/{}, or clientCertificate, privateKey and \
                 caCertificates as files",
                name.rsplit('/').next().unwrap_or_default()
            )),
        },
        (TlsMode::Mutual, None) if tls.client_certificate.is_none() => {
            Some("client certificate required for mutual tls".into())
        }
        (TlsMode::Mutual, None) if tls.private_key.is_none() => {
            Some("private key required for mutual tls".into())
        }
        (TlsMode::Mutual | TlsMode::Simple, None) => files.refused(tls),
    }
}

/// Where the files of `credentialName` are: those of a secret, of its `-cacert` sibling, or of a ConfigMap.
fn credential(name: &Arc<str>, directory: &Path, mode: TlsMode) -> Result<Credential, String> {
    const CACERT: &str = "-cacert";
    let config_map = name.strip_prefix("configmap://");
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
    if config_map.is_some() && mode == TlsMode::Mutual {
        return Err(format!("credentialName {name}: a ConfigMap holds no client certificate"));
    }
    let own = directory.join(plain);
    let ca_directories = if config_map.is_some() || plain.ends_with(CACERT) {
        vec![own.clone()]
    } else {
        vec![directory.join(format!("{plain}{CACERT}")), own.clone()]
    };
    Ok(Credential { name: Arc::clone(name), directory: own, ca_directories })
}
