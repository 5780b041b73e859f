//! Connections without end, and the server that counts them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use interceptor_tests::{NodePod, Origin, World, read_head, wait_for};

/// `connector` in a pod.
pub(crate) struct Load {
    child: Child,
}

impl Load {
    pub(crate) fn start(pod: &NodePod<'_>, origin: &Origin, threads: u32) -> anyhow::Result<Self> {
        let mut command = pod.command(env!("CARGO_BIN_EXE_connector"));
        command.arg(origin.address.to_string()).arg(threads.to_string());
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot run sh")?;
        Ok(Self { child })
    }

    pub(crate) fn finish(mut self) -> anyhow::Result<Counts> {
        drop(self.child.stdin.take());
        let mut line = String::new();
        BufReader::new(self.child.stdout.take().context("no output")?).read_line(&mut line)?;
        self.child.wait()?;
        let json: serde_json::Value =
            serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))?;
        let number = |name: &str| json[name].as_u64().with_context(|| format!("no {name} in {json}"));
        Ok(Counts {
            carried: number("carried")?,
            unintercepted: number("unintercepted")?,
            wrong: number("wrong")?,
            refused: number("refused")?,
            broken: number("broken")?,
            others: json["others"].to_string(),
        })
    }
}

#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) carried: u64,
    pub(crate) unintercepted: u64,
    pub(crate) wrong: u64,
    pub(crate) refused: u64,
    /// Broken off by the agent's end, after it was accepted.
    pub(crate) broken: u64,
    pub(crate) others: String,
}

/// A server that echoes heads, and how many requests it had.
pub(crate) struct Echo {
    pub(crate) origin: Origin,
    requests: Arc<AtomicUsize>,
}

impl Echo {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        let origin = World::shared()?.origin(80, move |mut socket| {
            loop {
                let head = read_head(&mut socket)?;
                if head.is_empty() {
                    return Ok(());
                }
                count.fetch_add(1, Ordering::Relaxed);
                write!(socket, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len())?;
            }
        })?;
        Ok(Self { origin, requests })
    }

    /// Waits until it has had so many requests more.
    pub(crate) fn wait_more(&self, more: usize) -> anyhow::Result<()> {
        let before = self.requests.load(Ordering::Relaxed);
        wait_for("more requests", Duration::from_secs(60), || {
            (self.requests.load(Ordering::Relaxed) >= before + more).then_some(())
        })
    }
}
