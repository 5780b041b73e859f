//! A shell under `interceptor exec` that takes line after line: several commands, one interceptor.

use std::io::Write;
use std::process::ChildStdin;

use anyhow::{Context, anyhow};

use crate::{Finished, Http, Running, wait_for};

/// A shell under `interceptor exec` that runs line after line.
#[derive(Debug)]
pub struct Session {
    pub running: Running,
    stdin: ChildStdin,
    asked: usize,
}

impl Session {
    pub(crate) fn new(running: Running, stdin: ChildStdin) -> Self {
        Self { running, stdin, asked: 0 }
    }

    /// Runs one line; its exit status and what it printed.
    pub fn sh(&mut self, line: &str) -> anyhow::Result<(i32, String)> {
        self.send(line)?.wait()
    }

    /// [`Self::sh`] with `curl -sS -i`: the exit status and the last response, if there was one.
    pub fn curl(&mut self, args: &str) -> anyhow::Result<(i32, Option<Http>)> {
        let (code, text) = self.sh(&format!("curl -sS -i --max-time 30 {args} 2>/dev/null"))?;
        Ok((code, Http::last(&text).ok()))
    }

    fn send(&mut self, line: &str) -> anyhow::Result<Answer<'_>> {
        self.asked += 1;
        let marker = format!("--end of {}--", self.asked);
        let before = self.running.stdout().len();
        writeln!(self.stdin, "{{ {line}\n}}; printf '%s%d\\n' '{marker}' $?")
            .context("the shell has ended")?;
        Ok(Answer { running: &mut self.running, before, marker })
    }

    /// Ends the shell and returns all that was seen.
    pub fn finish(self) -> anyhow::Result<Finished> {
        drop(self.stdin);
        self.running.finish()
    }
}

struct Answer<'session> {
    running: &'session mut Running,
    before: usize,
    marker: String,
}

impl Answer<'_> {
    fn wait(self) -> anyhow::Result<(i32, String)> {
        let mut ended = None;
        let deadline = self.running.deadline;
        let answer = wait_for("the shell's answer", deadline, || {
            ended = self.running.child.try_wait().ok().flatten();
            let all = self.running.stdout();
            let new = all.get(self.before..).unwrap_or_default();
            let found = new.split_once(&self.marker).filter(|(_, code)| code.ends_with('\n'));
            let found = found.map(|(text, code)| (code.trim().parse().unwrap_or(-1), text.to_owned()));
            (found.is_some() || ended.is_some()).then_some(found)
        })?;
        answer.ok_or_else(|| anyhow!("the shell ended ({ended:?}): {}", self.running.stderr()))
    }
}
