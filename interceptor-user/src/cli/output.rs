//! Data on standard output, in the form that was asked for. A reader that stops reading (`| head`) is no failure.

use std::io::{self, Write};

use anyhow::Context;
use serde::Serialize;

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

pub(super) fn json(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value).context("can't write JSON")? + "\n")
}

pub(super) fn yaml(value: &impl Serialize) -> anyhow::Result<String> {
    let text = serde_saphyr::to_string(value).context("can't write YAML")?;
    Ok(text.trim_end().to_owned() + "\n")
}
