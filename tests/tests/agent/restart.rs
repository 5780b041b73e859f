//! What connections see when the agent is killed, and when it is replaced.

use std::fs;
use std::process::Command;

use anyhow::ensure;
use interceptor_tests::{Node, binary, eventually, output};
use rustix::process::Signal;

use crate::HTTPBIN;
use crate::load::{Echo, Load};

/// Less than a second each.
const ROUNDS: usize = 50;

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
    for _round in 0..ROUNDS {
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
fn an_access_log_that_is_rotated_away_is_opened_anew() -> anyhow::Result<()> {
    let node = Node::new()?;
    node.apply("httpbin", HTTPBIN)?;
    let pod = node.pod("web", "")?;
    pod.start()?;
    let _pause = pod.pause()?;
    let agent = node.agent(&[])?;
    pod.wait_enrolled(&agent)?;
    fs::rename(node.access_log(), node.dir.join("access.log.1"))?;
    agent.signal(Signal::HUP)?;
    agent.wait_said("the access log is opened anew")?;
    assert_eq!(pod.curl(&["http://httpbin.org/get"])?.http()?.status, 200);
    eventually("a line in the new file", || {
        fs::read_to_string(node.access_log()).is_ok_and(|text| text.contains("httpbin.org"))
    })?;
    agent.stop()
}

/// Whoever cleans up while it runs takes the programs away: an agent that went on would say that all is well.
#[test]
fn an_agent_whose_programs_are_taken_away_ends() -> anyhow::Result<()> {
    let node = Node::new()?;
    node.apply("httpbin", HTTPBIN)?;
    let pod = node.pod("web", "")?;
    pod.start()?;
    let _pause = pod.pause()?;
    let policy = ["--outbound-traffic-policy", "REGISTRY_ONLY"];
    let agent = node.agent(&policy)?;
    pod.wait_enrolled(&agent)?;
    // Its own look at what is pinned comes after everything that was there at the start is held.
    agent.wait_ready()?;
    let mut cleanup = Command::new(binary()?);
    cleanup.arg("cleanup").arg("--pins").arg(node.pins()).arg("--agent-socket").arg(node.socket());
    let cleaned = output(&mut cleanup)?;
    let warned = String::from_utf8(cleaned.stderr)?;
    ensure!(warned.contains("an agent still listens on"), "{warned}");
    let said = agent.wait_failed()?;
    ensure!(said.contains("and with it the programs: pods' connections go past the proxy"), "{said}");

    let agent = node.agent(&policy)?;
    pod.wait_enrolled(&agent)?;
    assert_eq!(pod.curl(&["http://www.google.com/"])?.http()?.status, 502);
    agent.stop()
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
    let mut replaced = Vec::new();
    for _round in 0..ROUNDS {
        echo.wait_more(20)?;
        let successor = node.agent(&["--drain", "5s"])?;
        for pod in &pods {
            pod.wait_enrolled(&successor)?;
        }
        replaced.push(std::mem::replace(&mut agent, successor));
    }
    // What is open there ends meanwhile.
    for agent in replaced {
        agent.wait_ended()?;
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

/// Otherwise the kubelet would start it again, and it would take over again, until the DaemonSet's controller ends it.
#[test]
fn in_a_pod_an_agent_that_was_replaced_ends_when_it_is_told_to() -> anyhow::Result<()> {
    let node = Node::new()?;
    let pod = node.pod("web", "")?;
    pod.start()?;
    let _pause = pod.pause()?;
    let first = node.agent_under(&["env", "KUBERNETES_SERVICE_HOST=10.96.0.1"], &["--drain", "1s"])?;
    pod.wait_enrolled(&first)?;
    let second = node.agent(&[])?;
    pod.wait_enrolled(&second)?;
    first.wait_said("waiting to be told to end")?;
    first.stop()?;
    second.stop()
}
