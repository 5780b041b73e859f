//! Processes that are faster than the agent, and the CNI plugin that makes them wait.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, ensure};
use interceptor_tests::{Node, binary};

use crate::HTTPBIN;
use crate::load::{Echo, Load};

#[test]
fn who_connects_in_his_first_millisecond_does_not_get_past() -> anyhow::Result<()> {
    let node = Node::new()?;
    node.apply("httpbin", HTTPBIN)?;
    let echo = Echo::start()?;
    let agent = node.agent(&[])?;
    agent.wait_said("pods that are not decided yet are held")?;
    for round in 0..8 {
        let pod = node.pod(&format!("fast-{round}"), "")?;
        pod.start()?;
        let load = Load::start(&pod, &echo.origin, 2)?;
        pod.wait_enrolled(&agent)?;
        echo.wait_more(5)?;
        let counts = load.finish()?;
        assert_eq!((counts.unintercepted, counts.wrong), (0, 0), "{counts:?}");
        assert!(counts.carried > 0, "{counts:?}");
        assert_eq!(counts.others, "[]", "{counts:?}");
    }
    agent.stop()
}

#[test]
fn the_cni_plugin_returns_when_the_pod_is_enrolled() -> anyhow::Result<()> {
    let node = Node::new()?;
    node.apply("httpbin", HTTPBIN)?;
    let agent = node.agent(&["--outbound-traffic-policy", "REGISTRY_ONLY"])?;
    let pod = node.pod("web", "")?;
    pod.start()?;
    let result = serde_json::json!({"cniVersion": "1.0.0", "interfaces": [], "ips": []});
    let config = serde_json::json!({
        "cniVersion": "1.0.0", "name": "test", "type": "interceptor-cni",
        "agentSocket": node.socket(), "deadline": "20s", "prevResult": result,
    });
    let mut plugin = std::process::Command::new(binary()?);
    plugin.arg("cni").env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", "sandbox").env("CNI_IFNAME", "eth0");
    plugin.env("CNI_NETNS", pod.pod.netns.path()).env("CNI_PATH", "/opt/cni/bin");
    let arguments = format!("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID={}", pod.uid);
    let mut child = plugin
        .env("CNI_ARGS", arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run interceptor")?;
    child.stdin.take().context("no input")?.write_all(config.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&[output.stdout.clone(), output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{said} {}", agent.said());
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&output.stdout)?, result);
    // No process of the pod has run yet; the first one is carried.
    assert_eq!(pod.curl(&["http://httpbin.org/get"])?.http()?.status, 200, "{}", agent.said());
    assert_eq!(pod.curl(&["http://www.google.com/"])?.http()?.status, 502);
    agent.stop()
}
