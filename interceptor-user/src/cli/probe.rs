//! `interceptor probe`: its flags, and the answer.

use std::path::PathBuf;
use std::process::ExitCode;

use super::output;
use crate::admin::SOCKET;
use crate::check::{Probe, probe};

/// Ask the agent in this container whether it lives, or is ready: what the kubelet runs
///
/// Another agent on the node, as there is one during an upgrade, is not asked: it does not make this one ready, and it
/// does not need this one to be started again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
        kubectl -n interceptor exec POD -c agent -- /interceptor probe ready")]
pub(super) struct Arguments {
    #[arg(value_enum)]
    probe: Probe,

    /// Where the agent listens
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    agent_socket: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    output::print(&probe(arguments.probe, &arguments.agent_socket)?)?;
    Ok(ExitCode::SUCCESS)
}
