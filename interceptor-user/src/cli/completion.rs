//! `interceptor completion`: the shell's completion script on stdout.

use std::process::ExitCode;

use clap_complete::Shell;

use super::output;

/// Print the completion script of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
        source <(interceptor completion bash)\n  \
        interceptor completion zsh > \"${fpath[1]}/_interceptor\"\n  \
        interceptor completion fish > ~/.config/fish/completions/interceptor.fish")]
pub(super) struct Arguments {
    shell: Shell,
}

pub(super) fn run(arguments: &Arguments, mut command: clap::Command) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "interceptor", &mut script);
    output::print(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}
