//! `interceptor explain` says beforehand what the access log of `interceptor exec` says afterwards.

use std::fs;

use anyhow::{Context, ensure};
use interceptor_tests::{Dir, LogLine, Pod, World};
use serde_json::Value;

const CONFIG: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: sites}
spec:
  hosts: [httpbin.org, www.google.com, www.apple.com]
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 443, name: https, protocol: HTTPS}
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: httpbin}
spec:
  hosts: [httpbin.org]
  http:
  - name: slow
    match: [{uri: {prefix: /delay}}]
    timeout: 1s
    route: [{destination: {host: httpbin.org}}]
  - name: teapot
    match: [{headers: {x-tea: {exact: 'yes'}}}]
    directResponse: {status: 418}
  - name: nowhere
    match: [{uri: {prefix: /nowhere}}]
    route: [{destination: {host: httpbin.org, subset: missing}}]
  - name: rest
    route: [{destination: {host: httpbin.org}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: apple}
spec:
  hosts: [www.apple.com]
  http:
  - name: originate
    match: [{port: 80}]
    route: [{destination: {host: www.apple.com, subset: tls, port: {number: 443}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: apple}
spec:
  host: www.apple.com
  subsets:
  - name: tls
    trafficPolicy:
      portLevelSettings:
      - port: {number: 443}
        tls: {mode: SIMPLE}
";

/// What `explain` says of the access log, and its exit code.
fn explained(pod: &Pod, path: &str, words: &[&str]) -> anyhow::Result<(Value, Option<i32>)> {
    let output = pod
        .command("env")
        .arg(interceptor_tests::binary()?)
        .args([
            "explain",
            "-c",
            path,
            "--outbound-traffic-policy",
            "REGISTRY_ONLY",
            "-o",
            "json",
            "--resolve",
        ])
        .args(words)
        .output()
        .context("cannot run interceptor explain")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let json: Value =
        serde_json::from_slice(&output.stdout).with_context(|| format!("not JSON: {stderr}"))?;
    Ok((json["outcomes"][0]["accessLog"].clone(), output.status.code()))
}

fn logged(line: &LogLine) -> Value {
    serde_json::json!({
        "cluster": line.cluster, "route": line.route, "flags": line.flags, "details": line.details,
    })
}

/// A row: arguments of explain, those of curl, and the exit code of explain.
#[test]
fn what_is_explained_is_what_is_logged() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let directory = Dir::new()?;
    let path = directory.join("config.yaml");
    fs::write(&path, CONFIG)?;
    let path = path.to_str().context("a path in UTF-8")?;
    let rows: &[(&[&str], &[&str], i32)] = &[
        (&["http://httpbin.org/get"], &["http://httpbin.org/get"], 0),
        (&["--header", "x-tea: yes", "http://httpbin.org/"], &["-H", "x-tea: yes", "http://httpbin.org/"], 3),
        (&["http://httpbin.org/nowhere"], &["http://httpbin.org/nowhere"], 3),
        (&["http://www.google.com/"], &["http://www.google.com/"], 0),
        (&["http://www.apple.com/"], &["-I", "http://www.apple.com/"], 0),
        (&["https://www.google.com"], &["https://www.google.com/"], 0),
        (&["http://edition.cnn.com/"], &["http://edition.cnn.com/"], 3),
        (&["https://edition.cnn.com"], &["https://edition.cnn.com/"], 3),
    ];
    for (asked, curl, code) in rows {
        let (explained, exit) = explained(&pod, path, asked)?;
        let run = pod.interceptor()?.config(CONFIG)?.registry_only().curl(curl)?;
        assert_eq!(explained, logged(&run.line()?), "{asked:?}");
        assert_eq!(exit, Some(*code), "{asked:?}");
    }
    Ok(())
}

/// What is left alone is logged by nobody.
#[test]
fn an_excluded_range_is_explained_and_not_logged() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let directory = Dir::new()?;
    let path = directory.join("config.yaml");
    fs::write(&path, CONFIG)?;
    let path = path.to_str().context("a path in UTF-8")?;
    let annotation = "traffic.sidecar.istio.io/excludeOutboundIPRanges=0.0.0.0/0";
    let (explained, exit) = explained(&pod, path, &["--annotations", annotation, "http://httpbin.org/get"])?;
    assert_eq!((explained, exit), (Value::Null, Some(0)));
    let run = pod
        .interceptor()?
        .config(CONFIG)?
        .registry_only()
        .flags(&["--annotations", annotation])
        .curl(&["http://httpbin.org/get"])?;
    run.expect_code(0)?;
    ensure!(run.log.is_empty(), "logged: {}", run.log);
    Ok(())
}
