//! AUTO_PASSTHROUGH at the egress gateway: clients name the cluster by their server name, and their TLS passes untouched.

use interceptor_tests::{Gateway, World, eventually};

const RESOURCES: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: egress}
spec:
  selector: {istio: egressgateway}
  servers:
  - port: {number: 443, name: auto, protocol: TLS}
    hosts: [www.google.com, metadata.test, local.test, back.test, ruled.test]
    tls: {mode: AUTO_PASSTHROUGH}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: sites}
spec:
  hosts: [www.google.com, httpbin.org]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: google}
spec:
  host: www.google.com
  subsets: [{name: v1}]
  trafficPolicy: {tls: {mode: SIMPLE}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: ruled
  annotations: {egress.interceptor.io/allow-from: ns/shop}
spec:
  hosts: [ruled.test]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: STATIC
  endpoints: [{address: 203.0.113.20}]
";

fn fixed(host: &str, address: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {host}}}\nspec: {{hosts: [{host}], \
         ports: [{{number: 443, name: tls, protocol: TLS}}], resolution: STATIC, endpoints: [{{address: {address}, ports: \
         {{tls: 4443}}}}]}}\n"
    )
}

/// The certificate is the server's own, the server name is what the client sent, and nothing is put around it, though the
/// cluster has TLS for others.
#[test]
fn tls_passes_to_the_cluster_that_is_named() -> anyhow::Result<()> {
    let world = World::shared()?;
    let (app, host) = (world.joined_pod()?, world.joined_pod()?);
    let gateway = Gateway::start(&host, RESOURCES)?;
    let to = format!("{}:443", host.address);
    let names = ["outbound_.443_._.www.google.com", "outbound_.443_.v1_.www.google.com"];
    for (number, (name, cluster)) in
        names.into_iter().zip(["outbound|443||www.google.com", "outbound|443|v1|www.google.com"]).enumerate()
    {
        let connect_to = format!("{name}:443:{to}");
        let url = format!("https://{name}/");
        // The name of a cluster is in nobody's certificate.
        let args = ["-sk", "--connect-to", &connect_to, "-H", "host: www.google.com", &url];
        let output = interceptor_tests::output(app.command("curl").args(args))?;
        assert_eq!(String::from_utf8(output.stdout)?, "www.google.com says hello over https\n");
        let line = &gateway.lines(number + 1)?[number];
        assert_eq!((&*line.cluster, &*line.sni, &*line.flags), (cluster, name, "-"), "{}", line.line);
        assert_eq!(line.upstream_host, "203.0.113.20:443");
        let hits = world.nginx.wait_hits(&host.address, number + 1)?;
        assert_eq!(hits[number].get("sni"), name);
    }
    // By the server's certificate.
    let args = [
        "s_client",
        "-connect",
        &to,
        "-servername",
        names[0],
        "-verify_hostname",
        "www.google.com",
        "-verify_return_error",
    ];
    let ca = world.ca.root();
    let mut openssl = app.command("openssl");
    openssl.args(args).arg("-CAfile").arg(ca).stdin(std::process::Stdio::null());
    let shown = String::from_utf8(interceptor_tests::output(&mut openssl)?.stdout)?;
    assert!(shown.contains("Verify return code: 0 (ok)"), "{shown}");
    Ok(())
}

#[test]
fn what_is_no_name_of_a_cluster_is_closed() -> anyhow::Result<()> {
    let world = World::shared()?;
    let (app, host) = (world.joined_pod()?, world.joined_pod()?);
    let fixed = fixed("metadata.test", "169.254.169.254")
        + &fixed("local.test", "127.0.0.1")
        + &fixed("back.test", &host.address);
    let gateway = Gateway::start(&host, &format!("{RESOURCES}{fixed}"))?;
    for (number, (name, flags, details, cluster)) in [
        ("www.google.com", "NR", "filter_chain_not_found", "-"),
        ("outbound_.444_._.www.google.com", "NR", "filter_chain_not_found", "-"),
        ("outbound_.443_.v2_.www.google.com", "NR", "filter_chain_not_found", "-"),
        // Not of the server's hosts.
        ("outbound_.443_._.httpbin.org", "NR", "filter_chain_not_found", "-"),
        // Where only the gateway's host comes to, on whatever port.
        ("outbound_.443_._.metadata.test", "UH", "-", "outbound|443||metadata.test"),
        ("outbound_.443_._.local.test", "UH", "-", "outbound|443||local.test"),
        ("outbound_.443_._.back.test", "UH", "-", "outbound|443||back.test"),
        // Nobody has shown who it is.
        ("outbound_.443_._.ruled.test", "UAEX", "-", "outbound|443||ruled.test"),
    ]
    .into_iter()
    .enumerate()
    {
        let to = format!("{name}:443:{}:443", host.address);
        let status =
            app.command("curl").args(["-sk", "--connect-to", &to, &format!("https://{name}/")]).status()?;
        assert_eq!(status.code(), Some(35), "{name}");
        let line = &gateway.lines(number + 1)?[number];
        let found = (&*line.flags, &*line.details, &*line.cluster, &*line.sni);
        assert_eq!(found, (flags, details, cluster, name), "{}", line.line);
    }
    let lines = gateway.lines(8)?;
    assert_eq!(lines[4].transport_failure, "169.254.169.254:4443_is_where_this_gateway_sends_nothing");
    Ok(())
}

/// Whatever chance would choose.
#[test]
fn endpoints_that_are_off_limits_leave_the_others() -> anyhow::Result<()> {
    const CONNECTIONS: usize = 12;
    let world = World::shared()?;
    let (app, host) = (world.joined_pod()?, world.joined_pod()?);
    let mixed = fixed("metadata.test", "169.254.169.254")
        .replace("endpoints: [", "endpoints: [{address: 127.0.0.1}, {address: 203.0.113.20}, ");
    let gateway = Gateway::start(&host, &format!("{RESOURCES}{mixed}"))?;
    let name = "outbound_.443_._.metadata.test";
    let (to, url) = (format!("{name}:443:{}:443", host.address), format!("https://{name}/"));
    for _ in 0..CONNECTIONS {
        let args = ["-sk", "--connect-to", &to, "-H", "host: www.google.com", &url];
        let output = interceptor_tests::output(app.command("curl").args(args))?;
        assert_eq!(String::from_utf8(output.stdout)?, "www.google.com says hello over https\n");
    }
    for line in gateway.lines(CONNECTIONS)? {
        assert_eq!((&*line.upstream_host, &*line.flags), ("203.0.113.20:443", "-"), "{}", line.line);
    }
    Ok(())
}

/// As services come and go.
#[test]
fn a_service_can_be_named_as_soon_as_it_is_declared() -> anyhow::Result<()> {
    let world = World::shared()?;
    let (app, host) = (world.joined_pod()?, world.joined_pod()?);
    let without = RESOURCES.replacen("hosts: [www.google.com, httpbin.org]", "hosts: [httpbin.org]", 1);
    let gateway = Gateway::start(&host, &without)?;
    let name = "outbound_.443_._.www.google.com";
    let to = format!("{name}:443:{}:443", host.address);
    let url = format!("https://{name}/");
    let asked = || app.command("curl").args(["-sk", "-o", "/dev/null", "--connect-to", &to, &url]).status();
    assert_eq!(asked()?.code(), Some(35), "{}", gateway.log());
    gateway.reconfigure(RESOURCES)?;
    eventually("the service is there", || asked().is_ok_and(|status| status.success()))?;
    gateway.reconfigure(&without)?;
    eventually("the service is gone", || asked().is_ok_and(|status| status.code() == Some(35)))
}
