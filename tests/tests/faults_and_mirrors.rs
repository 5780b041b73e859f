//! Faults, copies and CORS of VirtualServices, as curl and the servers see them.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use interceptor_tests::{World, eventually, read_head};

fn config(route: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: httpbin}}
spec:
  hosts: [httpbin.org]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: routes}}
spec:
  hosts: [httpbin.org]
  http:
  - name: chosen
{route}
    route: [{{destination: {{host: httpbin.org}}}}]
"
    )
}

#[test]
fn an_abort_never_reaches_the_server() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let config = config("    fault: {abort: {httpStatus: 503, percentage: {value: 100}}}");
    let run = pod.interceptor()?.config(&config)?.curl(&["http://httpbin.org/get"])?;
    run.expect_code(0)?;
    let answer = run.http()?;
    assert_eq!(
        (answer.status_line.as_str(), answer.body.as_str()),
        ("HTTP/1.1 503 Service Unavailable", "fault filter abort")
    );
    assert_eq!(answer.header("content-type").as_deref(), Some("text/plain"));
    let line = run.line()?;
    assert_eq!((line.code, line.flags.as_str(), line.details.as_str()), (503, "FI", "fault_filter_abort"));
    assert_eq!(
        (line.sent, line.upstream_host.as_str(), line.cluster.as_str()),
        (18, "-", "outbound|80||httpbin.org")
    );
    assert_eq!(line.route, "chosen");
    assert_eq!(world.httpbin.hits(&pod.address).len(), 0);
    Ok(())
}

#[test]
fn grpc_is_aborted_with_trailers_only() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let config = config("    fault: {abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}");
    let run = pod.interceptor()?.config(&config)?.curl(&[
        "--http2-prior-knowledge",
        "-H",
        "content-type: application/grpc",
        "-d",
        "",
        "http://httpbin.org/service/method",
    ])?;
    run.expect_code(0)?;
    let answer = run.http()?;
    assert_eq!((answer.status_line.trim(), answer.body.as_str()), ("HTTP/2 200", ""));
    assert_eq!(answer.header("content-type").as_deref(), Some("application/grpc"));
    assert_eq!(answer.header("grpc-status").as_deref(), Some("14"));
    assert_eq!(answer.header("grpc-message").as_deref(), Some("fault filter abort"));
    let line = run.line()?;
    assert_eq!((line.code, line.flags.as_str(), line.protocol.as_str()), (200, "FI", "HTTP/2"));
    Ok(())
}

#[test]
fn a_delay_is_felt_and_nobody_is_meant_by_default() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    // The timeout is shorter than the delay, which is not counted.
    let delayed = config("    fault: {delay: {fixedDelay: 3s, percentage: {value: 100}}}\n    timeout: 2s");
    let run = pod.interceptor()?.config(&delayed)?.curl(&["http://httpbin.org/get"])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.status, 200);
    let line = run.line()?;
    assert_eq!((line.code, line.flags.as_str(), line.details.as_str()), (200, "DI", "via_upstream"));
    assert!(line.service_time.parse::<u64>()? + 3000 <= line.duration_ms, "{}", line.line);

    let nobody = config("    fault: {delay: {fixedDelay: 10s}, abort: {httpStatus: 500}}");
    let run = pod.interceptor()?.config(&nobody)?.curl(&["http://httpbin.org/get"])?;
    assert_eq!(run.http()?.status, 200);
    assert_eq!(run.line()?.flags, "-");
    assert!(run.stderr.contains("`percentage` is missing, which means 0"), "{}", run.stderr);
    Ok(())
}

#[test]
fn a_mirror_gets_a_copy_and_the_client_nothing_of_it() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let memory = Arc::clone(&seen);
    let mirror = world.origin(80, move |mut socket| {
        let head = read_head(&mut socket)?;
        let mut body = [0; 5];
        socket.read_exact(&mut body)?;
        let body = String::from_utf8_lossy(&body).into_owned();
        memory.lock().unwrap_or_else(PoisonError::into_inner).push((head, body));
        write!(socket, "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
    })?;
    let route = format!("    mirrors: [{{destination: {{host: {}}}}}]", mirror.name());
    let config = format!("{}{}", config(&route), mirror.service_entry("HTTP"));
    let mut session = pod.interceptor()?.config(&config)?.session()?;
    let (_, answer) = session.curl("-d hello 'http://httpbin.org/post?q=1'")?;
    let answer = answer.context("no answer")?;
    assert_eq!((answer.status, &answer.json()?["form"]["hello"]), (200, &"".into()));
    eventually("the copy", || seen.lock().unwrap_or_else(PoisonError::into_inner).len() == 1)?;
    let (head, body) = seen.lock().unwrap_or_else(PoisonError::into_inner).remove(0);
    assert!(head.starts_with("POST /post?q=1 HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains("\r\nhost: httpbin.org-shadow\r\n"), "{head}");
    assert_eq!(body, "hello");
    // One request, one line.
    let run = session.finish()?;
    let line = run.line()?;
    assert_eq!(
        (line.code, line.flags.as_str(), line.cluster.as_str()),
        (200, "-", "outbound|80||httpbin.org")
    );
    Ok(())
}

#[test]
fn a_dead_mirror_is_not_noticed() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let dead = "
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: dead}
spec:
  hosts: [dead.test]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1, ports: {http: 9}}]
";
    let config =
        format!("{}{dead}", config("    mirror: {host: dead.test}\n    mirrorPercentage: {value: 100}"));
    let run = pod.interceptor()?.config(&config)?.curl(&["http://httpbin.org/get"])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.status, 200);
    let line = run.line()?;
    assert_eq!((line.flags.as_str(), line.details.as_str()), ("-", "via_upstream"));
    Ok(())
}

#[test]
fn preflights_are_answered_and_answers_can_be_read() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let config = config(
        "    corsPolicy: {allowOrigins: [{exact: 'https://page.test'}], allowMethods: [GET, PUT], \
         allowHeaders: [x-mine], exposeHeaders: [x-seen], maxAge: 10m, allowCredentials: true}",
    );
    let page = ["-H", "Origin: https://page.test"];
    let preflight = [
        &["-X", "OPTIONS", "-H", "Access-Control-Request-Method: PUT", "http://httpbin.org/put"][..],
        &page[..],
    ]
    .concat();
    let run = pod.interceptor()?.config(&config)?.curl(&preflight)?;
    run.expect_code(0)?;
    let answer = run.http()?;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    for (name, value) in [
        ("access-control-allow-origin", "https://page.test"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "GET,PUT"),
        ("access-control-allow-headers", "x-mine"),
        ("access-control-max-age", "600"),
    ] {
        assert_eq!(answer.header(name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(run.line()?.details, "cors_response");
    assert_eq!(world.httpbin.hits(&pod.address).len(), 0);

    let run =
        pod.interceptor()?.config(&config)?.curl(&[&["http://httpbin.org/get"][..], &page[..]].concat())?;
    let answer = run.http()?;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin").as_deref(), Some("https://page.test"));
    assert_eq!(answer.header("access-control-expose-headers").as_deref(), Some("x-seen"));
    assert_eq!(run.line()?.details, "via_upstream");
    Ok(())
}

#[test]
fn a_delegates_routes_act() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let config = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: httpbin}
spec:
  hosts: [httpbin.org]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: root}
spec:
  hosts: [httpbin.org]
  http:
  - match: [{uri: {prefix: /status}}]
    name: root
    delegate: {name: team, namespace: teams}
  - directResponse: {status: 410}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: team, namespace: teams}
spec:
  http:
  - name: teapot
    match: [{uri: {exact: /status/418}}]
    route: [{destination: {host: httpbin.org}}]
";
    for (path, status, route) in
        [("/status/418", 418, "root-teapot"), ("/status/204", 410, "-"), ("/get", 410, "-")]
    {
        let url = format!("http://httpbin.org{path}");
        let run = pod.interceptor()?.config(config)?.curl(&[&url])?;
        run.expect_code(0)?;
        assert_eq!(run.http()?.status, status, "{path}");
        assert_eq!(run.line()?.route, route, "{path}");
    }
    Ok(())
}
