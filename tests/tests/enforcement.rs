//! Ways around the egress gateway, each tried from a command that is enforced, and from one that is not.

use std::io::Write;

use anyhow::Context;
use interceptor_tests::{Dir, Origin, World, read_head};

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

/// The gateway's Service, a rule that leads one host to it, and hosts that are declared without one.
fn resources(gateway: std::net::IpAddr, outside: std::net::IpAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: istio-egressgateway, namespace: istio-system}}\n\
         spec: {{clusterIP: {gateway}, selector: {{istio: egressgateway}}, ports: [{{name: http, port: 80}}]}}\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: elsewhere, namespace: default}}\n\
         spec: {{type: ExternalName, externalName: www.google.com, ports: [{{name: http, port: 80}}]}}\n\
         ---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: through, namespace: default}}\n\
         spec:\n  hosts: [through.test]\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  \
         resolution: STATIC\n  endpoints: [{{address: {outside}}}]\n\
         ---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: direct, namespace: default}}\n\
         spec:\n  hosts: [direct.test]\n  ports:\n  - {{number: 80, name: http, protocol: HTTP}}\n  \
         - {{number: 443, name: tls, protocol: TLS}}\n  - {{number: 9000, name: tcp, protocol: TCP}}\n  \
         resolution: STATIC\n  endpoints: [{{address: {outside}}}]\n\
         ---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: through, namespace: default}}\n\
         spec:\n  hosts: [through.test]\n  gateways: [mesh]\n  http:\n  - route:\n    - destination: \
         {{host: istio-egressgateway.istio-system.svc.cluster.local, port: {{number: 80}}}}\n"
    )
}

fn speaker(world: &World, port: u16, says: &'static str) -> anyhow::Result<Origin> {
    world.origin(port, move |mut socket| {
        read_head(&mut socket)?;
        let length = says.len();
        write!(socket, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{says}")
    })
}

#[test]
fn only_the_gateway_and_services_are_reached() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let gateway = speaker(world, 80, "the gateway")?;
    let outside = speaker(world, 80, "outside")?;
    let yaml = resources(gateway.address.ip(), outside.address.ip());
    let to = |host: &str, port: u16| format!("{host}:{port}:{}", outside.address.ip());
    let run = |flags: &[&str], arguments: &[&str]| {
        pod.interceptor()?.config(&yaml)?.flags(flags).stats().curl(arguments)
    };

    for (flags, status, says) in [(ENFORCE, 200, "the gateway"), (&[][..], 200, "the gateway")] {
        let through = run(flags, &["--resolve", &to("through.test", 80), "http://through.test/"])?;
        assert_eq!((through.http()?.status, through.text().contains(says)), (status, true), "{through:?}");
    }
    for url in [
        // Declared, but without a rule; a Service that is somewhere else; the gateway's name at an address of its own.
        "http://direct.test/",
        "http://elsewhere.default.svc.cluster.local/",
        // Not declared.
        "http://unknown.test/",
    ] {
        let host = url.trim_start_matches("http://").trim_end_matches('/');
        let refused = run(ENFORCE, &["--resolve", &to(host, 80), url])?;
        assert_eq!(refused.http()?.status, 403, "{url}: {refused:?}");
        assert!(
            refused.text().contains("the egress gateway is enforced, and this leads around it"),
            "{refused:?}"
        );
        let line = refused.line()?;
        assert_eq!((&*line.flags, &*line.details), ("UAEX", "leads_around_enforced_gateway"));
        assert_eq!(refused.stats()?["proxy"]["around_gateway"], 1);
        let free = run(&[], &["--resolve", &to(host, 80), url])?;
        assert_eq!(free.http()?.status, 200, "{url}: {free:?}");
    }
    // Whatever is no HTTP is reset: declared TLS and TCP, and what nobody declared.
    for url in ["https://direct.test/", "telnet://direct.test:9000", "http://unknown.test:8080/"] {
        let (_, rest) = url.split_once("://").context("a URL")?;
        let (host, port) = match rest.trim_end_matches('/').split_once(':') {
            Some((host, port)) => (host, port.parse()?),
            None => (rest.trim_end_matches('/'), 443),
        };
        let refused = run(ENFORCE, &["--resolve", &to(host, port), url])?;
        assert_ne!(refused.code(), 0, "{url}");
        let line = refused.line()?;
        assert_eq!(&*line.flags, "UAEX", "{url}: {line:?}");
        assert_eq!(&*line.termination, "leads_around_enforced_gateway", "{url}");
        assert_eq!(refused.stats()?["proxy"]["around_gateway"], 1, "{url}");
    }
    Ok(())
}

#[test]
fn explain_says_what_leads_around_the_gateway() -> anyhow::Result<()> {
    let directory = Dir::new()?;
    let address = "198.51.100.1".parse()?;
    let file = directory.write("config.yaml", resources("10.96.0.80".parse()?, address))?;
    for (url, code, said) in [
        ("http://through.test/", 0, "outbound|80||istio-egressgateway.istio-system.svc.cluster.local"),
        ("http://direct.test/", 3, "refused, it leads around the egress gateway"),
        ("http://unknown.test/", 3, "leads_around_enforced_gateway"),
        ("tcp://direct.test:9000", 3, "refused, it leads around the egress gateway"),
    ] {
        let output = std::process::Command::new(interceptor_tests::binary()?)
            .args(["explain", "-c"])
            .arg(&file)
            .args(ENFORCE)
            .arg(url)
            .output()?;
        let text = String::from_utf8(output.stdout)?;
        assert_eq!(output.status.code(), Some(code), "{url}: {text}");
        assert!(
            text.contains(said) && text.contains("all that leaves it goes through the proxy"),
            "{url}: {text}"
        );
    }
    Ok(())
}
