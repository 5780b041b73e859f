//! A small API server that speaks Kubernetes' protocol over plain HTTP on loopback: discovery, lists in pages, watches
//! with bookmarks and streaming lists, Events; and whatever a real one does on a bad day. Tests put objects in and reach it
//! by a kubeconfig, as anybody would.

mod answer;
mod discovery;
mod faults;
mod objects;
mod request;
mod watch;

use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;

use crate::Dir;
pub use faults::{Fault, StreamingLists};
use objects::Objects;

/// Dropped: it is gone, with every connection.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    dir: Dir,
    kubeconfig: PathBuf,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    objects: Objects,
    faults: faults::Faults,
    listener: Option<TcpListener>,
    /// Sockets of connections, by number, and whether a watch is open on them.
    connections: HashMap<u64, (TcpStream, bool)>,
    connections_seen: u64,
    /// What was asked for: `GET /api/v1/services?watch=true&…`.
    requests: Vec<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change until `until`.
    fn wait<'a>(&self, state: MutexGuard<'a, State>, until: Instant) -> MutexGuard<'a, State> {
        let patience = until.saturating_duration_since(Instant::now());
        self.changed.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl ApiServer {
    /// With every CRD of Istio's, in every version.
    pub fn start() -> anyhow::Result<Self> {
        let dir = Dir::new()?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot listen")?;
        let address = listener.local_addr().context("a listener without an address")?;
        let kubeconfig = dir.write(
            "kubeconfig",
            format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
                 clusters: [{{name: test, cluster: {{server: 'http://{address}'}}}}]\n\
                 users: [{{name: test, user: {{}}}}]\n\
                 contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n"
            ),
        )?;
        let server = Self { shared: Arc::default(), address, dir, kubeconfig };
        server.serve(listener)?;
        Ok(server)
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A directory that goes with the server.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Puts the objects of a YAML text in, as `kubectl apply` does.
    pub fn apply(&self, yaml: &str) -> anyhow::Result<()> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).context("not YAML")?;
        self.put(documents)
    }

    /// As [`Self::apply`], for many.
    pub fn put(&self, objects: impl IntoIterator<Item = Value>) -> anyhow::Result<()> {
        let mut state = self.shared.lock();
        for object in objects {
            state.objects.apply(object)?;
        }
        drop(state);
        self.shared.changed.notify_all();
        Ok(())
    }

    /// `delete("serviceentries", "shop", "e")`; the namespace of what has none is empty.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) -> anyhow::Result<()> {
        self.shared.lock().objects.delete(plural, namespace, name)?;
        self.shared.changed.notify_all();
        Ok(())
    }

    /// The objects of a kind as they are now.
    pub fn objects(&self, plural: &str) -> Vec<Value> {
        self.shared.lock().objects.of_kind(plural).cloned().collect()
    }

    /// The versions in which a kind of Istio's is served; none takes the CRD away, with all its objects.
    pub fn serve_versions(&self, plural: &str, versions: &[&str]) {
        self.shared.lock().objects.serve_versions(plural, versions);
        self.shared.changed.notify_all();
    }

    /// What was asked for so far.
    pub fn requests(&self) -> Vec<String> {
        self.shared.lock().requests.clone()
    }

    /// How many watches of a kind are open.
    pub fn open_watches(&self, plural: &str) -> usize {
        self.shared.lock().faults.open_watches.get(plural).copied().unwrap_or_default()
    }

    fn serve(&self, listener: TcpListener) -> anyhow::Result<()> {
        let shared = Arc::clone(&self.shared);
        let accepting = listener.try_clone().context("cannot share the listener")?;
        self.shared.lock().listener = Some(listener);
        std::thread::spawn(move || {
            while let Ok((socket, _)) = accepting.accept() {
                let mut state = shared.lock();
                if state.listener.is_none() {
                    break;
                }
                state.connections_seen += 1;
                let number = state.connections_seen;
                let Ok(other) = socket.try_clone() else { continue };
                state.connections.insert(number, (other, false));
                drop(state);
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    // Whoever hangs up has a reason.
                    let _served = answer::serve(&shared, number, socket).is_ok();
                    shared.lock().connections.remove(&number);
                });
            }
        });
        Ok(())
    }

    /// Refuses new connections and closes idle ones. Open watches stay, and say nothing more: so does a server that was
    /// told to stop.
    pub fn terminate(&self) {
        let mut state = self.shared.lock();
        state.stop_listening();
        state.faults.silent_until = state.connections_seen;
        state.close_connections(false);
    }

    /// Away at once, with every connection.
    pub fn kill(&self) {
        let mut state = self.shared.lock();
        state.stop_listening();
        state.close_connections(true);
    }

    /// Listens again, at the same address, with the same objects.
    pub fn restart(&self) -> anyhow::Result<()> {
        let listener = crate::wait_for("the address is free again", Duration::from_secs(30), || {
            TcpListener::bind(self.address).ok()
        })?;
        self.serve(listener)
    }

    /// Cuts every watch that is open, as proxies in between do.
    pub fn drop_watches(&self) {
        let state = self.shared.lock();
        for (socket, is_watch) in state.connections.values() {
            if *is_watch {
                // It may have gone by itself.
                let _closed = socket.shutdown(Shutdown::Both).is_ok();
            }
        }
    }
}

impl State {
    fn stop_listening(&mut self) {
        if let Some(listener) = self.listener.take()
            && let Err(error) = rustix::net::shutdown(&listener, rustix::net::Shutdown::Both)
        {
            eprintln!("cannot stop listening: {error}");
        }
    }

    fn close_connections(&mut self, with_watches: bool) {
        for (socket, is_watch) in self.connections.values() {
            if with_watches || !is_watch {
                // It may have gone by itself.
                let _closed = socket.shutdown(Shutdown::Both).is_ok();
            }
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.kill();
        self.shared.changed.notify_all();
    }
}
