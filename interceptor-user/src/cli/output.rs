//! Data on standard output. A reader that stops reading (`| head`) is no failure.

use std::io::{self, Write};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::output::Output;

/// How a table is written.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
    Yaml,
}

impl From<Format> for Output {
    fn from(format: Format) -> Self {
        match format {
            Format::Table => Self::Text,
            Format::Json => Self::Json,
            Format::Yaml => Self::Yaml,
        }
    }
}

/// Writes `text`; false if nobody reads it any more.
pub(super) fn print(text: &str) -> anyhow::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).context("can't write to standard output"),
    }
}

/// Waits a second, or until nobody reads our output any more: then false.
pub(super) fn reader_stays_for_a_second() -> anyhow::Result<bool> {
    let stdout = io::stdout();
    let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    let happened = rustix::io::retry_on_intr(|| poll(&mut watched, Some(&second)));
    Ok(happened.context("can't watch standard output")? == 0)
}
