//! Certificates that are replaced while a download is under way: what is open goes on with those of its beginning, what comes
//! after has the new ones. Application and gateway speak ISTIO_MUTUAL.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use interceptor_tests::{Dir, Gateway, Mesh, Origin, World, eventually, output, read_head, serial, wait_for};

const SERVICE: &str = "istio-egressgateway.istio-system.svc.cluster.local";

fn resources(origin: &Origin) -> String {
    let (host, port, address) = (origin.name(), origin.address.port(), origin.address.ip());
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: slow}}\nspec:\n  hosts: [{host}]\n  \
         ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {port}}}]\n  resolution: STATIC\n  \
         endpoints: [{{address: {address}}}]\n---\n\
         apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: egress}}\nspec:\n  \
         selector: {{istio: egressgateway}}\n  servers:\n  \
         - {{port: {{number: 80, name: https, protocol: HTTPS}}, hosts: [{host}], tls: {{mode: ISTIO_MUTUAL}}}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: to-egress}}\nspec:\n  \
         host: {SERVICE}\n  trafficPolicy: {{tls: {{mode: ISTIO_MUTUAL, sni: {host}}}}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: through}}\nspec:\n  \
         hosts: [{host}]\n  gateways: [egress, mesh]\n  http:\n  \
         - {{match: [{{gateways: [mesh]}}], route: [{{destination: {{host: {SERVICE}, port: {{number: 80}}}}}}]}}\n  \
         - {{match: [{{gateways: [egress]}}], route: [{{destination: {{host: {host}, port: {{number: 80}}}}}}]}}\n"
    )
}

#[test]
fn a_download_outlives_the_certificates_that_it_began_with() -> anyhow::Result<()> {
    let (world, mesh, dir) = (World::shared()?, Mesh::new()?, Dir::new()?);
    let (app, host) = (world.joined_pod()?, world.joined_pod()?);
    let (may_end, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (told, count) = (Arc::clone(&may_end), Arc::clone(&asked));
    // The first answer goes on, some bytes at a time, until it is told to end.
    let origin = world.origin(8080, move |mut socket| {
        let is_first = count.fetch_add(1, Ordering::Relaxed) == 0;
        read_head(&mut socket)?;
        socket.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nbegun\n")?;
        let told = wait_for("the test", Duration::from_secs(60), || {
            is_first.then(|| socket.write_all(b"more\n"));
            (!is_first || told.load(Ordering::Relaxed)).then_some(())
        });
        told.map_err(std::io::Error::other)?;
        socket.write_all(b"ended\n")
    })?;
    let name = origin.name();
    let (egress, cart) =
        ("spiffe://cluster.local/ns/istio-system/sa/egress", "spiffe://cluster.local/ns/shop/sa/cart");
    let (of_gateway, of_app) = (mesh.identity("gateway", egress)?, mesh.identity("cart", cart)?);
    let yaml = resources(&origin);
    let format =
        "accessLogFormat: \"%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_SENT% %DOWNSTREAM_PEER_SERIAL%\"\n";
    let format = dir.write("mesh.yaml", format)?.display().to_string();
    let gateway = Gateway::with(&host, &yaml, &["--identity-dir", &of_gateway, "--mesh-config", &format])?;
    let app_resources = yaml + &gateway.service(&[("http2", 80)]);
    let interceptor = app.interceptor()?.config(&app_resources)?.registry_only();
    let mut session = interceptor.flag("--identity-dir").flag(&of_app).session()?;
    let download = dir.join("download").display().to_string();
    session.sh(&format!("curl -sSN http://{name}/ > {download} & download=$!"))?;
    let downloaded = || std::fs::read_to_string(&download).unwrap_or_default();
    eventually("the download has begun", || downloaded().contains("more"))
        .with_context(|| format!("{}\n{}", gateway.said(), session.running.stderr()))?;

    let shown = || -> anyhow::Result<String> {
        let (address, to) = (&host.address, format!("-servername {name} -cert {of_app}/cert-chain.pem"));
        let line = format!(
            "openssl s_client -connect {address}:80 {to} -key {of_app}/key.pem < /dev/null 2> /dev/null | \
             openssl x509 -noout -serial"
        );
        Ok(serial(&String::from_utf8(output(app.command("sh").args(["-c", &line]))?.stdout)?))
    };
    let before = [mesh.serial("gateway")?, mesh.serial("cart")?];
    assert_eq!(shown()?, before[0]);
    mesh.identity("gateway", egress)?;
    mesh.identity("cart", cart)?;
    let after = [mesh.serial("gateway")?, mesh.serial("cart")?];
    assert!(before[0] != after[0] && before[1] != after[1]);
    eventually("the gateway shows its new certificate", || shown().is_ok_and(|serial| serial == after[0]))
        .with_context(|| gateway.said())?;
    eventually("the application shows its new certificate", || {
        let answer = session.sh(&format!("curl -sS http://{name}/"));
        assert_eq!(answer.map_err(|error| error.to_string()), Ok((0, "begun\nended\n".to_owned())));
        gateway.log().lines().last().is_some_and(|line| line.ends_with(&after[1]))
    })
    .with_context(|| gateway.log())?;

    let until_now = downloaded().len();
    eventually("the download goes on", || downloaded().len() > until_now)?;
    may_end.store(true, Ordering::Relaxed);
    let (code, said) = session.sh("wait $download")?;
    assert_eq!(code, 0, "{said}");
    let whole = downloaded();
    assert!(whole.starts_with("begun\nmore\n") && whole.ends_with("more\nended\n"), "{whole}");
    let of_download = format!("200 - {} {}", whole.len(), before[1]);
    eventually("the download is logged", || gateway.log().lines().any(|line| line == of_download))
        .with_context(|| format!("{of_download} is not in\n{}", gateway.log()))
}
