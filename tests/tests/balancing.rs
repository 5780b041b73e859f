//! Which of several endpoints gets a request, and which is left out: configuration, curl, several servers.

use std::collections::BTreeSet;
use std::io::Write;

use interceptor_tests::{Origin, World, read_head};

/// Answers every request with this status and its own address.
fn origin(world: &World, status: &'static str) -> anyhow::Result<Origin> {
    world.origin(80, move |mut socket| {
        let address = socket.local_addr()?.to_string();
        while !read_head(&mut socket)?.is_empty() {
            write!(socket, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{address}\n", address.len() + 1)?;
        }
        Ok(())
    })
}

fn config(origins: &[Origin], policy: &str) -> String {
    let endpoints: Vec<String> =
        origins.iter().map(|origin| format!("{{address: {}}}", origin.address.ip())).collect();
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: balanced}}
spec:
  hosts: [balanced.example.com]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: balanced}}
spec:
  host: balanced.example.com
  trafficPolicy: {{{policy}}}
",
        endpoints.join(", ")
    )
}

/// So many requests, one after another; `options` are of each.
fn requests(count: usize, options: &str, origins: &[Origin]) -> String {
    let address = origins[0].address.ip();
    format!(
        "for i in $(seq {count}); do curl -sS {options} -H 'Host: balanced.example.com' http://{address}/; done"
    )
}

#[test]
fn an_endpoint_that_fails_is_left_out() -> anyhow::Result<()> {
    let world = World::shared()?;
    let origins = [origin(world, "200 OK")?, origin(world, "500 Internal Server Error")?];
    let policy = "loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 2}";
    let script = requests(12, "-o /dev/null -w '%{http_code}\\n'", &origins);
    let pod = world.pod()?;
    let run = pod.interceptor()?.config(&config(&origins, policy))?.run(&["sh", "-c", &script])?;
    run.expect_code(0)?;
    let text = run.text();
    let failed = text.lines().filter(|line| *line == "500").count();
    let answered = text.lines().filter(|line| *line == "200").count();
    assert_eq!((failed, answered), (2, 10), "{text}");
    Ok(())
}

#[test]
fn a_cookie_keeps_a_client_at_one_endpoint() -> anyhow::Result<()> {
    let world = World::shared()?;
    let origins = [origin(world, "200 OK")?, origin(world, "200 OK")?, origin(world, "200 OK")?];
    let pod = world.pod()?;
    let policy = "loadBalancer: {consistentHash: {httpCookie: {name: session, path: /, ttl: 60s}, \
                  maglev: {tableSize: 251}}}";
    let interceptor = pod.interceptor()?.config(&config(&origins, policy))?;
    let jar = interceptor.dir().join("jar").display().to_string();
    let script = requests(12, &format!("-b {jar} -c {jar}"), &origins);
    let run = interceptor.run(&["sh", "-c", &script])?;
    run.expect_code(0)?;
    let text = run.text();
    assert_eq!(text.lines().count(), 12, "{text}");
    assert_eq!(text.lines().collect::<BTreeSet<_>>().len(), 1, "{text}");
    Ok(())
}

#[test]
fn a_header_spreads_clients() -> anyhow::Result<()> {
    let world = World::shared()?;
    let origins = [origin(world, "200 OK")?, origin(world, "200 OK")?, origin(world, "200 OK")?];
    let pod = world.pod()?;
    let policy = "loadBalancer: {consistentHash: {httpHeaderName: X-User}}";
    let twice = format!("{0}; {0}", requests(12, "-H \"X-User: $i\"", &origins));
    let run = pod.interceptor()?.config(&config(&origins, policy))?.run(&["sh", "-c", &twice])?;
    run.expect_code(0)?;
    let text = run.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 24, "{text}");
    assert_eq!(lines[..12], lines[12..]);
    assert!(lines.iter().collect::<BTreeSet<_>>().len() > 1, "{text}");
    Ok(())
}
