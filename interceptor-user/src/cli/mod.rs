//! The command line: one thin file per command, each of which turns its arguments into settings and calls the rest.

mod again;
mod agent;
mod agent_socket;
mod analyze;
mod certs;
mod check;
mod cleanup;
mod client;
mod cni;
mod completion;
mod config;
mod dump;
mod exec;
mod explain;
mod flow_table;
mod flows;
mod gateway;
mod gateway_client;
mod hold;
mod man;
mod output;
mod prepare;
mod probe;
mod resources;
mod rollout;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};

use crate::exec::{enter, watcher};
use crate::telemetry::{logging, messages};

/// What we exit with when we fail before a command starts.
const FAILURE: u8 = 1;

#[derive(Debug, Parser)]
#[command(
    name = "interceptor",
    version,
    about = "Takes over outbound TCP connections in the kernel and applies the Istio egress API to them",
    long_about = "Takes over outbound TCP connections in the kernel, at connect(2), and sends them through a \
        proxy that applies the Istio egress API: ServiceEntry, VirtualService, DestinationRule.\n\n\
        No iptables, no sidecar, no change to the program.",
    after_long_help = "Examples:\n  \
        # One request, sent by the rules of a registry\n  \
        sudo interceptor exec -c registry.yaml -- curl http://httpbin.org/get\n\n  \
        # What is wrong with these resources, and how to mend it\n  \
        interceptor analyze config/\n\n  \
        # Completion for this shell\n  \
        source <(interceptor completion bash)\n\n\
        See `interceptor exec --help` and `interceptor analyze --help` for the rest.",
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    /// Say more on stderr: -v for info, -vv for debug, -vvv for everything
    ///
    /// The environment variable INTERCEPTOR_LOG overrides it with a filter, for example
    /// INTERCEPTOR_LOG=interceptor_user::exec=trace.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,

    /// How often this process has begun anew ([`again`])
    #[arg(long = again::FLAG, hide = true, default_value_t = 0)]
    again: u8,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Exec(Box<exec::Arguments>),
    Agent(Box<agent::Arguments>),
    Gateway(Box<gateway::Arguments>),
    Analyze(analyze::Arguments),
    Explain(Box<explain::Arguments>),
    Config(Box<config::Arguments>),
    Flows(flows::Arguments),
    Dump(dump::Arguments),
    Cleanup(cleanup::Arguments),
    Cni(cni::Arguments),
    Certs(certs::Arguments),
    Check(check::Arguments),
    Prepare(prepare::Arguments),
    Probe(probe::Arguments),
    #[command(hide = true)]
    Hold,
    #[command(hide = true)]
    Rollout(rollout::Arguments),
    Completion(completion::Arguments),
    Man(man::Arguments),
    #[command(name = enter::SUBCOMMAND, hide = true)]
    Enter(enter::Arguments),
    #[command(name = watcher::SUBCOMMAND, hide = true)]
    Watch(watcher::Arguments),
}

/// The whole program: from the command line to the exit code.
pub fn main() -> ExitCode {
    let outcome = if crate::cni::is_called_by_runtime() {
        crate::cni::run()
    } else {
        Cli::try_parse().map_or_else(|error| tell_usage(&error), run)
    };
    let code = outcome.unwrap_or_else(|error| {
        messages::say(&format!("interceptor: {}", sentence(&error)));
        ExitCode::from(FAILURE)
    });
    messages::finish();
    code
}

/// Help and version, which are asked for, on standard output; what is wrong with the command line on standard error.
fn tell_usage(error: &clap::Error) -> anyhow::Result<ExitCode> {
    if error.use_stderr() {
        error.exit();
    }
    match error.print().and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("can't write to standard output")
        }
        Ok(()) | Err(_) => Ok(ExitCode::SUCCESS),
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    if matches!(cli.command, Command::Exec(_) | Command::Agent(_) | Command::Check(_)) {
        again::unless_kernel_is_known(cli.again);
    }
    match cli.command {
        Command::Exec(arguments) => {
            logging::start(cli.verbose)?;
            arguments.tell_misnamed();
            crate::exec::run(&arguments.into_settings())
        }
        Command::Agent(arguments) => logging::start_steered(cli.verbose)
            .and_then(|filter| crate::agent::run(&arguments.into_settings()?, filter)),
        Command::Gateway(arguments) => logging::start_steered(cli.verbose)
            .and_then(|filter| crate::gateway::run(&arguments.into_settings()?, filter)),
        Command::Analyze(arguments) => analyze::run(&arguments),
        Command::Explain(arguments) => logging::start(cli.verbose).and_then(|()| explain::run(*arguments)),
        Command::Config(arguments) => logging::start(cli.verbose).and_then(|()| config::run(*arguments)),
        Command::Flows(arguments) => logging::start(cli.verbose).and_then(|()| flows::run(&arguments)),
        // What an installer does to a node is worth a line.
        Command::Cni(arguments) => logging::start(cli.verbose.max(1)).and_then(|()| cni::run(arguments)),
        Command::Dump(arguments) => logging::start(cli.verbose).and_then(|()| dump::run(&arguments)),
        Command::Cleanup(arguments) => logging::start(cli.verbose).and_then(|()| cleanup::run(&arguments)),
        Command::Check(arguments) => logging::start(cli.verbose).and_then(|()| check::run(arguments)),
        Command::Certs(arguments) => certs::run(arguments),
        Command::Prepare(arguments) => prepare::run(&arguments),
        Command::Probe(arguments) => probe::run(&arguments),
        Command::Hold => hold::run(),
        Command::Rollout(arguments) => rollout::run(&arguments),
        Command::Completion(arguments) => completion::run(&arguments, Cli::command()),
        Command::Man(arguments) => man::run(&arguments, Cli::command()),
        Command::Enter(arguments) => enter::run(&arguments),
        Command::Watch(arguments) => watcher::run(&arguments),
    }
}

/// One line, the causes behind colons; a cause that is told already is not repeated.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_cause_is_told_once() {
        let inner = io::Error::other("no such thing");
        let error = anyhow::Error::new(inner).context("can't read x: no such thing").context("can't start");
        assert_eq!(sentence(&error), "can't start: can't read x: no such thing");
    }

    #[test]
    fn every_visible_command_has_an_example() {
        for command in Cli::command().get_subcommands().filter(|c| !c.is_hide_set()) {
            let help = command.get_after_long_help().or(command.get_after_help());
            let help = help.map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{}", command.get_name());
        }
    }
}
