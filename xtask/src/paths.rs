//! `cargo xtask paths`: builds and runs what counts the instructions of a request (tests/src/bin/paths).

use std::process::Command;

use crate::{install, shell};

#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// What the counting program takes: --help lists it
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARG")]
    args: Vec<String>,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    install::valgrind()?;
    // The build that the tests have made already: a path that grows in it grows in release, too.
    shell::run(shell::cargo().args(["build", "--quiet", "--workspace", "--bin", "paths"]))?;
    shell::run(command().args(args.args))
}

/// The counting program, where it finds what was written down.
pub(crate) fn command() -> Command {
    let mut command = Command::new(shell::target_dir().join("debug/paths"));
    command.current_dir(shell::root());
    command
}
