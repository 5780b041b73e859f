//! `interceptor prepare`: its flags, and what was done.

use std::path::PathBuf;
use std::process::ExitCode;

use super::output;
use crate::check::{Prepared, prepare};

/// Mount what an agent needs on this node and the node lacks: a bpf file system at /sys/fs/bpf
///
/// Programs and maps that are pinned there keep pods intercepted while the agent restarts. Done in the mount namespace
/// of the node's first process, so that it works from a container too; where one is mounted already nothing is done.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
        # What the agent's DaemonSet does first on each node\n  \
        sudo interceptor prepare")]
pub(super) struct Arguments {
    /// The node's proc file system
    #[arg(long, value_name = "DIR", default_value = "/proc")]
    proc: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    output::print(match prepare(&arguments.proc)? {
        Prepared::WasThere => "a bpf file system is mounted at /sys/fs/bpf\n",
        Prepared::Mounted => "a bpf file system is now mounted at /sys/fs/bpf\n",
    })?;
    Ok(ExitCode::SUCCESS)
}
