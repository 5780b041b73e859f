//! Diagnostics for people, on stderr. The access log is not written here.

use std::io::{self, IsTerminal};

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;

/// The environment variable that overrides the verbosity flags, in the syntax of tracing's filters: `debug`, or
/// `interceptor_user::exec=trace`.
pub const VARIABLE: &str = "INTERCEPTOR_LOG";

/// Starts logging for the life of the process. Every occurrence of `-v` raises the level once, from `warn`.
///
/// # Errors
/// When `INTERCEPTOR_LOG` holds something that is no filter.
pub fn start(verbosity: u8) -> anyhow::Result<()> {
    let filter = match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => EnvFilter::builder().parse(&text).with_context(|| {
            format!("{VARIABLE} is {text:?}: expected off, error, warn, info, debug, trace or TARGET=LEVEL,…")
        })?,
        Ok(_) | Err(_) => EnvFilter::new(level(verbosity)),
    };
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(colours);
    let filtered = tracing_subscriber::registry().with(filter);
    // At the ordinary levels a line reads like any tool's message; from debug on it names time and place.
    if verbosity < 2 {
        tracing::subscriber::set_global_default(filtered.with(lines.without_time().with_target(false)))?;
    } else {
        tracing::subscriber::set_global_default(filtered.with(lines))?;
    }
    tracing_log::LogTracer::init().context("logging was started twice")
}

fn level(verbosity: u8) -> &'static str {
    match verbosity {
        0 => "warn",
        1 => "interceptor_user=info,warn",
        2 => "interceptor_user=debug,info",
        _ => "trace",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_a_filter() {
        for verbosity in 0..5 {
            assert!(EnvFilter::builder().parse(level(verbosity)).is_ok());
        }
    }
}
