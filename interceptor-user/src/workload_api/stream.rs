//! FetchX509SVID as gRPC has it: one request over HTTP/2, and messages as long as both want, each behind five bytes that
//! tell its length.

use std::path::Path;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::message::X509SvidResponse;

/// As gRPC's implementations have it.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// A flag for compression, and the length.
const PREFIX: usize = 5;

const METHOD: &str = "http://localhost/SpiffeWorkloadAPI/FetchX509SVID";

/// Answers as they come.
pub(super) struct Stream {
    body: Incoming,
    read: BytesMut,
    connection: JoinHandle<()>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Stream {
    /// # Errors
    /// Why there is none, in words.
    pub(super) async fn open(socket: &Path) -> Result<Self, String> {
        let stream = UnixStream::connect(socket).await.map_err(|error| error.to_string())?;
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.map_err(|error| chain(&error))?;
        // Its end is the body's.
        let connection = tokio::task::spawn(async move { drop(connection.await) });
        // An empty message: uncompressed, no bytes.
        let request = Request::post(METHOD)
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            // Without it an endpoint refuses: no web page can be made to ask (SPIFFE Workload Endpoint §6).
            .header("workload.spiffe.io", "true")
            .body(Full::new(Bytes::from_static(&[0; PREFIX])))
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| chain(&error))?;
        if response.status() != http::StatusCode::OK {
            return Err(format!("it answers with status {}: is it a Workload API?", response.status()));
        }
        if let Some(reason) = refusal(response.headers()) {
            return Err(reason);
        }
        Ok(Self { body: response.into_body(), read: BytesMut::new(), connection })
    }

    /// The next answer, whenever it comes.
    ///
    /// # Errors
    /// Why there will be none any more.
    pub(super) async fn next(&mut self) -> Result<X509SvidResponse, String> {
        loop {
            if let Some(message) = self.message()? {
                return X509SvidResponse::decode(message)
                    .map_err(|error| format!("its answer can't be read: {error}"));
            }
            let frame =
                self.body.frame().await.ok_or("it ended the stream")?.map_err(|error| chain(&error))?;
            match frame.into_data() {
                Ok(data) => self.read.extend_from_slice(&data),
                Err(frame) => {
                    let refusal = frame.trailers_ref().and_then(refusal);
                    return Err(refusal.unwrap_or_else(|| "it ended the stream".into()));
                }
            }
        }
    }

    /// The first message, if all of it is there.
    fn message(&mut self) -> Result<Option<Bytes>, String> {
        let Some((prefix, rest)) = self.read.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let [compressed, length @ ..] = *prefix;
        let length = u32::from_be_bytes(length) as usize;
        if compressed != 0 {
            return Err("its answer is compressed, which nobody asked for".into());
        }
        if length > MESSAGE_BYTES_MAX {
            return Err(format!("its answer has {length} bytes: at most {MESSAGE_BYTES_MAX} are read"));
        }
        if rest.len() < length {
            return Ok(None);
        }
        self.read.advance(PREFIX);
        Ok(Some(self.read.split_to(length).freeze()))
    }
}

/// gRPC's status, where it is none of success.
fn refusal(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let message = text("grpc-message").unwrap_or_default();
    match text("grpc-status")? {
        "0" => None,
        "7" => Some(format!("it has no identity for this process: {message}")),
        status => Some(format!("it answers with gRPC status {status}: {message}")),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
