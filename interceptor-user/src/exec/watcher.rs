//! A small process that outlives us: it holds the hooks in place when we are killed, until it has killed the command
//! and removed the cgroups. In a session of its own and outside our cgroups, so that nothing meant for us hits it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, anyhow, bail};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::{cgroup, signals};

pub(crate) const SUBCOMMAND: &str = "__watch";

/// Hooks are fewer than ten; the kernel passes up to 253 descriptors at once.
const DESCRIPTORS_MAX: usize = 64;

/// Our side: the watcher acts when this is dropped or we die.
#[derive(Debug)]
pub(super) struct Watcher {
    child: Child,
    socket: OwnedFd,
}

impl Watcher {
    /// Starts it for the cgroups below `top`, and returns once it can no longer be missed. To be called from the
    /// cgroup we were started in: it stays there.
    pub(super) fn start(top: &Path) -> anyhow::Result<Self> {
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .context("can't make a socket pair")?;
        let child = Command::new("/proc/self/exe")
            .arg0("interceptor")
            .arg(SUBCOMMAND)
            .arg(top)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()
            .context("can't start the watcher process")?;
        let watcher = Self { child, socket };
        let mut ready = [0; 1];
        match rustix::io::retry_on_intr(|| rustix::io::read(&watcher.socket, &mut ready)) {
            Ok(1) => Ok(watcher),
            Ok(_) => bail!("the watcher process ended early"),
            Err(error) => Err(anyhow!("the watcher process does not answer: {error}")),
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
    top: PathBuf,
}

/// The process itself: waits for the other end to go, then cleans up.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    signals::block_all()?;
    rustix::process::setsid().context("can't start a session")?;
    let stdin = io::stdin();
    rustix::io::write(&stdin, &[1]).context("the other side is gone")?;
    let links = receive_until_closed(stdin.as_fd());
    // No time limit: until the command is gone the hooks stay, so that it is refused rather than let through.
    cgroup::kill_all(&arguments.top.join("cmd"), None)?;
    drop(links);
    cgroup::kill_all(&arguments.top, None)?;
    cgroup::remove(&arguments.top)?;
    Ok(ExitCode::SUCCESS)
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
