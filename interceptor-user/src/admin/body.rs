//! Bodies of answers: whole, or written while they are sent.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::output::{self, Output, OutputError};

/// An error breaks the connection off, so that what was sent is not taken for all.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
pub(super) const JSON: &str = "application/json";
/// One JSON text a line.
pub(super) const JSON_LINES: &str = "application/x-ndjson";
const YAML: &str = "application/yaml";

pub(super) fn whole(
    status: StatusCode,
    media_type: &'static str,
    content: impl Into<Bytes>,
) -> Response<Body> {
    let body = Full::new(content.into()).map_err(|never| match never {}).boxed_unsync();
    with_type(status, media_type, body)
}

pub(super) fn text(content: impl Into<Bytes>) -> Response<Body> {
    whole(StatusCode::OK, TEXT, content)
}

pub(super) fn json(data: &impl Serialize) -> Result<Response<Body>, OutputError> {
    Ok(whole(StatusCode::OK, JSON, output::json(data)?))
}

/// In the form that was asked for.
pub(super) fn rendered(content: String, output: Output) -> Response<Body> {
    let media_type = match output {
        Output::Text => TEXT,
        Output::Json => JSON,
        Output::Yaml => YAML,
    };
    whole(StatusCode::OK, media_type, content)
}

/// What is put into the channel, until its other end is dropped.
pub(super) fn streamed(
    media_type: &'static str,
    chunks: mpsc::Receiver<io::Result<Bytes>>,
) -> Response<Body> {
    with_type(StatusCode::OK, media_type, Chunks(chunks).boxed_unsync())
}

fn with_type(status: StatusCode, media_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

struct Chunks(mpsc::Receiver<io::Result<Bytes>>);

impl http_body::Body for Chunks {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }
}

const CHUNK_BYTES: usize = 64 * 1024;

/// Writes into the channel of [`streamed`] from a thread that may block; fails when nobody reads any more, or too
/// slowly.
pub(super) struct ChunkWriter {
    chunks: mpsc::Sender<io::Result<Bytes>>,
    deadline: Instant,
    buffer: Vec<u8>,
}

impl ChunkWriter {
    pub(super) fn new(chunks: mpsc::Sender<io::Result<Bytes>>, deadline: Instant) -> Self {
        Self { chunks, deadline, buffer: Vec::with_capacity(CHUNK_BYTES) }
    }

    /// Sends what is left, or breaks the answer off.
    pub(super) fn finish(mut self, outcome: io::Result<()>) {
        let outcome = outcome.and_then(|()| self.flush());
        if let Err(error) = outcome {
            // Nobody reads any more: nobody to tell.
            drop(self.chunks.blocking_send(Err(error)));
        }
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        if Instant::now() > self.deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES));
        self.chunks.blocking_send(Ok(chunk.into())).map_err(|_nobody_reads| io::ErrorKind::BrokenPipe.into())
    }
}
