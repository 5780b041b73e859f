//! Dispatches what cargo cannot do: `cargo xtask setup|ebpf|demo|test|bench|paths|manifests|e2e`. One file per subcommand.
#![expect(clippy::print_stdout, reason = "xtask talks to the person who started it")]

mod bench;
mod demo;
mod deny;
mod e2e;
mod ebpf;
mod install;
mod manifests;
mod paths;
mod setup;
mod shell;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "What cargo cannot do", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what is needed to rebuild the BPF object from source
    Setup(setup::Args),
    /// Rebuild the committed BPF object; with --check, fail when it differs from its source
    Ebpf(ebpf::Args),
    /// Play the scenarios on the terminal: what was sent, what came back, the access log line
    Demo(demo::Args),
    /// Install what is missing, build, and run every check and every test (as root)
    Test(test::Args),
    /// Measure what interception costs, each number beside no-proxy in the same run (as root)
    Bench(bench::Args),
    /// Count what the paths of a request cost, and fail when one has grown by a tenth
    Paths(paths::Args),
    /// Make deploy/manifests of deploy/chart; with --check, fail when they differ
    Manifests(manifests::Args),
    /// Deploy to a real cluster, play the pod scenarios there, and clean up
    E2e(e2e::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Setup(args) => setup::run(args),
        Command::Ebpf(args) => ebpf::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Test(args) => test::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Paths(args) => paths::run(args),
        Command::Manifests(args) => manifests::run(args),
        Command::E2e(args) => e2e::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
