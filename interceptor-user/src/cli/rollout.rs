//! `interceptor rollout`: waits for a DaemonSet; what the chart's clean-up does.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::TypedValueParser;

use crate::resource::parse_duration;
use crate::source::kubernetes::await_daemonset;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// NAMESPACE/NAME of a DaemonSet
    #[arg(value_parser = parse_name)]
    daemonset: (String, String),

    #[arg(long, default_value = "5m", value_parser = clap::builder::StringValueParser::new().try_map(|text| {
        parse_duration(&text).ok_or("expected a duration such as 5m")
    }))]
    timeout: Duration,

    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
}

fn parse_name(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        Some(_) | None => Err("expected NAMESPACE/NAME".to_owned()),
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (namespace, name) = &arguments.daemonset;
    let kubeconfig = arguments.kubeconfig.as_deref();
    let mut stdout = io::stdout();
    await_daemonset(kubeconfig, namespace, name, arguments.timeout, |state| {
        // Whoever closed standard output does not want to know.
        drop(writeln!(stdout, "{state}"));
    })?;
    super::output::print("every node is ready\n")?;
    Ok(ExitCode::SUCCESS)
}
