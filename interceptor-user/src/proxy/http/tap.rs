//! Sees the bytes of each request's head as they come: hyper resolves a head with both
//! Transfer-Encoding and Content-Length in favour of the former and drops the latter, so that only the
//! bytes can tell that the client may have meant something else.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A head is not looked at beyond this, which is more than is accepted.
const SEEN_MAX: usize = 64 * 1024;

/// The downstream socket with a [`HeadTap`] on what is read.
#[derive(Debug)]
pub(super) struct TappedStream {
    stream: TcpStream,
    tap: HeadTap,
}

/// What was read since the last request was taken.
#[derive(Clone, Debug, Default)]
pub(super) struct HeadTap(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    bytes: Vec<u8>,
    /// A request is being served: what is read is its body.
    is_body: bool,
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

impl TappedStream {
    pub(super) fn new(stream: TcpStream, tap: HeadTap) -> Self {
        Self { stream, tap }
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
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if read.is_ready() {
            this.tap.record(&buffer.filled()[before..]);
        }
        read
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
