//! `interceptor explain --gateway` says beforehand what the gateway's access log says afterwards; from its files, and asked of
//! the running gateway itself.

use std::process::Command;

use anyhow::{Context, ensure};
use interceptor_tests::{Dir, Gateway, LogLine, Mesh, Pod, World, binary};
use serde_json::Value;

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const OTHER: &str = "spiffe://cluster.local/ns/shop/sa/other";
const STRANGER: &str = "spiffe://elsewhere/ns/shop/sa/cart";

/// In clear on port 80, through on 443, ended on 8443; `back.test` is the gateway itself.
const RESOURCES: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: egress}
spec:
  selector: {istio: egressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}
  - {port: {number: 443, name: tls, protocol: TLS}, hosts: [www.google.com], tls: {mode: PASSTHROUGH}}
  - {port: {number: 8443, name: https, protocol: HTTPS}, hosts: [www.google.com, httpbin.org], tls: {mode: ISTIO_MUTUAL}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: through}
spec:
  hosts: [www.google.com, httpbin.org, back.test, lost.test, '*.ip.test']
  gateways: [egress, mesh]
  http:
  - name: from-the-mesh
    match: [{gateways: [mesh]}]
    directResponse: {status: 418}
  - name: google
    match: [{authority: {prefix: www.google.com}}]
    route: [{destination: {host: www.google.com, port: {number: 80}}}]
  - name: back
    match: [{authority: {exact: back.test}}]
    route: [{destination: {host: back.test, port: {number: 80}}}]
  - name: lost
    match: [{authority: {exact: lost.test}}]
    route: [{destination: {host: lost.test, subset: missing, port: {number: 80}}}]
  - name: metadata
    match: [{authority: {exact: metadata.ip.test}}]
    rewrite: {authority: 169.254.169.254}
    route: [{destination: {host: '*.ip.test', port: {number: 80}}}]
  - name: wild
    match: [{authority: {regex: '.*ip.test'}}]
    route: [{destination: {host: '*.ip.test', port: {number: 80}}}]
  - name: rest
    match: [{uri: {prefix: /get}}]
    route: [{destination: {host: httpbin.org, port: {number: 80}}}]
  tls:
  - match: [{sniHosts: [www.google.com]}]
    route: [{destination: {host: www.google.com, port: {number: 443}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: sites}
spec:
  hosts: [www.google.com, lost.test]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: httpbin
  annotations: {egress.interceptor.io/allow-from: ns/shop/sa/cart}
spec:
  hosts: [httpbin.org]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild}
spec:
  hosts: ['*.ip.test']
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DYNAMIC_DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: back}
spec:
  hosts: [back.test]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: GATEWAY}]
";

struct Asked<'a> {
    /// What `explain` and curl are asked; curl at another scheme where the request comes in TLS.
    target: &'a str,
    url: &'a str,
    port: u16,
    peer: Option<&'a str>,
    exit: i32,
}

const fn asked<'a>(target: &'a str, port: u16, exit: i32) -> Asked<'a> {
    Asked { target, url: target, port, peer: None, exit }
}

const fn in_tls<'a>(target: &'a str, url: &'a str, peer: Option<&'a str>, exit: i32) -> Asked<'a> {
    Asked { target, url, port: 8443, peer, exit }
}

/// What is said of the access log, with the exit code.
fn explained(command: &mut Command, row: &Asked<'_>) -> anyhow::Result<(Value, Option<i32>)> {
    command.args(["--port", &row.port.to_string(), "-o", "json", "--resolve"]);
    if let Some(peer) = row.peer {
        command.args(["--peer", peer]);
    }
    let output = command.arg(row.target).output().context("cannot run interceptor explain")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let json: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("no JSON: {stderr}"))?;
    ensure!(json["outcomes"].as_array().is_some_and(|outcomes| outcomes.len() == 1), "{json:#}");
    Ok((json["outcomes"][0]["accessLog"].clone(), output.status.code()))
}

fn logged(line: &LogLine) -> Value {
    serde_json::json!({
        "cluster": line.cluster, "route": line.route, "flags": line.flags, "details": line.details,
    })
}

/// Sends it to the gateway, whatever its port is called.
fn send(app: &Pod, gateway: &Pod, row: &Asked<'_>, identity: Option<&str>) -> anyhow::Result<()> {
    let host = row.url.split("://").nth(1).and_then(|rest| rest.split('/').next()).context("no host")?;
    let to = format!(
        "{host}:{}:{}:{}",
        if row.url.starts_with("https") { 443 } else { 80 },
        gateway.address,
        row.port
    );
    let mut curl = app.command("curl");
    curl.args(["-sk", "-o", "/dev/null", "--max-time", "20", "--connect-to", &to]);
    if let Some(directory) = identity {
        let file = |name: &str| format!("{directory}/{name}");
        curl.args(["--cert", &file("cert-chain.pem"), "--key", &file("key.pem")]);
    }
    // Refusals are failures to curl.
    curl.arg(row.url).status().context("cannot run curl")?;
    Ok(())
}

#[test]
fn what_is_explained_is_what_the_gateway_logs() -> anyhow::Result<()> {
    let (world, mesh, directory) = (World::shared()?, Mesh::new()?, Dir::new()?);
    let (app, host) = (world.joined_pod()?, world.joined_pod()?);
    let own = mesh.identity("gateway", "spiffe://cluster.local/ns/istio-system/sa/egress")?;
    let resources = RESOURCES.replace("GATEWAY", &host.address);
    let gateway = Gateway::with(&host, &resources, &["--identity-dir", &own])?;
    let config = directory.write("config.yaml", &resources)?;
    let pod = format!("istio-system/{}", rustix::system::uname().nodename().to_string_lossy());
    for (number, row) in [
        asked("http://www.google.com/", 80, 0),
        asked("http://nobody.test/", 80, 3),
        asked("http://httpbin.org/other", 80, 3),
        asked("http://httpbin.org/get", 80, 3),
        asked("http://back.test/", 80, 3),
        asked("http://lost.test/", 80, 3),
        asked("http://ip-203-0-113-20.ip.test/", 80, 0),
        asked("http://metadata.ip.test/", 80, 3),
        asked("https://www.google.com/", 80, 3),
        asked("https://www.google.com/", 443, 0),
        asked("https://httpbin.org/", 443, 3),
        in_tls("http://httpbin.org/get", "https://httpbin.org/get", Some(CART), 0),
        in_tls("http://httpbin.org/get", "https://httpbin.org/get", Some(OTHER), 3),
        in_tls("http://httpbin.org/get", "https://httpbin.org/get", Some(STRANGER), 3),
        in_tls("http://www.google.com/", "https://www.google.com/", Some(OTHER), 0),
        in_tls("http://back.test/", "https://back.test/", Some(CART), 3),
    ]
    .iter()
    .enumerate()
    {
        let shown = format!("{} on port {} by {:?}", row.target, row.port, row.peer);
        let mut of_files = host.command("env");
        of_files.arg(binary()?).args(["explain", "--gateway", "--namespace", "istio-system"]);
        of_files.args([
            "--labels",
            "istio=egressgateway",
            "--identity-dir",
            &own,
            "--address",
            &host.address,
        ]);
        let (foretold, exit) = explained(of_files.arg("-c").arg(&config), row)?;
        assert_eq!(exit, Some(row.exit), "{shown}: {foretold}");
        let mut of_running = host.command("env");
        of_running.arg(binary()?).args(["explain", "--pod", &pod, "--address", &host.address]);
        let told = explained(of_running.arg("--agent-socket").arg(gateway.socket()), row)?;
        assert_eq!(told, (foretold.clone(), exit), "{shown}, asked of the gateway");

        let identity = row.peer.map(|peer| mesh.identity("app", peer)).transpose()?;
        send(&app, &host, row, identity.as_deref())?;
        let lines = gateway.lines(number + 1)?;
        assert_eq!(foretold, logged(&lines[number]), "{shown}:\n{}", lines[number].line);
    }
    Ok(())
}
