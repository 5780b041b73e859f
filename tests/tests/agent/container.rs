//! The agent as a container runtime starts it.

use std::path::Path;

use anyhow::{Context, ensure};
use interceptor_tests::Node;
use serde_json::Value;

use crate::HTTPBIN;

/// On hosts with cgroup2 alone, containers have a view of their own in which the node's cgroups have other names.
#[test]
fn an_agent_with_its_own_view_of_cgroups_finds_the_pods() -> anyhow::Result<()> {
    let node = Node::new()?;
    node.apply("httpbin", HTTPBIN)?;
    let pod = node.pod("web", "")?;
    let agent = node.agent_under(&["unshare", "--cgroup"], &[])?;
    pod.start()?;
    let _pause = pod.pause()?;
    pod.wait_enrolled(&agent)?;
    let answer = pod.curl(&["http://httpbin.org/get"])?;
    assert_eq!(answer.http()?.status, 200, "{answer:?} {}", agent.said());
    assert!(answer.stdout.to_lowercase().contains("x-envoy-attempt-count"), "{answer:?}");
    agent.stop()
}

/// The capabilities that deploy/manifests gives the agent, in small letters.
fn capabilities() -> anyhow::Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/manifests/interceptor.yaml");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&std::fs::read_to_string(path)?)?;
    let daemonset = documents.iter().find(|object| object["kind"] == "DaemonSet").context("no DaemonSet")?;
    let containers =
        daemonset["spec"]["template"]["spec"]["containers"].as_array().context("no containers")?;
    let agent = containers.iter().find(|container| container["name"] == "agent").context("no agent")?;
    ensure!(agent["securityContext"]["capabilities"]["drop"] == serde_json::json!(["ALL"]));
    let add = agent["securityContext"]["capabilities"]["add"].as_array().context("no capabilities")?;
    Ok(add.iter().filter_map(Value::as_str).map(str::to_lowercase).collect())
}

fn bounded(capabilities: &[String]) -> String {
    let given: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
    format!("--bounding-set=-all{given}")
}

#[test]
fn the_daemonsets_capabilities_are_enough() -> anyhow::Result<()> {
    let node = Node::new()?;
    node.apply("httpbin", HTTPBIN)?;
    let pod = node.pod("web", "")?;
    let bounding = bounded(&capabilities()?);
    let agent = node.agent_under(&["setpriv", &bounding], &[])?;
    pod.start()?;
    let _pause = pod.pause()?;
    pod.wait_enrolled(&agent)?;
    assert_eq!(pod.curl(&["http://httpbin.org/get"])?.http()?.status, 200, "{}", agent.said());
    // And so it is for one that takes over.
    let successor = node.agent_under(&["setpriv", &bounding], &[])?;
    pod.wait_enrolled(&successor)?;
    assert_eq!(pod.curl(&["http://httpbin.org/get"])?.http()?.status, 200, "{}", successor.said());
    successor.stop()
}

#[test]
fn without_a_capability_the_agent_ends_and_says_why() -> anyhow::Result<()> {
    let all = capabilities()?;
    let needed = "the agent needs CAP_NET_ADMIN, CAP_SYS_ADMIN and CAP_SYS_PTRACE: loading kernel programs";
    for missing in ["net_admin", "sys_admin"] {
        ensure!(all.iter().any(|name| name == missing), "{missing} is not asked for");
        let node = Node::new()?;
        let rest: Vec<String> = all.iter().filter(|name| *name != missing).cloned().collect();
        let agent = node.agent_under(&["setpriv", &bounded(&rest)], &[])?;
        agent.wait_said(needed)?;
    }
    Ok(())
}

/// Its connections stay refused; who looks for the reason finds it.
#[test]
fn an_agent_that_may_not_look_at_processes_says_so() -> anyhow::Result<()> {
    let all = capabilities()?;
    ensure!(all.iter().any(|name| name == "sys_ptrace"), "sys_ptrace is not asked for");
    let rest: Vec<String> = all.iter().filter(|name| *name != "sys_ptrace").cloned().collect();
    let node = Node::new()?;
    let pod = node.pod("web", "")?;
    let agent = node.agent_under(&["setpriv", &bounded(&rest)], &[])?;
    pod.start()?;
    let _pause = pod.pause()?;
    agent.wait_said("pod shop/web: can't look at its network namespace: can't look at /proc/")?;
    agent.wait_said("it needs CAP_SYS_PTRACE")
}
