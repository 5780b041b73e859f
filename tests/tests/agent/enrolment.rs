//! Which pods are carried, from when on, and until when.

use interceptor_tests::{Driver, Node, World, eventually};

use crate::HTTPBIN;
use crate::asked::ready;

#[test]
fn a_pods_requests_are_carried_from_its_own_address() -> anyhow::Result<()> {
    for driver in [Driver::Cgroupfs, Driver::Systemd] {
        let node = Node::with_driver(driver)?;
        node.apply("httpbin", HTTPBIN)?;
        let pod = node.pod("web", "")?;
        let agent = node.agent(&["--outbound-traffic-policy", "REGISTRY_ONLY"])?;
        pod.start()?;
        let _pause = pod.pause()?;
        pod.wait_enrolled(&agent)?;

        let answer = pod.curl(&["http://httpbin.org/get"])?;
        let http = answer.http()?;
        assert_eq!(http.status, 200, "{answer:?} {}", agent.said());
        assert!(answer.stdout.contains(&format!("\"origin\": \"{}\"", pod.pod.address)), "{answer:?}");

        let blocked = pod.curl(&["http://edition.cnn.com/"])?;
        assert_eq!(blocked.http()?.status, 502, "{blocked:?}");
        agent.stop()?;
    }
    Ok(())
}

#[test]
fn what_is_not_selected_goes_its_own_way() -> anyhow::Result<()> {
    let world = World::shared()?;
    let node = Node::new()?;
    node.apply("httpbin", HTTPBIN)?;
    let agent = node.agent(&["--outbound-traffic-policy", "REGISTRY_ONLY"])?;
    let ours = node.pod("ours", "")?;
    let elsewhere = node.pod_in("plain", "elsewhere", "")?;
    let opted_out = node.pod("opted-out", "  labels: {sidecar.istio.io/inject: \"false\"}\n")?;
    for pod in [&ours, &elsewhere, &opted_out] {
        pod.start()?;
    }
    let _pauses = [ours.pause()?, elsewhere.pause()?, opted_out.pause()?];
    ours.wait_enrolled(&agent)?;
    for pod in [&elsewhere, &opted_out] {
        assert_eq!(pod.curl(&["http://www.google.com/"])?.http()?.status, 200);
        assert!(!world.nginx.wait_hits(&pod.pod.address, 1)?[0].through_proxy());
    }
    assert_eq!(ours.curl(&["http://www.google.com/"])?.http()?.status, 502);
    agent.stop()
}

#[test]
fn an_annotation_edited_live_is_in_effect_at_once() -> anyhow::Result<()> {
    let world = World::shared()?;
    let node = Node::new()?;
    node.apply("httpbin", HTTPBIN)?;
    let agent = node.agent(&["--outbound-traffic-policy", "REGISTRY_ONLY"])?;
    let pod = node.pod("web", "")?;
    pod.start()?;
    let _pause = pod.pause()?;
    pod.wait_enrolled(&agent)?;
    assert_eq!(pod.curl(&["http://10.10.0.4/"])?.http()?.status, 502);

    let exclude = |ranges: &str| {
        format!("  annotations: {{traffic.sidecar.istio.io/excludeOutboundIPRanges: \"{ranges}\"}}\n")
    };
    pod.describe(&exclude("10.10.0.4/32"))?;
    agent.wait_said("pod shop/web: the annotations' policy is in effect")?;
    assert_eq!(pod.curl(&["http://10.10.0.4/"])?.http()?.status, 200);
    assert!(!world.nginx.wait_hits(&pod.pod.address, 1)?[0].through_proxy());

    // What can't be read changes nothing, and is told.
    pod.describe(&exclude("10.10.0.4"))?;
    agent.wait_said("write 10.10.0.4/32 for this one address; it changes nothing")?;
    assert_eq!(pod.curl(&["http://10.10.0.4/"])?.http()?.status, 200);
    agent.stop()
}

/// Otherwise an agent with a wrong name of its node would say that all is well, and refuse everything.
#[test]
fn pods_that_nobody_tells_of_are_told() -> anyhow::Result<()> {
    let node = Node::new()?;
    node.apply("httpbin", HTTPBIN)?;
    let pod = node.pod("web", "")?;
    pod.start()?;
    let _pause = pod.pause()?;
    let agent = node.agent(&["--node-name", "worker-l"])?;
    let why = "nobody tells of 1 of the pods that run here, as pods of node worker-l (is --node-name right?): \
               until then their connections are refused";
    agent.wait_said(&format!("{why} (uid {})", pod.uid))?;
    eventually("the agent to say that it is not ready", || {
        ready(&node).is_ok_and(|ready| ready.contains(&format!("[-]pods: {why}")))
    })?;
    assert_eq!(pod.curl(&["http://httpbin.org/get"])?.code, Some(7));
    let successor = node.agent(&["--node-name", "worker-1"])?;
    pod.wait_enrolled(&successor)?;
    successor.wait_ready()?;
    agent.wait_ended()?;
    successor.stop()
}
