//! One pod that is enforced and one that is not, a gateway on a host of its own, and eight ways around it.

use std::io::{Read, Write};

use anyhow::Context;
use interceptor_tests::{Gateway, Node, NodePod, World, eventually, seeds, uninterrupted};

use crate::HTTPBIN;

/// Tries each way and prints its name and what came of it: `out` when a server outside has answered, or a packet left.
const WAYS: &str = "
import errno, socket, sys
there, port, there6, other = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]

def way(name, attempt):
    try:
        attempt()
        print(name, 'out')
    except OSError as error:
        print(name, errno.errorcode.get(error.errno, error))

def ask(to, protocol=0):
    family = socket.AF_INET6 if ':' in to else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM, protocol)
    s.settimeout(20)
    s.connect((to, port))
    s.sendall(b'let me out')
    if s.recv(64) != b'outside':
        raise ConnectionResetError(errno.ECONNRESET, 'no answer')

def send(to, kind=socket.SOCK_DGRAM, protocol=0, device=None):
    family = socket.AF_INET6 if ':' in to[0] else socket.AF_INET
    s = socket.socket(family, kind, protocol)
    if device:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    s.sendto(b'let me out', to)

device = [name for _, name in socket.if_nameindex() if name != 'lo'][0]
way('address', lambda: ask(there))
way('mapped', lambda: ask('::ffff:' + there))
way('mptcp', lambda: ask(there, 262))
way('ipv6', lambda: send((there6, 9)))
way('udp', lambda: send((there, 9)))
way('raw', lambda: send((there, 0), socket.SOCK_RAW, 253))
way('dns-tunnel', lambda: send((other, 53)))
way('bound-device', lambda: send((there, 9), device=device))
";

fn try_ways(pod: &NodePod<'_>, outside: std::net::SocketAddr) -> anyhow::Result<String> {
    let (there, port) = (outside.ip().to_string(), outside.port().to_string());
    let mut command = pod.command("python3");
    command.args(["-c", WAYS, &there, &port, "2001:db8::9", "203.0.113.53"]);
    Ok(String::from_utf8(interceptor_tests::output(&mut command)?.stdout)?)
}

#[test]
fn only_the_gateway_leads_out() -> anyhow::Result<()> {
    let world = World::shared()?;
    let outside = world.origin(9000, |mut socket| {
        let mut request = [0; 64];
        if uninterrupted(|| socket.read(&mut request))? > 0 {
            socket.write_all(b"outside")?;
        }
        Ok(())
    })?;
    let host = world.joined_pod()?;
    // The rule with the subset stands where pods of every namespace find it.
    let resources = seeds(&["002-06-se", "002-07-gw-dr-vs"])?.replace(
        "  name: egressgateway-for-aliyun\n",
        "  name: egressgateway-for-aliyun\n  namespace: istio-system\n",
    );
    let gateway = Gateway::start(&host, &resources)?;
    let node = Node::new()?;
    node.apply("through", &(resources + &gateway.service(&[("http2", 80)])))?;
    node.apply("httpbin", HTTPBIN)?;
    let agent = node.agent(&[])?;
    let free = node.pod("free", "")?;
    let fenced = node.pod("fenced", "  annotations: {egress.interceptor.io/enforce: gateway}\n")?;
    for pod in [&free, &fenced] {
        pod.join()?;
        pod.start()?;
    }
    let _pauses = [free.pause()?, fenced.pause()?];
    for pod in [&free, &fenced] {
        pod.wait_enrolled(&agent)?;
    }

    let ways = try_ways(&free, outside.address)?;
    assert_eq!(ways.lines().filter(|line| line.ends_with(" out")).count(), 8, "{ways}");
    let ways = try_ways(&fenced, outside.address)?;
    assert_eq!(ways.lines().count(), 8, "{ways}");
    for line in ways.lines() {
        let (way, came_of_it) = line.split_once(' ').context("a way and what came of it")?;
        let expected = if ["address", "mapped", "mptcp"].contains(&way) { "ECONNRESET" } else { "EPERM" };
        assert_eq!(came_of_it, expected, "{way}");
    }

    // A host that no rule leads to the gateway; and one that goes there.
    assert_eq!(free.curl(&["http://httpbin.org/get"])?.http()?.status, 200);
    assert_eq!(fenced.curl(&["http://httpbin.org/get"])?.http()?.status, 403);
    eventually("a line for it", || {
        std::fs::read_to_string(node.access_log())
            .is_ok_and(|log| log.contains("UAEX leads_around_enforced_gateway"))
    })?;
    assert_eq!(fenced.curl(&["http://www.aliyun.com/"])?.http()?.status, 301);
    let line = gateway.line()?;
    assert_eq!((line.code, &*line.cluster), (301, "outbound|80||www.aliyun.com"));
    world.nginx.wait_hits(&host.address, 1)?;
    agent.stop()
}
