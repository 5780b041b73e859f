//! The harness proves itself with plain curl from a pod: nothing is intercepted here.

use std::io::{Read, Write};
use std::process::Command;

use interceptor_tests::{Http, Pod, World, output};

fn curl(pod: &Pod, args: &[&str]) -> anyhow::Result<Http> {
    let mut command = pod.command("curl");
    command.args(["-sS", "-i", "--max-time", "20"]).args(args);
    Http::last(&String::from_utf8_lossy(&output(&mut command)?.stdout))
}

#[test]
fn httpbin_echoes_what_arrives() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let answer = curl(&pod, &["http://httpbin.org/headers", "-H", "X-Mine: yes"])?;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()?["headers"]["X-Mine"], "yes");
    assert!(answer.json()?["headers"]["X-Request-Id"].is_null());
    assert_eq!(curl(&pod, &["https://httpbin.org/status/418"])?.status, 418);
    let hits = world.httpbin.hits(&pod.address);
    assert_eq!(hits.len(), 1, "{hits:?}");
    Ok(())
}

#[test]
fn sites_redirect_and_speak_http2() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let answer = curl(&pod, &["http://www.apple.com/x"])?;
    assert_eq!((answer.status, answer.header("location")), (301, Some("https://www.apple.com/x".into())));
    let answer = curl(&pod, &["https://www.apple.com/"])?;
    assert_eq!(answer.status_line, "HTTP/2 200 ");
    assert_eq!(answer.body, "www.apple.com says hello over https\n");
    let hits = world.nginx.wait_hits(&pod.address, 2)?;
    assert_eq!(hits[1].get("sni"), "www.apple.com");
    assert_eq!(hits[1].get("alpn"), "h2");
    assert!(hits.iter().all(|hit| !hit.through_proxy()), "{hits:?}");
    assert_eq!(curl(&pod, &["-6", "https://www.google.com/"])?.status, 200);
    assert_eq!(world.nginx.wait_hits(&pod.address6, 1)?[0].get("server"), "2001:db8::20:443");
    assert_eq!(curl(&pod, &["http://10.10.0.4/"])?.body, "ilb.test says hello over http\n");
    Ok(())
}

#[test]
fn certificates_are_as_bad_as_their_names() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    for (url, says) in [
        ("https://expired.test/", "expired"),
        ("https://wrong-name.test/", "no alternative certificate subject name matches"),
    ] {
        let failure = curl(&pod, &[url]).expect_err("a bad certificate was accepted").to_string();
        assert!(failure.contains(says), "{failure}");
    }
    assert_eq!(curl(&pod, &["https://mutual.test/"])?.status, 400);
    let client = world.ca.client("somebody")?;
    let (certificate, key) = (client.certificate.display().to_string(), client.key.display().to_string());
    assert_eq!(curl(&pod, &["https://mutual.test/", "--cert", &certificate, "--key", &key])?.status, 200);
    Ok(())
}

#[test]
fn our_own_servers_have_names_and_count() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let origin = world.origin(80, |mut socket| {
        let head = interceptor_tests::read_head(&mut socket)?;
        write!(socket, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len())?;
        socket.read_to_end(&mut Vec::new()).map(drop)
    })?;
    let answer = curl(&pod, &[&format!("http://{}/path", origin.name())])?;
    assert!(answer.body.starts_with("GET /path HTTP/1.1\r\n"), "{}", answer.body);
    assert_eq!(origin.connections(), 1);
    assert_eq!(origin.peers()[0].ip().to_string(), pod.address);
    assert_eq!(world.dns.queries("nobody.test"), 0);
    Ok(())
}

#[test]
fn the_janitor_cleans_after_the_dead() -> anyhow::Result<()> {
    // A pid that was ours a moment ago and is nobody's now.
    let mut child = Command::new("true").spawn()?;
    let dead = child.id();
    child.wait()?;
    let name = format!("ic{dead}-0");
    interceptor_tests::run(Command::new("ip").args(["netns", "add", &name]))?;
    // The first name of another process starts its janitor.
    let listed = Command::new(std::env::current_exe()?).arg("our_own_servers").output()?;
    assert!(listed.status.success(), "{listed:?}");
    assert!(!std::path::Path::new("/run/netns").join(&name).exists());
    Ok(())
}

#[test]
fn envoy_starts_in_a_pod_and_a_cgroup() -> anyhow::Result<()> {
    let pod = World::shared()?.pod()?;
    let envoy = interceptor_tests::Envoy::start(&pod, 15001)?;
    assert!(!envoy.cgroup.pids()?.is_empty());
    Ok(())
}
