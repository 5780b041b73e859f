//! Scenario 3: a timeout on an external service, to the byte and to the tenth of a second.

use interceptor_tests::{World, seeds};

fn config() -> anyhow::Result<String> {
    seeds(&["000-01-se-se", "000-02-vs"])
}

#[test]
fn three_seconds_then_504() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run = pod.interceptor()?.config(&config()?)?.curl(&[
        "-w",
        "\n%{time_total}",
        "http://httpbin.org/delay/5",
    ])?;
    run.expect_code(0)?;
    let answer = run.http()?;
    assert_eq!(answer.status_line, "HTTP/1.1 504 Gateway Timeout");
    assert_eq!(answer.header("content-length").as_deref(), Some("24"));
    assert_eq!(answer.header("content-type").as_deref(), Some("text/plain"));
    assert!(answer.header("date").is_some() && answer.header("server").is_some());
    let (body, time) = answer.body.split_once('\n').unwrap_or_default();
    assert_eq!((body, body.len()), ("upstream request timeout", 24));
    let seconds: f64 = time.parse()?;
    assert!((3.0..4.5).contains(&seconds), "{seconds} s");
    let line = run.line()?;
    assert_eq!((line.code, line.flags.as_str()), (504, "UT"));
    assert_eq!((line.details.as_str(), line.sent), ("upstream_response_timeout", 24));
    assert_eq!((line.cluster.as_str(), line.service_time.as_str()), ("outbound|80||httpbin.org", "-"));
    assert!((3000..4500).contains(&line.duration_ms), "{}", line.line);
    Ok(())
}

#[test]
fn the_tutorial_asks_with_head() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run = pod.interceptor()?.config(&config()?)?.curl(&["-I", "http://httpbin.org/delay/5"])?;
    run.expect_code(0)?;
    let answer = run.http()?;
    assert_eq!((answer.status, answer.header("content-length").as_deref()), (504, Some("24")));
    assert_eq!(answer.body, "");
    Ok(())
}

#[test]
fn an_answer_in_time_is_not_touched() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let run = pod.interceptor()?.config(&config()?)?.curl(&["http://httpbin.org/delay/1"])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.status, 200);
    let line = run.line()?;
    assert!((1000..2900).contains(&line.duration_ms), "{}", line.line);
    assert_eq!(line.route, "-", "a route of a VirtualService without a name");
    Ok(())
}

#[test]
fn a_timeout_is_not_retried() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let origin = world.origin(80, |mut socket| {
        interceptor_tests::read_head(&mut socket)?;
        interceptor_tests::read_head(&mut socket).map(drop)
    })?;
    let config = format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: slow}}
spec:
  hosts: [{0}]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: slow}}
spec:
  hosts: [{0}]
  http: [{{name: short, timeout: 300ms, route: [{{destination: {{host: {0}}}}}]}}]
",
        origin.name()
    );
    let run = pod.interceptor()?.config(&config)?.curl(&[&format!("http://{}/", origin.name())])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.status, 504);
    assert_eq!(run.line()?.route, "short");
    assert_eq!(origin.connections(), 1);
    Ok(())
}

#[test]
fn gateways_without_mesh_are_not_for_us() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    for (gateways, status) in [("[bookinfo-gateway]", 200), ("[bookinfo-gateway, mesh]", 504)] {
        let config = seeds(&["000-01-se-se"])?
            + &format!(
                "
---
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {{name: httpbin-org}}
spec:
  hosts: [httpbin.org]
  gateways: {gateways}
  http: [{{timeout: 500ms, route: [{{destination: {{host: httpbin.org}}}}]}}]
"
            );
        let run = pod.interceptor()?.config(&config)?.curl(&["http://httpbin.org/delay/1"])?;
        run.expect_code(0)?;
        assert_eq!(run.http()?.status, status, "gateways: {gateways}");
    }
    Ok(())
}
