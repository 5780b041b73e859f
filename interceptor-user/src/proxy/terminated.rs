//! The story of a connection whose TLS ends here: the handshake, then what is inside goes where its chain says.

use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::active::Active;
use super::client_tls::ClientTls;
use super::downstream::Downstream;
use super::http;
use super::maybe_tls::ClientIo;
use super::tcp::{self, OpaqueTarget};
use super::termination::{self, HandshakeFailure, HandshakeResult};
use super::worker::Worker;
use crate::snapshot::{Terminated, Then};

/// What a client has to agree on to speak HTTP/2.
const H2: &[u8] = b"h2";

/// Carries one connection, whose ClientHello waits in the socket, to its end.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    active: Arc<Active>,
    stream: TcpStream,
    mut downstream: Downstream,
    chain: Arc<Terminated>,
) {
    let accepted = match active.tls_server(&chain.tls) {
        Some(server) => server.accept(stream).await,
        None => Err(HandshakeFailure::unavailable("this configuration ends no such TLS")),
    };
    let stream = match accepted {
        Ok(stream) => stream,
        Err(failure) => {
            tcp::refuse_handshake(worker, &downstream, &failure);
            if let Some(stream) = failure.stream {
                termination::linger(stream).await;
            }
            return;
        }
    };
    worker.stats().handshake(HandshakeResult::Completed);
    downstream.tls = Some(Rc::new(ClientTls::of(&stream, Arc::clone(&chain.tls))));
    let version = match stream.get_ref().1.alpn_protocol() {
        Some(H2) => http::Version::Http2,
        Some(_) | None => http::Version::Http1,
    };
    let stream = ClientIo::Tls(Box::new(stream));
    match &chain.then {
        Then::Http(_) => {
            drop((active, chain));
            Box::pin(http::serve(worker, stream, downstream, version)).await;
        }
        Then::Tcp(route) => {
            let target = OpaqueTarget::Route(Arc::clone(route));
            drop(chain);
            Box::pin(tcp::carry(worker, active, stream, downstream, target, None)).await;
        }
    }
}
