//! `interceptor exec`: one command with its egress intercepted.
//!
//! Everything that can fail happens before the command starts; from then on its connections are redirected, bypassed
//! by what the user excluded, or refused, until the last of its processes is gone.

mod carrier;
mod cgroup;
mod cgroup_path;
mod command;
mod configuration;
mod enforcement;
pub(crate) mod enter;
mod expiring;
mod external;
pub(crate) mod findings;
mod interception;
mod job_control;
mod reports;
mod signals;
mod sockets;
mod stats;
mod user;
pub(crate) mod watcher;

use std::process::ExitCode;

use crate::datapath;
use crate::settings::ExecSettings;
use crate::workload_api;

pub(crate) use cgroup::own_directory as own_cgroup;
pub(crate) use command::raise_open_files;

/// Runs the command and returns the exit code that is to be ours.
pub fn run(settings: &ExecSettings) -> anyhow::Result<ExitCode> {
    let identity = user::identity(settings.user.as_ref())?;
    let client = workload_api::identified(&settings.client, settings.spiffe_socket.as_deref())?;
    let settings = &ExecSettings { client, ..settings.clone() };
    let configuration = configuration::Configuration::open(settings)?;
    let open_files = command::raise_open_files()?;
    let redirect = enforcement::redirect(settings, &configuration.snapshot)?;
    let stats = settings.stats.as_deref().map(stats::StatsFile::create).transpose()?;
    // Reading standard input may take for ever: only from here on an interrupt is ours to handle.
    let signals = signals::Signals::take()?;
    let mut interception = interception::Interception::prepare(&redirect)?;
    let (watcher, tree) = watcher::Watcher::start()?;
    tree.enter_proxy()?;
    let carrier = carrier::Carrier::start((settings, &redirect), &tree, &mut interception, configuration)?;
    interception.outlive_us(&watcher)?;
    if let Some(code) = signals.ended_by()? {
        return Ok(ExitCode::from(code));
    }

    let mut command = command::Command::start(settings, &tree, identity.as_ref(), open_files)?;
    datapath::release_startup_code();
    let ended = command.watch(&signals, &watcher, &mut interception, &carrier);

    // Whatever happened: first nothing of the command runs any more, then the proxy and the hooks go.
    tree.remove()?;
    let proxy = carrier.stop();
    let status = ended?;
    if let Some(file) = stats {
        file.write(interception.stats()?, proxy)?;
    }
    drop(interception);
    watcher.finish()?;
    Ok(ExitCode::from(command::exit_code(status)))
}
