//! The command as our child: started in its cgroup, and watched until it ends.
//!
//! It stays in our process group, as with env(1) or strace(1): the terminal's signals and its job control reach it
//! without us, `interceptor exec … | less` works, and a shell makes groups of its own. What is left to us: to pass on
//! what was sent to us alone, and to stop when it stops, so that the shell that started us notices.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Resource, WaitId, WaitIdOptions, getpgid, getpgrp, getpid, kill_process, waitid};

use super::cgroup::Tree;
use super::enter;
use super::signals::{Arrived, Signals};
use super::user::{self, Identity};
use super::watcher::Watcher;
use crate::settings::ExecSettings;

/// What the command did, in the terms of a shell.
pub(super) fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// The running command.
#[derive(Debug)]
pub(super) struct Command {
    child: Child,
    pid: Pid,
}

impl Command {
    /// Starts it in its cgroup as `identity`. On the calling thread's end the kernel kills it.
    pub(super) fn start(
        settings: &ExecSettings,
        tree: &Tree,
        identity: Option<&Identity>,
        open_files: Option<u64>,
    ) -> anyhow::Result<Self> {
        let arguments = enter::Arguments {
            cgroup: tree.command(),
            parent: getpid().as_raw_pid(),
            open_files,
            uid: identity.map(|identity| identity.uid),
            gid: identity.map(|identity| identity.gid),
            groups: identity.map_or_else(Vec::new, |identity| identity.groups.clone()),
            command: settings.command.clone(),
        };
        let mut command = arguments.to_command();
        for (name, value) in identity.map_or_else(Vec::new, user::environment) {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let child = command.spawn().context("can't start a process")?;
        let pid =
            i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process without an id")?;
        Ok(Self { child, pid })
    }

    /// Waits until it ends, passing on signals. `refresh` is called when `changes` becomes readable.
    pub(super) fn watch(
        &mut self,
        signals: &Signals,
        watcher: &Watcher,
        changes: BorrowedFd<'_>,
        mut refresh: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<ExitStatus> {
        loop {
            while let Some(arrived) = signals.next()? {
                self.handle(arrived)?;
            }
            if let Some(status) = self.child.try_wait().context("can't wait for the command")? {
                return Ok(status);
            }
            let mut sources = [
                PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(watcher.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(changes, PollFlags::IN),
            ];
            match poll(&mut sources, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("can't wait for events"),
            }
            let ready = sources.map(|source| !source.revents().is_empty());
            if ready[1] {
                bail!(
                    "the watcher process was killed: the command is ended, because it could outlive us now"
                );
            }
            if ready[2] {
                refresh()?;
            }
        }
    }

    fn handle(&self, arrived: Arrived) -> anyhow::Result<()> {
        if arrived.signal == Signal::SIGCHLD {
            return self.stop_with_it();
        }
        // What the terminal sends goes to the whole group: the command has it already, unless it left the group.
        if arrived.from_terminal && self.in_our_group() {
            return Ok(());
        }
        let signal = rustix::process::Signal::from_named_raw(arrived.signal as i32);
        match signal.map(|signal| kill_process(self.pid, signal)) {
            // It has ended; the next look finds its status.
            Some(Ok(()) | Err(rustix::io::Errno::SRCH)) => Ok(()),
            Some(Err(error)) => Err(error).context("can't pass on a signal to the command"),
            None => Ok(()),
        }
    }

    /// When job control has stopped the command, stops us too, and continues it when we are continued. SIGSTOP is
    /// left alone: who stops the command by its id continues it by its id.
    fn stop_with_it(&self) -> anyhow::Result<()> {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        let status = waitid(WaitId::Pid(self.pid), options).ok().flatten();
        let stopped_by = status.and_then(|status| status.stopping_signal());
        let by_job_control = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU].map(|signal| signal as i32);
        if stopped_by.is_some_and(|signal| by_job_control.contains(&signal)) && self.in_our_group() {
            kill_process(getpid(), rustix::process::Signal::STOP).context("can't stop")?;
            kill_process(self.pid, rustix::process::Signal::CONT).context("can't continue the command")?;
        }
        Ok(())
    }

    fn in_our_group(&self) -> bool {
        getpgid(Some(self.pid)).is_ok_and(|group| group == getpgrp())
    }
}

/// Raises our own limit of open files as far as it goes, two per connection being needed; the answer is the limit
/// that the command shall see again.
pub(super) fn raise_open_files() -> Option<u64> {
    let limits = rustix::process::getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limits.maximum, ..limits };
    match rustix::process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => limits.current,
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        for (raw, code) in [(0, 0), (3 << 8, 3), (255 << 8, 255), (9, 137), (15, 143), (0x80 | 11, 139)] {
            assert_eq!(exit_code(ExitStatus::from_raw(raw)), code, "{raw:#x}");
        }
    }
}
