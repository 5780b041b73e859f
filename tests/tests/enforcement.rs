//! Ways around the egress gateway, each tried from a command that is enforced, and from one that is not.

use anyhow::Context;
use interceptor_tests::World;

/// Tries each way and prints its name and what came of it: `out` when a packet left or a connection was made.
const WAYS: &str = "
import errno, os, socket, sys
there, there6, other, own = sys.argv[1:5]
ECHO = bytes([8, 0, 0xf7, 0xfd, 0, 1, 0, 1])

def way(name, attempt):
    try:
        attempt()
        print(name, 'out')
    except OSError as error:
        print(name, errno.errorcode.get(error.errno, error.errno))

def send(to, kind=socket.SOCK_DGRAM, protocol=0, payload=b'x', connected=False, device=None):
    family = socket.AF_INET6 if ':' in to[0] else socket.AF_INET
    s = socket.socket(family, kind, protocol)
    if device:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    if connected:
        s.connect(to)
        s.send(payload)
    else:
        s.sendto(payload, to)

device = [name for _, name in socket.if_nameindex() if name != 'lo'][0]
way('udp', lambda: send((there, 9)))
way('udp-connected', lambda: send((there, 9), connected=True))
way('udp-ipv6', lambda: send((there6, 9)))
way('udp-mapped', lambda: send(('::ffff:' + there, 9)))
way('quic', lambda: send((there, 443), connected=True))
way('udp-bound-device', lambda: send((there, 9), device=device))
way('other-resolver', lambda: send((other, 53)))
way('udp-lite', lambda: send((there, 9), protocol=136))
way('raw', lambda: send((there, 0), socket.SOCK_RAW, 253))
way('raw-icmp', lambda: send((there, 0), socket.SOCK_RAW, 1, ECHO))
way('own-resolver', lambda: send((own, 53)))
way('loopback', lambda: send(('127.0.0.1', 9)))
";

const ENFORCE: &[&str] = &["--annotations", "egress.interceptor.io/enforce=gateway"];

#[test]
fn no_datagram_and_no_other_socket_leads_around_the_gateway() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let own = world.dns.address.to_string();
    let command = ["python3", "-c", WAYS, "203.0.113.9", "2001:db8::9", "203.0.113.53", &own];
    let enforced = pod.interceptor()?.flags(ENFORCE).stats().run(&command)?;
    let free = pod.interceptor()?.stats().run(&command)?;
    enforced.expect_code(0)?;
    let lines = enforced.text();
    let inside = ["own-resolver", "loopback"];
    for line in lines.lines() {
        let (way, came_of_it) = line.split_once(' ').context("a way and what came of it")?;
        let expected = if inside.contains(&way) { "out" } else { "EPERM" };
        assert_eq!(came_of_it, expected, "{way}");
    }
    assert_eq!(lines.lines().count(), 12, "{lines}");
    // Nothing but the guard refuses any of them.
    assert_eq!(free.text(), lines.replace("EPERM", "out"));

    let refused = &enforced.stats()?["kernel"]["refused"];
    let expected = serde_json::json!({
        "enforced_datagram": 5, "enforced_quic": 1, "enforced_name_server": 1, "enforced_protocol": 3
    });
    assert_eq!(*refused, expected);
    Ok(())
}

/// What is left alone would go around the gateway: the command is not even started.
#[test]
fn enforcement_and_exclusions_contradict_each_other() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    for flags in [
        ["--exclude-ip-ranges", "10.0.0.0/8"],
        ["--exclude-ports", "443"],
        ["--include-ip-ranges", "10.0.0.0/8"],
        ["--annotations", "traffic.sidecar.istio.io/excludeOutboundPorts=443"],
    ] {
        let run = pod.interceptor()?.flags(ENFORCE).flags(&flags).run(&["echo", "started"])?;
        run.expect_code(1)?;
        assert_eq!(run.text(), "", "{flags:?}");
        assert!(run.stderr.contains("would go around the gateway"), "{}", run.stderr);
    }
    Ok(())
}
