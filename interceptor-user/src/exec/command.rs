//! The command as our child: started in its cgroup, and watched until it ends.
//!
//! It stays in our process group, as with env(1) or strace(1): the terminal's signals and its job control reach it
//! without us, `interceptor exec … | less` works, and a shell makes groups of its own. What is left to us: to pass on
//! what was sent to us alone, and to stop when it stops, so that the shell that started us notices.

use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Resource, getpid, kill_process};

use super::carrier::Carrier;
use super::cgroup::Tree;
use super::enter;
use super::interception::Interception;
use super::job_control;
use super::signals::{Arrived, Signals};
use super::user::{self, Identity};
use super::watcher::Watcher;
use crate::settings::ExecSettings;

const CHECK_INTERVAL: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

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

    /// Waits until it ends, passing on signals, and keeping configuration and what the host's network says up to date. Fails
    /// when something fails that the command must not outlive.
    pub(super) fn watch(
        &mut self,
        signals: &Signals,
        watcher: &Watcher,
        interception: &mut Interception,
        carrier: &Carrier,
    ) -> anyhow::Result<ExitStatus> {
        loop {
            while let Some(arrived) = signals.next()? {
                self.handle(arrived)?;
            }
            if let Some(status) = self.child.try_wait().context("can't wait for the command")? {
                return Ok(status);
            }
            let readable = |source| PollFd::from_borrowed_fd(source, PollFlags::IN);
            let mut sources: Vec<PollFd<'_>> =
                [signals.as_fd(), watcher.as_fd(), interception.as_fd()].map(readable).into();
            sources.extend(carrier.changes().map(readable));
            match poll(&mut sources, Some(&CHECK_INTERVAL)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("can't wait for events"),
            }
            let ready: Vec<bool> = sources.iter().map(|source| !source.revents().is_empty()).collect();
            if ready[1] {
                bail!(
                    "the watcher process was killed: the command is ended, because it could outlive us now"
                );
            }
            if ready[2]
                && let Err(error) = interception.refresh_network()
            {
                tracing::warn!(
                    "{error:#}; what was this host's address, or behind an excluded interface, stays excluded"
                );
            }
            carrier.reconfigure();
            carrier.check()?;
        }
    }

    fn handle(&self, arrived: Arrived) -> anyhow::Result<()> {
        if arrived.signal == Signal::SIGCHLD {
            return job_control::stop_with(self.pid);
        }
        // What the terminal sends goes to the whole group: the command has it already, unless it left the group.
        if arrived.from_terminal && job_control::is_in_our_group(self.pid) {
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
}

/// Without so many nothing can be served: maps and programs take half of them.
const OPEN_FILES_MIN: u64 = 256;

/// Raises our own limit of open files as far as it goes, two per connection being needed; the answer is the limit
/// that the command shall see again.
///
/// # Errors
/// When there are too few to begin with.
pub(crate) fn raise_open_files() -> anyhow::Result<Option<u64>> {
    let limits = rustix::process::getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limits.maximum, ..limits };
    let was_raised = rustix::process::setrlimit(Resource::Nofile, raised).is_ok();
    enough_open_files(if was_raised { limits.maximum } else { limits.current })?;
    Ok(limits.current.filter(|_| was_raised))
}

/// `None` is no limit.
fn enough_open_files(limit: Option<u64>) -> anyhow::Result<()> {
    let Some(limit) = limit.filter(|limit| *limit < OPEN_FILES_MIN) else { return Ok(()) };
    anyhow::bail!(
        "only {limit} files may be open here, and {OPEN_FILES_MIN} are needed to begin with, then up to six for each connection: \
         raise the hard limit (`ulimit -Hn`, LimitNOFILE= of the unit, or the container runtime's)"
    )
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

    #[test]
    fn too_few_open_files_are_told_before_anything_fails_for_them() {
        for enough in [None, Some(OPEN_FILES_MIN), Some(1 << 20)] {
            enough_open_files(enough).unwrap();
        }
        let error = enough_open_files(Some(64)).unwrap_err().to_string();
        assert!(error.starts_with("only 64 files may be open here, and 256 are needed"), "{error}");
    }
}
