//! A TCP server of our own in a namespace, for what no real server does on request.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;

use crate::{Netns, uninterrupted};

#[derive(Debug)]
pub struct Origin {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    wake: std::os::fd::OwnedFd,
}

#[derive(Debug, Default)]
struct Shared {
    stopped: AtomicBool,
    connections: AtomicUsize,
    peers: Mutex<Vec<SocketAddr>>,
    errors: Mutex<Vec<String>>,
}

impl Origin {
    pub fn start(
        netns: &Netns,
        address: SocketAddr,
        serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let listener = netns
            .enter(|| TcpListener::bind(address))?
            .with_context(|| format!("cannot listen on {address}"))?;
        let wake = listener.try_clone().context("cannot share the listener")?.into();
        let shared = Arc::new(Shared::default());
        let state = Arc::clone(&shared);
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            while let Ok((socket, peer)) = listener.accept() {
                if state.stopped.load(Ordering::Relaxed) {
                    break;
                }
                state.connections.fetch_add(1, Ordering::Relaxed);
                state.peers.lock().unwrap_or_else(PoisonError::into_inner).push(peer);
                let (serve, state) = (Arc::clone(&serve), Arc::clone(&state));
                std::thread::spawn(move || {
                    if let Err(error) = serve(socket) {
                        let mut errors = state.errors.lock().unwrap_or_else(PoisonError::into_inner);
                        errors.push(error.to_string());
                    }
                });
            }
        });
        Ok(Self { address, shared, wake })
    }

    /// The name that DNS gives this server.
    pub fn name(&self) -> String {
        format!("ip-{}.ip.test", self.address.ip().to_string().replace('.', "-"))
    }

    /// A ServiceEntry for it.
    pub fn service_entry(&self, protocol: &str) -> String {
        let (name, port) = (self.name(), self.address.port());
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: origin-{port}}}\n\
             spec:\n  hosts: [{name}]\n  ports: [{{number: {port}, name: p, protocol: {protocol}}}]\n  \
             resolution: DNS\n"
        )
    }

    /// `http://` and where it is.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}:{}{path}", self.name(), self.address.port())
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// From where they came.
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.shared.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What went wrong while serving, in the words of the system.
    pub fn errors(&self) -> Vec<String> {
        self.shared.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // shutdown(2) on a listening socket ends its accept.
        if let Err(error) = rustix::net::shutdown(&self.wake, rustix::net::Shutdown::Both) {
            eprintln!("cannot stop the server at {}: {error}", self.address);
        }
    }
}

/// The value of a header in a head.
pub fn header<'head>(head: &'head str, name: &str) -> Option<&'head str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(have, _)| have.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

/// What Content-Length says; 0 when there is none.
pub fn content_length(head: &str) -> usize {
    header(head, "content-length").and_then(|value| value.parse().ok()).unwrap_or_default()
}

/// Answers every request of a connection with its head.
pub fn echo_heads(mut socket: TcpStream) -> io::Result<()> {
    loop {
        let head = read_head(&mut socket)?;
        if head.is_empty() {
            return Ok(());
        }
        let mut body = vec![0; content_length(&head)];
        socket.read_exact(&mut body)?;
        write!(socket, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len())?;
    }
}

/// Reads an HTTP/1 head, up to and with the empty line. Nothing after it is taken from the socket.
pub fn read_head(socket: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if uninterrupted(|| socket.read(&mut byte))? == 0 {
            if head.is_empty() {
                return Ok(String::new());
            }
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the head ended early"));
        }
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
