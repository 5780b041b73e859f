//! Starts the server on a thread of its own: what is shown may be large, and nobody waits for it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;

use super::{Admin, ListenError, Listener, serve};

/// Serves from now on.
///
/// # Errors
/// When a socket or an address can't be had at all.
pub fn start(admin: Admin, socket: Option<PathBuf>, address: Option<SocketAddr>) -> anyhow::Result<()> {
    let (started, outcome) = std::sync::mpsc::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("admin".into()).spawn(move || {
        runtime.block_on(async move {
            let listeners = match listeners(socket.as_deref(), address).await {
                Ok(listeners) => listeners,
                Err(error) => return drop(started.send(Err(error))),
            };
            drop(started.send(Ok(())));
            let error = serve(admin, listeners).await;
            tracing::error!("nobody answers on the admin sockets any more: {error}");
        });
    })?;
    Ok(outcome.recv()??)
}

async fn listeners(socket: Option<&Path>, address: Option<SocketAddr>) -> Result<Vec<Listener>, ListenError> {
    let mut listeners = Vec::new();
    if let Some(socket) = socket {
        listeners.push(Listener::unix(socket)?);
    }
    if let Some(address) = address {
        listeners.push(Listener::tcp(address).await?);
    }
    Ok(listeners)
}
