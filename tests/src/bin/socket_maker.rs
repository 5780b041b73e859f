//! Makes sockets for a test that must not move itself: a socket belongs for good to the cgroup and the network
//! namespace it was made in, whoever uses it afterwards. Started in the cgroup, with the namespace's file as its
//! argument and a SOCK_SEQPACKET socket as standard input; ends when that closes.
//!
//! `socket DOMAIN TYPE PROTOCOL` and `listeners SPREAD_V4 PORTS_V6` are answered with `ok …` and descriptors, or
//! with `error …`.

use std::{
    fs::File,
    io::IoSlice,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use anyhow::{Context, bail};
use interceptor_user::datapath::Listeners;
use rustix::{
    net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// More than the kernel lets one message carry.
const DESCRIPTORS_MAX: usize = 253;

fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).context("expected the file of a network namespace")?;
    let netns = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("cannot enter {path}"))?;
    let mut buffer = [0_u8; 64];
    loop {
        let (length, _) =
            recv(std::io::stdin(), &mut buffer, RecvFlags::empty()).context("cannot read requests")?;
        if length == 0 {
            return Ok(());
        }
        let request = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        match answer(&request) {
            Ok((text, sockets)) => reply(&text, &sockets)?,
            Err(error) => reply(&format!("error {error:#}"), &[])?,
        }
    }
}

fn answer(request: &str) -> anyhow::Result<(String, Vec<OwnedFd>)> {
    let words: Vec<&str> = request.split(' ').collect();
    match words.as_slice() {
        ["socket", domain, kind, protocol] => {
            let (domain, kind): (i32, i32) = (domain.parse()?, kind.parse()?);
            let protocol: i32 = protocol.parse()?;
            let socket = socket2::Socket::new(domain.into(), kind.into(), Some(protocol.into()))?;
            Ok(("ok".to_owned(), vec![socket.into()]))
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
