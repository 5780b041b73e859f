//! Makes sockets for a test that must not move itself: a socket belongs for good to the cgroup and the network
//! namespace it was made in, whoever uses it afterwards. Started in the cgroup, with the namespace's file as its
//! argument and a SOCK_SEQPACKET socket as standard input; ends when that closes.
//!
//! `sockets DOMAIN TYPE PROTOCOL COUNT` and `listeners SPREAD_V4 PORTS_V6` are answered with `ok …` and descriptors, or
//! with `error …`. `connect ADDRESS` calls connect(2) here, without waiting, for tests of who calls it, and answers with
//! the errno. `hold` keeps the descriptors that come with it, for tests with more of them than one process may
//! have.

use std::{
    fs::File,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use anyhow::{Context, bail};
use interceptor_user::datapath::Listeners;
use rustix::{
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recvmsg, sendmsg,
    },
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use socket2::{Domain, Type};

/// More than the kernel lets one message carry.
const DESCRIPTORS_MAX: usize = 253;

fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).context("expected the file of a network namespace")?;
    let netns = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("cannot enter {path}"))?;
    raise_descriptor_limit()?;
    let mut held = Vec::new();
    loop {
        let (request, came_with_it) = receive()?;
        if request.is_empty() {
            return Ok(());
        }
        held.extend(came_with_it);
        match answer(&request) {
            Ok((text, sockets)) => reply(&text, &sockets)?,
            Err(error) => reply(&format!("error {error:#}"), &[])?,
        }
    }
}

fn raise_descriptor_limit() -> anyhow::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).context("cannot raise RLIMIT_NOFILE")
}

fn receive() -> anyhow::Result<(String, Vec<OwnedFd>)> {
    let mut text = [0_u8; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let channel = std::io::stdin();
    let received =
        recvmsg(&channel, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)
            .context("cannot read requests")?;
    let mut sockets = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            sockets.extend(descriptors);
        }
    }
    let text = text.get(..received.bytes).unwrap_or_default();
    Ok((String::from_utf8_lossy(text).into_owned(), sockets))
}

fn answer(request: &str) -> anyhow::Result<(String, Vec<OwnedFd>)> {
    let words: Vec<&str> = request.split(' ').collect();
    match words.as_slice() {
        ["hold"] => Ok(("ok".to_owned(), Vec::new())),
        ["sockets", domain, kind, protocol, count] => {
            let (domain, kind, protocol): (i32, i32, i32) =
                (domain.parse()?, kind.parse()?, protocol.parse()?);
            let make = |_| socket2::Socket::new(domain.into(), kind.into(), Some(protocol.into()));
            let sockets: Result<Vec<_>, _> = (0..count.parse::<usize>()?).map(make).collect();
            Ok(("ok".to_owned(), sockets?.into_iter().map(OwnedFd::from).collect()))
        }
        ["connect", address] => {
            let address: SocketAddr = address.parse()?;
            let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            let errno = match socket.connect(&address.into()) {
                Ok(()) => 0,
                Err(error) => error.raw_os_error().context("connect(2) failed without an errno")?,
            };
            Ok((format!("ok {errno}"), Vec::new()))
        }
        ["listeners", spread_v4, ports_v6] => {
            let opened = Listeners::open(spread_v4.parse()?, ports_v6.parse()?)?;
            let mut sockets = vec![OwnedFd::from(opened.v4)];
            sockets.extend(opened.v6.into_iter().map(OwnedFd::from));
            let at = opened.listener;
            Ok((format!("ok {} {} {}", at.port, at.spread_v4, at.ports_v6), sockets))
        }
        _ => bail!("unknown request {request:?}"),
    }
}

fn reply(text: &str, sockets: &[OwnedFd]) -> anyhow::Result<()> {
    let borrowed: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        bail!("too many sockets for one message");
    }
    sendmsg(std::io::stdin(), &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::empty())?;
    Ok(())
}
