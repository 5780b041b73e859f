//! TLS towards a cluster's endpoints: made from files once, made again when they change, and never
//! replaced by plaintext when it cannot be made.

mod config;
mod credential;
mod failure;
mod verify;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::UpstreamError;
use crate::proxy::certificates::credential::candidates;
use crate::proxy::certificates::expiry::{Expiry, Tending};
use crate::proxy::certificates::files::FileVersions;
use crate::proxy::certificates::pace::Pace;
use crate::snapshot::{CaSource, TlsOrigination, TlsOriginationMode};
use config::{Configs, configs};
pub(crate) use failure::of_io_error;

/// How often, at most, files are looked at for changes. Only new handshakes ask.
const FILES_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A cluster's TLS.
#[derive(Debug)]
pub(crate) struct TlsClient {
    origination: TlsOrigination,
    state: ArcSwap<State>,
    checking: Pace,
    tending: Tending,
}

#[derive(Debug)]
struct State {
    configs: Result<Configs, Arc<str>>,
    files: FileVersions,
    /// Counts the changes of what connections are made with.
    version: u64,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Bytes without a Host that a certificate could be for.
    Opaque,
    Http1,
    /// Offers `h2`.
    Http2,
}

impl TlsClient {
    pub(crate) fn new(origination: &TlsOrigination) -> Self {
        Self {
            state: ArcSwap::from_pointee(State::load(origination)),
            origination: origination.clone(),
            checking: Pace::from_later(FILES_CHECK_INTERVAL),
            tending: Tending::default(),
        }
    }

    /// The name that the handshake for a request to `host` is about.
    pub(super) fn server_name<'a>(&'a self, host: &'a str) -> &'a str {
        self.origination.sni.as_deref().unwrap_or(host)
    }

    /// Another one when new requests should have connections that are made anew: the files have changed.
    pub(super) fn version(&self) -> u64 {
        self.look_for_changes();
        self.state.load().version
    }

    /// How long a connection that is made now may take new requests: while the identity that it shows is valid.
    pub(super) fn remaining(&self) -> Option<Duration> {
        self.state.load().configs.as_ref().ok()?.identity.as_ref()?.remaining()
    }

    /// Why there can be no TLS, before a connection is opened for it.
    pub(super) fn config(&self, purpose: Purpose) -> Result<Arc<ClientConfig>, UpstreamError> {
        self.look_for_changes();
        let state = self.state.load();
        let configs =
            state.configs.as_ref().map_err(|reason| UpstreamError::TlsUnavailable(Arc::clone(reason)))?;
        if let Some(problem) = configs.identity.as_ref().and_then(|identity| identity.problem()) {
            return Err(UpstreamError::TlsUnavailable(problem.into()));
        }
        Ok(Arc::clone(match purpose {
            Purpose::Opaque => &configs.opaque,
            Purpose::Http1 => &configs.http1,
            Purpose::Http2 => &configs.http2,
        }))
    }

    /// The handshake. `name` comes from [`Self::server_name`]; as an address it is not sent as SNI. A unix
    /// socket has no `peer`.
    pub(super) async fn handshake(
        &self,
        config: Arc<ClientConfig>,
        stream: TcpStream,
        name: &str,
        peer: Option<IpAddr>,
    ) -> Result<TlsStream<TcpStream>, UpstreamError> {
        let connecting = TlsConnector::from(config).connect(server_name(name, peer), stream);
        let credential = self.origination.credential.as_ref();
        connecting.await.map_err(|error| UpstreamError::Tls(failure::of_handshake(&error, credential).into()))
    }

    /// Where a certificate is shown: looks at the files where no handshake does, and tells of one that ends soon.
    pub(crate) fn tend(&self) {
        let shows = self.state.load().configs.as_ref().is_ok_and(|configs| configs.expiry.is_some());
        if shows && self.tending.is_due() {
            self.look_for_changes();
            self.tending.warn(self.expiry().iter());
        }
    }

    /// Of the certificate that is shown.
    pub(in crate::proxy) fn expiry(&self) -> Option<Expiry> {
        self.state.load().configs.as_ref().ok()?.expiry.clone()
    }

    fn look_for_changes(&self) {
        if !self.checking.is_due() {
            return;
        }
        let state = self.state.load();
        if state.files == FileVersions::of(files(&self.origination)) {
            return;
        }
        let mut fresh = State::load(&self.origination);
        match (&fresh.configs, &state.configs) {
            (Err(reason), Ok(last_good)) => {
                tracing::warn!(%reason, "changed TLS files can't be used: those before stay in force");
                fresh.configs = Ok(last_good.clone());
                fresh.version = state.version;
            }
            (Err(_) | Ok(_), _) => fresh.version = state.version + 1,
        }
        self.state.store(Arc::new(fresh));
    }
}

impl State {
    fn load(origination: &TlsOrigination) -> Self {
        // Looked at before they are read: what changes meanwhile is read again.
        let files = FileVersions::of(files(origination));
        Self { configs: configs(origination).map_err(Into::into), files, version: 0 }
    }
}

/// The same with the files of its credential in the credential's place, all of them looked at as they are now.
/// Reads files; fails with why TLS can't be made of them.
pub(crate) fn look_at_files(origination: &TlsOrigination) -> Result<TlsOrigination, String> {
    let found = credential::found(origination)?.unwrap_or_else(|| origination.clone());
    let configs = configs(&found)?;
    configs.identity.and_then(|identity| identity.problem()).map_or(Ok(found), Err)
}

/// How long an identity of the mesh can be shown from now on (`None`: nobody knows), or why it can't any more. `None` where none is
/// asked for. Of files that are gone or wrong nobody knows: what they held before goes on.
pub(crate) fn identity_lasts(origination: &TlsOrigination) -> Option<Result<Option<Duration>, String>> {
    if origination.mode != TlsOriginationMode::IstioMutual {
        return None;
    }
    let unknown = Some(Ok(None));
    let Ok(found) = credential::found(origination) else { return unknown };
    let Ok(configs) = configs(found.as_ref().unwrap_or(origination)) else { return unknown };
    let Some(identity) = configs.identity else { return unknown };
    Some(identity.problem().map_or_else(|| Ok(identity.remaining()), Err))
}

/// What is not a name is verified, and fails, as the address that was connected to; without one as
/// nobody's.
fn server_name(name: &str, peer: Option<IpAddr>) -> ServerName<'static> {
    let peer = peer.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let name = name.strip_suffix('.').unwrap_or(name);
    ServerName::try_from(name.to_owned()).unwrap_or(ServerName::IpAddress(peer.into()))
}

/// Files that the TLS of a cluster is made of, those of a credential that may be there among them.
fn files(origination: &TlsOrigination) -> impl Iterator<Item = PathBuf> {
    let ca = match &origination.ca {
        CaSource::File(path) => Some(path),
        CaSource::System | CaSource::Unverified => None,
    };
    let identity =
        origination.identity.iter().flat_map(|identity| [&identity.certificate, &identity.private_key]);
    let named = ca.into_iter().chain(&origination.ca_crl).chain(identity).cloned();
    named.chain(origination.credential.iter().flat_map(candidates))
}
