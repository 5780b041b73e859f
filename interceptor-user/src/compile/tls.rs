//! TLS towards endpoints, from a DestinationRule. Asked for and impossible: a reason, never plaintext.

use std::sync::Arc;

use super::destination_rules::MergedRule;
use crate::resource::ServiceEntry;
use crate::resource::client_tls::{ClientTls, TlsMode};
use crate::resource::destination_rule::Blocks;
use crate::snapshot::{CaSource, ClientIdentity, TlsOrigination, TlsOriginationMode};

/// What a cluster with this policy does.
pub(super) fn origination(
    rule: &MergedRule,
    blocks: &Blocks,
    entry: &ServiceEntry,
) -> Option<TlsOrigination> {
    if let Some(refused) = rule.refused() {
        let reason = format!("{} asks for TLS but can't be used as written", refused.meta.key);
        return Some(TlsOrigination { impossible: Some(reason.into()), ..TlsOrigination::simple() });
    }
    let tls = blocks.tls.as_ref()?;
    let mode = match tls.mode {
        TlsMode::Disable => return None,
        TlsMode::Simple => TlsOriginationMode::Simple,
        TlsMode::Mutual | TlsMode::IstioMutual => TlsOriginationMode::Mutual,
    };
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
    let impossible =
        problem(tls).map(|problem| -> Arc<str> { format!("{}: {problem}", rule.rules[0].meta.key).into() });
    Some(TlsOrigination {
        mode,
        sni: tls.sni.clone(),
        subject_alt_names,
        ca,
        ca_crl: tls.ca_crl.clone(),
        identity,
        impossible,
    })
}

/// Why TLS can't be made as asked.
pub(crate) fn problem(tls: &ClientTls) -> Option<String> {
    if tls.mode == TlsMode::Disable {
        return None;
    }
    if let Some(name) = &tls.credential_name {
        return Some(format!(
            "credentialName {name} names a Kubernetes secret, which can't be read here; give clientCertificate, \
             privateKey and caCertificates as files"
        ));
    }
    match tls.mode {
        TlsMode::IstioMutual => {
            Some("mode ISTIO_MUTUAL needs a mesh identity, which there is none of here".into())
        }
        TlsMode::Mutual if tls.client_certificate.is_none() => {
            Some("client certificate required for mutual tls".into())
        }
        TlsMode::Mutual if tls.private_key.is_none() => Some("private key required for mutual tls".into()),
        TlsMode::Mutual | TlsMode::Simple | TlsMode::Disable => None,
    }
}
