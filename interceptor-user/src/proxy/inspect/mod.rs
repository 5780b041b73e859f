//! Decides what a connection speaks from its first bytes, and leaves them in the socket: whoever carries
//! the connection on reads it from byte 0.
//!
//! It decides as soon as the bytes allow and waits for more only while they are the beginning of TLS or
//! HTTP. It has no timeout of its own: a client whose server speaks first sends nothing, and the caller
//! knows how long to wait for whom.

mod client_hello;
mod http;

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::net::{RecvFlags, recv};
use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;

pub use client_hello::ClientHello;

/// How much is looked at. What is longer is decided by its beginning.
const PEEK_MAX: usize = 16 << 10;

/// What a client speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tls(ClientHello),
    /// HTTP/1.0 and HTTP/1.1.
    Http1 {
        minor: u8,
    },
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Anything else, HTTP/0.9 and broken TLS included.
    Opaque,
}

impl Protocol {
    /// The SNI.
    pub(crate) fn server_name(self) -> Option<Arc<str>> {
        match self {
            Self::Tls(hello) => hello.sni,
            Self::Http1 { .. } | Self::Http2 | Self::Opaque => None,
        }
    }
}

/// What a parser knows from the bytes it was given. More bytes change `Incomplete` only.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Parsed<T> {
    Complete(T),
    Incomplete,
    Unrecognised,
}

/// Waits until the first bytes tell what the client speaks; `None` when it closed without sending any.
///
/// Cancel-safe: a stream with bytes in it is ready for reading afterwards, whether they were enough or
/// not. A client that closes its side in the middle of a ClientHello or request line is opaque.
///
/// # Errors
/// The socket's: the connection was reset. No descriptor left, when the bytes come in pieces.
pub async fn inspect(stream: &TcpStream) -> io::Result<Option<Protocol>> {
    loop {
        let ready = stream.ready(FIRST_BYTES).await?;
        match stream.try_io(Interest::READABLE, || look(stream, ready)) {
            Ok(Look::Decided(protocol)) => return Ok(protocol),
            Ok(Look::Undecided) => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    // The bytes come in pieces. Waiting for the next one clears the readiness while there are bytes to
    // read; the stream's must stand for whoever reads them, so that a duplicate is waited on.
    let watcher = TcpStream::from_std(stream.as_fd().try_clone_to_owned()?.into())?;
    loop {
        let ready = watcher.ready(FIRST_BYTES).await?;
        let looked = watcher.try_io(Interest::READABLE, || match look(&watcher, ready)? {
            Look::Decided(protocol) => Ok(protocol),
            Look::Undecided => Err(io::ErrorKind::WouldBlock.into()),
        });
        match looked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            decided => return decided,
        }
    }
}

/// What a client has said so far.
#[derive(Debug)]
pub enum Heard {
    Nothing,
    /// Not enough to tell what it speaks.
    Something,
    Enough(Protocol),
}

/// As [`inspect`], without waiting for anything.
pub fn hear(stream: &TcpStream) -> Heard {
    match look(stream, Ready::EMPTY) {
        Ok(Look::Decided(Some(protocol))) => Heard::Enough(protocol),
        Ok(Look::Undecided) => Heard::Something,
        // An error is met again by whoever reads.
        Ok(Look::Decided(None)) | Err(_) => Heard::Nothing,
    }
}

const FIRST_BYTES: Interest = Interest::READABLE.add(Interest::ERROR);

enum Look {
    Decided(Option<Protocol>),
    Undecided,
}

/// Peeks once. `ready` is from before: all bytes before the end are in the socket once the end is known.
fn look(stream: &TcpStream, ready: Ready) -> io::Result<Look> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); PEEK_MAX];
    let ((bytes, _), _) = recv(stream, &mut buffer[..], RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
    if bytes.is_empty() {
        return Ok(Look::Decided(None));
    }
    match decide(bytes) {
        Some(protocol) => Ok(Look::Decided(Some(protocol))),
        // Linux hands out what arrived before a reset, so that peeking alone never sees it.
        None if ready.is_error() => Err(io::ErrorKind::ConnectionReset.into()),
        None if ready.is_read_closed() => Ok(Look::Decided(Some(Protocol::Opaque))),
        None => Ok(Look::Undecided),
    }
}

/// `None` while more bytes are needed.
fn decide(bytes: &[u8]) -> Option<Protocol> {
    match client_hello::parse(bytes, PEEK_MAX) {
        Parsed::Complete(hello) => return Some(Protocol::Tls(hello)),
        Parsed::Incomplete => return None,
        Parsed::Unrecognised => {}
    }
    match http::parse(bytes) {
        Parsed::Complete(protocol) => Some(protocol),
        Parsed::Incomplete => None,
        Parsed::Unrecognised => Some(Protocol::Opaque),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use tokio::io::Interest;

    use super::{Protocol, inspect};

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (server, _) = listener.accept().await.unwrap();
        (client, server)
    }

    /// Polls `inspect` until it would wait with all `sent` bytes in the socket.
    async fn assert_waits(server: &TcpStream, sent: usize) {
        let mut buffer = [0; 64];
        while server.peek(&mut buffer).await.unwrap() < sent {
            tokio::task::yield_now().await;
        }
        let waiting = tokio::time::timeout(Duration::from_millis(2), inspect(server)).await;
        assert!(waiting.is_err(), "decided {waiting:?} after {sent} bytes");
    }

    #[tokio::test]
    async fn the_bytes_stay_in_the_socket() {
        let (mut client, mut server) = connected().await;
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        client.write_all(request).await.unwrap();
        assert_eq!(inspect(&server).await.unwrap(), Some(Protocol::Http1 { minor: 1 }));
        let mut received = vec![0; request.len()];
        server.read_exact(&mut received).await.unwrap();
        assert_eq!(received, request);
    }

    #[tokio::test]
    async fn it_waits_for_the_bytes_it_needs_and_survives_being_cancelled() {
        let (mut client, server) = connected().await;
        let line = b"GET / HTTP/1.0\r";
        for (index, byte) in line.iter().enumerate() {
            if index > 0 {
                assert_waits(&server, index).await;
                // whoever gives up waiting can read them
                assert!(server.try_io(Interest::READABLE, || Ok(true)).unwrap());
            }
            client.write_all(&[*byte]).await.unwrap();
        }
        assert_eq!(inspect(&server).await.unwrap(), Some(Protocol::Http1 { minor: 0 }));
    }

    #[tokio::test]
    async fn it_sleeps_while_it_waits() {
        let (mut client, server) = connected().await;
        client.write_all(b"GET /").await.unwrap();
        let mut polls = 0;
        let mut inspecting = Box::pin(inspect(&server));
        let counted = std::future::poll_fn(|context| {
            polls += 1;
            inspecting.as_mut().poll(context)
        });
        let waiting = tokio::time::timeout(Duration::from_millis(100), counted).await;
        assert!(waiting.is_err());
        assert!(polls < 10, "polled {polls} times");
    }

    #[tokio::test]
    async fn a_client_that_sends_nothing_and_closes() {
        let (client, server) = connected().await;
        drop(client);
        assert_eq!(inspect(&server).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_client_that_closes_in_the_middle() {
        for beginning in [&b"GET / HT"[..], b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/2.0\r\n"] {
            // all at once
            let (mut client, server) = connected().await;
            client.write_all(beginning).await.unwrap();
            client.shutdown().await.unwrap();
            assert_eq!(inspect(&server).await.unwrap(), Some(Protocol::Opaque));
            // while it is being waited for
            let (mut client, server) = connected().await;
            client.write_all(beginning).await.unwrap();
            assert_waits(&server, beginning.len()).await;
            let (decided, closed) = tokio::join!(inspect(&server), client.shutdown());
            closed.unwrap();
            assert_eq!(decided.unwrap(), Some(Protocol::Opaque));
        }
    }

    #[tokio::test]
    async fn a_client_that_resets() {
        let (mut client, server) = connected().await;
        client.write_all(b"GET /").await.unwrap();
        assert_waits(&server, 5).await;
        client.set_zero_linger().unwrap();
        drop(client);
        assert_eq!(inspect(&server).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn other_protocols_are_decided_by_their_first_byte() {
        for byte in [0, b'*', b'a', 0x15, 0x17, 0x80, 0xff] {
            let (mut client, server) = connected().await;
            client.write_all(&[byte]).await.unwrap();
            assert_eq!(inspect(&server).await.unwrap(), Some(Protocol::Opaque), "{byte:#x}");
        }
    }
}
