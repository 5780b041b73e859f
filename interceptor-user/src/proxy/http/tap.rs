//! Stands between the client's socket and hyper, for what hyper does not tell.
//!
//! It sees the bytes of each request's head: hyper resolves a head with both Transfer-Encoding and
//! Content-Length in favour of the former and drops the latter, so that only the bytes can tell that the
//! client may have meant something else. And it tells a client that has finished sending from one that
//! is gone: hyper can take either for the other, but not tell them apart.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::peer;

/// How often a client that only listens is looked for.
const LISTENER_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A head is not looked at beyond this, which is more than is accepted.
const SEEN_MAX: usize = 64 * 1024;

/// The downstream socket with a [`HeadTap`] on what is read.
#[derive(Debug)]
pub(super) struct TappedStream {
    stream: TcpStream,
    tap: HeadTap,
    /// Runs while the client has finished sending and waits for its answer.
    check: Option<Pin<Box<Sleep>>>,
}

/// What was read since the last request was taken, and whether one is being answered.
#[derive(Clone, Debug, Default)]
pub(super) struct HeadTap(Arc<Mutex<Seen>>);

/// Lives as long as a request is being answered.
#[derive(Debug)]
pub(super) struct Answering(HeadTap);

#[derive(Debug, Default)]
struct Seen {
    bytes: Vec<u8>,
    /// A request is being served: what is read is its body.
    is_body: bool,
    /// Requests whose answer is not out yet.
    answering: u32,
}

impl HeadTap {
    /// A request's head has been read. Returns whether `suspicious` holds for the bytes it came in.
    pub(super) fn begin(&self, suspicious: impl FnOnce(&[u8]) -> bool) -> bool {
        let mut seen = self.lock();
        seen.is_body = true;
        let found = suspicious(&seen.bytes);
        seen.bytes.clear();
        found
    }

    /// The request has been answered: a head comes next.
    pub(super) fn end(&self) {
        self.lock().is_body = false;
    }

    /// To be kept until the answer is out.
    pub(super) fn answering(&self) -> Answering {
        self.lock().answering += 1;
        Answering(self.clone())
    }

    fn is_answering(&self) -> bool {
        self.lock().answering > 0
    }

    fn record(&self, bytes: &[u8]) {
        let mut seen = self.lock();
        if !seen.is_body {
            let room = SEEN_MAX.saturating_sub(seen.bytes.len()).min(bytes.len());
            seen.bytes.extend_from_slice(&bytes[..room]);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.lock().answering -= 1;
    }
}

impl TappedStream {
    pub(super) fn new(stream: TcpStream, tap: HeadTap) -> Self {
        Self { stream, tap, check: None }
    }

    /// The client sends no more. Ready when that is the end; pending while it waits for an answer.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.tap.is_answering() {
            return Poll::Ready(());
        }
        if let Some(check) = &mut self.check {
            ready!(check.as_mut().poll(cx));
        }
        let (Ok(client), Ok(server)) = (self.stream.peer_addr(), self.stream.local_addr()) else {
            return Poll::Ready(());
        };
        if !peer::holds_connection(client, server) {
            return Poll::Ready(());
        }
        let mut check = Box::pin(tokio::time::sleep(LISTENER_CHECK_INTERVAL));
        let pending = check.as_mut().poll(cx);
        self.check = Some(check);
        pending
    }
}

/// Whether a head in `bytes` has a Content-Length line.
pub(super) fn has_content_length(bytes: &[u8]) -> bool {
    const NAME: &[u8] = b"content-length";
    bytes
        .split(|byte| *byte == b'\n')
        .skip(1)
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.get(..NAME.len()))
        .any(|name| name.eq_ignore_ascii_case(NAME))
}

impl AsyncRead for TappedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut this.stream).poll_read(cx, buffer));
        let read_bytes = &buffer.filled()[before..];
        this.tap.record(read_bytes);
        if read.is_ok() && read_bytes.is_empty() && buffer.remaining() > 0 {
            ready!(this.poll_end(cx));
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for TappedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::has_content_length;

    #[test]
    fn only_the_head_counts() {
        for (bytes, expected) in [
            ("POST / HTTP/1.1\r\nHost: a\r\nCONTENT-length: 3\r\n\r\n", true),
            ("POST / HTTP/1.1\nContent-Length : 3\n\n", true),
            ("POST / HTTP/1.1\r\nHost: a\r\n\r\ncontent-length: 3\r\n", false),
            ("POST /content-length HTTP/1.1\r\nHost: a\r\n\r\n", false),
            ("", false),
        ] {
            assert_eq!(has_content_length(bytes.as_bytes()), expected, "{bytes:?}");
        }
    }
}
