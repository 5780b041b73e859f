//! The step between fork and exec of the command, in a process of its own: enter the cgroup, become the user, and be
//! replaced by the command. A separate run of our binary, because work after fork in a threaded process is unsafe.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::{cgroup, signals};

pub(crate) const SUBCOMMAND: &str = "__enter";

/// As a shell answers.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    pub(super) cgroup: PathBuf,
    /// Who started us: the command must not outlive it.
    #[arg(long)]
    pub(super) parent: i32,
    /// The soft limit of open files that the command shall see, not the one raised for the proxy.
    #[arg(long)]
    pub(super) open_files: Option<u64>,
    #[arg(long, requires = "gid")]
    pub(super) uid: Option<u32>,
    #[arg(long, requires = "uid")]
    pub(super) gid: Option<u32>,
    #[arg(long, value_delimiter = ',')]
    pub(super) groups: Vec<u32>,
    #[arg(last = true, required = true)]
    pub(super) command: Vec<OsString>,
}

impl Arguments {
    /// The command line that comes out as these arguments.
    pub(super) fn to_command(&self) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("interceptor").arg(SUBCOMMAND).arg("--cgroup").arg(&self.cgroup);
        let mut flag = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                command.arg(name).arg(value);
            }
        };
        flag("--parent", Some(self.parent.to_string()));
        flag("--open-files", self.open_files.map(|limit| limit.to_string()));
        flag("--uid", self.uid.map(|id| id.to_string()));
        flag("--gid", self.gid.map(|id| id.to_string()));
        for group in &self.groups {
            flag("--groups", Some(group.to_string()));
        }
        command.arg("--").args(&self.command);
        command
    }
}

/// Returns only when the command could not be started.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    cgroup::join(&arguments.cgroup)?;
    if let Some(limit) = arguments.open_files {
        limit_open_files(limit)?;
    }
    if let (Some(uid), Some(gid)) = (arguments.uid, arguments.gid) {
        become_user(uid, gid, &arguments.groups)?;
    }
    die_with(arguments.parent)?;
    signals::release()?;
    let Some((program, rest)) = arguments.command.split_first() else { bail!("no command was given") };
    let error = Command::new(program).args(rest).exec();
    drop(writeln!(io::stderr(), "interceptor: {}: {}", program.display(), reason(&error)));
    Ok(ExitCode::from(if error.kind() == ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE }))
}

fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "command not found".to_owned(),
        Some(libc::EACCES) => "permission denied".to_owned(),
        Some(libc::ENOEXEC) => "neither a program nor a script that starts with #!".to_owned(),
        Some(_) | None => error.to_string(),
    }
}

fn limit_open_files(soft: u64) -> anyhow::Result<()> {
    let limits = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(soft), ..limits })
        .context("can't restore the limit of open files")
}

/// Groups first: afterwards we may no longer set them. One thread runs here, so the calls that set a thread's ids set
/// the process's.
fn become_user(uid: u32, gid: u32, groups: &[u32]) -> anyhow::Result<()> {
    let (uid, gid) = (rustix::process::Uid::from_raw(uid), rustix::process::Gid::from_raw(gid));
    let groups: Vec<_> = groups.iter().map(|group| rustix::process::Gid::from_raw(*group)).collect();
    set_thread_groups(&groups)
        .and_then(|()| set_thread_res_gid(gid, gid, gid))
        .and_then(|()| set_thread_res_uid(uid, uid, uid))
        .with_context(|| format!("can't become user {}: run as root", uid.as_raw()))
}

/// The kernel forgets this at a change of user, so it comes after; and it tells nobody when the parent is gone already.
fn die_with(parent: i32) -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .context("can't tie the command to its parent")?;
    if rustix::process::getppid().map(Pid::as_raw_pid) != Some(parent) {
        bail!("interceptor ended while the command was starting");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn arguments_survive_the_command_line() {
        let arguments = Arguments {
            cgroup: "/sys/fs/cgroup/a b".into(),
            parent: 12,
            open_files: Some(1024),
            uid: Some(1000),
            gid: Some(1001),
            groups: vec![27, 1001],
            command: ["sh", "-c", "--", "--uid", ""].map(OsString::from).to_vec(),
        };
        let command = arguments.to_command();
        // The subcommand's name stands where a parser of one command expects the program's.
        let parsed = Line::try_parse_from(command.get_args()).unwrap().arguments;
        assert_eq!(format!("{parsed:?}"), format!("{arguments:?}"));
    }
}
