//! Stands between a client's socket and hyper, for what hyper does not tell.
//!
//! It tells a client that has finished sending from one that is gone: hyper can take either for the other, but not tell
//! them apart.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::head_limit::HeadLimit;
use super::peer;
use super::tap::HeadTap;
use crate::proxy::maybe_tls::ClientIo;

/// How often a client that only listens is looked for.
const LISTENER_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The downstream socket with a [`HeadTap`] on what is read, which gets the socket back in the end.
#[derive(Debug)]
pub(super) struct TappedStream {
    /// Until an upgrade takes it.
    stream: Option<ClientIo>,
    tap: HeadTap,
    head_limit: HeadLimit,
    /// Runs while the client has finished sending and waits for its answer.
    check: Option<Pin<Box<Sleep>>>,
    /// Who waits for the client's end meanwhile.
    end_waits: Option<Waker>,
}

impl TappedStream {
    pub(super) fn new(stream: ClientIo, tap: HeadTap, head_limit: HeadLimit) -> Self {
        Self { stream: Some(stream), tap, head_limit, check: None, end_waits: None }
    }

    /// The stream, which an upgrade carries on with.
    pub(super) fn take(&mut self) -> Option<ClientIo> {
        self.stream.take()
    }

    fn stream(&mut self) -> io::Result<Pin<&mut ClientIo>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// The client sends no more. Ready when that is the end; pending while it waits for an answer, or for the
    /// rest of one: hyper breaks off what it has not written when it reads an end.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.tap.is_answering() && !self.tap.is_unflushed() {
            return Poll::Ready(());
        }
        // hyper looks for the end first: what has come is begun all the same, as with Envoy.
        if self.tap.is_unbegun() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.end_waits = Some(cx.waker().clone());
        if let Some(check) = &mut self.check {
            ready!(check.as_mut().poll(cx));
        }
        let socket = self.stream.as_ref().map(ClientIo::socket);
        let (Some(Ok(client)), Some(Ok(server))) =
            (socket.map(TcpStream::peer_addr), socket.map(TcpStream::local_addr))
        else {
            return Poll::Ready(());
        };
        if !peer::holds_connection(self.tap.netns(), client, server) {
            return Poll::Ready(());
        }
        let mut check = Box::pin(tokio::time::sleep(LISTENER_CHECK_INTERVAL));
        let pending = check.as_mut().poll(cx);
        self.check = Some(check);
        pending
    }
}

impl Drop for TappedStream {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.tap.give_back(stream);
        }
    }
}

impl AsyncRead for TappedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let Poll::Ready(read) = this.stream()?.poll_read(cx, buffer) else {
            return this.head_limit.poll(this.tap.begun_head(), cx).map(Err);
        };
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
        let this = self.get_mut();
        this.tap.set_unflushed(true);
        if this.tap.ends_with_what_is_written() {
            return this.stream()?.get_mut().poll_write_last(cx, &[io::IoSlice::new(bytes)]);
        }
        this.stream()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.tap.set_unflushed(true);
        if this.tap.ends_with_what_is_written() {
            return this.stream()?.get_mut().poll_write_last(cx, slices);
        }
        this.stream()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(ClientIo::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = ready!(this.stream()?.poll_flush(cx));
        this.tap.set_unflushed(false);
        if let Some(waits) = this.end_waits.take() {
            waits.wake();
        }
        Poll::Ready(flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // The end of TLS is written, too: until it is, the connection is not idle.
        this.tap.set_unflushed(true);
        this.stream()?.poll_shutdown(cx)
    }
}
