//! Servers that fail: what the client sees, what the log says, and when a request is tried again.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use interceptor_tests::{Origin, World, header, read_head};

fn virtual_service(host: &str, route: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: vs}}\nspec:\n  \
         hosts: [{host}]\n  http: [{{{route}, route: [{{destination: {{host: {host}}}}}]}}]\n"
    )
}

/// Answers 503 to the first `failures` requests, then 200 with the head that came.
fn failing(world: &World, failures: usize) -> anyhow::Result<Origin> {
    let seen = Arc::new(AtomicUsize::new(0));
    world.origin(80, move |mut socket| {
        loop {
            let head = read_head(&mut socket)?;
            if head.is_empty() {
                return Ok(());
            }
            let mut body = vec![0; header(&head, "content-length").and_then(|n| n.parse().ok()).unwrap_or(0)];
            socket.read_exact(&mut body)?;
            if seen.fetch_add(1, Ordering::SeqCst) < failures {
                socket.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy")?;
            } else {
                let text = format!("{head}{}", String::from_utf8_lossy(&body));
                write!(socket, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())?;
            }
        }
    })
}

#[test]
fn connection_refused() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let closed = world.origin(80, |_| Ok(()))?;
    let (config, url) = (closed.service_entry("HTTP"), closed.url("/"));
    drop(closed);
    let run = pod.interceptor()?.config(&config)?.curl(&[&url])?;
    run.expect_code(0)?;
    let answer = run.http()?;
    assert_eq!(answer.status_line, "HTTP/1.1 503 Service Unavailable");
    assert!(
        answer.body.starts_with("upstream connect error or disconnect/reset before headers."),
        "{}",
        answer.body
    );
    assert!(answer.body.contains("reset reason: remote connection failure"), "{}", answer.body);
    assert_eq!(answer.header("content-type").as_deref(), Some("text/plain"));
    let line = run.line()?;
    // By default it is tried twice more.
    assert_eq!((line.code, line.flags.as_str()), (503, "UF,URX"));
    assert!(
        line.details.starts_with("upstream_reset_before_response_started{remote_connection_failure"),
        "{}",
        line.line
    );
    Ok(())
}

#[test]
fn closed_before_the_answer() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let origin = world.origin(80, |mut socket| read_head(&mut socket).map(drop))?;
    let run = pod.interceptor()?.config(&origin.service_entry("HTTP"))?.curl(&[&origin.url("/")])?;
    run.expect_code(0)?;
    let answer = run.http()?;
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.body,
        "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
    );
    assert_eq!(answer.header("content-length").as_deref(), Some("95"));
    let line = run.line()?;
    assert_eq!(line.flags, "UC");
    assert!(
        line.details.starts_with("upstream_reset_before_response_started{connection_termination"),
        "{}",
        line.line
    );
    // A request that may have been served is not sent again.
    assert_eq!(origin.connections(), 1);
    Ok(())
}

#[test]
fn closed_in_the_middle_of_the_answer() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let origin = world.origin(80, |mut socket| {
        read_head(&mut socket)?;
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    })?;
    let run = pod.interceptor()?.config(&origin.service_entry("HTTP"))?.curl(&[&origin.url("/")])?;
    // curl must see that the body is short: 18 is a partial file, 56 a reset.
    assert!([18, 56].contains(&run.code()), "exit {}: {}", run.code(), run.text());
    Ok(())
}

#[test]
fn retries_as_asked() -> anyhow::Result<()> {
    let world = World::shared()?;
    for (retry, status, requests) in [
        ("retries: {attempts: 3, retryOn: 5xx}", 200, 3),
        ("retries: {attempts: 1, retryOn: 5xx}", 503, 2),
        ("retries: {attempts: 3, retryOn: '503'}", 200, 3),
        ("retries: {attempts: 3, retryOn: gateway-error}", 200, 3),
        ("retries: {attempts: 0}", 503, 1),
        ("retries: {attempts: 3, retryOn: connect-failure}", 503, 1),
    ] {
        let pod = world.pod()?;
        let origin = failing(world, 2)?;
        let config = origin.service_entry("HTTP") + &virtual_service(&origin.name(), retry);
        let run = pod.interceptor()?.config(&config)?.curl(&["-d", "the body", &origin.url("/")])?;
        run.expect_code(0)?;
        let answer = run.http()?;
        assert_eq!(answer.status, status, "{retry}: {}", run.text());
        if status == 200 {
            let attempt = requests.to_string();
            assert_eq!(header(&answer.body, "x-envoy-attempt-count"), Some(attempt.as_str()), "{retry}");
            assert!(answer.body.ends_with("the body"), "the body goes with every attempt: {}", answer.body);
        }
        assert_eq!(run.line()?.code, status);
    }
    Ok(())
}

#[test]
fn an_attempt_has_its_own_time() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let origin = world.origin(80, |mut socket| {
        let head = read_head(&mut socket)?;
        if header(&head, "x-envoy-attempt-count") == Some("1") {
            return read_head(&mut socket).map(drop);
        }
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    })?;
    let retry = "timeout: 10s, retries: {attempts: 2, perTryTimeout: 1s, retryOn: 5xx}";
    let config = origin.service_entry("HTTP") + &virtual_service(&origin.name(), retry);
    let run = pod.interceptor()?.config(&config)?.curl(&[&origin.url("/")])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.body, "ok");
    assert!((1000..9000).contains(&run.line()?.duration_ms), "{}", run.log);
    Ok(())
}

#[test]
fn a_subset_nobody_defined() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let origin = failing(world, 0)?;
    let config = origin.service_entry("HTTP")
        + &format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: vs}}\nspec:\n  \
             hosts: [{0}]\n  http: [{{route: [{{destination: {{host: {0}, subset: nobody}}}}]}}]\n",
            origin.name()
        );
    let run = pod.interceptor()?.config(&config)?.curl(&[&origin.url("/")])?;
    run.expect_code(0)?;
    assert_eq!((run.http()?.status, run.http()?.body.as_str()), (503, ""));
    let line = run.line()?;
    assert_eq!(
        (line.flags.as_str(), line.details.as_str(), line.cluster.as_str()),
        ("NC", "cluster_not_found", "-")
    );
    assert_eq!(origin.connections(), 0);
    Ok(())
}

#[test]
fn a_route_nobody_wrote() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let origin = failing(world, 0)?;
    let config =
        origin.service_entry("HTTP") + &virtual_service(&origin.name(), "match: [{uri: {prefix: /only}}]");
    for (path, status, flags) in [("/only/this", 200, "-"), ("/other", 404, "NR")] {
        let run = pod.interceptor()?.config(&config)?.curl(&[&origin.url(path)])?;
        run.expect_code(0)?;
        assert_eq!(run.http()?.status, status);
        assert_eq!(run.line()?.flags, flags);
    }
    Ok(())
}

#[test]
fn the_client_that_gives_up_is_logged() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let config = interceptor_tests::seeds(&["000-01-se-se"])?;
    let run = pod.interceptor()?.config(&config)?.run(&[
        "curl",
        "-sS",
        "--max-time",
        "0.5",
        "http://httpbin.org/delay/5",
    ])?;
    run.expect_code(28)?;
    let line = run.line()?;
    assert_eq!((line.code, line.flags.as_str()), (0, "DC"));
    assert_eq!(line.details, "downstream_remote_disconnect");
    Ok(())
}
