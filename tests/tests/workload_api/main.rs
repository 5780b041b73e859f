//! Identities of a SPIFFE Workload API: application and gateway speak ISTIO_MUTUAL with what it streams, as it changes, and
//! as long as the last one is valid while it is away.

mod server;

use std::fs::File;
use std::io::Write;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::Context;
use interceptor_tests::{Ca, Dir, Gateway, Identity, Pod, Session, World, eventually, seeds, wait_for};
use server::WorkloadApi;

const EGRESS: &str = "spiffe://cluster.local/ns/istio-system/sa/egress";
const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const INVOICES: &str = "spiffe://cluster.local/ns/billing/sa/invoices";

/// Longer than whoever asks again waits by then.
const ASKED_AGAIN_WITHIN: Duration = Duration::from_secs(60);

/// An authority, and a Workload API for each end.
struct Mesh {
    dir: Dir,
    ca: Ca,
    of_gateway: WorkloadApi,
    of_app: WorkloadApi,
}

impl Mesh {
    fn new() -> anyhow::Result<Self> {
        let dir = Dir::new()?;
        let of_gateway = WorkloadApi::start(&dir.join("gateway.sock"))?;
        let of_app = WorkloadApi::start(&dir.join("app.sock"))?;
        Ok(Self { ca: Ca::new("mesh")?, of_gateway, of_app, dir })
    }

    fn give(&self, api: &WorkloadApi, uri: &str) -> anyhow::Result<()> {
        api.give(uri, &self.ca.mesh_identity("identity", uri)?, &self.ca)
    }

    fn give_for(&self, api: &WorkloadApi, uri: &str, left: Duration) -> anyhow::Result<()> {
        api.give(uri, &self.ca.mesh_identity_for("short", uri, left)?, &self.ca)
    }

    fn gateway(&self, host: &Pod) -> anyhow::Result<Gateway> {
        Gateway::with(host, &resources()?, &["--spiffe-socket", &self.of_gateway.uri()])
    }

    fn session(&self, app: &Pod, gateway: &Gateway) -> anyhow::Result<Session> {
        let config = resources()? + &gateway.service(&[("http2", 80)]);
        let interceptor = app.interceptor()?.config(&config)?.registry_only();
        interceptor.flag("--spiffe-socket").flag(self.of_app.uri()).session()
    }
}

/// The tutorial's ISTIO_MUTUAL with its mistake mended, and a handshake for each request.
fn resources() -> anyhow::Result<String> {
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: httpbin}\nspec:\n  hosts: \
                 [httpbin.org]\n  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: \
                 TLS}]\n  resolution: DNS\n---\n";
    let through = seeds(&["003-04-gw-dr-vs-dr"])?.replace("protocol: TLS", "protocol: HTTPS");
    let tls = "        tls:\n          mode: ISTIO_MUTUAL\n";
    anyhow::ensure!(through.matches(tls).count() == 1);
    let once = format!("        connectionPool: {{http: {{maxRequestsPerConnection: 1}}}}\n{tls}");
    Ok(entry.to_owned() + &through.replace(tls, &once))
}

fn fetch(session: &mut Session) -> anyhow::Result<(u16, String)> {
    let (_, http) = session.curl("http://httpbin.org/headers")?;
    let http = http.context("no response")?;
    Ok((http.status, http.body))
}

/// A client of the gateway that stays, without an interceptor.
struct Client<'a> {
    child: Child,
    dir: &'a Dir,
    name: &'a str,
}

impl<'a> Client<'a> {
    fn connect(app: &Pod, host: &Pod, shown: &Identity, dir: &'a Dir, name: &'a str) -> anyhow::Result<Self> {
        let mut command = app.command("openssl");
        command.args(["s_client", "-quiet", "-servername", "httpbin.org", "-connect"]);
        command.arg(format!("{}:80", host.address)).arg("-cert").arg(&shown.certificate);
        command.arg("-key").arg(&shown.key).stdin(Stdio::piped()).stderr(Stdio::null());
        let child = command.stdout(File::create(dir.join(name))?).spawn().context("cannot run openssl")?;
        Ok(Self { child, dir, name })
    }

    fn ask(&mut self) -> anyhow::Result<()> {
        let stdin = self.child.stdin.as_mut().context("no standard input")?;
        stdin.write_all(b"GET /headers HTTP/1.1\r\nhost: httpbin.org\r\n\r\n").context("it has ended")
    }

    fn answers(&self) -> usize {
        let text = std::fs::read_to_string(self.dir.join(self.name)).unwrap_or_default();
        text.matches("HTTP/1.1 200 OK").count()
    }
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The serial number of what the gateway shows.
fn shown_serial(app: &Pod, host: &Pod) -> anyhow::Result<String> {
    let line = format!(
        "openssl s_client -connect {}:80 -servername httpbin.org </dev/null 2>/dev/null | openssl x509 -noout -serial",
        host.address
    );
    let output = app.command("sh").args(["-c", &line]).output().context("cannot run openssl")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn both_ends_follow_what_the_workload_api_streams() -> anyhow::Result<()> {
    let (world, mesh) = (World::shared()?, Mesh::new()?);
    let (app, host) = (world.joined_pod()?, world.joined_pod()?);
    mesh.give(&mesh.of_gateway, EGRESS)?;
    mesh.give(&mesh.of_app, CART)?;
    let gateway = mesh.gateway(&host)?;
    let mut session = mesh.session(&app, &gateway)?;
    let (status, body) = fetch(&mut session)?;
    assert_eq!(status, 200, "{body} {} {}", session.running.stderr(), gateway.said());
    let principal = |uri: &str| {
        gateway.ask("/metrics").is_ok_and(|(_, text)| text.contains(&format!("source_principal=\"{uri}\"")))
    };
    assert!(principal(CART), "{}", gateway.log());
    let (_, metrics) = gateway.ask("/metrics")?;
    let expiry = format!(
        "interceptor_certificate_expiry_timestamp_seconds{{source=\"{}\"}}",
        mesh.dir.join("gateway.sock").display()
    );
    assert!(metrics.contains(&expiry), "{metrics}");

    let shown = mesh.ca.mesh_identity("client", CART)?;
    let mut open = Client::connect(&app, &host, &shown, &mesh.dir, "open")?;
    open.ask()?;
    eventually("the first answer", || open.answers() == 1)?;
    let before = shown_serial(&app, &host)?;
    assert!(before.starts_with("serial="), "{before}");
    mesh.give(&mesh.of_gateway, EGRESS)?;
    eventually("the new certificate is shown", || {
        shown_serial(&app, &host).is_ok_and(|serial| serial.starts_with("serial=") && serial != before)
    })?;
    open.ask()?;
    eventually("the open connection goes on", || open.answers() == 2)?;

    mesh.give(&mesh.of_app, INVOICES)?;
    eventually("the application shows its new identity", || {
        fetch(&mut session).is_ok_and(|(status, _)| status == 200) && principal(INVOICES)
    })?;
    session.finish().map(drop)
}

#[test]
fn the_last_identity_counts_until_it_expires_while_the_workload_api_is_away() -> anyhow::Result<()> {
    let (world, mut mesh) = (World::shared()?, Mesh::new()?);
    let (app, host) = (world.joined_pod()?, world.joined_pod()?);
    mesh.give(&mesh.of_gateway, EGRESS)?;
    let gateway = mesh.gateway(&host)?;
    let mut session = mesh.session(&app, &gateway)?;
    let (status, body) = fetch(&mut session)?;
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("none has come yet from the Workload API"), "{body}");
    let said = session.running.stderr();
    assert!(said.contains("it has no identity for this process: no identity issued"), "{said}");

    mesh.give_for(&mesh.of_app, CART, Duration::from_secs(12))?;
    wait_for("it asks again", ASKED_AGAIN_WITHIN, || {
        fetch(&mut session).is_ok_and(|(status, _)| status == 200).then_some(())
    })?;
    mesh.of_app.stop();
    let (status, body) = fetch(&mut session)?;
    assert_eq!(status, 200, "{body}");
    wait_for("the application's identity expires", ASKED_AGAIN_WITHIN, || {
        fetch(&mut session)
            .is_ok_and(|(status, body)| status == 503 && body.contains("expired at"))
            .then_some(())
    })?;
    mesh.give(&mesh.of_app, CART)?;
    mesh.of_app.serve()?;
    wait_for("it has come back", ASKED_AGAIN_WITHIN, || {
        fetch(&mut session).is_ok_and(|(status, _)| status == 200).then_some(())
    })?;

    mesh.give_for(&mesh.of_gateway, EGRESS, Duration::from_secs(4))?;
    wait_for("the gateway's identity expires", ASKED_AGAIN_WITHIN, || {
        fetch(&mut session).is_ok_and(|(status, _)| status == 503).then_some(())
    })?;
    eventually("why is logged", || gateway.log().contains("tls_handshake_unavailable"))?;
    mesh.give(&mesh.of_gateway, EGRESS)?;
    eventually("with a new one it goes on", || fetch(&mut session).is_ok_and(|(status, _)| status == 200))?;
    session.finish().map(drop)
}
