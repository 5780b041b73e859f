//! The sockets that a gateway listens on, kept as the snapshot wants them. What is new is opened before the snapshot is in
//! force, what is gone is drained after: no connection meets a configuration that does not know its port.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::proxy::{Configured, Intercepted, Peers, ProxiedWorkload, Proxy, Shares, WorkloadId};
use crate::settings::GatewaySettings;
use crate::snapshot::Snapshot;
use crate::workload::SourceWorkload;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

pub(super) struct Listeners {
    pub(super) proxy: Proxy,
    /// Addresses that servers without `bind` listen on.
    addresses: Vec<IpAddr>,
    source: Arc<SourceWorkload>,
    drain: Duration,
    /// Of all ports' connections.
    shares: Arc<Shares>,
    peers: Arc<Peers>,
    /// From the first snapshot on.
    configured: Option<Configured>,
    wanted: BTreeSet<SocketAddr>,
    open: BTreeMap<SocketAddr, Open>,
    /// Why others are not open: one sentence each, told when it comes up.
    failed: BTreeMap<SocketAddr, String>,
}

/// A port that is served.
#[derive(Debug)]
struct Open {
    workload: WorkloadId,
    /// The same socket as the workload's.
    socket: Socket,
}

impl Listeners {
    pub(super) fn new(proxy: Proxy, settings: &GatewaySettings, peers: Arc<Peers>) -> Self {
        Self {
            proxy,
            addresses: settings.listen_addresses.clone(),
            source: Arc::new(settings.source_workload()),
            drain: settings.drain,
            shares: Arc::new(Shares::new(connections_max())),
            peers,
            configured: None,
            wanted: BTreeSet::new(),
            open: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }

    /// Puts a snapshot in force.
    pub(super) fn configure(&mut self, snapshot: Snapshot) {
        let shared = snapshot.by_port.keys();
        let shared =
            shared.flat_map(|port| self.addresses.iter().map(|address| SocketAddr::new(*address, *port)));
        let own = snapshot.by_address.keys().map(|(address, port)| SocketAddr::new(*address, *port));
        self.wanted = shared.chain(own).collect();
        let opened = self.open_missing();
        match &self.configured {
            Some(configured) => configured.publish(snapshot),
            None => self.configured = Some(self.proxy.configure(snapshot)),
        }
        self.serve(opened);
        self.close_unwanted();
    }

    /// Tries again what could not be had, and what has failed since.
    pub(super) fn reconcile(&mut self) {
        let proxy = &self.proxy;
        self.open.retain(|address, open| match proxy.failure(open.workload) {
            Some(why) => {
                tracing::error!("port {address} is opened again: its socket failed ({why})");
                proxy.remove(open.workload, Duration::ZERO);
                false
            }
            None => true,
        });
        let opened = self.open_missing();
        self.serve(opened);
    }

    pub(super) fn configured(&self) -> Option<&Configured> {
        self.configured.as_ref()
    }

    /// Each that is wanted, and why it is not open if it isn't.
    pub(super) fn ports(&self) -> impl Iterator<Item = (SocketAddr, Option<&str>)> {
        self.wanted.iter().map(|address| (*address, self.failed.get(address).map(String::as_str)))
    }

    pub(super) fn into_proxy(self) -> Proxy {
        self.proxy
    }

    fn open_missing(&mut self) -> Vec<(SocketAddr, Socket)> {
        let mut opened = Vec::new();
        self.failed.retain(|address, _| self.wanted.contains(address));
        let missing = self.wanted.iter().filter(|address| !self.open.contains_key(address)).copied();
        for address in missing.collect::<Vec<_>>() {
            match self.listen(address) {
                Ok(socket) => {
                    if self.failed.remove(&address).is_some() {
                        tracing::info!("port {address} could be had now");
                    }
                    opened.push((address, socket));
                }
                // Where there is no IPv6, nobody comes by it.
                Err(error) if is_unsupported(&error) && address.ip().is_unspecified() => {
                    self.wanted.remove(&address);
                }
                Err(error) => {
                    let why = sentence(address, &error);
                    if self.failed.get(&address) != Some(&why) {
                        tracing::error!("{why}");
                    }
                    self.failed.insert(address, why);
                }
            }
        }
        opened
    }

    /// A socket that is in the way, and to be closed once this one is served, shares its port until then.
    fn listen(&self, address: SocketAddr) -> io::Result<Socket> {
        let is_in_the_way = |other: &SocketAddr| {
            other.port() == address.port()
                && other.is_ipv4() == address.is_ipv4()
                && !self.wanted.contains(other)
        };
        let in_the_way: Vec<_> = self.open.iter().filter(|(other, _)| is_in_the_way(other)).collect();
        for (_, other) in &in_the_way {
            other.socket.set_reuse_port(true)?;
        }
        listen(address, !in_the_way.is_empty())
    }

    fn serve(&mut self, opened: Vec<(SocketAddr, Socket)>) {
        let Some(configured) = &self.configured else { return };
        for (address, socket) in opened {
            let listener = match socket.try_clone() {
                Ok(listener) => TcpListener::from(listener),
                Err(error) => {
                    self.failed.insert(address, sentence(address, &error));
                    continue;
                }
            };
            let added = self.proxy.add(ProxiedWorkload {
                listeners: vec![listener],
                intercepted: Arc::new(|socket| {
                    let local = socket2::SockRef::from(&socket).local_addr()?.as_socket();
                    Ok(local.map(|original_dst| Intercepted { original_dst, source: None }))
                }),
                netns: None,
                configured: configured.clone(),
                connections_max: usize::MAX,
                room: Arc::default(),
                shares: Some(Arc::clone(&self.shares)),
                peers: Some(Arc::clone(&self.peers)),
                learned: None,
                source: Arc::clone(&self.source),
            });
            match added {
                Ok(workload) => {
                    tracing::info!("listening on {address}");
                    self.open.insert(address, Open { workload, socket });
                }
                Err(error) => drop(self.failed.insert(address, sentence(address, &error))),
            }
        }
    }

    fn close_unwanted(&mut self) {
        let (proxy, wanted, drain) = (&self.proxy, &self.wanted, self.drain);
        self.open.retain(|address, open| {
            let stays = wanted.contains(address);
            if !stays {
                tracing::info!("not listening on {address} any more");
                proxy.remove(open.workload, drain);
            }
            stays
        });
    }
}

/// IPv6 sockets take IPv6 alone: IPv4 has its own.
fn listen(address: SocketAddr, shares_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // The port is free again as soon as whoever had it has ended.
    socket.set_reuse_address(true)?;
    // Others of this user might take the same port unnoticed: only where it has to be.
    if shares_port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// What is wrong, and how to mend it.
fn sentence(address: SocketAddr, error: &io::Error) -> String {
    let mend = match error.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            "another program listens there: end it, or give one of the two another port".to_owned()
        }
        Some(libc::EACCES) => format!(
            "ports below 1024 need the capability NET_BIND_SERVICE or the sysctl net.ipv4.ip_unprivileged_port_start; or have \
             the gateway's Service translate port {} to a targetPort above",
            address.port()
        ),
        Some(libc::EADDRNOTAVAIL) => format!("{} is no address of this host: correct it", address.ip()),
        _ => "it is tried again".to_owned(),
    };
    format!("can't listen on {address} ({error}): {mend}")
}

/// A connection takes two descriptors, and six at most, with a pipe for each direction: a quarter of all is kept for what else
/// the gateway does.
fn connections_max() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX) / 8
}
