//! TLS of clients that ends here: made from files once, made again when they change. What can't be ended as asked
//! fails, and is never spoken in clear.

mod config;
mod failure;
mod verify;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::HandshakeKind;
use rustls::pki_types::UnixTime;
use rustls::server::danger::ClientCertVerifier;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificates::credential::candidates;
use super::certificates::expiry::{Expiry, Tending};
use super::certificates::files::FileVersions;
use super::certificates::pace::Pace;
use crate::snapshot::{CertificateSource, ClientCaSource, TlsTermination, TlsTerminationMode};
use config::Configs;
pub(super) use failure::HandshakeFailure;
pub(super) use failure::HandshakeResult;

/// How long a client may take from its ClientHello on.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often, at most, files are looked at for changes. Only handshakes ask.
const FILES_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long, and for how many bytes, a client that was refused is listened to: closing at once would be a reset, which
/// takes the alert with it.
const REFUSED_LINGER_MAX: Duration = Duration::from_secs(1);
const REFUSED_BYTES_MAX: usize = 64 * 1024;

/// What ends the TLS of one kind of chain, with the sessions that its clients may take up again.
#[derive(Debug)]
pub(super) struct TlsServer {
    termination: Arc<TlsTermination>,
    state: ArcSwap<State>,
    checking: Pace,
    tending: Tending,
}

#[derive(Debug)]
struct State {
    configs: Result<Configs, Arc<str>>,
    files: FileVersions,
}

impl TlsServer {
    pub(super) fn new(termination: &Arc<TlsTermination>) -> Self {
        Self {
            state: ArcSwap::from_pointee(State::load(termination)),
            termination: Arc::clone(termination),
            checking: Pace::from_later(FILES_CHECK_INTERVAL),
            tending: Tending::default(),
        }
    }

    /// The handshake, whose ClientHello waits in the socket.
    pub(super) async fn accept(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, HandshakeFailure> {
        self.look_for_changes();
        let configs = match &self.state.load().configs {
            Ok(configs) => configs.clone(),
            Err(reason) => return Err(HandshakeFailure::unavailable(reason)),
        };
        if let Some(reason) = over(&self.termination, &configs) {
            return Err(HandshakeFailure::unavailable(&reason));
        }
        let handshake = handshake(&configs, stream);
        let ended = tokio::time::timeout(HANDSHAKE_TIMEOUT, Box::pin(handshake)).await;
        ended.unwrap_or_else(|_elapsed| Err(HandshakeFailure::timeout()))
    }

    /// Looks at the files where no handshake does, and tells of certificates that end soon.
    pub(super) fn tend(&self) {
        if self.tending.is_due() {
            self.look_for_changes();
            self.tending.warn(self.expiries().iter());
        }
    }

    /// Of what is shown.
    pub(super) fn expiries(&self) -> Vec<Expiry> {
        self.state.load().configs.as_ref().map(|configs| configs.expiries.clone()).unwrap_or_default()
    }

    fn look_for_changes(&self) {
        if !self.checking.is_due() {
            return;
        }
        let state = self.state.load();
        if state.files == FileVersions::of(files(&self.termination)) {
            return;
        }
        let mut fresh = State::load(&self.termination);
        match (&fresh.configs, &state.configs) {
            (Err(reason), Ok(last_good)) => {
                tracing::warn!(%reason, "changed TLS files can't be used: those before stay in force");
                fresh.configs = Ok(last_good.clone());
            }
            (Ok(_), _) => tracing::info!("changed TLS files are used for new connections"),
            (Err(_), Err(_)) => {}
        }
        self.state.store(Arc::new(fresh));
    }
}

impl State {
    fn load(termination: &TlsTermination) -> Self {
        // Looked at before they are read: what changes meanwhile is read again.
        let files = FileVersions::of(files(termination));
        let configs = config::configs(termination).map_err(Arc::<str>::from);
        if let Err(reason) = &configs {
            tracing::warn!(%reason, "TLS of clients can't be ended: their connections fail");
        }
        Self { configs, files }
    }
}

/// Whether TLS could be ended now, by the files as they are: with the trust domains whose identities are let in, where
/// the mode asks for one.
///
/// # Errors
/// Why each handshake would fail.
pub fn look_at_server(termination: &TlsTermination) -> Result<Option<Vec<Arc<str>>>, String> {
    let configs = config::configs(termination)?;
    match over(termination, &configs) {
        Some(reason) => Err(reason),
        None => Ok(configs.verifier.as_ref().and_then(|verifier| verifier.trust_domains())),
    }
}

/// Nobody in the mesh would take an identity that has expired, as with ISTIO_MUTUAL towards endpoints.
fn over(termination: &TlsTermination, configs: &Configs) -> Option<String> {
    let mut expiries =
        configs.expiries.iter().filter(|_| termination.mode == TlsTerminationMode::IstioMutual);
    expiries.find_map(|expiry| expiry.over(UnixTime::now()))
}

/// Files that it is made of, those of a credential that may be there among them.
fn files(termination: &TlsTermination) -> impl Iterator<Item = std::path::PathBuf> {
    let certificates = termination.certificates.iter().flat_map(|source| match source {
        CertificateSource::Files(pair) => vec![pair.certificate.clone(), pair.private_key.clone()],
        CertificateSource::Credential(credential) => candidates(credential),
    });
    let of_clients = termination.client_ca.iter().flat_map(|source| match source {
        ClientCaSource::File(file) => vec![file.clone()],
        ClientCaSource::Credential(credential) => candidates(credential),
    });
    certificates.chain(of_clients).chain(termination.ca_crl.clone())
}

async fn handshake(configs: &Configs, stream: TcpStream) -> Result<TlsStream<TcpStream>, HandshakeFailure> {
    let mut acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
    let start = match (&mut acceptor).await {
        Ok(start) => start,
        Err(error) => {
            let stream = acceptor.take_io();
            return Err(HandshakeFailure { stream, ..HandshakeFailure::of(&error) });
        }
    };
    let config = configs.for_client(&start.client_hello());
    let stream = match start.into_stream(config).into_fallible().await {
        Ok(stream) => stream,
        Err((error, stream)) => {
            return Err(HandshakeFailure { stream: Some(stream), ..HandshakeFailure::of(&error) });
        }
    };
    if let Some(error) = refused_since(configs, &stream) {
        return Err(HandshakeFailure::of(&io::Error::new(io::ErrorKind::InvalidData, error)));
    }
    Ok(stream)
}

/// A session that is taken up again brings the certificate of then: it is verified again, by what is known and on the
/// date of now.
fn refused_since(configs: &Configs, stream: &TlsStream<TcpStream>) -> Option<rustls::Error> {
    let connection = stream.get_ref().1;
    if connection.handshake_kind() != Some(HandshakeKind::Resumed) {
        return None;
    }
    let verifier = configs.verifier.as_ref()?;
    let (end_entity, intermediates) = connection.peer_certificates()?.split_first()?;
    verifier.verify_client_cert(end_entity, intermediates, UnixTime::now()).err()
}

/// Has a client read why it was refused.
pub(super) async fn linger(mut stream: TcpStream) {
    let listened = async {
        let mut buffer = [0; 4096];
        let mut left = REFUSED_BYTES_MAX;
        stream.shutdown().await?;
        while left > 0 {
            match stream.read(&mut buffer).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok::<_, io::Error>(())
    };
    // Whatever the client does, that was all.
    drop(tokio::time::timeout(REFUSED_LINGER_MAX, listened).await);
}
