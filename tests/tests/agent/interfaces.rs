//! Pods that exclude interfaces: what their routes lead to by one of them is left alone, as the routes are now.

use std::process::Command;

use anyhow::Context;
use interceptor_tests::{Agent, Interface, Node, NodePod, World, eventually};

use crate::{HTTPBIN, asked};

/// Hosts that nobody knows are blocked: whatever is intercepted is answered with 502.
const BLOCKING: &[&str] = &["--outbound-traffic-policy", "REGISTRY_ONLY"];

const EXCLUDED: &str = "http://10.10.0.4/";
const OTHER: &str = "http://10.10.0.5/";

fn exclude(interfaces: &str) -> String {
    format!("  annotations: {{traffic.sidecar.istio.io/excludeInterfaces: \"{interfaces}\"}}\n")
}

fn second_interface(pod: &NodePod<'_>) -> anyhow::Result<Interface> {
    pod.pod.second_interface(&World::shared()?.outside, "net1")
}

/// A route of the pod's that `ip route` is told of, and with `route del` of its end.
fn route(pod: &NodePod<'_>, what: &str) -> anyhow::Result<()> {
    pod.pod.netns.ip(&format!("route {what}\n"))
}

fn status(pod: &NodePod<'_>, url: &str) -> anyhow::Result<u16> {
    // One that begins while the guard comes may see its SYN dropped.
    Ok(pod.curl(&["--max-time", "3", url])?.http()?.status)
}

/// Until a change of routes is in effect.
fn wait_for_status(pod: &NodePod<'_>, agent: &Agent<'_>, url: &str, expected: u16) -> anyhow::Result<()> {
    eventually(&format!("{url} to answer {expected}"), || {
        status(pod, url).is_ok_and(|status| status == expected)
    })
    .with_context(|| format!("{:?} {}", pod.curl(&["-v", url]), agent.said()))
}

#[test]
fn what_leaves_by_an_interface_is_left_alone_as_routes_come_and_go() -> anyhow::Result<()> {
    let world = World::shared()?;
    let node = Node::new()?;
    node.apply("httpbin", HTTPBIN)?;
    let agent = node.agent(BLOCKING)?;
    let pod = node.pod("web", &exclude("net1"))?;
    pod.start()?;
    let _pause = pod.pause()?;
    pod.wait_enrolled(&agent)?;
    // The interface may come later.
    assert_eq!(status(&pod, EXCLUDED)?, 502);
    let note = "it has no interface net1 yet";
    agent.wait_said(note)?;
    let dumped = asked::dump(&node, "pods")?;
    assert!(dumped.lines().any(|line| line.contains("shop/web") && line.contains(note)), "{dumped}");

    let net1 = second_interface(&pod)?;
    route(&pod, &format!("add 10.10.0.0/24 via {} dev net1", net1.gateway))?;
    wait_for_status(&pod, &agent, EXCLUDED, 200)?;
    assert!(!world.nginx.wait_hits(&net1.address, 1)?[0].through_proxy());
    eventually("the interface to be no news any more", || {
        asked::dump(&node, "pods").is_ok_and(|dumped| !dumped.contains(note))
    })?;
    // What goes by the other interface is intercepted as ever.
    assert_eq!(status(&pod, "http://www.google.com/")?, 502);
    assert_eq!(status(&pod, "http://httpbin.org/get")?, 200);

    // A longer route by the other interface.
    route(&pod, &format!("add 10.10.0.5/32 via {}.1 dev eth0", subnet(&pod)))?;
    wait_for_status(&pod, &agent, OTHER, 502)?;
    assert_eq!(status(&pod, EXCLUDED)?, 200);
    let policies = asked::dump(&node, "policies")?;
    assert!(policies.contains("10.10.0.0/24, !10.10.0.5/32"), "{policies}");
    // A metric decides between two of one length.
    route(&pod, &format!("add 10.10.0.5/32 via {} dev net1 metric 5", net1.gateway))?;
    route(&pod, &format!("add 10.10.0.0/24 via {}.1 dev eth0 metric 5", subnet(&pod)))?;
    route(&pod, &format!("del 10.10.0.5/32 via {}.1 dev eth0", subnet(&pod)))?;
    wait_for_status(&pod, &agent, OTHER, 200)?;
    assert_eq!(status(&pod, EXCLUDED)?, 200);

    let six = "http://six.test/";
    assert_eq!(status(&pod, six)?, 502);
    route(&pod, &format!("add 2001:db8::4/128 via {} dev net1", net1.gateway6))?;
    wait_for_status(&pod, &agent, six, 200)?;
    assert_eq!(status(&pod, "http://neighbour-six.test/")?, 502);

    let explained = explain(&node, EXCLUDED)?;
    for part in [
        "left alone: the workload's routes lead there by an excluded interface (route to 10.10.0.0/24)",
        "by Pod shop/web annotation traffic.sidecar.istio.io/excludeInterfaces",
    ] {
        assert!(explained.contains(part), "{part}: {explained}");
    }
    assert!(explain(&node, "http://203.0.113.20/")?.contains("redirected to the proxy"));
    let stats = asked::dump(&node, "stats")?;
    let counted = stats.lines().any(|line| line.contains("bypassed") && line.contains("excluded_interface"));
    assert!(counted, "{stats}");

    pod.pod.netns.ip("link del net1\n")?;
    wait_for_status(&pod, &agent, EXCLUDED, 502)?;
    wait_for_status(&pod, &agent, six, 502)?;
    agent.stop()
}

fn subnet(pod: &NodePod<'_>) -> String {
    pod.pod.address.rsplit_once('.').map(|(subnet, _)| subnet.to_owned()).unwrap_or_default()
}

fn explain(node: &Node, url: &str) -> anyhow::Result<String> {
    let mut command = Command::new(interceptor_tests::binary()?);
    command.args(["explain", "--pod", "shop/web", url, "--agent-socket"]).arg(node.socket());
    Ok(String::from_utf8(command.output()?.stdout)?)
}

#[test]
fn a_default_route_excludes_all_but_what_other_routes_lead_to() -> anyhow::Result<()> {
    let node = Node::new()?;
    node.apply("httpbin", HTTPBIN)?;
    let pod = node.pod("web", &exclude("net+,not-there"))?;
    let net1 = second_interface(&pod)?;
    route(&pod, &format!("replace default via {} dev net1", net1.gateway))?;
    route(&pod, &format!("add 10.10.0.0/24 via {}.1 dev eth0", subnet(&pod)))?;
    route(&pod, &format!("add 10.10.0.5/32 via {} dev net1", net1.gateway))?;
    let agent = node.agent(BLOCKING)?;
    pod.start()?;
    let _pause = pod.pause()?;
    pod.wait_enrolled(&agent)?;
    assert_eq!(status(&pod, "http://203.0.113.20/")?, 200, "{}", agent.said());
    assert_eq!(status(&pod, EXCLUDED)?, 502);
    assert_eq!(status(&pod, OTHER)?, 200);
    // IPv6 leaves by the other.
    assert_eq!(status(&pod, "http://six.test/")?, 502);
    // Where a packet may take either way, it is not known to leave by this one.
    let by_both = format!("nexthop via {} dev net1 nexthop via {}.1 dev eth0", net1.gateway, subnet(&pod));
    route(&pod, &format!("replace default {by_both}"))?;
    wait_for_status(&pod, &agent, "http://203.0.113.20/", 502)?;
    assert_eq!(status(&pod, OTHER)?, 200);

    // The annotation is followed, too.
    pod.describe(&exclude("eth0"))?;
    wait_for_status(&pod, &agent, EXCLUDED, 200)?;
    assert_eq!(status(&pod, OTHER)?, 502);
    // What can't be read changes nothing, and is told.
    pod.describe(&exclude("net1,eth 0"))?;
    agent.wait_said("\"eth 0\" is not the name of a network interface")?;
    assert_eq!((status(&pod, EXCLUDED)?, status(&pod, OTHER)?), (200, 502));
    pod.describe("")?;
    wait_for_status(&pod, &agent, EXCLUDED, 502)?;
    assert_eq!(status(&pod, OTHER)?, 502);
    agent.stop()
}

/// Excluded interfaces are no way around the gateway, as excluded ranges are none.
#[test]
fn an_enforced_pod_excludes_no_interface() -> anyhow::Result<()> {
    let node = Node::new()?;
    node.apply("httpbin", HTTPBIN)?;
    let annotations = "  annotations: {egress.interceptor.io/enforce: gateway, \
        traffic.sidecar.istio.io/excludeInterfaces: net1}\n";
    let pod = node.pod("web", annotations)?;
    let net1 = second_interface(&pod)?;
    route(&pod, &format!("replace default via {} dev net1", net1.gateway))?;
    let agent = node.agent(BLOCKING)?;
    pod.start()?;
    let _pause = pod.pause()?;
    pod.wait_enrolled(&agent)?;
    agent.wait_said("annotation traffic.sidecar.istio.io/excludeInterfaces does not act where")?;
    assert_eq!(status(&pod, EXCLUDED)?, 403);
    pod.describe(&exclude("net1"))?;
    wait_for_status(&pod, &agent, EXCLUDED, 200)?;
    pod.describe(annotations)?;
    wait_for_status(&pod, &agent, EXCLUDED, 403)?;
    agent.stop()
}

#[test]
fn more_ranges_than_can_be_followed_exclude_nothing() -> anyhow::Result<()> {
    let node = Node::new()?;
    node.apply("httpbin", HTTPBIN)?;
    let pod = node.pod("web", &exclude("net1"))?;
    let net1 = second_interface(&pod)?;
    route(&pod, &format!("add 10.10.0.0/24 via {} dev net1", net1.gateway))?;
    let agent = node.agent(BLOCKING)?;
    pod.start()?;
    let _pause = pod.pause()?;
    pod.wait_enrolled(&agent)?;
    assert_eq!(status(&pod, EXCLUDED)?, 200);
    let routes = |verb: &str| -> String {
        let each =
            (0..1100).map(|n| format!("route {verb} 10.{}.{}.1/32 dev net1\n", 128 + n / 256, n % 256));
        each.collect()
    };
    pod.pod.netns.ip(&routes("add"))?;
    let note = "excludeInterfaces does nothing: its routes make more than 1024 ranges";
    agent.wait_said(note)?;
    wait_for_status(&pod, &agent, EXCLUDED, 502)?;
    eventually("dump to tell", || asked::dump(&node, "pods").is_ok_and(|dumped| dumped.contains(note)))?;
    pod.pod.netns.ip(&routes("del"))?;
    wait_for_status(&pod, &agent, EXCLUDED, 200)?;
    let said = agent.said();
    assert_eq!(said.matches(note).count(), 1, "{said}");
    agent.stop()
}

/// Whatever table they are in; and changes that come faster than they are told are not missed.
#[test]
fn more_routes_than_are_read_exclude_nothing() -> anyhow::Result<()> {
    let node = Node::new()?;
    node.apply("httpbin", HTTPBIN)?;
    let pod = node.pod("web", &exclude("net1"))?;
    let net1 = second_interface(&pod)?;
    route(&pod, &format!("add 10.10.0.0/24 via {} dev net1", net1.gateway))?;
    let agent = node.agent(BLOCKING)?;
    pod.start()?;
    let _pause = pod.pause()?;
    pod.wait_enrolled(&agent)?;
    assert_eq!(status(&pod, EXCLUDED)?, 200);
    let routes = |third: u32| -> String {
        (0..256).map(|n| format!("route add 10.100.{third}.{n}/32 dev net1 table 100\n")).collect()
    };
    pod.pod.netns.ip(&(0..256).map(routes).collect::<String>())?;
    let note = "excludeInterfaces does nothing: there are more than 65536 routes";
    agent.wait_said(note)?;
    wait_for_status(&pod, &agent, EXCLUDED, 502)?;
    route(&pod, "flush table 100")?;
    wait_for_status(&pod, &agent, EXCLUDED, 200)?;
    agent.stop()
}

/// However many addresses a pod gives itself.
#[test]
fn some_of_a_pods_addresses_are_its_own() -> anyhow::Result<()> {
    const ADDRESSES_MAX: usize = 1024;
    let node = Node::new()?;
    node.apply("httpbin", HTTPBIN)?;
    let agent = node.agent(&[])?;
    let pod = node.pod("web", "")?;
    pod.start()?;
    let _pause = pod.pause()?;
    pod.wait_enrolled(&agent)?;
    let more =
        (1..=ADDRESSES_MAX + 100).map(|number| format!("addr add fd98::{number:x}/128 dev lo nodad\n"));
    pod.pod.netns.ip(&more.collect::<String>())?;
    let own = || -> anyhow::Result<usize> {
        let policies = crate::enforced::dump(&node, "policies")?;
        Ok(policies[0]["ownAddresses"].as_array().context("no addresses")?.len())
    };
    eventually("as many addresses as count", || own().is_ok_and(|own| own == ADDRESSES_MAX))
        .with_context(|| format!("{:?} {}", own(), agent.said()))?;
    assert_eq!(pod.curl(&["http://httpbin.org/get"])?.http()?.status, 200);
    agent.stop()
}
