//! HTTP between an intercepted connection and the outside: one request after another is routed by the
//! snapshot of its moment, sent on, and recorded. hyper reads and writes both sides; what is decided
//! here is where a request goes and what becomes of it when that fails.
//!
//! What hyper cannot carry: informational responses other than 100 and 101 (103 is read and dropped),
//! and trailers of HTTP/1 messages that do not announce them in a Trailer header.

pub(crate) mod body;
pub(crate) mod cors;
mod deadline;
mod failure;
mod fault;
mod forward;
mod frame_tap;
pub(crate) mod grpc;
mod head_limit;
mod headers;
mod http1;
mod http2;
mod log;
mod mirror;
pub(crate) mod peer;
pub(crate) mod reply;
mod request;
mod retry;
mod tap;
mod tapped_stream;
mod tries;
mod upgrade;
pub(crate) mod upload;

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

use super::downstream::Downstream;
use super::maybe_tls::ClientIo;
use super::worker::Worker;
pub(crate) use crate::snapshot::HttpVersion as Version;
use tap::HeadTap;

/// One client's connection.
#[derive(Debug)]
struct Connection {
    worker: Rc<Worker>,
    downstream: Downstream,
    version: Version,
    tap: HeadTap,
    first_request: FirstRequest,
    /// Told when it was let in by settings that are gone.
    misdirected: Notify,
}

/// Whether a request has been read. What is known to come is served, also when keep-alive connections are to end.
#[derive(Debug, Default)]
struct FirstRequest {
    is_read: Cell<bool>,
    read: Notify,
}

impl FirstRequest {
    fn is_there(&self) {
        if !self.is_read.replace(true) {
            self.read.notify_one();
        }
    }
}

impl Connection {
    /// What the client's requests came by.
    fn scheme(&self) -> &'static str {
        if self.downstream.tls.is_some() { "https" } else { "http" }
    }

    /// Ready when the connection is to end after the requests that it is at.
    async fn ending(&self) {
        tokio::select! {
            () = self.draining() => {}
            () = self.misdirected.notified() => {}
        }
    }

    async fn draining(&self) {
        self.worker.draining().await;
        if !self.first_request.is_read.get() {
            self.first_request.read.notified().await;
        }
    }
}

/// Serves the requests of one intercepted connection until it ends. Never fails: what becomes of each
/// request is in its record.
pub(super) async fn serve(worker: &Rc<Worker>, stream: ClientIo, downstream: Downstream, version: Version) {
    let tap = HeadTap::of_client_in(downstream.origin.netns.clone());
    let (worker, first_request) = (Rc::clone(worker), FirstRequest::default());
    let misdirected = Notify::new();
    let connection = Rc::new(Connection { worker, downstream, version, tap, first_request, misdirected });
    let ended = match version {
        Version::Http1 => http1::serve(stream, &connection).await,
        Version::Http2 => Box::pin(http2::serve(stream, &connection)).await,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "downstream connection ended");
        log::unreadable(&connection, &error);
    }
}
