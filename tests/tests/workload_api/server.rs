//! A SPIFFE Workload API on a unix socket, as far as FetchX509SVID goes: HTTP/2 and gRPC's frames as SPIRE's agent has
//! them.

use std::path::{Path, PathBuf};

use anyhow::Context;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use interceptor_tests::{Ca, Identity};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Encoded; `None`: nobody is entitled to one.
type Answer = Option<Vec<u8>>;

/// Serves until dropped, or stopped.
pub(crate) struct WorkloadApi {
    socket: PathBuf,
    answer: watch::Sender<Answer>,
    runtime: Option<Runtime>,
}

impl WorkloadApi {
    pub(crate) fn start(socket: &Path) -> anyhow::Result<Self> {
        let mut api = Self { socket: socket.to_owned(), answer: watch::Sender::new(None), runtime: None };
        api.serve()?;
        Ok(api)
    }

    pub(crate) fn uri(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Sends it to all who listen.
    pub(crate) fn give(&self, uri: &str, identity: &Identity, ca: &Ca) -> anyhow::Result<()> {
        let certificate = CertificateDer::from_pem_file(&identity.certificate)?;
        let root = CertificateDer::from_pem_file(ca.root())?;
        let key = PrivateKeyDer::from_pem_file(&identity.key)?;
        let fields = [(1, uri.as_bytes()), (2, &certificate), (3, key.secret_der()), (4, &root)];
        let svid: Vec<u8> = fields.iter().flat_map(|(number, bytes)| field(*number, bytes)).collect();
        self.answer.send_replace(Some(field(1, &svid)));
        Ok(())
    }

    /// As when the agent is killed: connections break, and the socket leads nowhere.
    pub(crate) fn stop(&mut self) {
        drop(self.runtime.take());
    }

    pub(crate) fn serve(&mut self) -> anyhow::Result<()> {
        drop(std::fs::remove_file(&self.socket));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = {
            let _entered = runtime.enter();
            tokio::net::UnixListener::bind(&self.socket).context("cannot listen")?
        };
        let answer = self.answer.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = answer.clone();
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await?;
                    while let Some(asked) = connection.accept().await {
                        let (request, respond) = asked?;
                        tokio::spawn(stream_answers(request, respond, answer.subscribe()));
                    }
                    Ok::<_, h2::Error>(())
                });
            }
        });
        self.runtime = Some(runtime);
        Ok(())
    }
}

async fn stream_answers(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<bytes::Bytes>,
    mut answer: watch::Receiver<Answer>,
) -> anyhow::Result<()> {
    let is_call = request.uri().path() == "/SpiffeWorkloadAPI/FetchX509SVID"
        && request.headers().get("workload.spiffe.io").is_some_and(|value| value == "true")
        && request.headers().get("content-type").is_some_and(|value| value == "application/grpc");
    let head = |status: Option<&str>| {
        let mut response = Response::builder().header("content-type", "application/grpc");
        if let Some(status) = status {
            response = response.header("grpc-status", status).header("grpc-message", "no identity issued");
        }
        response.body(())
    };
    let refused = if is_call { answer.borrow().is_none().then_some("7") } else { Some("3") };
    if refused.is_some() {
        respond.send_response(head(refused)?, true)?;
        return Ok(());
    }
    let mut stream = respond.send_response(head(None)?, false)?;
    loop {
        let Some(message) = answer.borrow_and_update().clone() else { break };
        let length = u32::try_from(message.len())?.to_be_bytes();
        stream.send_data([&[0][..], &length, &message].concat().into(), false)?;
        answer.changed().await?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "7".parse()?);
    stream.send_trailers(trailers)?;
    Ok(())
}

/// Bytes as protobuf writes them.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap_or_default());
    out.extend(bytes);
    out
}
