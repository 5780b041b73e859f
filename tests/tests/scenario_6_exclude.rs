//! Scenario 6: what is excluded never meets the proxy. The server sees the client's own socket.

use interceptor_tests::{Finished, Hit, Pod, World};

/// Asks under REGISTRY_ONLY with an empty registry: whatever is intercepted is blocked. The client's own port is
/// the last word of the output.
fn get(pod: &Pod, flags: &[&str], url: &str) -> anyhow::Result<Finished> {
    pod.interceptor()?.registry_only().stats().flags(flags).curl(&["-w", " %{local_port}", url])
}

/// Fails unless this one request came from the client's own socket, with nothing added.
fn assert_direct(run: &Finished, pod: &Pod, stats: &str) -> anyhow::Result<()> {
    run.expect_code(0)?;
    let world = World::shared()?;
    let address = if run.text().contains("six") { &pod.address6 } else { &pod.address };
    let hits: Vec<Hit> = world.nginx.wait_hits(address, 1)?;
    assert_eq!(hits.len(), 1);
    assert!(!hits[0].through_proxy(), "{hits:?}");
    assert_eq!(run.text().rsplit(' ').next(), Some(hits[0].get("peer_port")));
    assert_eq!(run.http()?.header("x-envoy-upstream-service-time"), None);
    assert_eq!(run.log, "", "nothing is logged of what we never saw");
    let counters = run.stats()?["kernel"].clone();
    assert_eq!(counters["bypassed"][stats], 1, "{counters:#}");
    assert_eq!(counters["redirected"], serde_json::json!({}), "{counters:#}");
    Ok(())
}

/// How many connections the kernel gave to the proxy, for whatever reason.
fn redirected(run: &Finished) -> anyhow::Result<u64> {
    let counters = run.stats()?;
    Ok(counters["kernel"]["redirected"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, n)| n.as_u64())
        .sum())
}

/// Fails unless the request was intercepted (and so blocked).
fn assert_intercepted(run: &Finished) -> anyhow::Result<()> {
    assert!([35, 52, 56].contains(&run.code()), "exit {}: {}", run.code(), run.text());
    assert_eq!(run.line()?.cluster, "BlackHoleCluster");
    assert_eq!(redirected(run)?, 1, "{:#}", run.stats()?);
    Ok(())
}

#[test]
fn the_tutorials_range() -> anyhow::Result<()> {
    let world = World::shared()?;
    let flags = &["--exclude-ip-ranges", "10.10.0.4/32"];
    let pod = world.pod()?;
    assert_direct(&get(&pod, flags, "http://10.10.0.4/")?, &pod, "excluded_range")?;
    let pod = world.pod()?;
    let run = get(&pod, flags, "https://ilb.test/")?;
    assert_direct(&run, &pod, "excluded_range")?;
    assert_eq!(run.http()?.status_line, "HTTP/2 200 ");
    assert_intercepted(&get(&pod, flags, "http://10.10.0.5/")?)?;
    assert_intercepted(&get(&pod, flags, "https://neighbour.test/")?)
}

#[test]
fn ranges_mix_families_and_lengths() -> anyhow::Result<()> {
    let world = World::shared()?;
    // Host bits set are masked away; 10.10.0.4/31 holds .4 and .5.
    let flags = &["--exclude-ip-ranges", "2001:db8::4/128,10.10.0.5/31"];
    let pod = world.pod()?;
    assert_direct(&get(&pod, flags, "http://six.test/")?, &pod, "excluded_range")?;
    let pod = world.pod()?;
    assert_direct(&get(&pod, flags, "http://10.10.0.4/")?, &pod, "excluded_range")?;
    let pod = world.pod()?;
    assert_direct(&get(&pod, flags, "http://10.10.0.5/")?, &pod, "excluded_range")?;
    assert_intercepted(&get(&pod, flags, "http://neighbour-six.test/")?)?;
    assert_intercepted(&get(&pod, flags, "http://203.0.113.20/")?)
}

#[test]
fn a_mapped_address_is_the_ipv4_address() -> anyhow::Result<()> {
    let world = World::shared()?;
    let flags = &["--exclude-ip-ranges", "10.10.0.4/32"];
    let pod = world.pod()?;
    assert_direct(&get(&pod, flags, "http://[::ffff:10.10.0.4]/")?, &pod, "excluded_range")?;
    assert_intercepted(&get(&pod, flags, "http://[::ffff:10.10.0.5]/")?)
}

#[test]
fn ports() -> anyhow::Result<()> {
    let world = World::shared()?;
    let flags = &["--exclude-ports", "8080,9000"];
    let pod = world.pod()?;
    assert_direct(&get(&pod, flags, "http://10.10.0.4:8080/")?, &pod, "excluded_port")?;
    assert_intercepted(&get(&pod, flags, "http://10.10.0.4/")?)
}

#[test]
fn interfaces() -> anyhow::Result<()> {
    let world = World::shared()?;
    let flags = &["--annotations", "traffic.sidecar.istio.io/excludeInterfaces=net1"];
    let pod = world.pod()?;
    assert_intercepted(&get(&pod, flags, "http://10.10.0.4/")?)?;
    let net1 = pod.second_interface(&world.outside, "net1")?;
    let by_net1 = format!("via {} dev net1", net1.gateway);
    pod.netns.ip(&format!("route add 10.10.0.4/32 {by_net1} src {}\n", pod.address))?;
    assert_direct(&get(&pod, flags, "http://10.10.0.4/")?, &pod, "excluded_interface")?;
    assert_intercepted(&get(&pod, flags, "http://10.10.0.5/")?)?;
    // Routes that change meanwhile are followed.
    let script = format!(
        "curl -s --max-time 10 http://10.10.0.5/; ip route add 10.10.0.5/32 {by_net1}
         for _ in $(seq 100); do curl -s --max-time 10 http://10.10.0.5/ && exit; sleep 0.1; done; exit 9"
    );
    let run = pod.interceptor()?.registry_only().flags(flags).run(&["sh", "-c", &script])?;
    run.expect_code(0)?;
    assert!(run.text().contains("says hello over http"), "{}", run.text());
    Ok(())
}

#[test]
fn includes_leave_the_rest_alone() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let flags = &["--include-ip-ranges", "203.0.113.0/24"];
    let run = get(&pod, flags, "http://10.10.0.4/")?;
    run.expect_code(0)?;
    assert!(!world.nginx.wait_hits(&pod.address, 1)?[0].through_proxy());
    assert_eq!(redirected(&run)?, 0);
    assert_intercepted(&get(&pod, flags, "http://203.0.113.20/")?)?;
    // Nothing included by address; a port is.
    let flags = &["--include-ip-ranges", "", "--include-ports", "80"];
    assert_intercepted(&get(&pod, flags, "http://10.10.0.4/")?)?;
    let run = get(&pod, flags, "http://10.10.0.4:8080/")?;
    run.expect_code(0)?;
    assert_eq!(redirected(&run)?, 0);
    Ok(())
}

#[test]
fn precedence_is_istios() -> anyhow::Result<()> {
    let world = World::shared()?;
    // excludePorts > excludeIPRanges > includePorts > includeIPRanges.
    let both = &["--exclude-ip-ranges", "10.10.0.4/32", "--include-ports", "80"];
    let pod = world.pod()?;
    assert_direct(&get(&pod, both, "http://10.10.0.4/")?, &pod, "excluded_range")?;
    let ports = &["--exclude-ports", "80", "--include-ports", "80", "--include-ip-ranges", "10.10.0.0/16"];
    let pod = world.pod()?;
    assert_direct(&get(&pod, ports, "http://10.10.0.4/")?, &pod, "excluded_port")?;
    let inside = &["--include-ip-ranges", "10.10.0.0/16", "--exclude-ip-ranges", "10.10.0.4/30"];
    let pod = world.pod()?;
    assert_direct(&get(&pod, inside, "http://10.10.0.4/")?, &pod, "excluded_range")?;
    Ok(())
}

#[test]
fn loopback_is_never_taken() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let serve = |mut socket: std::net::TcpStream| {
        use std::io::Write;
        interceptor_tests::read_head(&mut socket)?;
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi")
    };
    let mut servers = Vec::new();
    for address in ["127.0.0.1:8000", "127.1.2.3:8000", "[::1]:8000"] {
        servers.push(interceptor_tests::Origin::start(&pod.netns, address.parse()?, serve)?);
    }
    servers.push(interceptor_tests::Origin::start(
        &pod.netns,
        format!("{}:8000", pod.address).parse()?,
        serve,
    )?);
    for server in &servers {
        let run = get(&pod, &[], &format!("http://{}/", server.address))?;
        run.expect_code(0)?;
        assert_eq!(run.http()?.status, 200, "{}", server.address);
        assert_eq!(redirected(&run)?, 0, "{}", server.address);
    }
    Ok(())
}
