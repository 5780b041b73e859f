//! Data on standard output. A reader that stops reading (`| head`) is no failure.

use std::io::{self, Write};
use std::thread;

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::oneshot;

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
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    is_reader_gone_within(Some(&second)).map(|gone| !gone).context("can't watch standard output")
}

/// Returns when nobody reads our output any more.
pub(super) async fn reader_is_gone() {
    let (gone, told) = oneshot::channel();
    // It may wait until the process ends: no runtime must wait for it.
    let watching = thread::Builder::new().name("reader".into()).spawn(move || {
        if is_reader_gone_within(None).unwrap_or(false) {
            let _told = gone.send(()).is_ok();
        }
    });
    if watching.is_err() || told.await.is_err() {
        std::future::pending().await
    }
}

fn is_reader_gone_within(time: Option<&Timespec>) -> io::Result<bool> {
    let stdout = io::stdout();
    let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
    let happened = rustix::io::retry_on_intr(|| poll(&mut watched, time))?;
    Ok(happened > 0)
}
