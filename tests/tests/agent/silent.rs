//! Nobody reads what the agent says on standard error.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::Context;
use interceptor_tests::{Node, eventually};
use rustix::fs::{CWD, Mode, OFlags, mkfifoat};

use crate::asked;

/// A pipe that takes nothing more, for as long as the answer lives.
fn full_pipe(path: &std::path::Path) -> anyhow::Result<File> {
    mkfifoat(CWD, path, Mode::RWXU).context("cannot make a pipe")?;
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut pipe = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
    while pipe.write(&[b'x'; 4096]).is_ok() {}
    Ok(pipe)
}

/// By what the kernel has: the agent's log can't tell.
fn wait_enrolled(node: &Node, pod: &str) -> anyhow::Result<()> {
    eventually("the pod to be enrolled", || {
        let dumped = asked::dump(node, "pods").unwrap_or_default();
        dumped.lines().any(|line| line.starts_with(pod) && line.contains(" enrolled "))
    })
}

#[test]
fn an_agent_whose_messages_nobody_reads_goes_on() -> anyhow::Result<()> {
    let node = Node::new()?;
    let path = node.dir.join("stderr");
    let _pipe = full_pipe(&path)?;
    let redirected = format!("exec \"$@\" 2>'{}'", path.display());
    let agent = node.agent_under(&["sh", "-c", &redirected, "sh"], &[])?;
    let pod = node.pod("app", "")?;
    pod.start()?;
    let _pause = pod.pause()?;
    wait_enrolled(&node, "shop/app")?;
    assert_eq!(pod.curl(&["http://10.10.0.4/"])?.http()?.status, 200);
    // A change has findings to tell of, and is in effect.
    node.apply(
        "broken",
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: broken}\nspec: {hosts: []}\n",
    )?;
    let second = node.pod("second", "")?;
    second.start()?;
    let _second = second.pause()?;
    wait_enrolled(&node, "shop/second")?;
    assert_eq!(second.curl(&["http://10.10.0.4/"])?.http()?.status, 200);
    agent.stop()
}
