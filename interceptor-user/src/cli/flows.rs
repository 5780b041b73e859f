//! `interceptor flows`: connections and requests of this node's pods, as they end.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};

use super::agent_socket::parse_pod;
use super::flow_table::{FlowTable, Line};
use super::output;
use crate::admin::client::{Lines, Uri};
use crate::admin::default_socket;

/// Show connections and requests of this node's pods as they end
///
/// Asks the agent, which tells what ends from then on: nothing is kept, and while nobody asks nothing is spent on it. Without
/// --follow that is what ends within five seconds. Paths are shown without their query.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Exit codes:\n  \
        0 when the agent has told what there was, or nobody reads our output any more\n  \
        1 when no agent answers, or it has ended; or the pod is none of its node's\n\n\
        Examples:\n  \
        # What does this pod do?\n  \
        sudo interceptor flows --follow --pod shop/cart\n\n  \
        # What is refused or fails, as it happens\n  \
        sudo interceptor flows --follow -o json | jq -c 'select(.responseFlags != \"-\")'")]
pub(super) struct Arguments {
    /// Go on until interrupted
    #[arg(short, long)]
    follow: bool,

    /// Only those of this pod
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = parse_pod)]
    pod: Option<String>,

    /// How flows are written: in columns, or as one JSON object a line
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value = "table")]
    output: Format,

    /// The agent's socket
    #[arg(long, value_name = "PATH", default_value_os = default_socket().as_os_str(), value_hint = clap::ValueHint::AnyPath)]
    agent_socket: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            shown = show(arguments) => shown,
            // Nothing may end for long: who waits for it has gone.
            () = output::reader_is_gone() => Ok(()),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn show(arguments: &Arguments) -> anyhow::Result<()> {
    let follow = arguments.follow.then_some("true");
    let uri = Uri::new("/flows", &[("follow", follow), ("pod", arguments.pod.as_deref())]);
    let mut lines = Lines::open(&arguments.agent_socket, &uri).await?;
    let (mut table, heads) = FlowTable::new();
    let mut has_reader = arguments.output == Format::Json || output::print(&heads)?;
    while has_reader {
        let Some(line) = lines.next().await? else { break };
        has_reader = match arguments.output {
            Format::Json => output::print(&(line + "\n"))?,
            Format::Table => match serde_json::from_str(&line).context("the agent says what is no flow")? {
                Line::Ended(row) => output::print(&table.row(&row))?,
                Line::Lost { lost } => {
                    tracing::warn!(
                        "{lost} more ended than could be shown: too many at a time, or read too slowly"
                    );
                    true
                }
            },
        };
    }
    // Without --follow it ends by itself.
    if arguments.follow && has_reader {
        bail!("the agent at {} has ended", arguments.agent_socket.display());
    }
    Ok(())
}
