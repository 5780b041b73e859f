//! A gateway that follows the API server's pods knows whose its clients' addresses are: access log and metrics name them, and
//! rules with labels ask for them. On this host: pods' addresses are loopback's, which curl connects from.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use interceptor_tests::{ApiServer, Daemon, Dir, Fault, Mesh, binary, eventually, output, read_head};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

const HOST: &str = "outside.test";
const CLEAR: u16 = 18080;
const MUTUAL: u16 = 18443;
const FORMAT: &str = "[%RESPONSE_CODE% %RESPONSE_FLAGS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% \
     %FILTER_STATE(downstream_peer:FIELD:namespace)% %FILTER_STATE(downstream_peer:FIELD:name)% \
     %FILTER_STATE(downstream_peer:FIELD:service_account)% %FILTER_STATE(downstream_peer:FIELD:workload)%]";

/// A port in clear and one with ISTIO_MUTUAL, in front of a server of this host.
struct Following {
    server: ApiServer,
    daemon: Daemon,
    dir: Dir,
    address: Ipv4Addr,
}

impl Following {
    fn start(identity: &str, rule: &str, flags: &[&str]) -> anyhow::Result<Self> {
        Self::with(ApiServer::start()?, identity, rule, flags)
    }

    fn with(server: ApiServer, identity: &str, rule: &str, flags: &[&str]) -> anyhow::Result<Self> {
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
    fn fetch(&self, from: &str) -> anyhow::Result<String> {
        self.curl(from, CLEAR, &[&format!("http://{HOST}:{CLEAR}/")])
    }

    /// The same with an identity of the mesh.
    fn fetch_as(&self, from: &str, identity: &str) -> anyhow::Result<String> {
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
    fn line(&self, before: usize) -> anyhow::Result<String> {
        eventually("a line of the access log", || self.lines().len() > before)
            .with_context(|| self.daemon.said())?;
        Ok(self.lines()[before].clone())
    }

    fn lines(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.dir.join("access.log")).unwrap_or_default();
        log.lines().map(|line| line.trim_matches(['[', ']']).to_owned()).collect()
    }

    fn eventually_logs(&self, from: &str, line: &str) -> anyhow::Result<()> {
        let mut last = String::new();
        eventually(&format!("{line:?} is logged"), || {
            last = self.fetch(from).unwrap_or_else(|error| format!("{error:#}"));
            last == line
        })
        .with_context(|| format!("{last:?}\n{}", self.daemon.said()))
    }

    fn metrics(&self) -> anyhow::Result<String> {
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
fn pod(name: &str, age: &str, address: &str, account: &str, labels: &Value) -> Value {
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

fn identities() -> anyhow::Result<(Mesh, String)> {
    let mesh = Mesh::new()?;
    let own = mesh.identity("gateway", "spiffe://cluster.local/ns/istio-system/sa/egress")?;
    Ok((mesh, own))
}

#[test]
fn log_and_metrics_name_the_pod_that_has_the_address() -> anyhow::Result<()> {
    let (_mesh, own) = identities()?;
    let following = Following::start(&own, "", &[])?;
    let server = &following.server;
    assert_eq!(following.fetch("127.0.0.2")?, "200 - 127.0.0.2 - - - -");
    server.put([pod("cart", "10", "127.0.0.2", "cart-sa", &json!({"app": "cart-app"}))])?;
    following.eventually_logs("127.0.0.2", "200 - 127.0.0.2 shop cart-7d4-10 cart-sa cart")?;
    let metrics = following.metrics()?;
    let has = |labels: &str| {
        metrics.lines().any(|line| line.contains(labels) && line.contains("istio_requests_total"))
    };
    assert!(
        has(
            "source_workload=\"cart\",source_workload_namespace=\"shop\",source_principal=\"unknown\",source_app=\"cart-app\""
        ),
        "{metrics}"
    );
    assert!(metrics.contains("\ninterceptor_gateway_pods 1\n"), "{metrics}");

    // An address goes to the youngest pod that has it, and back to nobody.
    server.put([pod("next", "11", "127.0.0.2", "next-sa", &json!({}))])?;
    following.eventually_logs("127.0.0.2", "200 - 127.0.0.2 shop next-7d4-11 next-sa next")?;
    server.put([pod("cart", "10", "127.0.0.2", "cart-sa", &json!({"app": "changed"}))])?;
    server.put([pod("other", "12", "127.0.0.5", "other-sa", &json!({}))])?;
    following.eventually_logs("127.0.0.5", "200 - 127.0.0.5 shop other-7d4-12 other-sa other")?;
    assert_eq!(following.fetch("127.0.0.2")?, "200 - 127.0.0.2 shop next-7d4-11 next-sa next");
    server.delete("pods", "shop", "cart-7d4-10")?;
    let mut ended = pod("next", "11", "127.0.0.2", "next-sa", &json!({}));
    ended["status"]["phase"] = "Failed".into();
    server.put([ended])?;
    following.eventually_logs("127.0.0.2", "200 - 127.0.0.2 - - - -")?;

    // The node's own address is no pod's.
    let mut of_node = pod("daemon", "13", "127.0.0.6", "daemon-sa", &json!({}));
    of_node["spec"]["hostNetwork"] = true.into();
    server.put([of_node, pod("last", "14", "127.0.0.7", "last-sa", &json!({}))])?;
    following.eventually_logs("127.0.0.7", "200 - 127.0.0.7 shop last-7d4-14 last-sa last")?;
    assert_eq!(following.fetch("127.0.0.6")?, "200 - 127.0.0.6 - - - -");
    Ok(())
}

/// A pod may be here before the API server tells its address. What it keeps open is named from then on.
#[test]
fn a_connection_is_named_as_soon_as_its_pod_is_known() -> anyhow::Result<()> {
    let (_mesh, own) = identities()?;
    let following = Following::start(&own, "", &[])?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 8], 0)).into())?;
    socket.connect(&SocketAddr::from((following.address, CLEAR)).into())?;
    let mut reader = BufReader::new(TcpStream::from(socket));
    assert_eq!(request(&mut reader.get_ref().try_clone()?, &mut reader)?, 200);
    assert_eq!(following.line(0)?, "200 - 127.0.0.8 - - - -");
    following.server.put([pod("early", "10", "127.0.0.8", "early-sa", &json!({}))])?;
    eventually("the pod is named", || {
        let before = following.lines().len();
        let status = reader.get_ref().try_clone().map(|mut writer| request(&mut writer, &mut reader));
        matches!(status, Ok(Ok(200)))
            && following
                .line(before)
                .is_ok_and(|line| line == "200 - 127.0.0.8 shop early-7d4-10 early-sa early")
    })
}

/// One request of a connection that stays: the status.
fn request(writer: &mut impl Write, reader: &mut impl BufRead) -> anyhow::Result<u16> {
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

/// The certificate says whose a connection is. An address adds which pod, if it is one of that service account.
#[test]
fn a_certificate_goes_before_an_address() -> anyhow::Result<()> {
    let (mesh, own) = identities()?;
    let cart = mesh.identity("cart", "spiffe://cluster.local/ns/shop/sa/cart")?;
    let following = Following::start(&own, "", &[])?;
    following.server.put([
        pod("cart", "10", "127.0.0.2", "cart", &json!({})),
        pod("other", "11", "127.0.0.3", "other", &json!({})),
    ])?;
    following.eventually_logs("127.0.0.3", "200 - 127.0.0.3 shop other-7d4-11 other other")?;
    assert_eq!(following.fetch_as("127.0.0.2", &cart)?, "200 - 127.0.0.2 shop cart-7d4-10 cart cart");
    assert_eq!(following.fetch_as("127.0.0.3", &cart)?, "200 - 127.0.0.3 shop - cart -");
    assert_eq!(following.fetch_as("127.0.0.4", &cart)?, "200 - 127.0.0.4 shop - cart -");
    let metrics = following.metrics()?;
    let principal = "source_principal=\"spiffe://cluster.local/ns/shop/sa/cart\"";
    for workload in ["cart", "unknown"] {
        let labels = format!("source_workload=\"{workload}\",source_workload_namespace=\"shop\",{principal}");
        assert!(metrics.contains(&labels), "{labels}\n{metrics}");
    }
    Ok(())
}

/// Without the right to list pods, or the wish to, the gateway serves and names nobody.
#[test]
fn pods_need_not_be_followed() -> anyhow::Result<()> {
    let (_mesh, own) = identities()?;
    let following = Following::start(&own, "", &["--follow-pods=false"])?;
    following.server.put([pod("cart", "10", "127.0.0.2", "cart", &json!({}))])?;
    assert_eq!(following.fetch("127.0.0.2")?, "200 - 127.0.0.2 - - - -");
    assert!(following.server.requests().iter().all(|request| !request.contains("/pods")));
    drop(following);

    let server = ApiServer::start()?;
    server.fault("pods", Some(Fault::Status(403)));
    server.put([pod("cart", "10", "127.0.0.2", "cart", &json!({}))])?;
    let following = Following::with(server, &own, "", &[])?;
    assert_eq!(following.fetch("127.0.0.2")?, "200 - 127.0.0.2 - - - -");
    following.server.fault("pods", None);
    following.eventually_logs("127.0.0.2", "200 - 127.0.0.2 shop cart-7d4-10 cart cart")
}

/// A connection with an identity that stays open.
struct Open {
    child: Child,
    writer: ChildStdin,
    reader: BufReader<ChildStdout>,
}

impl Open {
    fn new(following: &Following, from: &str, identity: &str) -> anyhow::Result<Self> {
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

    fn request(&mut self) -> anyhow::Result<u16> {
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

/// A rule with labels wants the certificate, and a running pod of its service account that has the address and the labels.
#[test]
fn a_host_is_for_pods_with_the_labels_of_its_rule() -> anyhow::Result<()> {
    let (mesh, own) = identities()?;
    let cart = mesh.identity("cart", "spiffe://cluster.local/ns/shop/sa/cart")?;
    let other = mesh.identity("other", "spiffe://cluster.local/ns/shop/sa/other")?;
    let elsewhere = mesh.identity("elsewhere", "spiffe://cluster.local/ns/elsewhere/sa/cart")?;
    let rule = "egress.interceptor.io/allow-from: 'ns/shop/sa/cart{app=curl,tier=web}'";
    let following = Following::start(&own, rule, &[])?;
    let wanted = json!({"app": "curl", "tier": "web", "more": "x"});
    let server = &following.server;
    server.put([
        pod("right", "10", "127.0.0.2", "cart", &wanted),
        pod("other", "11", "127.0.0.3", "other", &wanted),
        pod("lacks", "12", "127.0.0.4", "cart", &json!({"app": "curl"})),
        pod("differs", "13", "127.0.0.5", "cart", &json!({"app": "curl", "tier": "db"})),
    ])?;
    eventually("all are known", || {
        following.metrics().is_ok_and(|metrics| metrics.contains("interceptor_gateway_pods 4\n"))
    })?;
    for (from, identity, status) in [
        ("127.0.0.2", &cart, "200"),
        ("127.0.0.2", &other, "403"),
        ("127.0.0.2", &elsewhere, "403"),
        ("127.0.0.3", &cart, "403"),
        ("127.0.0.3", &other, "403"),
        ("127.0.0.4", &cart, "403"),
        ("127.0.0.5", &cart, "403"),
        ("127.0.0.9", &cart, "403"),
    ] {
        let line = following.fetch_as(from, identity)?;
        assert!(line.starts_with(status), "{from} as {identity}: {line}");
    }
    // Nothing but an address.
    assert!(following.fetch("127.0.0.2")?.starts_with("403"));

    // Labels that come and go count for what is open, too.
    let mut open = Open::new(&following, "127.0.0.2", &cart)?;
    assert_eq!(open.request()?, 200);
    let mut becomes = |labels: &Value, status: u16| {
        server.put([pod("right", "10", "127.0.0.2", "cart", labels)])?;
        let changed = Instant::now();
        eventually("the labels count", || open.request().is_ok_and(|now| now == status))?;
        ensure!(changed.elapsed() < Duration::from_secs(1), "after {:?}", changed.elapsed());
        anyhow::Ok(())
    };
    becomes(&json!({"app": "curl", "tier": "db"}), 403)?;
    becomes(&wanted, 200)?;
    let mut ended = pod("right", "10", "127.0.0.2", "cart", &wanted);
    ended["status"]["phase"] = "Succeeded".into();
    server.put([ended])?;
    eventually("it has ended", || open.request().is_ok_and(|now| now == 403))?;
    // What is known goes on holding while the API server is away.
    server.put([pod("again", "14", "127.0.0.2", "cart", &wanted)])?;
    eventually("another has begun", || open.request().is_ok_and(|now| now == 200))?;
    server.kill();
    assert_eq!(open.request()?, 200);
    Ok(())
}
