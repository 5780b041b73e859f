//! Signals as values read from a file descriptor, with where each came from.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What is passed on to the command when somebody sends it to us.
const FORWARDED: [Signal; 10] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// The signals we take, blocked for every thread made from here on and read here instead.
#[derive(Debug)]
pub(super) struct Signals {
    descriptor: SignalFd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrived {
    pub(super) signal: Signal,
    /// Sent by the kernel, which for these signals means by the terminal, to its whole foreground group.
    pub(super) from_terminal: bool,
}

impl Signals {
    /// To be called before the first thread is made: a thread that doesn't block a signal receives it.
    pub(super) fn take() -> anyhow::Result<Self> {
        let mut taken = forwarded();
        taken.add(Signal::SIGCHLD);
        taken.thread_block().context("can't block signals")?;
        let descriptor = SignalFd::with_flags(&taken, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context("can't make a signal descriptor")?;
        Ok(Self { descriptor })
    }

    /// The exit code for a signal that has come already and would end us.
    pub(super) fn ended_by(&self) -> anyhow::Result<Option<u8>> {
        let ends =
            |signal| matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP | Signal::SIGQUIT);
        while let Some(arrived) = self.next()? {
            if ends(arrived.signal) {
                return Ok(u8::try_from(128 + arrived.signal as i32).ok());
            }
        }
        Ok(None)
    }

    /// The next signal that has arrived, if any.
    pub(super) fn next(&self) -> anyhow::Result<Option<Arrived>> {
        let Some(info) = self.descriptor.read_signal().context("can't read signals")? else {
            return Ok(None);
        };
        let number = i32::try_from(info.ssi_signo).context("a signal without a number")?;
        let signal = Signal::try_from(number).with_context(|| format!("signal {number} is unknown"))?;
        Ok(Some(Arrived { signal, from_terminal: info.ssi_code > 0 }))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn forwarded() -> SigSet {
    FORWARDED.into_iter().collect()
}

/// Undoes the blocking in a child, which inherits it: called between fork and exec, in a process of one thread.
pub(super) fn release() -> anyhow::Result<()> {
    let mut taken = forwarded();
    taken.add(Signal::SIGCHLD);
    taken.thread_unblock().context("can't unblock signals")
}

/// Blocks whatever can be blocked, for a process that only SIGKILL shall end early.
pub(super) fn block_all() -> anyhow::Result<()> {
    SigSet::all().thread_block().context("can't block signals")
}
