//! The test bed: a namespace, a workload's cgroup, a proxy's cgroup, the datapath between them, and the proxy's
//! listeners. Sockets are made by a process in the right cgroup and handed over, so that one test thread holds both
//! ends of every connection.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    time::Duration,
};

use anyhow::{Context, bail};
use interceptor_common::verdict::Reason;
use interceptor_tests::{BpfFs, Cgroup, Netns};
use interceptor_user::{
    datapath::{Besides, Datapath, Listener, OriginalDst, OriginalDstReader, netns_cookie},
    workload::RedirectPolicy,
};
use socket2::{Domain, Socket};

use crate::maker::SocketMaker;

pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
pub(crate) const SPREAD_V4: u16 = 8;
pub(crate) const PORTS_V6: u16 = 8;

/// The namespace's way out, which leads nowhere.
pub(crate) const DEVICE: &str = "out0";
/// The namespace's own addresses.
pub(crate) const OWN_V4: &str = "10.77.0.1";
pub(crate) const OWN_V6: &str = "fd77::1";

pub(crate) struct Bed {
    pub(crate) netns: Netns,
    pub(crate) workload: SocketMaker,
    pub(crate) proxy: SocketMaker,
    pub(crate) datapath: Datapath,
    pub(crate) listener: Listener,
    pub(crate) listeners: Vec<TcpListener>,
    pub(crate) reader: OriginalDstReader,
    pub(crate) cookie: u64,
    pub(crate) policy: u32,
    pub(crate) workload_cgroup: Cgroup,
    pub(crate) proxy_cgroup: Cgroup,
    /// Where the datapath is pinned, if it is.
    pub(crate) pins: Option<BpfFs>,
}

impl Bed {
    /// Everything redirected, but loopback and the namespace's own addresses.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Self::with(&RedirectPolicy::default())
    }

    pub(crate) fn with(policy: &RedirectPolicy) -> anyhow::Result<Self> {
        Self::build(policy, Datapath::load()?, None)
    }

    /// With the pod's hooks and the maps pinned, as an agent has them.
    pub(crate) fn pinned(policy: &RedirectPolicy) -> anyhow::Result<Self> {
        let pins = BpfFs::new()?;
        Self::build(policy, Datapath::open(&pins.pins())?, Some(pins))
    }

    fn build(policy: &RedirectPolicy, mut datapath: Datapath, pins: Option<BpfFs>) -> anyhow::Result<Self> {
        let netns = Netns::new()?;
        netns.ip(&format!(
            "link add {DEVICE} type veth peer name {DEVICE}-peer\nlink set {DEVICE} up\n\
             link set {DEVICE}-peer up\naddr add {OWN_V4}/24 dev {DEVICE}\n\
             addr add {OWN_V6}/64 dev {DEVICE} nodad\nroute add default dev {DEVICE}\n\
             route add ::/0 dev {DEVICE}\n"
        ))?;
        let (workload_cgroup, proxy_cgroup) = (Cgroup::new()?, Cgroup::new()?);
        if pins.is_some() {
            datapath.attach_pod(workload_cgroup.open()?, Besides::default())?;
            datapath.attach_listener(proxy_cgroup.open()?)?;
        } else {
            datapath.attach_workload(workload_cgroup.open()?)?;
            datapath.attach_original_dst(proxy_cgroup.open()?)?;
        }
        let workload = SocketMaker::new(&workload_cgroup, &netns)?;
        let proxy = SocketMaker::new(&proxy_cgroup, &netns)?;
        let (listener, listeners) = proxy.listeners()?;
        let cookie = netns.enter(netns_cookie)??;
        let policy = datapath.enroll(cookie, policy, &own_addresses(), listener)?;
        let reader = datapath.original_dst_reader();
        Ok(Self {
            netns,
            workload,
            proxy,
            datapath,
            listener,
            listeners,
            reader,
            cookie,
            policy,
            workload_cgroup,
            proxy_cgroup,
            pins,
        })
    }

    /// A workload's TCP socket of the address's family.
    pub(crate) fn tcp_for(&self, to: SocketAddr) -> anyhow::Result<Socket> {
        self.workload.tcp(Domain::for_address(to))
    }

    pub(crate) fn connect(&self, to: &str) -> anyhow::Result<Socket> {
        let to: SocketAddr = to.parse()?;
        let socket = self.tcp_for(to)?;
        socket.connect_timeout(&to.into(), DEADLINE).with_context(|| format!("connect to {to}"))?;
        Ok(socket)
    }

    /// connect(2) without waiting: whether it got as far as a SYN.
    pub(crate) fn start_connect(&self, to: &str) -> anyhow::Result<Socket> {
        let to: SocketAddr = to.parse()?;
        let socket = self.tcp_for(to)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error.into()),
            _ => Ok(socket),
        }
    }

    /// A server inside the namespace that is no listener of the proxy, at `at`.
    pub(crate) fn server(&self, at: &str) -> anyhow::Result<TcpListener> {
        let at: SocketAddr = at.parse()?;
        let socket = self.proxy.tcp(Domain::for_address(at))?;
        socket.bind(&at.into())?;
        socket.listen(16)?;
        Ok(socket.into())
    }

    /// The proxy dies. Closing alone would not do: for a moment a process that another test starts holds a copy.
    pub(crate) fn stop_listening(&mut self) -> anyhow::Result<()> {
        for listener in self.listeners.drain(..) {
            Socket::from(listener).shutdown(std::net::Shutdown::Both)?;
        }
        Ok(())
    }

    /// What connect(2) fails with.
    pub(crate) fn connect_error(&self, to: &str) -> anyhow::Result<std::io::Error> {
        let to: SocketAddr = to.parse()?;
        let socket = self.tcp_for(to)?;
        match socket.connect_timeout(&to.into(), DEADLINE) {
            Ok(()) => bail!("connect to {to} succeeded"),
            Err(error) => Ok(error),
        }
    }

    /// The next connection at any of the proxy's sockets, and where it was going.
    pub(crate) fn accept(&self) -> anyhow::Result<(TcpStream, Option<OriginalDst>)> {
        let stream = interceptor_tests::wait_for("a connection at the proxy", DEADLINE, || {
            self.listeners.iter().find_map(|listener| listener.accept().ok()).map(|(stream, _)| stream)
        })?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let original = self.reader.get(stream.as_fd())?;
        Ok((stream, original))
    }

    /// Whether nothing waits at the proxy.
    pub(crate) fn nothing_to_accept(&self) -> bool {
        self.listeners.iter().all(|listener| listener.accept().is_err())
    }

    /// Checks that `socket`'s connection reached the proxy, with the destination it asked for, and carries bytes.
    pub(crate) fn expect_redirected(&self, socket: &Socket, asked: &str) -> anyhow::Result<TcpStream> {
        let (mut stream, original) = self.accept()?;
        let original = original.context("the accepted connection has no original destination")?;
        let expected = OriginalDst { addr: asked.parse()?, cookie: self.cookie, policy: self.policy };
        assert_eq!(original, expected);
        let mut client = socket;
        client.write_all(b"ping")?;
        let mut received = [0_u8; 4];
        stream.read_exact(&mut received)?;
        assert_eq!(&received, b"ping");
        Ok(stream)
    }

    pub(crate) fn count(&self, reason: Reason) -> anyhow::Result<u64> {
        let counters = self.datapath.counters()?;
        Ok(counters.iter().filter(|counter| counter.reason == reason).map(|counter| counter.count).sum())
    }
}

pub(crate) fn own_addresses() -> Vec<IpAddr> {
    [OWN_V4, OWN_V6].iter().map(|text| text.parse().expect("a literal address")).collect()
}
