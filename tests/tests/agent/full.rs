//! A kernel map that has no room for another pod.

use interceptor_tests::{ApiServer, Node, World, eventually};

use crate::asked;

/// So many ports that the map of all pods' ports has room for one such pod.
fn exclude(ports: std::ops::Range<u16>) -> String {
    let ports: Vec<String> = ports.step_by(2).map(|port| port.to_string()).collect();
    format!("  annotations: {{traffic.sidecar.istio.io/excludeOutboundPorts: \"{}\"}}\n", ports.join(","))
}

#[test]
fn a_pod_without_room_in_a_map_is_refused_and_told_and_others_go_on() -> anyhow::Result<()> {
    let world = World::shared()?;
    let api: &'static ApiServer = Box::leak(Box::new(world.outside.enter(ApiServer::start)??));
    let node = Node::following(api)?;
    let agent = node.agent(&[])?;
    let first = node.pod("first", &exclude(1000..65_000))?;
    let second = node.pod("second", &exclude(1001..65_001))?;
    let third = node.pod("third", &exclude(1000..65_000))?;
    let plain = node.pod("plain", "")?;
    let mut pauses = Vec::new();
    for pod in [&first, &second] {
        pod.start()?;
        pauses.push(pod.pause()?);
        pod.wait_enrolled(&agent)?;
    }
    for pod in [&third, &plain] {
        pod.start()?;
        pauses.push(pod.pause()?);
    }
    plain.wait_enrolled(&agent)?;
    agent.wait_said("pod shop/third: can't write map PORTS: it is full")?;

    let url = "http://10.10.0.4/";
    let refused = third.curl(&[url])?;
    assert_eq!(refused.code, Some(7), "connected without a policy: {refused:?}");
    for pod in [&first, &second, &plain] {
        let answer = pod.curl(&["-v", url])?;
        assert_eq!(answer.code, Some(0), "{answer:?} {} {}", asked::dump(&node, "stats")?, agent.said());
    }
    let full = "can't write map PORTS: it is full";
    eventually("readiness to name the pod", || {
        asked::ready(&node).is_ok_and(|text| text.contains("are not: shop/third"))
    })?;
    let metrics = asked::get(&node, "/metrics")?;
    assert!(metrics.contains("interceptor_pods{state=\"failed\"} 1\n"), "{metrics}");
    eventually("an Event on the pod", || {
        api.objects("events")
            .iter()
            .any(|event| event["regarding"]["name"] == "third" && event.to_string().contains(full))
    })?;
    let dumped = asked::dump(&node, "pods")?;
    assert!(dumped.lines().any(|line| line.contains("third") && line.contains(full)), "{dumped}");

    // There is room again.
    first.stop()?;
    third.wait_enrolled(&agent)?;
    assert_eq!(third.curl(&[url])?.http()?.status, 200);
    agent.wait_ready()?;
    agent.stop()
}
