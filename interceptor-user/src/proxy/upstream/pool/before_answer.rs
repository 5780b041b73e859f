//! Bounds what a server may send before the head of its answer is whole. hyper reads informational responses without an end,
//! and as fast as they come: one server that sends nothing else would take a worker's time from everybody.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::upstream::UpstreamIo;

/// Sixteen times the largest head: tens of thousands of `102 Processing`. Of a body that follows at once hyper may read some
/// before whoever waits for the answer runs.
const BYTES_MAX: u64 = 1024 * 1024;
/// The answer's head is there: what follows is its body.
const ANY: u64 = u64::MAX;

/// How much more may come on a connection before the answer that is waited for. Clones are the same; one thread has them all.
#[derive(Clone, Debug)]
pub(super) struct BeforeAnswer(Arc<AtomicU64>);

impl Default for BeforeAnswer {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(ANY)))
    }
}

impl BeforeAnswer {
    /// A request is sent.
    pub(super) fn begin(&self) {
        self.0.store(BYTES_MAX, Ordering::Relaxed);
    }

    pub(super) fn answered(&self) {
        self.0.store(ANY, Ordering::Relaxed);
    }

    /// False when that was too much.
    fn take(&self, bytes: usize) -> bool {
        let left = self.0.load(Ordering::Relaxed);
        if left == ANY {
            return true;
        }
        let rest = left.checked_sub(bytes as u64);
        self.0.store(rest.unwrap_or_default(), Ordering::Relaxed);
        rest.is_some()
    }
}

/// A server's bytes, with their bound.
#[derive(Debug)]
pub(crate) struct AnsweringIo {
    io: UpstreamIo,
    before_answer: BeforeAnswer,
}

/// Why reading ends.
#[derive(Debug, thiserror::Error)]
#[error("more than {BYTES_MAX} bytes came before the head of an answer was whole")]
pub(crate) struct NoAnswer;

impl AnsweringIo {
    pub(super) fn new(io: UpstreamIo, before_answer: BeforeAnswer) -> Self {
        Self { io, before_answer }
    }

    /// The connection, for another protocol.
    pub(crate) fn into_inner(self) -> UpstreamIo {
        self.io
    }
}

impl AsyncRead for AnsweringIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
        if this.before_answer.take(buffer.filled().len() - before) {
            Poll::Ready(Ok(()))
        } else {
            Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, NoAnswer)))
        }
    }
}

impl AsyncWrite for AnsweringIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
