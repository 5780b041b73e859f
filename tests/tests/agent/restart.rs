//! What connections see when the agent is killed, and when it is replaced.

use std::io::Write;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use interceptor_tests::{Node, NodePod, Origin, World, read_head, wait_for};

use crate::HTTPBIN;

/// `connector` in a pod.
struct Load {
    child: Child,
}

impl Load {
    fn start(pod: &NodePod<'_>, origin: &Origin, threads: u32) -> anyhow::Result<Self> {
        let mut command = pod.command(env!("CARGO_BIN_EXE_connector"));
        command.arg(origin.address.to_string()).arg(threads.to_string());
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot run sh")?;
        Ok(Self { child })
    }

    fn finish(mut self) -> anyhow::Result<Counts> {
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
struct Counts {
    carried: u64,
    unintercepted: u64,
    wrong: u64,
    refused: u64,
    /// Broken off by the agent's end, after it was accepted.
    broken: u64,
    others: String,
}

/// A server that echoes heads, and how many requests it had.
struct Echo {
    origin: Origin,
    requests: Arc<AtomicUsize>,
}

impl Echo {
    fn start() -> anyhow::Result<Self> {
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
    fn wait_more(&self, more: usize) -> anyhow::Result<()> {
        let before = self.requests.load(Ordering::Relaxed);
        wait_for("more requests", Duration::from_secs(20), || {
            (self.requests.load(Ordering::Relaxed) >= before + more).then_some(())
        })
    }
}

#[test]
fn killing_the_agent_opens_no_hole() -> anyhow::Result<()> {
    let node = Node::new()?;
    let echo = Echo::start()?;
    node.apply("httpbin", HTTPBIN)?;
    let pod = node.pod("web", "")?;
    pod.start()?;
    let _pause = pod.pause()?;
    let agent = node.agent(&[])?;
    pod.wait_enrolled(&agent)?;
    let load = Load::start(&pod, &echo.origin, 4)?;
    echo.wait_more(20)?;
    let mut agent = agent;
    for _round in 0..10 {
        agent.kill()?;
        let refused = pod.curl(&[&format!("http://{}/", echo.origin.address)])?;
        ensure!(refused.code == Some(7), "connected without an agent: {refused:?}");
        agent = node.agent(&[])?;
        pod.wait_enrolled(&agent)?;
        echo.wait_more(20)?;
    }
    let counts = load.finish()?;
    agent.stop()?;
    assert_eq!((counts.unintercepted, counts.wrong), (0, 0), "{counts:?}");
    assert!(counts.carried > 0 && counts.refused > 0 && counts.broken < counts.carried, "{counts:?}");
    assert_eq!(counts.others, "[]", "{counts:?}");
    Ok(())
}

#[test]
fn replacing_the_agent_refuses_no_connection() -> anyhow::Result<()> {
    let node = Node::new()?;
    let echo = Echo::start()?;
    node.apply("httpbin", HTTPBIN)?;
    let pods = [node.pod("web", "")?, node.pod("batch", "")?];
    for pod in &pods {
        pod.start()?;
    }
    let _pauses = [pods[0].pause()?, pods[1].pause()?];
    let mut agent = node.agent(&["--drain", "5s"])?;
    for pod in &pods {
        pod.wait_enrolled(&agent)?;
    }
    let loads =
        pods.iter().map(|pod| Load::start(pod, &echo.origin, 2)).collect::<anyhow::Result<Vec<_>>>()?;
    for _round in 0..10 {
        echo.wait_more(20)?;
        let successor = node.agent(&["--drain", "5s"])?;
        for pod in &pods {
            pod.wait_enrolled(&successor)?;
        }
        agent.wait_ended()?;
        agent = successor;
    }
    for load in loads {
        let counts = load.finish()?;
        assert_eq!(
            (counts.unintercepted, counts.wrong, counts.refused, counts.broken),
            (0, 0, 0, 0),
            "{counts:?} {}",
            agent.said()
        );
        assert!(counts.carried > 0, "{counts:?}");
        assert_eq!(counts.others, "[]", "{counts:?}");
    }
    agent.stop()
}
