//! An agent that has no descriptors left, as when connections take all of them.

use anyhow::Context;
use interceptor_tests::{Daemon, Dir, Node, World, eventually};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::HTTPBIN;
use crate::asked;
use crate::enforced::{datagrams, dump};

/// What can't be looked at is not gone: no pod's programs are taken away.
#[test]
fn pods_stay_as_they_are_without_descriptors() -> anyhow::Result<()> {
    let own = World::shared()?.dns.address.to_string();
    let node = Node::new()?;
    node.apply("httpbin", HTTPBIN)?;
    let agent = node.agent(&[])?;
    let pod = node.pod("web", "  annotations: {egress.interceptor.io/enforce: gateway}\n")?;
    pod.start()?;
    let _pause = pod.pause()?;
    pod.wait_enrolled(&agent)?;
    agent.wait_ready()?;

    let pid = i32::try_from(agent.pid()).ok().and_then(Pid::from_raw);
    let before = getrlimit(Resource::Nofile);
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(0), ..before })?;
    agent.wait_said("pods stay as they were")?;
    // A container comes, so that this pod is looked at by itself.
    std::fs::create_dir(pod.directory.join("another"))?;
    let looks = || agent.said().matches("pods stay as they were").count();
    let seen = looks();
    eventually("the agent to look twice", || looks() >= seen + 2)?;
    assert_eq!(dump(&node, "pods")?[0]["guard"], true);
    assert_eq!(datagrams(&pod, &own)?, "Operation not permitted\nout\n");

    prlimit(pid, Resource::Nofile, before)?;
    agent.wait_ready()?;
    assert_eq!(pod.curl(&["http://httpbin.org/get"])?.http()?.status, 403);
    assert!(!agent.said().contains("pod shop/web: gone"), "{}", agent.said());
    agent.stop()
}

/// Opens as many connections as it is let, and holds them.
const HOLD: &str = "
import socket, sys, time
held = []
for _ in range(int(sys.argv[3])):
    s = socket.socket()
    s.settimeout(20)
    try:
        s.connect((sys.argv[1], int(sys.argv[2])))
        held.append(s)
    except ConnectionResetError:
        pass
print('held', flush=True)
time.sleep(1000)
";

/// However many pods take what they get, there is something left for one more.
#[test]
fn pods_share_the_agents_descriptors() -> anyhow::Result<()> {
    let world = World::shared()?;
    // As long as its client is there.
    let outside = world.origin(9010, |socket| {
        socket.set_read_timeout(None)?;
        interceptor_tests::uninterrupted(|| std::io::Read::read(&mut &socket, &mut [0])).map(drop)
    })?;
    let node = Node::new()?;
    node.apply("httpbin", HTTPBIN)?;
    let agent = node.agent_under(&["prlimit", "--nofile=1000"], &[])?;
    let names = ["one", "two", "three", "four", "five", "six"];
    let pods = names.map(|name| node.pod(name, ""));
    let pods = pods.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let mut pauses = Vec::new();
    for pod in &pods {
        pod.start()?;
        pauses.push(pod.pause()?);
        pod.wait_enrolled(&agent)?;
    }
    let (last, greedy) = pods.split_last().context("pods")?;
    let dir = Dir::new()?;
    let (address, port) = (outside.address.ip().to_string(), outside.address.port().to_string());
    let mut holding = Vec::new();
    for (number, pod) in greedy.iter().enumerate() {
        let mut command = pod.command("python3");
        command.args(["-c", HOLD, &address, &port, "124"]);
        let said = dir.join(&number.to_string());
        holding.push(Daemon::spawn(&mut command, &said)?.wait_ready("connections", || {
            std::fs::read_to_string(&said).is_ok_and(|said| said.contains("held"))
        })?);
    }
    eventually("somebody to be refused", || {
        asked::get(&node, "/metrics").is_ok_and(|metrics| {
            let mut lines = metrics.lines();
            lines.any(|line| {
                line.starts_with("interceptor_connections_surplus_total ") && !line.ends_with(" 0")
            })
        })
    })?;
    for _ in 0..10 {
        assert_eq!(last.curl(&["http://httpbin.org/get"])?.http()?.status, 200);
    }
    drop(holding);
    agent.stop()
}
