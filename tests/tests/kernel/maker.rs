//! The test's side of socket_maker: sockets that belong to a cgroup and a namespace which the test itself is not in.

use std::{
    fs,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::TcpListener,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    process::{Child, Stdio},
};

use anyhow::{Context, bail};
use interceptor_tests::{Cgroup, Netns};
use interceptor_user::datapath::Listener;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::bed::{PORTS_V6, SPREAD_V4};

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
        // It moves itself first, before it answers anything.
        self.ask("hold")?;
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

    /// What connect(2) answers at once to the maker itself; 0: connected.
    pub(crate) fn connect(&self, to: &str) -> anyhow::Result<i32> {
        let (errno, _) = self.ask(&format!("connect {to}"))?;
        errno.parse().with_context(|| format!("socket_maker said {errno:?}"))
    }

    pub(crate) fn listeners(&self) -> anyhow::Result<(Listener, Vec<TcpListener>)> {
        let (text, sockets) = self.ask(&format!("listeners {SPREAD_V4} {PORTS_V6}"))?;
        let numbers: Vec<u16> = text.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let &[port, spread_v4, ports_v6] = numbers.as_slice() else { bail!("socket_maker said {text:?}") };
        let listener = Listener { port, spread_v4, ports_v6, relay_port: 0 };
        Ok((listener, sockets.into_iter().map(TcpListener::from).collect()))
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
