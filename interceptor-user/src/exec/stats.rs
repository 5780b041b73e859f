//! The counters of one run as JSON: what the kernel redirected, bypassed and refused, by reason, and what the proxy
//! made of it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use interceptor_common::verdict::Effect;
use rustix::fs::OFlags;
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
    is_pipe: bool,
}

impl StatsFile {
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self { path: path.to_owned(), file: None, is_pipe: false });
        }
        let given = own_descriptor::open(path);
        let is_pipe = given.is_none() && fs::metadata(path).is_ok_and(|facts| facts.file_type().is_fifo());
        // Opened for writing only, a pipe waits for its reader.
        let open = || OpenOptions::new().read(is_pipe).write(true).create(true).truncate(true).open(path);
        let file = given.unwrap_or_else(open).with_context(|| cannot_write(path))?;
        Ok(Self { path: path.to_owned(), file: Some(file), is_pipe })
    }

    pub(super) fn write(self, kernel: KernelStats, proxy: Option<impl Serialize>) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(&Stats { kernel, proxy }).context("counters are no JSON")?;
        text.push(b'\n');
        match self.file {
            Some(held) if self.is_pipe => write_to_pipe(&self.path, held, &text),
            Some(mut file) => file.write_all(&text),
            None => io::stdout().write_all(&text),
        }
        .with_context(|| cannot_write(&self.path))
    }
}

/// To who reads it now, without waiting for anybody. What holds the pipe open is a reader, too, and goes first.
fn write_to_pipe(path: &Path, held: File, text: &[u8]) -> io::Result<()> {
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let mut pipe = OpenOptions::new().write(true).custom_flags(nonblocking).open(path)?;
    drop(held);
    pipe.write_all(text).map_err(|error| {
        let is_unread = error.kind() == io::ErrorKind::BrokenPipe;
        if is_unread { io::Error::other("it is a pipe that nobody reads") } else { error }
    })
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

    #[test]
    fn a_pipe_is_written_to_who_reads_it_and_nobody_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
        let stats = || StatsFile::create(&path).unwrap();
        let write = |stats: StatsFile| stats.write(KernelStats::default(), None::<()>);

        let error = write(stats()).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            format!("can't write --stats {}: it is a pipe that nobody reads", path.display())
        );

        let to_write = stats();
        let mut reader = File::open(&path).unwrap();
        write(to_write).unwrap();
        assert!(io::read_to_string(&mut reader).unwrap().contains("events_dropped"));
    }
}
