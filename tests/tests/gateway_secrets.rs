//! Certificates that a gateway's servers name by credentialName come from the API server's Secrets. On this host: the API
//! server is here.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use interceptor_tests::{ApiServer, Ca, Daemon, Dir, Identity, binary, eventually, read_head};
use k8s_openapi::ByteString;
use serde_json::json;

const HOST: &str = "secret.test";
const PORT: u16 = 18443;

/// One server that ends TLS of clients with certificates, in front of an endpoint of this host.
fn resources(origin: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: egress, namespace: shop}}\nspec:\n  \
         selector: {{istio: egressgateway}}\n  servers:\n  \
         - port: {{number: {PORT}, name: https, protocol: HTTPS}}\n    hosts: [{HOST}]\n    \
         tls: {{mode: MUTUAL, credentialName: server, caCertCredentialName: clients}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: another, namespace: shop}}\nspec:\n  \
         selector: {{istio: another}}\n  servers:\n  \
         - {{port: {{number: 18444, name: https, protocol: HTTPS}}, hosts: ['*'], tls: {{mode: SIMPLE, credentialName: anothers}}}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: secret, namespace: shop}}\nspec:\n  \
         hosts: [{HOST}]\n  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {origin}}}]\n  \
         resolution: STATIC\n  endpoints: [{{address: 127.0.0.1}}]\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: secret, namespace: shop}}\nspec:\n  \
         hosts: [{HOST}]\n  gateways: [egress]\n  http: [{{route: [{{destination: {{host: {HOST}, port: {{number: 80}}}}}}]}}]\n"
    )
}

fn put(server: &ApiServer, namespace: &str, name: &str, files: &[(&str, PathBuf)]) -> anyhow::Result<()> {
    let mut data = serde_json::Map::new();
    for (key, path) in files {
        data.insert((*key).to_owned(), serde_json::to_value(ByteString(std::fs::read(path)?))?);
    }
    server.put([json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "data": data,
    })])
}

fn put_pair(server: &ApiServer, namespace: &str, pair: &Identity) -> anyhow::Result<()> {
    let files = [("tls.crt", pair.certificate.clone()), ("tls.key", pair.key.clone())];
    put(server, namespace, "server", &files)
}

/// As somebody who trusts `ca`, with the certificate `client`.
fn curl(ca: &Ca, client: &Identity) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["-sN", "--noproxy", "*", "--resolve", &format!("{HOST}:{PORT}:127.0.0.1"), "--cacert"]);
    curl.arg(ca.root()).arg("--cert").arg(&client.certificate).arg("--key").arg(&client.key);
    curl.arg(format!("https://{HOST}:{PORT}/"));
    curl
}

/// The exit code: 0 when all is well, 60 for a server's certificate that isn't trusted.
fn code(ca: &Ca, client: &Identity) -> Option<i32> {
    let status = curl(ca, client).stdout(Stdio::null()).status();
    status.ok().and_then(|status| status.code())
}

static MAY_END: AtomicBool = AtomicBool::new(false);

fn answer(mut socket: TcpStream, at_once: bool) -> std::io::Result<()> {
    read_head(&mut socket)?;
    socket.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nbegun\n")?;
    let told = eventually("the test", || at_once || MAY_END.load(Ordering::Relaxed));
    told.map_err(std::io::Error::other)?;
    socket.write_all(b"ended\n")
}

#[test]
fn secrets_of_the_gateways_namespace_are_followed_and_no_others() -> anyhow::Result<()> {
    let (server, dir) = (ApiServer::start()?, Dir::new()?);
    let (first, second, clients) = (Ca::new("first")?, Ca::new("second")?, Ca::new("clients")?);
    let (client, stranger) = (clients.client("client")?, first.client("stranger")?);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    server.apply(&resources(listener.local_addr()?.port()))?;
    put_pair(&server, "istio-system", &first.server("one", &[HOST])?)?;
    put_pair(&server, "shop", &second.server("elsewhere", &[HOST])?)?;
    put(&server, "istio-system", "clients", &[("ca.crt", clients.root())])?;
    // The first answer goes on until it is told to end.
    std::thread::spawn(move || {
        for (index, socket) in listener.incoming().flatten().enumerate() {
            std::thread::spawn(move || answer(socket, index > 0));
        }
    });
    let mut command = Command::new(binary()?);
    command.args(["gateway", "--admin-address", "off", "--listen-address", "127.0.0.1", "--namespace"]);
    command.args(["istio-system", "--labels", "istio=egressgateway", "--kubeconfig"]);
    command.arg(server.kubeconfig()).arg("--credentials-dir").arg(dir.join("credentials"));
    let is_open = || TcpStream::connect(("127.0.0.1", PORT)).is_ok();
    let daemon = Daemon::spawn(&mut command, &dir.join("log"))?.wait_ready("the gateway", is_open)?;

    let mut stream = curl(&first, &client).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(stream.stdout.take().context("no output")?).lines();
    assert_eq!(lines.next().transpose()?.as_deref(), Some("begun"), "{}", daemon.said());
    assert_eq!(code(&first, &client), Some(0));
    assert_ne!(code(&first, &stranger), Some(0), "another CA signed its certificate");

    put_pair(&server, "istio-system", &second.server("two", &[HOST])?)?;
    eventually("the new certificate is shown", || code(&second, &client) == Some(0))
        .with_context(|| daemon.said())?;
    assert_eq!(code(&first, &client), Some(60));
    put(&server, "istio-system", "clients", &[("ca.crt", first.root())])?;
    eventually("the new CA counts", || code(&second, &stranger) == Some(0)).with_context(|| daemon.said())?;
    assert_ne!(code(&second, &client), Some(0));
    // What was open goes on as it began.
    MAY_END.store(true, Ordering::Relaxed);
    assert_eq!(lines.next().transpose()?.as_deref(), Some("ended"));
    assert!(stream.wait()?.success());

    let asked: Vec<String> =
        server.requests().into_iter().filter(|request| request.contains("secrets")).collect();
    let is_its_own = |request: &String| {
        let names = ["server", "server-cacert", "clients", "clients-cacert"];
        request.contains("/namespaces/istio-system/secrets?")
            && names
                .iter()
                .any(|name| request.split('&').any(|part| part.ends_with(&format!("metadata.name={name}"))))
    };
    assert!(!asked.is_empty() && asked.iter().all(is_its_own), "{asked:#?}");
    Ok(())
}
