//! Makes what rustls needs from what a policy wants, of files as they are now: who is verified, what is shown and offered.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::ClientConfig;
use rustls::pki_types::UnixTime;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::credential;
use super::verify::{Names, Verifier};
use crate::proxy::certificates::credential::known_as;
use crate::proxy::certificates::expiry::Expiry;
use crate::proxy::certificates::{files as pem_files, spiffe};
use crate::snapshot::{CaSource, ClientIdentity, TlsOrigination, TlsOriginationMode};

/// By what the connection is for.
#[derive(Clone, Debug)]
pub(super) struct Configs {
    pub(super) opaque: Arc<ClientConfig>,
    pub(super) http1: Arc<ClientConfig>,
    pub(super) http2: Arc<ClientConfig>,
    /// The identity that is shown with ISTIO_MUTUAL.
    pub(super) identity: Option<Arc<MeshIdentity>>,
    /// Of what is shown.
    pub(super) expiry: Option<Expiry>,
}

/// An identity of the mesh, and where it is from.
#[derive(Debug)]
pub(super) struct MeshIdentity {
    file: PathBuf,
    shown: Arc<CertifiedKey>,
}

impl MeshIdentity {
    /// Why it can't be shown at this moment.
    pub(super) fn problem(&self) -> Option<String> {
        let reason = spiffe::out_of_date(&self.shown.cert, UnixTime::now())?;
        Some(format!("the identity {} can't be used: {reason}", self.file.display()))
    }

    /// How long it can be shown from now on.
    pub(super) fn remaining(&self) -> Option<Duration> {
        let ends = self.shown.cert.iter().filter_map(spiffe::not_after);
        let end = ends.map(|end| end.as_secs()).min()?;
        // It is valid throughout its last second.
        let end = Duration::from_secs(end.saturating_add(1));
        Some(end.saturating_sub(SystemTime::now().duration_since(UNIX_EPOCH).ok()?))
    }
}

/// What is offered for connections of opaque bytes, HTTP/1.1 and HTTP/2.
type Alpn = [&'static [&'static [u8]]; 3];

const ALPN: Alpn = [&[], &[], &[b"h2"]];
/// As Istio's proxies have it, which tell by it what is inside (its `istio.alpn` filter), without
/// `istio-peer-exchange`: bytes about the peer would have to go first.
const ALPN_OF_MESH: Alpn =
    [&[b"istio"], &[b"istio-http/1.1", b"istio", b"http/1.1"], &[b"istio-h2", b"istio", b"h2"]];

/// Fails with why TLS can't be made.
pub(super) fn configs(origination: &TlsOrigination) -> Result<Configs, String> {
    if let Some(reason) = &origination.impossible {
        return Err(reason.to_string());
    }
    let found = credential::found(origination)?;
    let credential = origination.credential.as_ref();
    let origination = found.as_ref().unwrap_or(origination);
    let identity = origination.identity.as_ref();
    let shown = identity
        .map(|identity| {
            Ok::<_, String>((identity, pem_files::certified_key(identity, "client certificate")?))
        })
        .transpose()?;
    let of_mesh = shown.as_ref().filter(|_| origination.mode == TlsOriginationMode::IstioMutual);
    let name = |files: &ClientIdentity| known_as(credential, &files.certificate);
    let of_mesh = of_mesh.map(|(files, shown)| of_mesh_identity(name(files), shown)).transpose()?;
    let trust_domain = of_mesh.as_ref().map(|(_, trust_domain)| &**trust_domain);
    let names = |verify_host| Names { declared: &origination.subject_alt_names, verify_host, trust_domain };
    let shown = shown.as_ref().map(|(_, key)| key);
    let with = |verify_host| config(origination, names(verify_host), shown);
    let http = with(origination.verify_host)?;
    let opaque = if origination.verify_host { with(false)? } else { http.clone() };
    let alpn = if of_mesh.is_some() { ALPN_OF_MESH } else { ALPN };
    let offering = |mut config: ClientConfig, protocols: &[&[u8]]| {
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    };
    Ok(Configs {
        opaque: offering(opaque, alpn[0]),
        http1: offering(http.clone(), alpn[1]),
        http2: offering(http, alpn[2]),
        identity: of_mesh.map(|(identity, _)| Arc::new(identity)),
        expiry: identity.zip(shown).and_then(|(files, shown)| Expiry::of(name(files), &shown.cert)),
    })
}

/// A client certificate as an identity of the mesh, with its trust domain.
fn of_mesh_identity(file: PathBuf, shown: &Arc<CertifiedKey>) -> Result<(MeshIdentity, Arc<str>), String> {
    let trust_domain = shown.cert.first().map_or_else(|| Err("it is empty".into()), spiffe::trust_domain);
    let trust_domain =
        trust_domain.map_err(|reason| format!("the identity {} can't be used: {reason}", file.display()))?;
    Ok((MeshIdentity { file, shown: Arc::clone(shown) }, trust_domain))
}

fn config(
    origination: &TlsOrigination,
    names: Names<'_>,
    shown: Option<&Arc<CertifiedKey>>,
) -> Result<ClientConfig, String> {
    let provider = pem_files::provider();
    let roots = match &origination.ca {
        CaSource::System => Some(pem_files::system_roots()?),
        CaSource::File(path) => Some(pem_files::roots_of_file(path)?),
        CaSource::Unverified => None,
    };
    let revoked = origination.ca_crl.as_deref().map(pem_files::revocations).transpose()?;
    let verifier = Verifier::new(&provider, roots, revoked, names)?;
    let versions: &[&rustls::SupportedProtocolVersion] = if origination.tls_1_3_only {
        &[&rustls::version::TLS13]
    } else {
        &[&rustls::version::TLS13, &rustls::version::TLS12]
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Ok(match shown {
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key)))),
        None => builder.with_no_client_auth(),
    })
}
