//! `interceptor dump`: which table of the pinned maps, as what, once or as it changes.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use super::output::{self, Format};
use crate::datapath::{DEFAULT_PINS, DatapathError, Inspection};
use crate::output::Output;
use crate::{dump, tables};

/// Show what the kernel holds: pods, policies, live connections, counters
///
/// Read from the pinned maps, so it works while no agent runs. Nothing is changed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
        # Which pods are intercepted, and which are not?\n  \
        sudo interceptor dump pods\n\n  \
        # What is refused, as it happens?\n  \
        sudo interceptor dump stats --watch\n\n  \
        # In a script\n  \
        sudo interceptor dump redirects -o json | jq -r '.[] | select(.pod == \"shop/web\") | .destination'")]
pub(super) struct Arguments {
    #[command(subcommand)]
    table: Table,
}

#[derive(Debug, clap::Subcommand)]
enum Table {
    /// The pods of this node: state, policy, listener, network namespace cookie
    #[command(visible_alias = "pod", after_help = "Example:\n  sudo interceptor dump pods")]
    Pods(Common),
    /// Which addresses and ports are redirected, for which pods
    #[command(visible_alias = "policy", after_help = "Example:\n  sudo interceptor dump policies -o yaml")]
    Policies(Common),
    /// Connections that are redirected now: pod, source, original destination
    #[command(visible_alias = "redirect", after_help = "Example:\n  sudo interceptor dump redirects --watch")]
    Redirects(Common),
    /// How many connections of each pod were redirected, bypassed or refused, and why
    #[command(visible_alias = "stat", after_help = "Example:\n  sudo interceptor dump stats")]
    Stats(Common),
}

#[derive(Debug, clap::Args)]
struct Common {
    /// How the table is written
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value = "table")]
    output: Format,

    /// Look again each second, and write the table when it has changed, until interrupted
    #[arg(short, long)]
    watch: bool,

    /// Where the agent pins its maps
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PINS)]
    pins: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.table {
        Table::Pods(common) => common.show(dump::pods),
        Table::Policies(common) => common.show(dump::policies),
        Table::Redirects(common) => common.show(dump::redirects),
        Table::Stats(common) => common.show(dump::stats),
    }
}

impl Common {
    fn show<R: tables::Row>(
        &self,
        rows: impl Fn(&Inspection) -> Result<Vec<R>, DatapathError>,
    ) -> anyhow::Result<ExitCode> {
        // Opened each time: another agent, or cleanup, may have replaced what was pinned.
        let text = || {
            let rows = rows(&Inspection::open(&self.pins)?)?;
            Ok::<_, anyhow::Error>(Output::from(self.output).render(&rows, |rows| tables::text(rows))?)
        };
        let mut shown = text()?;
        let mut has_reader = output::print(&shown)?;
        while self.watch && has_reader && output::reader_stays_for_a_second()? {
            let now = text()?;
            if now != shown {
                shown = now;
                has_reader = output::print(&format!("{}{shown}", self.between()))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// What separates a table from the one before.
    fn between(&self) -> &'static str {
        const CLEAR: &str = "\x1b[H\x1b[2J";
        match self.output {
            Format::Table if std::io::stdout().is_terminal() => CLEAR,
            Format::Table => "\n",
            Format::Json => "",
            Format::Yaml => "---\n",
        }
    }
}
