//! Data on standard output. A reader that stops reading (`| head`) is no failure.

use std::io::{self, Write};

use anyhow::Context;

/// Writes `text`.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("can't write to standard output")
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
