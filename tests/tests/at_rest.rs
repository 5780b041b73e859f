//! What a process has once it serves: the code that only starting took is let go of.

use std::fs;
use std::time::Duration;

use anyhow::Context;
use interceptor_tests::{Gateway, Node, World, eventually, wait_for};

/// Resident pages of the process's own code, in KiB.
fn resident_code(pid: u32) -> anyhow::Result<f64> {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).context("no such process")?;
    let exe = exe.display().to_string();
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).context("cannot read its memory")?;
    let (mut is_code, mut resident) = (false, 0.0);
    for line in smaps.lines() {
        let is_field = line.split_whitespace().next().is_some_and(|word| word.ends_with(':'));
        if !is_field {
            is_code = line.contains(" r-xp ") && line.ends_with(&exe);
        } else if let Some(rss) = line.strip_prefix("Rss:").filter(|_| is_code) {
            resident += rss.trim().trim_end_matches(" kB").parse::<f64>()?;
        }
    }
    anyhow::ensure!(resident > 0.0, "no code of {exe} in:\n{smaps}");
    Ok(resident)
}

/// What the kernel says of a process's memory, in KiB: the most that it had at a time, and what it has.
fn most_and_now(pid: u32) -> anyhow::Result<(f64, f64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = |name: &str| -> anyhow::Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    };
    Ok((kib("VmHWM:")?, kib("VmRSS:")?))
}

/// Loading programs takes memory that is given back anyway: only code counts.
#[test]
fn an_agent_lets_go_of_code() -> anyhow::Result<()> {
    let node = Node::new()?;
    let agent = node.agent(&[])?;
    let _pod = node.bare_pod("idle")?;
    let (mut most, mut now) = (0.0, 0.0);
    wait_for("a fifth of the code to go", Duration::from_secs(20), || {
        now = resident_code(agent.pid()).ok()?;
        most = now.max(most);
        (now < most * 0.8).then_some(())
    })
    .with_context(|| format!("{now} of {most} KiB are resident: {}", agent.said()))?;
    assert!(agent.said().contains("pod shop/idle: enrolled"), "{}", agent.said());
    agent.stop()
}

#[test]
fn a_gateway_lets_go_of_code() -> anyhow::Result<()> {
    let world = World::shared()?;
    let host = world.joined_pod()?;
    let gateway = Gateway::start(
        &host,
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: egress}\nspec:\n  selector: {istio: egressgateway}\n  \
         servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]\n",
    )?;
    let shown = || format!("{:?}", most_and_now(gateway.pid()));
    eventually("a tenth of its memory to go", || {
        most_and_now(gateway.pid()).is_ok_and(|(most, now)| now < most * 0.9)
    })
    .with_context(shown)
}
