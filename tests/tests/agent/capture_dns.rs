//! Names learned from pods' own DNS answers: for pods that asked for it, one by one, live, and over the agent's death.

use std::io::Write;

use interceptor_tests::{Node, NodePod, Origin, World, eventually};

const CAPTURE: &str = "  annotations: {egress.interceptor.io/capture-dns: \"true\"}\n";

/// Looks each name up, and prints what the server there says first.
const GREET: &str = "
import socket, sys
for name in sys.argv[1:]:
    try:
        print(socket.create_connection((name, 7100), 10).recv(100).decode() or 'closed')
    except OSError as error:
        print(type(error).__name__)
";

fn greeter(says: &'static str) -> anyhow::Result<Origin> {
    World::shared()?.origin(7100, move |mut socket| socket.write_all(says.as_bytes()))
}

fn service_entry(name: &str, year: u32) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{name: {name}, creationTimestamp: '{year}-01-01T00:00:00Z'}}\nspec:\n  hosts: [{name}]\n  \
         ports: [{{number: 7100, name: p, protocol: TCP}}]\n  resolution: DNS\n"
    )
}

fn greet(pod: &NodePod<'_>, names: &[String]) -> anyhow::Result<Vec<String>> {
    let mut command = pod.command("python3");
    let output = interceptor_tests::output(command.args(["-c", GREET]).args(names))?;
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

#[test]
fn tcp_services_on_one_port_are_told_apart_for_pods_that_ask_for_it() -> anyhow::Result<()> {
    let (older, younger) = (greeter("older")?, greeter("younger")?);
    let names = [older.name(), younger.name()];
    let node = Node::new()?;
    node.apply("services", &(service_entry(&names[0], 2020) + &service_entry(&names[1], 2021)))?;
    let agent = node.agent(&[])?;
    let (asks, other) = (node.pod("asks", CAPTURE)?, node.pod("other", "")?);
    asks.start()?;
    other.start()?;
    let _pauses = (asks.pause()?, other.pause()?);
    asks.wait_enrolled(&agent)?;
    other.wait_enrolled(&agent)?;
    assert_eq!(greet(&asks, &names)?, ["older", "younger"]);
    // As with Istio the oldest has the port, though the other pod's answers were the same.
    assert_eq!(greet(&other, &names)?, ["older", "older"]);

    // Turned round, live.
    other.describe(CAPTURE)?;
    asks.describe("")?;
    agent.wait_said("pod shop/other: the capture of its DNS begins")?;
    agent.wait_said("pod shop/asks: the capture of its DNS has ended")?;
    assert_eq!(greet(&other, &names)?, ["older", "younger"]);
    assert_eq!(greet(&asks, &names)?, ["older", "older"]);

    // A value that can't be read takes nothing away.
    other.describe("  annotations: {egress.interceptor.io/capture-dns: \"yes\"}\n")?;
    agent.wait_said("\"yes\" is no value of egress.interceptor.io/capture-dns: expected true or false")?;
    assert_eq!(greet(&other, &names)?, ["older", "younger"]);

    // The next agent has a relay of its own.
    other.describe(CAPTURE)?;
    agent.kill()?;
    let agent = node.agent(&[])?;
    agent.wait_ready()?;
    assert_eq!(greet(&other, &names)?, ["older", "younger"]);
    agent.stop()
}

/// Whatever is captured, an enforced pod asks its own name servers and no others.
#[test]
fn a_pod_that_is_enforced_later_can_not_ask_others_through_the_relay() -> anyhow::Result<()> {
    const ASK: &str = "
import socket, sys
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', (sys.argv[1], 53))
    print('out')
except OSError as error:
    print(error.strerror)
";
    let ask = |pod: &NodePod<'_>, server: &str| {
        let output = interceptor_tests::output(pod.command("python3").args(["-c", ASK, server]))?;
        Ok::<_, anyhow::Error>(String::from_utf8(output.stdout)?.trim_end().to_owned())
    };
    let node = Node::new()?;
    let agent = node.agent(&[])?;
    let pod = node.pod("asks", CAPTURE)?;
    pod.start()?;
    let _pause = pod.pause()?;
    pod.wait_enrolled(&agent)?;
    assert_eq!(ask(&pod, "203.0.113.53")?, "out");
    pod.describe(
        "  annotations: {egress.interceptor.io/capture-dns: \"true\", egress.interceptor.io/enforce: gateway}\n",
    )?;
    eventually("the guard to be on", || {
        ask(&pod, "203.0.113.53").is_ok_and(|said| said == "Operation not permitted")
    })?;
    assert_eq!(ask(&pod, &World::shared()?.dns.address.to_string())?, "out");
    agent.stop()
}
