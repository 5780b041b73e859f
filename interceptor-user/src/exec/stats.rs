//! The counters of one run as JSON: what the kernel redirected, bypassed and refused, by reason, and what the proxy
//! made of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use interceptor_common::verdict::Effect;
use serde::Serialize;

use crate::datapath::Counter;
use crate::telemetry::own_descriptor;

type ByReason = BTreeMap<&'static str, u64>;

/// What the hooks did. Every reason that has occurred, with how often.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct KernelStats {
    redirected: ByReason,
    bypassed: ByReason,
    refused: ByReason,
    /// Reports of the above that were lost because nobody read them in time; the counts are not affected.
    events_dropped: u64,
}

#[derive(Debug, Serialize)]
struct Stats<P> {
    kernel: KernelStats,
    /// Absent with a proxy of the user's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy: Option<P>,
}

impl KernelStats {
    pub(super) fn new(counters: &[Counter]) -> Self {
        let mut stats = Self::default();
        for counter in counters {
            let class = match counter.reason.effect() {
                Effect::Redirected => &mut stats.redirected,
                // `exec` decides before it starts, so nothing is undecided.
                Effect::Bypassed | Effect::Undecided => &mut stats.bypassed,
                Effect::Refused => &mut stats.refused,
                Effect::EventDropped => {
                    stats.events_dropped += counter.count;
                    continue;
                }
            };
            *class.entry(counter.reason.name()).or_default() += counter.count;
        }
        stats
    }
}

/// The file asked for by `--stats`, or `-` for standard output: opened before the command starts, written after it
/// has ended.
#[derive(Debug)]
pub(super) struct StatsFile {
    path: PathBuf,
    /// None: standard output.
    file: Option<File>,
}

impl StatsFile {
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = match path.to_str() {
            Some("-") => None,
            _ => {
                let file = own_descriptor::open(path).unwrap_or_else(|| File::create(path));
                Some(file.with_context(|| cannot_write(path))?)
            }
        };
        Ok(Self { path: path.to_owned(), file })
    }

    pub(super) fn write(self, kernel: KernelStats, proxy: Option<impl Serialize>) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(&Stats { kernel, proxy }).context("counters are no JSON")?;
        text.push(b'\n');
        match self.file {
            Some(mut file) => file.write_all(&text),
            None => io::stdout().write_all(&text),
        }
        .with_context(|| cannot_write(&self.path))
    }
}

fn cannot_write(path: &Path) -> String {
    format!("can't write --stats {}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use interceptor_common::verdict::Reason;

    #[test]
    fn reasons_are_grouped_by_what_happened() {
        let counter = |cookie, reason, count| Counter { cookie, reason, count };
        let kernel = KernelStats::new(&[
            counter(1, Reason::IncludedRange, 3),
            counter(1, Reason::Loopback, 2),
            counter(2, Reason::Loopback, 5),
            counter(0, Reason::UnknownWorkload, 1),
            counter(0, Reason::EventDropped, 4),
        ]);
        let text = serde_json::to_string(&Stats { kernel, proxy: None::<()> }).unwrap();
        assert_eq!(
            text,
            r#"{"kernel":{"redirected":{"included_range":3},"bypassed":{"loopback":7},"refused":{"unknown_workload":1},"events_dropped":4}}"#
        );
    }
}
