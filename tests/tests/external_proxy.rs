//! `--external-proxy`: the connections go to the real Envoy, unmodified, which asks for SO_ORIGINAL_DST.

use interceptor_tests::{Envoy, World};

#[test]
fn envoy_learns_every_destination() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let envoy = Envoy::start(&pod, 15001)?;
    for (args, body, upstream) in [
        (&["http://www.apple.com/"][..], "", "203.0.113.40:80"),
        (&["https://www.apple.com/"], "www.apple.com says hello over https\n", "203.0.113.40:443"),
        (&["http://10.10.0.4:8080/"], "ilb.test says hello over http\n", "10.10.0.4:8080"),
        (&["http://six.test/"], "six.test says hello over http\n", "[2001:db8::4]:80"),
        (&["http://[::ffff:10.10.0.5]/"], "neighbour.test says hello over http\n", "10.10.0.5:80"),
    ] {
        let run = pod.interceptor()?.external(&envoy).curl(args)?;
        run.expect_code(0)?;
        if !body.is_empty() {
            assert_eq!(run.http()?.body, body, "{args:?}");
        }
        interceptor_tests::eventually("Envoy's log", || envoy.log().contains(&format!("to {upstream} ")))?;
    }
    Ok(())
}

#[test]
fn many_connections_each_to_its_own() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let envoy = Envoy::start(&pod, 15001)?;
    let script = "
import threading
hosts = [('203.0.113.20', 'www.google.com'), ('203.0.113.51', 'hbchen.com'), ('10.10.0.4', 'ilb.test'), ('10.10.0.5', 'neighbour.test')]
wrong = []
def ask(number):
    for i in range(25):
        address, name = hosts[(number + i) % len(hosts)]
        s = socket.create_connection((address, 80), 10)
        s.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n')
        data = b''.join(iter(lambda: s.recv(10000), b''))
        if not data.endswith(name.encode() + b' says hello over http\\n'): wrong.append((name, data))
threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
print(len(wrong), wrong[:3])
";
    let run = pod.interceptor()?.external(&envoy).run(&interceptor_tests::python(script)?)?;
    run.expect_code(0)?;
    assert_eq!(run.text(), "0 []\n");
    Ok(())
}

#[test]
fn excludes_still_hold() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let envoy = Envoy::start(&pod, 15001)?;
    let run = pod
        .interceptor()?
        .external(&envoy)
        .flags(&["--exclude-ip-ranges", "10.10.0.4/32"])
        .curl(&["http://10.10.0.4/", "http://10.10.0.5/"])?;
    run.expect_code(0)?;
    interceptor_tests::eventually("Envoy's log", || envoy.log().contains("to 10.10.0.5:80 "))?;
    assert!(!envoy.log().contains("10.10.0.4"), "{}", envoy.log());
    Ok(())
}

#[test]
fn a_proxy_that_is_not_there_is_said_before_the_command() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let mut envoy = Envoy::start(&pod, 15001)?;
    envoy.port = 15999;
    let run = pod.interceptor()?.external(&envoy).run(&["echo", "started"])?;
    run.expect_code(1)?;
    assert_eq!(run.text(), "");
    assert!(run.stderr.contains("15999"), "{}", run.stderr);
    let run = pod
        .interceptor()?
        .no_access_log()
        .flags(&["--external-proxy", "15001", "--external-proxy-cgroup", "/nonexistent"])
        .external_flags()
        .run(&["echo", "started"])?;
    run.expect_code(1)?;
    assert!(run.stderr.contains("/nonexistent"), "{}", run.stderr);
    Ok(())
}
