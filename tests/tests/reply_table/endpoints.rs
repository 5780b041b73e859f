//! A host without anybody to ask, and one that has too much to do.

use std::io::Write;
use std::sync::{Mutex, mpsc};

use anyhow::Context;
use interceptor_tests::{World, eventually, read_head};

use crate::resources::{destination_rule, static_entry, virtual_service};
use crate::row::{Reply, Row, check_http, check_line};

#[test]
fn no_endpoint() -> anyhow::Result<()> {
    let dns_empty = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: entry}\nspec:\n  \
                     hosts: [nowhere.test]\n  ports: [{number: 80, name: p, protocol: HTTP}]\n  resolution: DNS\n";
    let subset_empty = static_entry("nowhere.test", 80, "{address: 192.0.2.1, labels: {version: v1}}")
        + &destination_rule("nowhere.test", "subsets: [{name: v2, labels: {version: v2}}]")
        + &virtual_service("nowhere.test", "name: r, ", ", subset: v2");
    for (config, cluster, route, reason) in [
        // What DNS says is ours: Envoy has `-` there.
        (dns_empty.to_owned(), "outbound|80||nowhere.test", "default", "<details>"),
        (static_entry("nowhere.test", 80, ""), "outbound|80||nowhere.test", "default", "-"),
        (subset_empty, "outbound|80|v2|nowhere.test", "r", "-"),
    ] {
        Row {
            config,
            registry_only: true,
            curl: vec!["--resolve", "nowhere.test:80:192.0.2.7", "http://nowhere.test/"],
            reply: Reply::own("503 Service Unavailable", "no healthy upstream"),
            log: format!(
                "\"GET / HTTP/1.1\" 503 UH no_healthy_upstream - \"{reason}\" 0 19 <ms> - \"-\" \"<ua>\" \"<id>\" \"nowhere.test\" \
                 \"-\" {cluster} - 192.0.2.7:80 <client> - {route}"
            ),
        }
        .check()
        .context(cluster)?;
    }
    Ok(())
}

#[test]
fn circuit_breaker() -> anyhow::Result<()> {
    let world = World::shared()?;
    for pool in
        ["http: {http2MaxRequests: 1}", "tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}"]
    {
        let pod = world.pod()?;
        let (release, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let origin = world.origin(80, move |mut socket| {
            while !read_head(&mut socket)?.is_empty() {
                // The other end's drop is the release.
                drop(held.lock().map(|held| held.recv()));
                socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
            }
            Ok(())
        })?;
        let (name, address) = (origin.name(), origin.address);
        let config = origin.service_entry("HTTP")
            + &destination_rule(&name, &format!("trafficPolicy: {{connectionPool: {{{pool}}}}}"));
        let mut session = pod.interceptor()?.config(&config)?.registry_only().session()?;
        session.sh(&format!("curl -sS --max-time 30 {} >/dev/null &", origin.url("/first")))?;
        eventually("the first request", || origin.connections() == 1)?;
        // As many wait as may; the one after them is refused at once.
        let mut refused = None;
        for _ in 0..8 {
            session.sh(&format!("curl -sS --max-time 30 {} >/dev/null &", origin.url("/wait")))?;
            let (code, text) = session.sh(&format!("curl -sS -i --max-time 1 {}", origin.url("/more")))?;
            if code == 0 {
                refused = Some(text);
                break;
            }
        }
        let refused = refused.context("nothing is refused")?;
        let body = "upstream connect error or disconnect/reset before headers. reset reason: overflow";
        let Reply::Http { status_line, headers, body } =
            Reply::own("503 Service Unavailable", body).and_header("x-envoy-overloaded: true", "")
        else {
            anyhow::bail!("not HTTP");
        };
        check_http(&refused, &status_line, &headers, &body).context(pool)?;
        drop(release);
        session.sh("wait")?;
        let run = session.finish()?;
        let line = run
            .log
            .lines()
            .find(|line| line.contains("/more") && line.contains(" UO "))
            .context("no line says UO")?;
        check_line(
            &format!(
                "\"GET /more HTTP/1.1\" 503 UO upstream_reset_before_response_started{{overflow}} - \"-\" 0 81 <ms> - \"-\" \"<ua>\" \
                 \"<id>\" \"{name}\" \"{address}\" outbound|80||{name} - {address} <client> - default"
            ),
            line,
        )
        .context(pool)?;
    }
    Ok(())
}
