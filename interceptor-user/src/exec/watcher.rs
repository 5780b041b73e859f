//! A small process that outlives us: it makes our cgroups, holds the hooks in place when we are killed, until it has
//! killed the command, and removes the cgroups. In a session of its own and outside our cgroups, so that nothing meant for us hits it.

use std::ffi::OsStr;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::cgroup::Tree;
use super::signals;

pub(crate) const SUBCOMMAND: &str = "__watch";

/// Hooks are some twenty; the kernel passes up to 253 descriptors at once.
const DESCRIPTORS_MAX: usize = 64;

/// An answer's first byte, before the path of the cgroups or the reason why there are none.
const MADE: u8 = b'+';
const REFUSED: u8 = b'-';
const ANSWER_BYTES_MAX: usize = 8192;

/// Our side: the watcher acts when this is dropped or we die.
#[derive(Debug)]
pub(super) struct Watcher {
    child: Child,
    socket: OwnedFd,
}

impl Watcher {
    /// Starts it, and returns once the cgroups are there and it looks after them. To be called from the cgroup in
    /// which we were started: it stays there.
    pub(super) fn start() -> anyhow::Result<(Self, Tree)> {
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .context("can't make a socket pair")?;
        let child = Command::new("/proc/self/exe")
            .arg0("interceptor")
            .arg(SUBCOMMAND)
            .arg(std::process::id().to_string())
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()
            .context("can't start the watcher process")?;
        let watcher = Self { child, socket };
        let mut answer = [0; ANSWER_BYTES_MAX];
        let length = rustix::io::retry_on_intr(|| rustix::io::read(&watcher.socket, &mut answer))
            .context("the watcher process does not answer")?;
        match answer[..length].split_first() {
            Some((&MADE, top)) => Ok((watcher, Tree::at(OsStr::from_bytes(top).into()))),
            Some((_, reason)) => bail!("{}", String::from_utf8_lossy(reason)),
            None => bail!("the watcher process ended early"),
        }
    }

    /// Gives it its own copies of the hooks' links: a link is detached when its last descriptor closes.
    pub(super) fn hold(&self, links: &[BorrowedFd<'_>]) -> anyhow::Result<()> {
        let rights = SendAncillaryMessage::ScmRights(links);
        let mut space = vec![MaybeUninit::uninit(); rights.size()];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if links.len() > DESCRIPTORS_MAX || !control.push(rights) {
            bail!("{} links are too many for the watcher process", links.len());
        }
        sendmsg(&self.socket, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)
            .context("can't hand the hooks to the watcher process")?;
        Ok(())
    }

    /// Lets it go, after the cgroups are removed or when it shall do that for us; returns when it has ended.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        drop(self.socket);
        self.child.wait().context("can't wait for the watcher process")?;
        Ok(())
    }
}

/// Readable when the watcher has died, which it never does before us.
impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Whose cgroups they are.
    owner: u32,
}

/// The process itself: makes the cgroups, waits for the other end to go, and removes them.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    signals::block_all()?;
    rustix::process::setsid().context("can't start a session")?;
    let stdin = io::stdin();
    let tree = match Tree::make(arguments.owner) {
        Ok(tree) => tree,
        Err(error) => {
            answer(&stdin, REFUSED, format!("{error:#}").as_bytes());
            return Ok(ExitCode::FAILURE);
        }
    };
    answer(&stdin, MADE, tree.top().as_os_str().as_bytes());
    let links = receive_until_closed(stdin.as_fd());
    // Until the command is gone the hooks stay, so that it is refused rather than let through.
    tree.remove_from_outside()?;
    drop(links);
    Ok(ExitCode::SUCCESS)
}

/// Nobody to answer any more is nothing to stop for: the next read finds out.
fn answer(socket: &impl AsFd, kind: u8, text: &[u8]) {
    let text = &text[..text.len().min(ANSWER_BYTES_MAX - 1)];
    let _sent = rustix::io::write(socket, &[&[kind], text].concat()).is_ok();
}

/// Every descriptor the other side sends, once it has closed the socket or died.
fn receive_until_closed(socket: BorrowedFd<'_>) -> Vec<OwnedFd> {
    let mut links = Vec::new();
    loop {
        let mut byte = [0; 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received =
            recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC);
        match received {
            Ok(message) if message.bytes == 0 => return links,
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            // A reset is as good as a close: whoever held the other end is gone.
            Err(_) => return links,
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                links.extend(descriptors);
            }
        }
    }
}
