//! `interceptor exec`: one command with its egress intercepted.
//!
//! Everything that can fail happens before the command starts; from then on its connections are redirected, bypassed
//! by what the user excluded, or refused, until the last of its processes is gone.

mod cgroup;
mod cgroup_path;
mod command;
pub(crate) mod enter;
mod signals;
mod user;
pub(crate) mod watcher;

use std::os::fd::AsFd;
use std::process::ExitCode;

use crate::settings::ExecSettings;

/// Runs the command and returns the exit code that is to be ours.
pub fn run(settings: &ExecSettings) -> anyhow::Result<ExitCode> {
    let identity = user::identity(settings.user.as_ref())?;
    let signals = signals::Signals::take()?;
    let tree = cgroup::Tree::create()?;
    let watcher = watcher::Watcher::start(tree.top())?;
    tree.enter_proxy()?;
    let open_files = command::raise_open_files();
    watcher.hold(&[])?;

    let mut command = command::Command::start(settings, &tree, identity.as_ref(), open_files)?;
    let status = command.watch(&signals, &watcher, signals.as_fd(), || Ok(()))?;

    tree.remove()?;
    watcher.finish()?;
    Ok(ExitCode::from(command::exit_code(status)))
}
