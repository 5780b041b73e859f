//! A gateway and its API server, and who asks it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, ensure};
use interceptor_tests::{ApiServer, Daemon, Dir, Mesh, binary, eventually, output, read_head};
use serde_json::{Value, json};

pub(crate) const HOST: &str = "outside.test";
pub(crate) const CLEAR: u16 = 18080;
pub(crate) const MUTUAL: u16 = 18443;
const FORMAT: &str = "[%RESPONSE_CODE% %RESPONSE_FLAGS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% \
     %FILTER_STATE(downstream_peer:FIELD:namespace)% %FILTER_STATE(downstream_peer:FIELD:name)% \
     %FILTER_STATE(downstream_peer:FIELD:service_account)% %FILTER_STATE(downstream_peer:FIELD:workload)%]";

/// A port in clear and one with ISTIO_MUTUAL, in front of a server of this host.
pub(crate) struct Following {
    pub(crate) server: ApiServer,
    daemon: Daemon,
    dir: Dir,
    pub(crate) address: Ipv4Addr,
}

impl Following {
    pub(crate) fn start(identity: &str, rule: &str, flags: &[&str]) -> anyhow::Result<Self> {
        Self::with(ApiServer::start()?, identity, rule, flags)
    }

    pub(crate) fn with(
        server: ApiServer,
        identity: &str,
        rule: &str,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        let dir = Dir::new()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let origin = listener.local_addr()?.port();
        std::thread::spawn(move || {
            for mut socket in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    while read_head(&mut socket).is_ok_and(|head| !head.is_empty()) {
                        let answered = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi\n");
                        if answered.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        let address = own_address();
        server.apply(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  \
             mesh: |\n    accessLogFormat: '{FORMAT}'\n---\n\
             apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: outside\n  namespace: shop\n  \
             annotations: {{{rule}}}\nspec:\n  hosts: [{HOST}]\n  \
             ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {origin}}}]\n  resolution: STATIC\n  \
             endpoints: [{{address: 127.0.0.1}}]\n---\n\
             apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: egress, namespace: shop}}\nspec:\n  \
             selector: {{istio: egressgateway}}\n  servers:\n  \
             - {{port: {{number: {CLEAR}, name: http, protocol: HTTP}}, hosts: [{HOST}]}}\n  \
             - {{port: {{number: {MUTUAL}, name: https, protocol: HTTPS}}, hosts: [{HOST}], tls: {{mode: ISTIO_MUTUAL}}}}\n---\n\
             apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: outside, namespace: shop}}\nspec:\n  \
             hosts: [{HOST}]\n  gateways: [egress]\n  http: [{{route: [{{destination: {{host: {HOST}, port: {{number: 80}}}}}}]}}]\n"
        ))?;
        let mut command = Command::new(binary()?);
        command.args(["gateway", "--admin-address", "off", "--namespace", "istio-system"]);
        command.arg("--listen-address").arg(address.to_string());
        command.args(["--labels", "istio=egressgateway", "--identity-dir", identity]);
        command.arg("--kubeconfig").arg(server.kubeconfig()).arg("--socket").arg(dir.join("socket"));
        command.arg("--access-log").arg(dir.join("access.log")).args(flags);
        let socket = dir.join("socket");
        let is_ready = || ask(&socket, "readyz").is_ok();
        let daemon = Daemon::spawn(&mut command, &dir.join("said"))?.wait_ready("the gateway", is_ready)?;
        Ok(Self { server, daemon, dir, address })
    }

    /// The status that curl gets in clear from an address, and the line that the log has of it.
    pub(crate) fn fetch(&self, from: &str) -> anyhow::Result<String> {
        self.curl(from, CLEAR, &[&format!("http://{HOST}:{CLEAR}/")])
    }

    /// The same with an identity of the mesh.
    pub(crate) fn fetch_as(&self, from: &str, identity: &str) -> anyhow::Result<String> {
        let (certificate, key) = (format!("{identity}/cert-chain.pem"), format!("{identity}/key.pem"));
        let url = format!("https://{HOST}:{MUTUAL}/");
        self.curl(from, MUTUAL, &["-k", "--cert", &certificate, "--key", &key, &url])
    }

    fn curl(&self, from: &str, port: u16, args: &[&str]) -> anyhow::Result<String> {
        let before = self.lines().len();
        let to = format!("{HOST}:{port}:{}", self.address);
        let mut curl = Command::new("curl");
        curl.args(["-s", "-o", "/dev/null", "--noproxy", "*", "--interface", from, "--resolve", &to])
            .args(args);
        output(&mut curl).with_context(|| self.daemon.said())?;
        self.line(before)
    }

    /// The line after so many.
    pub(crate) fn line(&self, before: usize) -> anyhow::Result<String> {
        eventually("a line of the access log", || self.lines().len() > before)
            .with_context(|| self.daemon.said())?;
        Ok(self.lines()[before].clone())
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.dir.join("access.log")).unwrap_or_default();
        log.lines().map(|line| line.trim_matches(['[', ']']).to_owned()).collect()
    }

    pub(crate) fn eventually_logs(&self, from: &str, line: &str) -> anyhow::Result<()> {
        let mut last = String::new();
        eventually(&format!("{line:?} is logged"), || {
            last = self.fetch(from).unwrap_or_else(|error| format!("{error:#}"));
            last == line
        })
        .with_context(|| format!("{last:?}\n{}", self.daemon.said()))
    }

    pub(crate) fn metrics(&self) -> anyhow::Result<String> {
        ask(&self.dir.join("socket"), "metrics")
    }
}

/// What its admin socket answers.
fn ask(socket: &Path, path: &str) -> anyhow::Result<String> {
    let mut curl = Command::new("curl");
    curl.args(["-sf", "--max-time", "10", "--unix-socket"]).arg(socket).arg(format!("http://gateway/{path}"));
    Ok(String::from_utf8(output(&mut curl)?.stdout)?)
}

/// One that nobody else has, whoever tests beside.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(64);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, NEXT.fetch_add(1, Ordering::Relaxed), high, low)
}

/// A pod of Deployment NAME of namespace shop.
pub(crate) fn pod(name: &str, age: &str, address: &str, account: &str, labels: &Value) -> Value {
    let mut all = json!({"pod-template-hash": "7d4"});
    for (label, value) in labels.as_object().into_iter().flatten() {
        all[label] = value.clone();
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("{name}-7d4-{age}"), "namespace": "shop", "uid": format!("{name}-{age}"), "labels": all,
            "creationTimestamp": format!("2026-11-{age}T00:00:00Z"),
            "ownerReferences": [{"kind": "ReplicaSet", "name": format!("{name}-7d4"), "controller": true}],
        },
        "spec": {"serviceAccountName": account, "nodeName": "n", "containers": [{"name": "app"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}

pub(crate) fn identities() -> anyhow::Result<(Mesh, String)> {
    let mesh = Mesh::new()?;
    let own = mesh.identity("gateway", "spiffe://cluster.local/ns/istio-system/sa/egress")?;
    Ok((mesh, own))
}

/// One request of a connection that stays: the status.
pub(crate) fn request(writer: &mut impl Write, reader: &mut impl BufRead) -> anyhow::Result<u16> {
    write!(writer, "GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n")?;
    writer.flush()?;
    let (mut status, mut length) = (0, 0);
    for (index, line) in reader.by_ref().lines().enumerate() {
        let line = line?.to_ascii_lowercase();
        match line.split_once(": ") {
            _ if index == 0 => status = line.split(' ').nth(1).context("no status")?.parse()?,
            Some(("content-length", value)) => length = value.parse()?,
            _ if line.is_empty() => break,
            _ => {}
        }
    }
    ensure!(status != 0, "the connection has ended");
    std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
    Ok(status)
}

/// A connection with an identity that stays open.
pub(crate) struct Open {
    child: Child,
    writer: ChildStdin,
    reader: BufReader<ChildStdout>,
}

impl Open {
    pub(crate) fn new(following: &Following, from: &str, identity: &str) -> anyhow::Result<Self> {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-servername", HOST, "-bind", &format!("{from}:0"), "-connect"]);
        command.arg(format!("{}:{MUTUAL}", following.address));
        command.arg("-cert").arg(format!("{identity}/cert-chain.pem"));
        command.arg("-key").arg(format!("{identity}/key.pem"));
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = piped.spawn()?;
        let writer = child.stdin.take().context("no input")?;
        let reader = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Self { child, writer, reader })
    }

    pub(crate) fn request(&mut self) -> anyhow::Result<u16> {
        request(&mut self.writer, &mut self.reader)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _killed = self.child.kill().is_ok();
        let _waited = self.child.wait().is_ok();
    }
}
