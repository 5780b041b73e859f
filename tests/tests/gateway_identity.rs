//! Workloads that show the egress gateway who they are, with certificates of `interceptor certs`: application and gateway
//! speak ISTIO_MUTUAL, and the gateway lets through to a host whom its rule names.

use interceptor_tests::{Finished, Gateway, Mesh, Pod, World, eventually, seeds};

const SERVICE: &str = "istio-egressgateway.istio-system.svc.cluster.local";
const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

/// The tutorial's ISTIO_MUTUAL with its mistake mended, to the host in clear, with what is to be annotated.
fn recipe(annotation: &str) -> anyhow::Result<String> {
    let through = seeds(&["003-04-gw-dr-vs-dr"])?.replace("protocol: TLS", "protocol: HTTPS");
    Ok(entry(annotation) + &through)
}

fn entry(annotation: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: httpbin\n  annotations: {{{annotation}}}\n\
         spec:\n  hosts: [httpbin.org]\n  ports: [{{number: 80, name: http, protocol: HTTP}}, {{number: 443, name: tls, \
         protocol: TLS}}]\n  resolution: DNS\n---\n"
    )
}

fn fetch(app: &Pod, gateway: &Gateway, resources: &str, identity: &str) -> anyhow::Result<Finished> {
    fetch_url(app, gateway, resources, identity, "http://httpbin.org/headers")
}

fn fetch_url(
    app: &Pod,
    gateway: &Gateway,
    resources: &str,
    identity: &str,
    url: &str,
) -> anyhow::Result<Finished> {
    let service = gateway.service(&[("http2", 80), ("tls", 443)]);
    let interceptor = app.interceptor()?.config(&(resources.to_owned() + &service))?.registry_only();
    interceptor.flag("--identity-dir").flag(identity).curl(&[url])
}

#[test]
fn both_ends_show_who_they_are() -> anyhow::Result<()> {
    let (world, mesh) = (World::shared()?, Mesh::new()?);
    let (app, host) = (world.joined_pod()?, world.joined_pod()?);
    let own = mesh.identity("gateway", "spiffe://cluster.local/ns/istio-system/sa/egress")?;
    let resources = recipe("")?;
    // Whose address it is, as files say it.
    let pod = format!(
        "\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: cart-0, namespace: shop, labels: {{app: basket}}}}\n\
         spec: {{serviceAccountName: cart}}\nstatus: {{podIP: {}}}\n",
        app.address
    );
    let gateway = Gateway::with(&host, &(resources.clone() + &pod), &["--identity-dir", &own])?;
    let cart = mesh.identity("cart", CART)?;
    let run = fetch(&app, &gateway, &resources, &cart)?;
    assert_eq!(run.http()?.status, 200, "{}\n{}", run.stderr, gateway.said());
    assert_eq!(run.line()?.cluster, format!("outbound|80|httpbin|{SERVICE}"));
    let line = gateway.line()?;
    assert_eq!((&*line.cluster, line.code, &*line.sni), ("outbound|443||httpbin.org", 200, "httpbin.org"));
    let (_, metrics) = gateway.ask("/metrics")?;
    let source = format!(
        "source_workload=\"cart-0\",source_workload_namespace=\"shop\",source_principal=\"{CART}\",source_app=\"basket\""
    );
    assert!(metrics.contains(&source), "{metrics}");
    assert!(metrics.contains("interceptor_certificate_expiry_timestamp_seconds{source="), "{metrics}");

    let stranger = mesh.identity("stranger", "spiffe://elsewhere/ns/shop/sa/cart")?;
    // Not what the gateway shows is asked here, but whom it lets in.
    let to = format!("{}:80", host.address);
    let file = |name: &str| format!("{stranger}/{name}");
    let output = interceptor_tests::output(app.command("curl").args([
        "-sk",
        "--resolve",
        &format!("httpbin.org:80:{}", host.address),
        "--cert",
        &file("cert-chain.pem"),
        "--key",
        &file("key.pem"),
        "https://httpbin.org:80/",
    ]));
    assert!(output.is_err() || output?.stdout.is_empty(), "{to} let a stranger in");
    eventually("the refusal is logged", || gateway.log().contains("tls_handshake_trust_domain"))
}

#[test]
fn a_host_is_for_those_whom_its_rule_names() -> anyhow::Result<()> {
    let (world, mesh) = (World::shared()?, Mesh::new()?);
    let (app, host) = (world.joined_pod()?, world.joined_pod()?);
    let own = mesh.identity("gateway", "spiffe://cluster.local/ns/istio-system/sa/egress")?;
    let resources = recipe("egress.interceptor.io/allow-from: 'ns/shop/sa/cart, ns/billing'")?;
    let gateway = Gateway::with(&host, &resources, &["--identity-dir", &own])?;
    for (number, (uri, status)) in [
        (CART, 200),
        ("spiffe://cluster.local/ns/shop/sa/other", 403),
        ("spiffe://cluster.local/ns/billing/sa/any", 200),
        ("spiffe://cluster.local/ns/neighbour/sa/cart", 403),
    ]
    .into_iter()
    .enumerate()
    {
        let identity = mesh.identity("app", uri)?;
        let http = fetch(&app, &gateway, &resources, &identity)?.http()?;
        assert_eq!(http.status, status, "{uri}: {}", gateway.said());
        let lines = gateway.lines(number + 1)?;
        if status == 403 {
            assert_eq!(http.body, "RBAC: access denied");
            assert!(
                lines[number].line.contains("rbac_access_denied_matched_policy[none]"),
                "{}",
                lines[number].line
            );
        }
    }
    Ok(())
}

/// Where nothing ends the client's TLS, or there is none, nobody has shown who he is: also with an identity of the mesh, and
/// when the rule names it.
#[test]
fn what_passes_through_is_nobodys() -> anyhow::Result<()> {
    let (world, mesh) = (World::shared()?, Mesh::new()?);
    let (app, host) = (world.joined_pod()?, world.joined_pod()?);
    let own = mesh.identity("gateway", "spiffe://cluster.local/ns/istio-system/sa/egress")?;
    let cart = mesh.identity("cart", CART)?;
    for (seed, url, cluster) in [
        ("003-03-gw-vs", "https://httpbin.org/headers", "outbound|443||httpbin.org"),
        ("003-02-gw-vs", "http://httpbin.org/headers", "outbound|80||httpbin.org"),
    ] {
        let is_tls = url.starts_with("https");
        for (annotation, is_refused) in
            [("egress.interceptor.io/allow-from: ns/shop/sa/cart", true), ("", false)]
        {
            let resources = entry(annotation) + &seeds(&[seed])?;
            let gateway = Gateway::with(&host, &resources, &["--identity-dir", &own])?;
            let run = fetch_url(&app, &gateway, &resources, &cart, url)?;
            let line = gateway.line()?;
            match (is_refused, is_tls) {
                (false, _) => assert_eq!(run.http()?.status, 200, "{seed}: {}", line.line),
                (true, true) => assert!(run.code() == 35 && run.http().is_err(), "{seed}: {}", run.stderr),
                (true, false) => assert_eq!(run.http()?.body, "RBAC: access denied", "{seed}: {}", line.line),
            }
            let flags = if is_refused && is_tls { "UAEX" } else { "-" };
            assert_eq!((&*line.flags, &*line.cluster), (flags, cluster), "{seed}: {}", line.line);
        }
    }
    Ok(())
}
