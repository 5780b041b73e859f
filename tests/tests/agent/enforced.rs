//! Pods that are enforced by an annotation of their own or of their namespace, from the moment it is written.

use anyhow::Context;
use interceptor_tests::{Daemon, Dir, Node, NodePod, Origin, World, eventually};
use serde_json::json;

const ENFORCE: &str = "  annotations: {egress.interceptor.io/enforce: gateway}\n";

/// A datagram to somewhere, and one to the pod's own name server.
pub(crate) fn datagrams(pod: &NodePod<'_>, own: &str) -> anyhow::Result<String> {
    const SEND: &str = "
import socket, sys
for to in sys.argv[1:]:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', (to, 53))
        print('out')
    except OSError as error:
        print(error.strerror)
";
    let mut command = pod.command("python3");
    let output = interceptor_tests::output(command.args(["-c", SEND, "203.0.113.53", own]))?;
    Ok(String::from_utf8(output.stdout)?)
}

pub(crate) fn dump(node: &Node, what: &str) -> anyhow::Result<serde_json::Value> {
    let mut command = std::process::Command::new(interceptor_tests::binary()?);
    command.args(["dump", what, "-o", "json", "--pins"]).arg(node.pins());
    Ok(serde_json::from_slice(&interceptor_tests::output(&mut command)?.stdout)?)
}

#[test]
fn an_annotation_puts_the_guard_on_and_takes_it_off() -> anyhow::Result<()> {
    let own = World::shared()?.dns.address.to_string();
    let node = Node::new()?;
    let agent = node.agent(&[])?;
    let pod = node.pod("web", "")?;
    pod.start()?;
    let _pause = pod.pause()?;
    pod.wait_enrolled(&agent)?;
    assert_eq!(datagrams(&pod, &own)?, "out\nout\n");

    pod.describe(ENFORCE)?;
    eventually("the guard to be on", || {
        datagrams(&pod, &own).is_ok_and(|said| said == "Operation not permitted\nout\n")
    })?;
    assert_eq!(dump(&node, "pods")?[0]["guard"], true);
    let policies = dump(&node, "policies")?;
    assert_eq!((&policies[0]["enforced"], &policies[0]["nameServers"]), (&json!(true), &json!([own])));
    let stats = dump(&node, "stats")?;
    let refused =
        stats.as_array().context("rows")?.iter().find(|row| row["reason"] == "enforced_name_server");
    let refused = refused.context("a counter")?;
    assert_eq!((&refused["verdict"], &refused["pod"]), (&json!("refused"), &json!("shop/web")));

    // What the pod's author gets wrong opens nothing.
    pod.describe("  annotations: {egress.interceptor.io/enforce: gatewy}\n")?;
    agent.wait_said("did you mean `gateway`?")?;
    assert_eq!(datagrams(&pod, &own)?, "Operation not permitted\nout\n");

    pod.describe("")?;
    eventually("the guard to be off", || datagrams(&pod, &own).is_ok_and(|said| said == "out\nout\n"))?;
    assert_eq!(dump(&node, "pods")?[0]["guard"], false);
    agent.stop()
}

/// Connections that begin while enforcement is switched on and off go around the proxy or through it. One whose first packet the
/// guard drops would hang.
#[test]
fn no_connection_hangs_when_enforcement_begins() -> anyhow::Result<()> {
    // Each prints how it went and what was sent again, as a dropped packet would be.
    const CONNECT: &str = "
import socket, struct, sys, time
while True:
    client = socket.socket()
    client.settimeout(30)
    try:
        client.connect((sys.argv[1], int(sys.argv[2])))
        end = 'made'
    except OSError as error:
        end = 'failed: ' + str(error)
    # tcpi_total_retrans
    again = struct.unpack_from('I', client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0]
    print(end, again, flush=True)
    client.close()
    # The server is not to be what is slow.
    time.sleep(0.001)
";
    const EXCLUDED: &str = "  annotations: {traffic.sidecar.istio.io/excludeOutboundIPRanges: 0.0.0.0/0";
    let world = World::shared()?;
    let server = Origin::start(&world.outside, "203.0.113.10:9077".parse()?, |_stream| Ok(()))?;
    let node = Node::new()?;
    let agent = node.agent(&[])?;
    let pod = node.pod("web", &format!("{EXCLUDED}}}\n"))?;
    pod.start()?;
    let _pause = pod.pause()?;
    pod.wait_enrolled(&agent)?;
    let dir = Dir::new()?;
    let (address, port) = (server.address.ip().to_string(), server.address.port().to_string());
    let mut command = pod.command("python3");
    command.args(["-c", CONNECT, &address, &port]);
    let connecting = Daemon::spawn(&mut command, &dir.join("connects"))?
        .wait_ready("a connection", || {
            std::fs::read_to_string(dir.join("connects")).is_ok_and(|said| said.contains("made"))
        })?;
    for _ in 0..10 {
        let own = world.dns.address.to_string();
        for (annotations, expected) in [
            (
                format!("{EXCLUDED}, egress.interceptor.io/enforce: gateway}}\n"),
                "Operation not permitted\nout\n",
            ),
            (format!("{EXCLUDED}}}\n"), "out\nout\n"),
        ] {
            pod.describe(&annotations)?;
            eventually("it to be in effect", || datagrams(&pod, &own).is_ok_and(|said| said == expected))?;
            let before = connecting.said().lines().count();
            eventually("connections since", || connecting.said().lines().count() > before + 10)?;
        }
    }
    let dropped = dump(&node, "stats")?;
    let mut rows = dropped.as_array().context("rows")?.iter();
    let dropped = rows.find(|row| row["reason"] == "enforced_packet");
    // The last one may be half written.
    let said = connecting.said();
    let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lossy: Vec<&str> = whole.lines().filter(|line| *line != "made 0").collect();
    assert!(lossy.is_empty() && dropped.is_none(), "{lossy:?}, {dropped:?}");
    agent.stop()
}

/// The pod's author has no say where the namespace enforces.
#[test]
fn a_namespace_enforces_all_its_pods() -> anyhow::Result<()> {
    let own = World::shared()?.dns.address.to_string();
    let node = Node::new()?;
    node.apply(
        "namespaces",
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  labels: {istio-injection: enabled}\n  \
         annotations: {egress.interceptor.io/enforce: gateway}\n",
    )?;
    let agent = node.agent(&[])?;
    let pod = node.pod(
        "web",
        "  annotations: {egress.interceptor.io/enforce: \"\", traffic.sidecar.istio.io/excludeOutboundIPRanges: 0.0.0.0/0}\n",
    )?;
    pod.start()?;
    let _pause = pod.pause()?;
    pod.wait_enrolled(&agent)?;
    agent.wait_said("excludeOutboundIPRanges does not act where egress.interceptor.io/enforce does")?;
    assert_eq!(datagrams(&pod, &own)?, "Operation not permitted\nout\n");
    assert_eq!(dump(&node, "policies")?[0]["enforced"], true);

    // The next agent takes over what is enforced.
    agent.kill()?;
    assert_eq!(datagrams(&pod, &own)?, "Operation not permitted\nout\n");
    let agent = node.agent(&[])?;
    agent.wait_ready()?;
    assert_eq!(datagrams(&pod, &own)?, "Operation not permitted\nout\n");
    assert_eq!(dump(&node, "pods")?[0]["guard"], true);
    agent.stop()
}

/// Whoever writes pods in a namespace that enforces has no way to have one left alone.
#[test]
fn a_pod_cannot_ask_to_be_left_alone_where_its_namespace_enforces() -> anyhow::Result<()> {
    let own = World::shared()?.dns.address.to_string();
    let node = Node::new()?;
    let agent = node.agent(&[])?;
    let pod = node.pod("web", "  labels: {sidecar.istio.io/inject: \"false\"}\n")?;
    pod.start()?;
    let _pause = pod.pause()?;
    eventually("the pod to be left alone", || {
        dump(&node, "pods").is_ok_and(|pods| pods[0]["state"] == "opted_out")
    })?;
    assert_eq!(datagrams(&pod, &own)?, "out\nout\n");

    node.apply(
        "namespaces",
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  annotations: {egress.interceptor.io/enforce: gateway}\n",
    )?;
    pod.wait_enrolled(&agent)?;
    assert_eq!(datagrams(&pod, &own)?, "Operation not permitted\nout\n");
    agent.wait_said("what asks for the pod to be left alone")?;

    // What no hook sees is told.
    pod.describe("")?;
    eventually("a note", || {
        dump(&node, "pods").is_ok_and(|pods| {
            pods[0]["state"] == "enrolled"
                && pods[0]["note"].as_str().is_some_and(|note| note.contains("NET_RAW"))
        })
    })?;
    let metrics = crate::asked::get(&node, "/metrics")?;
    assert!(metrics.contains("interceptor_enforced_pods_with_net_raw 1\n"), "{metrics}");
    agent.stop()
}
