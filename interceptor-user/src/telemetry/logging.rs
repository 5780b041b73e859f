//! Diagnostics for people, on stderr. The access log is not written here.

use std::io::{self, IsTerminal};

use anyhow::Context;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::messages;

/// The environment variable that overrides the verbosity flags, in the syntax of tracing's filters: `debug`, or
/// `interceptor_user::exec=trace`.
pub const VARIABLE: &str = "INTERCEPTOR_LOG";

const EXPECTED: &str = "expected off, error, warn, info, debug, trace or TARGET=LEVEL,…";

/// Which messages are written. Clones are the same.
#[derive(Clone, Debug)]
pub struct LogFilter(reload::Handle<EnvFilter, Registry>);

/// What is not a filter, and why.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no filter ({cause}): {EXPECTED}")]
pub struct FilterError {
    text: String,
    cause: String,
}

impl LogFilter {
    /// The handle, and the layer that it steers.
    pub fn new(filter: EnvFilter) -> (Self, reload::Layer<EnvFilter, Registry>) {
        let (layer, handle) = reload::Layer::new(filter);
        (Self(handle), layer)
    }

    /// In the syntax of `INTERCEPTOR_LOG`.
    pub fn current(&self) -> String {
        // An error is the subscriber gone, and with it all messages.
        self.0.with_current(ToString::to_string).unwrap_or_else(|_| "off".to_owned())
    }

    /// Acts on messages from now on.
    ///
    /// # Errors
    /// When `text` is no filter; nothing has changed then.
    pub fn set(&self, text: &str) -> Result<(), FilterError> {
        let refused = |cause: String| FilterError { text: text.to_owned(), cause };
        let filter = EnvFilter::builder().parse(text).map_err(|error| refused(error.to_string()))?;
        self.0.reload(filter).map_err(|error| refused(error.to_string()))
    }
}

/// kube tells of every try that fails; `source::kubernetes` tells when trouble begins and ends. What speaks to peers tells of
/// what they send: whoever sends frames by the million would write as many lines.
const ERROR: &str = "error,kube_client=off,kube_runtime=off,h2=off,hickory_net=off,hyper=off,rustls=off";
const WARN: &str = "warn,kube_client=off,kube_runtime=off,h2=off,hickory_net=off,hyper=off,rustls=off";
const INFO: &str =
    "interceptor_user=info,warn,kube_client=off,kube_runtime=off,h2=off,hickory_net=off,hyper=off,rustls=off";
const DEBUG: &str = "interceptor_user=debug,info,h2=off,hickory_net=off,hyper=off,rustls=off";

/// The filter of one of tracing's levels: what we say at that level, and what is worth knowing of what we are made of.
pub fn filter_of_level(level: &str) -> Option<&'static str> {
    Some(match level {
        "off" => "off",
        "error" => ERROR,
        "warn" => WARN,
        "info" => INFO,
        "debug" => DEBUG,
        "trace" => "interceptor_user=trace,debug",
        _ => return None,
    })
}

/// Starts logging for the life of the process. Every occurrence of `-v` raises the level once, from `warn`.
///
/// # Errors
/// When `INTERCEPTOR_LOG` holds something that is no filter.
pub fn start(verbosity: u8) -> anyhow::Result<()> {
    start_steered(verbosity).map(drop)
}

/// As [`start`]; what is logged can be changed later.
///
/// # Errors
/// As [`start`].
pub fn start_steered(verbosity: u8) -> anyhow::Result<LogFilter> {
    let filter = match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => EnvFilter::builder()
            .parse(&text)
            .with_context(|| format!("{VARIABLE} is {text:?}: {EXPECTED}"))?,
        Ok(_) | Err(_) => EnvFilter::new(level(verbosity)),
    };
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt::layer().with_writer(messages::writer).with_ansi(colours);
    let (handle, filter) = LogFilter::new(filter);
    let filtered = tracing_subscriber::registry().with(filter);
    // At the ordinary levels a line reads like any tool's message; from debug on it names time and place.
    if verbosity < 2 {
        tracing::subscriber::set_global_default(filtered.with(lines.without_time().with_target(false)))?;
    } else {
        tracing::subscriber::set_global_default(filtered.with(lines))?;
    }
    tracing_log::LogTracer::init().context("logging was started twice")?;
    Ok(handle)
}

fn level(verbosity: u8) -> &'static str {
    match verbosity {
        0 => WARN,
        1 => INFO,
        2 => DEBUG,
        _ => "trace",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_a_filter() {
        let levels =
            ["off", "error", "warn", "info", "debug", "trace"].map(|name| filter_of_level(name).unwrap());
        for text in (0..5).map(level).chain(levels) {
            assert!(EnvFilter::builder().parse(text).is_ok(), "{text}");
        }
        assert_eq!(filter_of_level("loud"), None);
    }

    #[test]
    fn peers_write_no_lines() {
        let levels = ["off", "error", "warn", "info", "debug"].map(|name| filter_of_level(name).unwrap());
        for text in (0..3).map(level).chain(levels) {
            let (_filter, layer) = LogFilter::new(EnvFilter::new(text));
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
                assert!(!tracing::enabled!(target: "h2::proto::ping_pong", tracing::Level::WARN), "{text}");
                assert!(!tracing::enabled!(target: "rustls::conn", tracing::Level::WARN), "{text}");
                // Answers that nobody has asked for, of whoever can send them.
                assert!(
                    !tracing::enabled!(target: "hickory_net::udp::udp_client_stream", tracing::Level::WARN),
                    "{text}"
                );
                let is_told = tracing::enabled!(target: "interceptor_user::proxy", tracing::Level::ERROR);
                assert_eq!(is_told, text != "off", "{text}");
            });
        }
    }

    #[test]
    fn a_filter_is_set_or_stays() {
        let (filter, layer) = LogFilter::new(EnvFilter::new("warn"));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            assert!(!tracing::enabled!(tracing::Level::DEBUG));
            filter.set("interceptor_user=debug,info").unwrap();
            assert!(tracing::enabled!(tracing::Level::DEBUG));
            assert_eq!(filter.current(), "interceptor_user=debug,info");
            let error = filter.set("x=loud").unwrap_err().to_string();
            assert!(error.contains("\"x=loud\" is no filter") && error.contains("TARGET=LEVEL"), "{error}");
            assert_eq!(filter.current(), "interceptor_user=debug,info");
        });
    }
}
