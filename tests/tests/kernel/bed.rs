//! The test bed: a namespace, a workload's cgroup, a proxy's cgroup, the datapath between them, and the proxy's
//! listeners. Sockets are made by a process in the right cgroup and handed over, so that one test thread holds both
//! ends of every connection.

use std::{
    fs,
    io::{IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use interceptor_common::verdict::Reason;
use interceptor_tests::{Cgroup, Netns};
use interceptor_user::{
    datapath::{Datapath, Listener, OriginalDst, OriginalDstReader, netns_cookie},
    workload::RedirectPolicy,
};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use socket2::{Domain, Protocol, Socket, Type};

pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
pub(crate) const SPREAD_V4: u16 = 8;
pub(crate) const PORTS_V6: u16 = 8;

/// The namespace's way out, which leads nowhere.
pub(crate) const DEVICE: &str = "out0";
/// The namespace's own addresses.
pub(crate) const OWN_V4: &str = "10.77.0.1";
pub(crate) const OWN_V6: &str = "fd77::1";

/// A process that makes sockets in one cgroup and one namespace.
pub(crate) struct SocketMaker {
    child: Child,
    channel: OwnedFd,
}

impl SocketMaker {
    pub(crate) fn new(cgroup: &Cgroup, netns: &Netns) -> anyhow::Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let child = cgroup
            .command(env!("CARGO_BIN_EXE_socket_maker"))
            .arg(netns.path())
            .stdin(Stdio::from(theirs))
            .spawn()
            .context("cannot start socket_maker")?;
        Ok(Self { child, channel: ours })
    }

    /// Moves it to another cgroup: what it makes from now on belongs there.
    pub(crate) fn move_to(&self, cgroup: &Path) -> anyhow::Result<()> {
        fs::write(cgroup.join("cgroup.procs"), self.child.id().to_string())
            .with_context(|| format!("cannot move socket_maker into {}", cgroup.display()))
    }

    fn ask(&self, request: &str) -> anyhow::Result<(String, Vec<OwnedFd>)> {
        self.ask_with(request, &[])
    }

    fn ask_with(&self, request: &str, sockets: &[BorrowedFd<'_>]) -> anyhow::Result<(String, Vec<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !sockets.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(sockets)), "too many for one message");
        }
        sendmsg(&self.channel, &[IoSlice::new(request.as_bytes())], &mut control, SendFlags::empty())?;
        let mut text = [0_u8; 512];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received =
            recvmsg(&self.channel, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let mut sockets = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                sockets.extend(descriptors);
            }
        }
        let text = String::from_utf8_lossy(&text[..received.bytes]).into_owned();
        match text.strip_prefix("ok") {
            Some(rest) => Ok((rest.trim().to_owned(), sockets)),
            None => bail!("socket_maker, asked for {request:?}: {text:?}"),
        }
    }

    pub(crate) fn socket(&self, domain: Domain, kind: Type, protocol: Protocol) -> anyhow::Result<Socket> {
        self.sockets(domain, kind, protocol, 1)?.pop().context("socket_maker sent no socket")
    }

    /// At most 253 at once: so many the kernel passes in one message.
    pub(crate) fn sockets(
        &self,
        domain: Domain,
        kind: Type,
        protocol: Protocol,
        count: usize,
    ) -> anyhow::Result<Vec<Socket>> {
        let (domain, kind, protocol) = (i32::from(domain), i32::from(kind), i32::from(protocol));
        let (_, sockets) = self.ask(&format!("sockets {domain} {kind} {protocol} {count}"))?;
        Ok(sockets.into_iter().map(Socket::from).collect())
    }

    /// Keeps sockets open until this maker is dropped, out of this process: one may have too few descriptors for
    /// both ends of many connections.
    pub(crate) fn hold(&self, sockets: &[impl AsFd]) -> anyhow::Result<()> {
        for batch in sockets.chunks(253) {
            let borrowed: Vec<BorrowedFd<'_>> = batch.iter().map(AsFd::as_fd).collect();
            self.ask_with("hold", &borrowed)?;
        }
        Ok(())
    }

    pub(crate) fn tcp(&self, domain: Domain) -> anyhow::Result<Socket> {
        self.socket(domain, Type::STREAM, Protocol::TCP)
    }

    pub(crate) fn listeners(&self) -> anyhow::Result<(Listener, Vec<TcpListener>)> {
        let (text, sockets) = self.ask(&format!("listeners {SPREAD_V4} {PORTS_V6}"))?;
        let numbers: Vec<u16> = text.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let &[port, spread_v4, ports_v6] = numbers.as_slice() else { bail!("socket_maker said {text:?}") };
        Ok((Listener { port, spread_v4, ports_v6 }, sockets.into_iter().map(TcpListener::from).collect()))
    }
}

impl Drop for SocketMaker {
    fn drop(&mut self) {
        // It ends by itself when the channel closes; its cgroup's guard kills it if it does not.
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            eprintln!("cannot end socket_maker: {error}");
        }
    }
}

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
}

impl Bed {
    /// Everything redirected, but loopback and the namespace's own addresses.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Self::with(&RedirectPolicy::default())
    }

    pub(crate) fn with(policy: &RedirectPolicy) -> anyhow::Result<Self> {
        let netns = Netns::new()?;
        netns.ip(&format!(
            "link add {DEVICE} type veth peer name {DEVICE}-peer\nlink set {DEVICE} up\n\
             link set {DEVICE}-peer up\naddr add {OWN_V4}/24 dev {DEVICE}\n\
             addr add {OWN_V6}/64 dev {DEVICE} nodad\nroute add default dev {DEVICE}\n\
             route add ::/0 dev {DEVICE}\n"
        ))?;
        let (workload_cgroup, proxy_cgroup) = (Cgroup::new()?, Cgroup::new()?);
        let mut datapath = Datapath::load()?;
        datapath.attach_workload(workload_cgroup.open()?)?;
        datapath.attach_original_dst(proxy_cgroup.open()?)?;
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
