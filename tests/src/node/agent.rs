//! An agent of a node: what it says, shows and takes, and how it ends.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal};

use super::Node;
use crate::wait_for;

/// A running `interceptor agent`; dropping it kills it.
#[derive(Debug)]
pub struct Agent<'node> {
    pub(super) child: Child,
    pub(super) log: PathBuf,
    pub(super) node: &'node Node,
}

impl Agent<'_> {
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for a line on its standard error.
    pub fn wait_said(&self, what: &str) -> anyhow::Result<()> {
        wait_for(&format!("the agent to say {what:?}"), Duration::from_secs(60), || {
            self.said().contains(what).then_some(())
        })
        .with_context(|| format!("{}\n{}", self.said(), self.shown()))
    }

    /// Waits until /readyz says yes.
    pub fn wait_ready(&self) -> anyhow::Result<()> {
        wait_for("the agent to be ready", Duration::from_secs(60), || {
            let mut curl = Command::new("curl");
            curl.args(["-sSf", "--max-time", "5", "--unix-socket"]).arg(self.node.socket());
            curl.arg("http://agent/readyz").output().ok()?.status.success().then_some(())
        })
        .with_context(|| format!("{}\n{}", self.said(), self.shown()))
    }

    /// Proportional set size: what the process takes, shared pages divided among those who share them.
    pub fn pss_kib(&self) -> anyhow::Result<f64> {
        self.memory_kib("Pss:")
    }

    /// What it has written to: unlike pages of its file it is shared with nobody, so other agents that come and go do not
    /// change it.
    pub fn anonymous_kib(&self) -> anyhow::Result<f64> {
        self.memory_kib("Pss_Anon:")
    }

    fn memory_kib(&self, field: &str) -> anyhow::Result<f64> {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let line = line.with_context(|| format!("no {field} in {path}"))?;
        line.trim().trim_end_matches(" kB").parse().with_context(|| format!("not a number: {line}"))
    }

    /// Processor time that it has taken so far, its own and the kernel's for it.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let (_, fields) = text.rsplit_once(')').context("no name")?;
        let ticks: u64 =
            fields.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
        Ok(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
    }

    /// How often its threads have begun to wait so far.
    pub fn waits(&self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/task", self.child.id());
        let threads = fs::read_dir(&path).with_context(|| format!("cannot read {path}"))?;
        // A thread may have ended by now.
        let statuses =
            threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
        let waits = |status: String| {
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            line.trim().parse::<u64>().ok()
        };
        Ok(statuses.filter_map(waits).sum())
    }

    /// What its socket shows, for people.
    fn shown(&self) -> String {
        let show = |path: &str| {
            let mut curl = Command::new("curl");
            curl.args(["-sS", "--max-time", "5", "--unix-socket"]).arg(self.node.socket());
            let shown = curl.arg(format!("http://agent{path}")).output();
            shown.map(|shown| String::from_utf8_lossy(&[shown.stdout, shown.stderr].concat()).into_owned())
        };
        ["/readyz?verbose", "/pods"].map(|path| show(path).unwrap_or_default()).join("\n")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("not a process id")?;
        rustix::process::kill_process(pid, signal).context("cannot send a signal")
    }

    /// SIGKILL, and until it is gone.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().context("cannot kill the agent")?;
        self.child.wait().context("cannot wait for the agent").map(drop)
    }

    /// SIGTERM, and until it has ended well.
    pub fn stop(self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)?;
        self.wait_ended()
    }

    /// Until it has ended by itself, well.
    pub fn wait_ended(mut self) -> anyhow::Result<()> {
        let status = self.wait_end()?;
        ensure!(status.success(), "the agent ended with {status}: {}", self.said());
        Ok(())
    }

    /// Until it has ended by itself, with an error; what it has said.
    pub fn wait_failed(mut self) -> anyhow::Result<String> {
        let status = self.wait_end()?;
        ensure!(status.code() == Some(1), "the agent ended with {status}: {}", self.said());
        Ok(self.said())
    }

    fn wait_end(&mut self) -> anyhow::Result<ExitStatus> {
        let child = &mut self.child;
        wait_for("the agent to end", Duration::from_secs(40), || child.try_wait().transpose())
            .with_context(|| self.said())?
            .context("cannot wait for the agent")
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        drop(self.child.kill().and_then(|()| self.child.wait()));
    }
}
