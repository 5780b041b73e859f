//! Takes connections and bounds what they may cost: their number, the size of what they send, and their patience.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;

use super::endpoints::{self, Door, Serving};
use super::{Admin, Listener};

/// Beside ours there are CNI plugins, one for each pod that is being made.
const UNIX_CONNECTIONS_MAX: usize = 128;
const TCP_CONNECTIONS_MAX: usize = 16;
/// For a request's head; also how long a connection may idle.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// For a client to take some of what it is sent. On the socket it may be a person who looks at a screenful.
const UNIX_WRITE_WAIT_MAX: Duration = Duration::from_secs(60);
const TCP_WRITE_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long accepting pauses when the process is out of descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
const TAKEN_PAUSE: Duration = Duration::from_secs(1);
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: 38\r\n\
    connection: close\r\n\r\ntoo many connections: try again later\n";

/// Serves until a socket fails for good, and tells why. What is open is broken off when this is dropped.
pub async fn serve(admin: Admin, listeners: Vec<Listener>) -> io::Error {
    let serving = Arc::new(Serving::new(admin));
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(Arc::clone(&serving), listener));
    }
    match accepting.join_next().await {
        Some(Ok(error)) => error,
        Some(Err(error)) => io::Error::other(error),
        // Nobody is to be served.
        None => std::future::pending().await,
    }
}

async fn accept(serving: Arc<Serving>, listener: Listener) -> io::Error {
    let listener = match listener {
        Listener::Taken(address) => match wait_for(address).await {
            Ok(listener) => Listener::Tcp(listener),
            Err(error) => return error,
        },
        Listener::Unix(_) | Listener::Tcp(_) => listener,
    };
    let places = Arc::new(Semaphore::new(match listener {
        Listener::Unix(_) => UNIX_CONNECTIONS_MAX,
        Listener::Tcp(_) | Listener::Taken(_) => TCP_CONNECTIONS_MAX,
    }));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = match next(&listener).await {
            Ok(accepted) => accepted,
            Err(error) => match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                    continue;
                }
                Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP) => return error,
                // That connection's own.
                Some(_) | None => continue,
            },
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            accepted.turn_away();
            continue;
        };
        let serving = Arc::clone(&serving);
        connections.spawn(async move {
            match accepted {
                Accepted::Unix(stream) => connection(serving, Door::Unix, stream).await,
                Accepted::Tcp(stream) => connection(serving, Door::Tcp, stream).await,
            }
            drop(place);
        });
    }
}

enum Accepted {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Accepted {
    /// As far as it takes the words at once.
    fn turn_away(self) {
        let _told = match self {
            Self::Unix(stream) => stream.try_write(BUSY),
            Self::Tcp(stream) => stream.try_write(BUSY),
        }
        .is_ok();
    }
}

async fn next(listener: &Listener) -> io::Result<Accepted> {
    match listener {
        Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
        Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| Accepted::Tcp(stream)),
        Listener::Taken(_) => std::future::pending().await,
    }
}

/// Told once: agent and gateway go on without it.
async fn wait_for(address: SocketAddr) -> io::Result<TcpListener> {
    tracing::warn!(
        "the admin address {address} is in use: it is waited for, and all else goes on; --admin-address gives another one, \
         or off"
    );
    loop {
        tokio::time::sleep(TAKEN_PAUSE).await;
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            bound => return bound,
        }
    }
}

async fn connection<S>(serving: Arc<Serving>, door: Door, stream: S)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(match door {
        Door::Unix => UNIX_WRITE_WAIT_MAX,
        Door::Tcp => TCP_WRITE_WAIT_MAX,
    }));
    let service = service_fn(move |request| {
        let serving = Arc::clone(&serving);
        async move { Ok::<_, Infallible>(endpoints::answer(&serving, door, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(Box::pin(stream)), service)
        .await;
    if let Err(error) = served {
        tracing::debug!("a connection to the admin server broke: {error}");
    }
}
