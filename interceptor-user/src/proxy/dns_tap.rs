//! DNS over TCP on its way back to the workload: names are learned from each message (RFC 1035 §4.2.2) before its last
//! byte is handed on; no byte is changed or held back.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::names::NameKnowledge;
use crate::dns::LearnedNames;

/// The length in front of each message.
const LENGTH_BYTES: usize = 2;

/// The connection to a name server, listened in on.
#[derive(Debug)]
pub(super) struct DnsTap<'a> {
    stream: &'a mut TcpStream,
    server: SocketAddr,
    names: &'a NameKnowledge,
    learned: &'a LearnedNames,
    /// What has come of the next message, its length in front.
    message: Vec<u8>,
}

impl<'a> DnsTap<'a> {
    pub(super) fn new(
        stream: &'a mut TcpStream,
        server: SocketAddr,
        names: &'a NameKnowledge,
        learned: &'a LearnedNames,
    ) -> Self {
        Self { stream, server, names, learned, message: Vec::new() }
    }

    fn listen(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let wanted = match self.message[..] {
                [high, low, ..] => LENGTH_BYTES + usize::from(u16::from_be_bytes([high, low])),
                _ => LENGTH_BYTES,
            };
            let (now, later) = bytes.split_at(bytes.len().min(wanted.saturating_sub(self.message.len())));
            self.message.extend_from_slice(now);
            bytes = later;
            if let [high, low, message @ ..] = &self.message[..]
                && message.len() == usize::from(u16::from_be_bytes([*high, *low]))
            {
                self.learned.learn_from(message, self.server, &self.names.resolver);
                self.message.clear();
            }
        }
    }
}

impl AsyncRead for DnsTap<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut *self.stream).poll_read(context, buffer);
        if let Some(new) = buffer.filled().get(before..) {
            self.listen(new);
        }
        polled
    }
}

impl AsyncWrite for DnsTap<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(context)
    }
}
