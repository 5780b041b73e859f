//! `interceptor man`: the manual pages, made from the same definitions as `--help`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap_mangen::Man;

use super::output;

/// Print the manual page, or write the pages of all commands into a directory
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
        interceptor man | man -l -\n  \
        interceptor man /usr/local/share/man/man1")]
pub(super) struct Arguments {
    /// Where one page per command is written
    directory: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments, command: clap::Command) -> anyhow::Result<ExitCode> {
    if let Some(directory) = &arguments.directory {
        clap_mangen::generate_to(command, directory)
            .with_context(|| format!("can't write manual pages to {}", directory.display()))?;
    } else {
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        output::print(&String::from_utf8(page)?)?;
    }
    Ok(ExitCode::SUCCESS)
}
