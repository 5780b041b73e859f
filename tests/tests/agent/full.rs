//! Kernel maps that have no room for another pod.

use anyhow::{Context, bail};
use aya::maps::{HashMap, LpmTrie, Map, MapData, MapError, lpm_trie::Key};
use interceptor_tests::{Agent, ApiServer, Node, World, eventually};

use crate::asked;

const URL: &str = "http://10.10.0.4/";

fn pinned(node: &Node, map: &str) -> anyhow::Result<MapData> {
    let directories = std::fs::read_dir(node.pins()).context("no pins")?;
    let schemas = directories.flatten().map(|schema| schema.path().join("maps").join(map));
    let path = schemas.into_iter().find(|path| path.exists()).with_context(|| format!("no map {map}"))?;
    Ok(MapData::from_pin(path)?)
}

fn workloads(node: &Node) -> anyhow::Result<HashMap<MapData, u64, [u8; 48]>> {
    Ok(HashMap::try_from(Map::HashMap(pinned(node, "WORKLOADS")?))?)
}

fn prefixes(node: &Node) -> anyhow::Result<LpmTrie<MapData, [u8; 20], u32>> {
    Ok(LpmTrie::try_from(Map::LpmTrie(pinned(node, "PREFIXES")?))?)
}

/// A prefix of a policy that no workload has.
fn nobodys(number: u64) -> Key<[u8; 20]> {
    let mut bytes = [0xff; 20];
    bytes[12..].copy_from_slice(&number.to_be_bytes());
    Key::new(32 + 128, bytes)
}

/// Inserts until nothing more goes in, and says how much did.
fn fill(mut insert: impl FnMut(u64) -> Result<(), MapError>) -> anyhow::Result<u64> {
    for number in 0.. {
        match insert(number) {
            Ok(()) => {}
            Err(MapError::SyscallError(error)) if is_full(&error.io_error) => return Ok(number),
            Err(error) => return Err(error.into()),
        }
    }
    bail!("there is always room")
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC))
}

/// Log, readiness, metric, Event and dump say that `pod` is refused because of `why`.
fn told_everywhere(
    node: &Node,
    agent: &Agent<'_>,
    api: &ApiServer,
    pod: &str,
    why: &str,
) -> anyhow::Result<()> {
    agent.wait_said(&format!("pod shop/{pod}: {why}"))?;
    eventually("readiness to name the pod", || {
        asked::ready(node).is_ok_and(|text| text.contains(&format!("are not: shop/{pod}")))
    })?;
    let metrics = asked::get(node, "/metrics")?;
    assert!(metrics.contains("interceptor_pods{state=\"failed\"} 1\n"), "{metrics} {}", agent.said());
    eventually("an Event on the pod", || {
        api.objects("events")
            .iter()
            .any(|event| event["regarding"]["name"] == pod && event.to_string().contains(why))
    })?;
    let dumped = asked::dump(node, "pods")?;
    assert!(dumped.lines().any(|line| line.contains(pod) && line.contains(why)), "{dumped}");
    Ok(())
}

/// Every other port of a range.
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
    // All of them would fit, and leave next to nothing for others.
    let first = node.pod("first", &exclude(1000..51_000))?;
    let second = node.pod("second", &exclude(1001..33_001))?;
    let third = node.pod("third", &exclude(1000..49_000))?;
    let plain = node.pod("plain", &exclude(8000..8010))?;
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
    let why = "its policy speaks of 24000 ports, more than its part";
    agent.wait_said(&format!("pod shop/third: {why}"))?;

    let refused = third.curl(&[URL])?;
    assert_eq!(refused.code, Some(7), "connected without a policy: {refused:?}");
    for pod in [&first, &second, &plain] {
        let answer = pod.curl(&["-v", URL])?;
        assert_eq!(answer.code, Some(0), "{answer:?} {} {}", asked::dump(&node, "stats")?, agent.said());
    }
    told_everywhere(&node, &agent, api, "third", why)?;

    // There is room again.
    first.stop()?;
    third.wait_enrolled(&agent)?;
    assert_eq!(third.curl(&[URL])?.http()?.status, 200);
    agent.wait_ready()?;
    agent.stop()
}

#[test]
fn a_pod_without_room_among_workloads_is_refused_and_leaves_nothing() -> anyhow::Result<()> {
    let world = World::shared()?;
    let api: &'static ApiServer = Box::leak(Box::new(world.outside.enter(ApiServer::start)??));
    let node = Node::following(api)?;
    let agent = node.agent(&[])?;
    let (first, second) = (node.pod("first", "")?, node.pod("second", "")?);
    first.start()?;
    let _first = first.pause()?;
    first.wait_enrolled(&agent)?;
    let mut map = workloads(&node)?;
    let filled = fill(|number| map.insert(u64::MAX - number, [0; 48], 0))?;
    assert!(filled > 4000, "{filled}");
    second.start()?;
    let _second = second.pause()?;
    told_everywhere(&node, &agent, api, "second", "can't write map WORKLOADS: it is full")?;
    assert_eq!(second.curl(&[URL])?.code, Some(7), "connected without a policy");
    // Who is there already goes on, a new policy included.
    assert_eq!(first.curl(&[URL])?.http()?.status, 200);
    first.describe(&exclude(8000..8010))?;
    agent.wait_said("pod shop/first: the annotations' policy is in effect")?;
    assert_eq!(first.curl(&[URL])?.http()?.status, 200);
    // However often it was tried: no policy is left that no pod has, but for one that is just being tried.
    eventually("no policy without a pod", || {
        asked::dump(&node, "policies").is_ok_and(|dumped| dumped.lines().count() == 2)
    })
    .with_context(|| asked::dump(&node, "policies").unwrap_or_default())?;

    map.remove(&u64::MAX)?;
    second.wait_enrolled(&agent)?;
    assert_eq!(second.curl(&[URL])?.http()?.status, 200);
    agent.wait_ready()?;
    agent.stop()
}

#[test]
fn a_pod_without_room_among_prefixes_is_refused_and_who_has_a_policy_keeps_it() -> anyhow::Result<()> {
    let world = World::shared()?;
    let api: &'static ApiServer = Box::leak(Box::new(world.outside.enter(ApiServer::start)??));
    let node = Node::following(api)?;
    let agent = node.agent(&["--outbound-traffic-policy", "REGISTRY_ONLY"])?;
    let excluded = |ranges: &str| {
        format!("  annotations: {{traffic.sidecar.istio.io/excludeOutboundIPRanges: \"{ranges}\"}}\n")
    };
    let (first, second) = (node.pod("first", &excluded("10.10.0.4/32"))?, node.pod("second", "")?);
    first.start()?;
    let _first = first.pause()?;
    first.wait_enrolled(&agent)?;
    let mut map = prefixes(&node)?;
    let filled = fill(|number| map.insert(&nobodys(number), 0, 0))?;
    second.start()?;
    let _second = second.pause()?;
    let full = "can't write map PREFIXES: it is full";
    told_everywhere(&node, &agent, api, "second", full)?;
    assert_eq!(second.curl(&[URL])?.code, Some(7), "connected without a policy");

    // A new policy has no room either: the old one goes on.
    let other = "http://10.10.0.5:8080/";
    // What is intercepted is blocked.
    let answered = || [URL, other].map(|url| first.curl(&[url]).is_ok_and(|curl| curl.code == Some(0)));
    assert_eq!(answered(), [true, false], "{}", agent.said());
    first.describe(&excluded("10.10.0.5/32"))?;
    agent.wait_said(&format!("pod shop/first: {full}"))?;
    assert_eq!(answered(), [true, false]);
    // Nor has an address more.
    first.pod.netns.ip("addr add 10.98.0.1/32 dev eth0\n")?;
    agent.wait_said(&format!("pod shop/first: can't follow its addresses and routes: {full}"))?;
    assert_eq!(answered(), [true, false]);

    // There is room again.
    for number in filled - 1000..filled {
        map.remove(&nobodys(number))?;
    }
    second.wait_enrolled(&agent)?;
    agent.wait_said("pod shop/first: the annotations' policy is in effect")?;
    assert_eq!(answered(), [false, true]);
    agent.wait_ready()?;
    agent.stop()
}
