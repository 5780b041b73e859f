//! The step about TLS that a gateway ends: what is asked of the client's certificate, and who the client is by it. What the
//! proxy verifies of a certificate's chain, dates and hashes is taken to be in order.

use std::sync::Arc;

use super::Context;
use super::explanation::{Outcome, Step};
use super::outcome;
use crate::snapshot::{ClientCaSource, TlsTermination, TlsTerminationMode};
use crate::workload::SpiffeId;

/// Who a client is, as far as rules go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peer<'a> {
    /// It has shown nothing that counts.
    Nobody,
    Known(&'a SpiffeId),
    /// Somebody of the mesh: nobody said who.
    Somebody,
}

/// What is known of the files with which a gateway ends TLS.
#[derive(Clone, Debug)]
pub enum ServerFiles {
    /// With the trust domains whose identities are let in, where the mode asks for one.
    Usable { trust_domains: Option<Vec<Arc<str>>> },
    /// Each handshake fails for this reason.
    Unusable(String),
    /// They may be elsewhere where the proxy runs; this stands against them here.
    Unknown(String),
}

/// Why a handshake fails, as the proxy counts it.
enum Refused {
    TrustDomain,
    NameMismatch,
    Unavailable,
}

impl Refused {
    fn outcome(&self) -> Outcome {
        outcome::handshake_failed(match self {
            Self::TrustDomain => "trust_domain",
            Self::NameMismatch => "name_mismatch",
            Self::Unavailable => "unavailable",
        })
    }
}

/// Who the client is, with the step that says so; or why its handshake fails.
pub(super) fn step<'a>(context: Context<'a>, tls: &TlsTermination) -> (Step, Result<Peer<'a>, Outcome>) {
    let mut step = Step::new("client", asked(tls));
    step.by.extend(
        context.entrance.and_then(|entrance| entrance.place_of_tls(context.server_name().as_deref())),
    );
    let peer = peer(context, tls, &mut step);
    (step, peer.map_err(|refused| refused.outcome()))
}

fn asked(tls: &TlsTermination) -> String {
    let ca = match &tls.client_ca {
        Some(ClientCaSource::File(path)) => format!(" by {}", path.display()),
        Some(ClientCaSource::Credential(_)) | None => String::new(),
    };
    match tls.mode {
        TlsTerminationMode::Simple => "is asked for no certificate".into(),
        TlsTerminationMode::Mutual => format!("has to show a certificate that is signed{ca}"),
        TlsTerminationMode::OptionalMutual => format!("may show a certificate, which has to be signed{ca}"),
        TlsTerminationMode::IstioMutual => "has to show an identity of the mesh".into(),
    }
}

fn peer<'a>(context: Context<'a>, tls: &TlsTermination, step: &mut Step) -> Result<Peer<'a>, Refused> {
    let domains = match (context.question.look_at_server)(tls) {
        ServerFiles::Usable { trust_domains } => trust_domains,
        ServerFiles::Unusable(reason) => {
            step.notes.push(format!("each handshake fails: {reason}"));
            return Err(Refused::Unavailable);
        }
        ServerFiles::Unknown(reason) => {
            step.notes.push(format!(
                "the gateway is taken to have what it needs, which this command was not given: {reason}"
            ));
            None
        }
    };
    if !tls.subject_alt_names.is_empty() {
        step.notes.push(format!("with one of subjectAltNames: {}", tls.subject_alt_names.join(", ")));
    }
    if !tls.certificate_hashes.is_empty() || !tls.public_key_hashes.is_empty() {
        step.notes.push(
            "and one of verifyCertificateHash or verifyCertificateSpki, which is taken to be so".into(),
        );
    }
    let is_of_mesh = tls.mode == TlsTerminationMode::IstioMutual;
    let Some(peer) = context.question.peer.as_ref() else {
        return Ok(if is_of_mesh { Peer::Somebody } else { Peer::Nobody });
    };
    if tls.mode == TlsTerminationMode::Simple {
        step.notes.push(format!("{peer} is not asked who it is: to rules it is nobody"));
        return Ok(Peer::Nobody);
    }
    verify(tls, domains, peer, step)?;
    step.notes.push(match is_of_mesh {
        true => format!("{peer} is let in"),
        false => format!("{peer} is let in; by mode {} it is nobody to rules", tls.mode.name()),
    });
    Ok(if is_of_mesh { Peer::Known(peer) } else { Peer::Nobody })
}

/// By its trust domain, then its names, as the proxy does.
fn verify(
    tls: &TlsTermination,
    domains: Option<Vec<Arc<str>>>,
    peer: &SpiffeId,
    step: &mut Step,
) -> Result<(), Refused> {
    match domains {
        _ if tls.mode != TlsTerminationMode::IstioMutual => {}
        None => step.notes.push(format!(
            "the gateway's own trust domain is not known here: that of {peer} is taken to be one of those let in"
        )),
        Some(domains) if !domains.contains(peer.trust_domain()) => {
            step.notes.push(format!(
                "{peer} is refused: its trust domain is none of {}",
                domains.join(", ")
            ));
            return Err(Refused::TrustDomain);
        }
        Some(_) => {}
    }
    let names = &tls.subject_alt_names;
    if names.is_empty() || names.iter().any(|name| **name == *peer.as_str()) {
        return Ok(());
    }
    if names.iter().any(|name| !name.contains("://")) {
        step.notes.push(format!("the certificate of {peer} is taken to have one of the other names"));
        return Ok(());
    }
    step.notes.push(format!("{peer} is refused: subjectAltNames has not its name"));
    Err(Refused::NameMismatch)
}
