//! `interceptor cleanup`: the node as it was before the first agent.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use super::output;
use crate::admin::SOCKET;
use crate::datapath::{self, DEFAULT_PINS};

/// Detach all programs of the agent and remove what it pinned
///
/// For uninstalling, after the agent has been stopped: until then its redirects stay, and refuse connections. An agent that
/// still runs ends with an error, as pods' connections go past it. Removes what every version has pinned. Doing it twice
/// does no harm.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sudo interceptor cleanup")]
pub(super) struct Arguments {
    /// Where the agent pins its maps
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PINS)]
    pins: PathBuf,

    /// Where an agent listens, if one still runs
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    agent_socket: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let cleaned = datapath::cleanup(&arguments.pins)?;
    let at = arguments.pins.display();
    if !cleaned.versions.is_empty() && UnixStream::connect(&arguments.agent_socket).is_ok() {
        let socket = arguments.agent_socket.display();
        tracing::warn!(
            "an agent still listens on {socket}: unless it is ending already, stop it and clean up again, because whoever starts \
             it again puts all of this back"
        );
    }
    let text = match cleaned.versions.as_slice() {
        [] => format!("nothing is pinned in {at}\n"),
        versions => format!(
            "detached {} programs from {} cgroups and removed {} maps: {at}/{}\n",
            cleaned.programs,
            cleaned.cgroups,
            cleaned.maps,
            versions.join(", ")
        ),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
