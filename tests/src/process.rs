//! Programs run by the harness: to their end with a deadline, or as a daemon until dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

/// Runs to the end; fails unless it succeeds.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    output(command).map(drop)
}

/// Runs to the end and returns what it printed; fails, with its own words, unless it succeeds.
pub fn output(command: &mut Command) -> anyhow::Result<Output> {
    let shown = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {shown} (cargo xtask test installs what is missing)"))?;
    if !output.status.success() {
        bail!("{shown}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output)
}

/// A program that runs until dropped; what it says goes into a file.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub fn spawn(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("cannot share the log")?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot run {command:?} (cargo xtask test installs what is missing)"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Waits until `ready`; fails at once, with what the program said, if it ends before.
    pub fn wait_ready(mut self, what: &str, mut ready: impl FnMut() -> bool) -> anyhow::Result<Self> {
        let mut ended = None;
        let waited = crate::wait_for(what, Duration::from_secs(60), || {
            ended = self.child.try_wait().ok().flatten();
            (ended.is_some() || ready()).then_some(())
        });
        if let Some(status) = ended {
            bail!("{what}: ended with {status}: {}", self.said());
        }
        waited.with_context(|| self.said())?;
        Ok(self)
    }

    /// How it has ended by itself, if it has.
    pub fn ended(&mut self) -> Option<std::io::Result<std::process::ExitStatus>> {
        self.child.try_wait().transpose()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("cannot stop process {}: {error}", self.child.id());
        }
    }
}
