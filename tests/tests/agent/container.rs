//! The agent as a container runtime starts it.

use interceptor_tests::Node;

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
