//! `cargo xtask bench`: installs what is compared, builds, and measures (tests/src/bin/bench).

use std::process::Command;

use anyhow::bail;

use crate::{install, shell};

#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// What the measuring program takes: --help lists it
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARG")]
    args: Vec<String>,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    if args.args.iter().any(|arg| arg == "--help" || arg == "-h") {
        let mut help = shell::cargo();
        help.args(["run", "--quiet", "--package", "interceptor-tests", "--bin", "bench", "--", "--help"]);
        return shell::run(&mut help);
    }
    if !shell::is_root() {
        bail!(
            "the benchmark makes network namespaces and loads BPF programs: run it as root (sudo -E cargo xtask bench)"
        );
    }
    println!("Looking for what the benchmark needs …");
    install::bench_tools()?;
    println!("Building the interceptor in release (some minutes the first time) …");
    shell::run(shell::cargo().args(["build", "--release", "--bin", "interceptor"]))?;
    // The client's and the server's own code hardly runs between system calls: it needs no optimisation.
    shell::run(shell::cargo().args(["build", "--bin", "bench"]))?;
    let mut bench = Command::new(shell::target_dir().join("debug/bench"));
    shell::run(bench.args(args.args).current_dir(shell::root()))
}
