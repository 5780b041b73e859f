//! What is known of a client whose TLS ended here.

use std::sync::Arc;

use rustls::ProtocolVersion;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

pub use super::certificates::facts::CertificateFacts;
use crate::snapshot::{TlsTermination, TlsTerminationMode};
use crate::workload::SpiffeId;

#[derive(Clone, Debug)]
pub struct ClientTls {
    /// What let it in.
    pub termination: Arc<TlsTermination>,
    /// As Envoy writes it.
    pub version: &'static str,
    /// `None`: it showed none.
    pub certificate: Option<CertificateFacts>,
}

impl ClientTls {
    /// Who the client is. Nothing but an identity of the mesh says that: with other modes a certificate may be of any
    /// trust domain, and of anybody's making.
    pub fn identity(&self) -> Option<&Arc<SpiffeId>> {
        let of_mesh = self.termination.mode == TlsTerminationMode::IstioMutual;
        self.certificate.as_ref().filter(|_| of_mesh)?.identity.as_ref()
    }

    pub(super) fn of(stream: &TlsStream<TcpStream>, termination: Arc<TlsTermination>) -> Self {
        let connection = stream.get_ref().1;
        let certificate = connection.peer_certificates().and_then(|chain| chain.first());
        Self {
            termination,
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                Some(_) | None => "TLSv1.2",
            },
            certificate: certificate.map(CertificateFacts::of),
        }
    }
}
