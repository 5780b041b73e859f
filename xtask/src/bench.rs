//! `cargo xtask bench`: installs what is compared, builds in release, and measures (tests/src/bin/bench).

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
    println!("Building in release (a few minutes the first time) …");
    shell::run(shell::cargo().args(["build", "--release", "--bin", "interceptor", "--bin", "bench"]))?;
    let mut bench = Command::new(shell::target_dir().join("release/bench"));
    shell::run(bench.args(args.args).current_dir(shell::root()))
}
