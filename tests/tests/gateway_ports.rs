//! The ports of the egress gateway: they come, change and go one by one, and what can't be had keeps nothing else from being
//! served.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use interceptor_tests::{
    ApiServer, Daemon, Dir, Gateway, Pod, World, binary, eventually, read_head, wait_for,
};
use rustix::process::Signal;

/// A Gateway with these ports, each of which answers with its own words.
fn answering(ports: &[u16], words: &str) -> String {
    let servers: String = ports
        .iter()
        .map(|port| {
            format!("  - {{port: {{number: {port}, name: p{port}, protocol: HTTP}}, hosts: ['*']}}\n")
        })
        .collect();
    let routes: String = ports
        .iter()
        .map(|port| {
            format!(
                "  - {{match: [{{port: {port}}}], directResponse: {{status: 200, body: {{string: '{words} {port}'}}}}}}\n"
            )
        })
        .collect();
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: egress, namespace: default}}\nspec:\n  \
         selector: {{istio: egressgateway}}\n  servers:\n{servers}---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: answers, namespace: default}}\nspec:\n  \
         hosts: ['*']\n  gateways: [egress]\n  http:\n{routes}"
    )
}

fn connect(app: &Pod, host: &Pod, port: u16) -> anyhow::Result<std::io::Result<TcpStream>> {
    app.netns.enter(|| TcpStream::connect((&*host.address, port)))
}

/// What a request on this connection is answered with; the connection stays.
fn ask(stream: &TcpStream) -> anyhow::Result<String> {
    let mut writer = stream;
    writer.write_all(b"GET / HTTP/1.1\r\nhost: any.test\r\n\r\n")?;
    let mut reader = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line)? > 0 && line != "\r\n" {
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(String::from_utf8(body)?)
}

fn answers(app: &Pod, host: &Pod, port: u16) -> Option<String> {
    connect(app, host, port).ok()?.ok().and_then(|stream| ask(&stream).ok())
}

#[test]
fn ports_come_and_go_without_the_others() -> anyhow::Result<()> {
    let world = World::shared()?;
    let (app, host) = (world.joined_pod()?, world.joined_pod()?);
    let gateway = Gateway::start(&host, &answering(&[8081, 8082], "first"))?;
    let (stays, goes) = (connect(&app, &host, 8081)??, connect(&app, &host, 8082)??);
    assert_eq!((ask(&stays)?, ask(&goes)?), ("first 8081".to_owned(), "first 8082".to_owned()));
    assert!(connect(&app, &host, 8083)?.is_err());

    gateway.reconfigure(&answering(&[8081, 8083], "second"))?;
    eventually("port 8083 answers", || answers(&app, &host, 8083).as_deref() == Some("second 8083"))?;
    eventually("port 8082 is refused", || connect(&app, &host, 8082).is_ok_and(|to| to.is_err()))?;
    // The same connection, with the routes of now.
    assert_eq!(ask(&stays)?, "second 8081");

    gateway.reconfigure(&answering(&[8083], "second"))?;
    eventually("port 8081 is refused", || connect(&app, &host, 8081).is_ok_and(|to| to.is_err()))?;
    gateway.reconfigure(&answering(&[8081], "third"))?;
    eventually("port 8081 is back", || answers(&app, &host, 8081).as_deref() == Some("third 8081"))
}

#[test]
fn a_port_that_is_taken_is_told_and_had_later() -> anyhow::Result<()> {
    let world = World::shared()?;
    let (app, host) = (world.joined_pod()?, world.joined_pod()?);
    let taken = host.netns.enter(|| std::net::TcpListener::bind(("0.0.0.0", 8081)))??;
    let gateway = Gateway::start(&host, &answering(&[8081, 8082], "here"))?;
    eventually("the other port answers", || answers(&app, &host, 8082).as_deref() == Some("here 8082"))?;
    let said = gateway.said();
    assert!(
        said.contains("can't listen on 0.0.0.0:8081") && said.contains("another program listens there"),
        "{said}"
    );
    let (_, metrics) = gateway.ask("/metrics")?;
    assert!(
        metrics.contains("interceptor_gateway_port_open{address=\"0.0.0.0\",port=\"8081\"} 0"),
        "{metrics}"
    );
    drop(taken);
    eventually("the port answers", || answers(&app, &host, 8081).as_deref() == Some("here 8081"))?;
    assert_eq!(gateway.said().matches("can't listen on 0.0.0.0:8081").count(), 1, "{}", gateway.said());
    Ok(())
}

/// Who comes by IPv4 would get the other program's answers.
#[test]
fn a_port_in_one_family_alone_is_not_ready() -> anyhow::Result<()> {
    let world = World::shared()?;
    let host = world.joined_pod()?;
    let taken = host.netns.enter(|| std::net::TcpListener::bind(("0.0.0.0", 8081)))??;
    let gateway = Gateway::start(&host, &answering(&[8082], "here"))?;
    gateway.reconfigure(&answering(&[8081], "here"))?;
    eventually("it is not ready", || gateway.ask("/readyz").is_ok_and(|(status, _)| status == 503))?;
    let (_, why) = gateway.ask("/readyz")?;
    assert!(why.contains("can't listen on 0.0.0.0:8081"), "{why}");
    let (_, metrics) = gateway.ask("/metrics")?;
    for (address, is_open) in [("0.0.0.0", 0), ("::", 1)] {
        let sample =
            format!("interceptor_gateway_port_open{{address=\"{address}\",port=\"8081\"}} {is_open}");
        assert!(metrics.contains(&sample), "{metrics}");
    }
    drop(taken);
    eventually("it is ready", || gateway.ask("/readyz").is_ok_and(|(status, _)| status == 200))
}

#[test]
fn without_privileges_it_says_what_low_ports_need() -> anyhow::Result<()> {
    let world = World::shared()?;
    let (app, host) = (world.joined_pod()?, world.joined_pod()?);
    let gateway = Gateway::unprivileged(&host, &answering(&[80, 8080], "here"))?;
    eventually("the high port answers", || answers(&app, &host, 8080).as_deref() == Some("here 8080"))?;
    let said = gateway.said();
    assert!(said.contains("can't listen on 0.0.0.0:80 ") && said.contains("NET_BIND_SERVICE"), "{said}");
    host.netns.sysctl("net/ipv4/ip_unprivileged_port_start", "80")?;
    eventually("the low port answers", || answers(&app, &host, 80).as_deref() == Some("here 80"))
}

#[test]
fn what_is_under_way_ends_before_the_gateway() -> anyhow::Result<()> {
    static ARRIVED: AtomicBool = AtomicBool::new(false);
    static MAY_ANSWER: AtomicBool = AtomicBool::new(false);
    let world = World::shared()?;
    let (app, host) = (world.joined_pod()?, world.joined_pod()?);
    let origin = world.origin(80, |mut socket| {
        read_head(&mut socket)?;
        ARRIVED.store(true, Ordering::Relaxed);
        let told = eventually("the test", || MAY_ANSWER.load(Ordering::Relaxed));
        told.map_err(std::io::Error::other)?;
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone")
    })?;
    let name = origin.name();
    let resources = format!(
        "{}---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: egress}}\nspec:\n  \
         selector: {{istio: egressgateway}}\n  servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['*']}}]\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: through}}\nspec:\n  hosts: [{name}]\n  \
         gateways: [egress]\n  http: [{{route: [{{destination: {{host: {name}}}}}]}}]\n",
        origin.service_entry("HTTP")
    );
    let mut gateway = Gateway::start(&host, &resources)?;
    let (named, url) = (format!("host: {name}"), format!("http://{}/", host.address));
    let curl = app.command("curl").args(["-s", "-H", &named, &url]).stdout(Stdio::piped()).spawn()?;
    eventually("the request is under way", || ARRIVED.load(Ordering::Relaxed))?;
    gateway.signal(Signal::TERM)?;
    eventually("nothing more is accepted", || connect(&app, &host, 80).is_ok_and(|to| to.is_err()))?;
    let (status, why) = gateway.ask("/readyz")?;
    assert!(status == 503 && why.contains("the gateway is ending"), "{status} {why}");
    MAY_ANSWER.store(true, Ordering::Relaxed);
    assert_eq!(curl.wait_with_output()?.stdout, b"done");
    assert!(gateway.ended()?, "{}", gateway.said());
    Ok(())
}

/// As many as a gateway with few descriptors has for all clients and ports together.
#[test]
fn no_client_takes_all_connections() -> anyhow::Result<()> {
    let world = World::shared()?;
    let (greedy, other, host) = (world.joined_pod()?, world.joined_pod()?, world.joined_pod()?);
    let gateway = Gateway::with_open_files(&host, &answering(&[8081, 8082], "here"), 256)?;
    let mut held = Vec::new();
    for number in 0..64 {
        let stream = connect(&greedy, &host, 8081 + number % 2)??;
        match ask(&stream) {
            Ok(_) => held.push(stream),
            Err(_) => break,
        }
    }
    assert_eq!(held.len(), 16, "half of what 256 descriptors are enough for");
    for port in [8081, 8082] {
        assert!(answers(&greedy, &host, port).is_none());
        assert_eq!(answers(&other, &host, port), Some(format!("here {port}")));
    }
    drop(held);
    eventually("the client has its connections again", || answers(&greedy, &host, 8081).is_some())?;
    let refused = || gateway.log().lines().filter(|line| line.contains(" OM ")).count();
    eventually("each refusal is told", || refused() >= 3).with_context(|| gateway.log())
}

#[test]
fn a_client_that_shows_no_server_name_in_time_is_reset() -> anyhow::Result<()> {
    let world = World::shared()?;
    let (app, host) = (world.joined_pod()?, world.joined_pod()?);
    let resources = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: egress, namespace: default}\nspec:\n  \
         selector: {istio: egressgateway}\n  servers:\n  \
         - {port: {number: 8443, name: tls, protocol: TLS}, tls: {mode: PASSTHROUGH}, hosts: [any.test]}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: through, namespace: default}\nspec:\n  \
         hosts: [any.test]\n  gateways: [egress]\n  tls:\n  \
         - {match: [{port: 8443, sniHosts: [any.test]}], route: [{destination: {host: any.test}}]}\n";
    let gateway = Gateway::start(&host, resources)?;
    let mut stream = connect(&app, &host, 8443)??;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(30)))?;
    // A ClientHello's beginning.
    stream.write_all(b"\x16\x03\x01\x02")?;
    let error = stream.read_exact(&mut [0]).err().context("it is not reset")?;
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}: {}", gateway.log());
    assert_eq!(gateway.line()?.flags, "NR");
    Ok(())
}

/// Nobody notices that the sockets are others.
#[test]
fn an_address_of_its_own_takes_a_port_over_without_a_gap() -> anyhow::Result<()> {
    let world = World::shared()?;
    let (app, host) = (world.joined_pod()?, world.joined_pod()?);
    let everywhere = answering(&[8081], "everywhere");
    let here = answering(&[8081], "here")
        .replace("hosts: ['*']}\n---", &format!("hosts: ['*'], bind: {}}}\n---", host.address));
    assert_ne!(here, answering(&[8081], "here"));
    let gateway = Gateway::start(&host, &everywhere)?;
    for (resources, words) in [(&here, "here 8081"), (&everywhere, "everywhere 8081"), (&here, "here 8081")] {
        gateway.reconfigure(resources)?;
        eventually("the change acts", || {
            let answer = answers(&app, &host, 8081).unwrap_or_else(|| panic!("refused: {}", gateway.said()));
            answer == words
        })?;
        let by_loopback = || {
            let stream = host.netns.enter(|| TcpStream::connect(("127.0.0.1", 8081))).ok()?.ok()?;
            ask(&stream).ok()
        };
        let of_loopback = words.starts_with("everywhere").then(|| words.to_owned());
        eventually("loopback follows", || by_loopback() == of_loopback)?;
        let said = gateway.said();
        assert!(!said.contains("can't listen"), "{said}");
    }
    Ok(())
}

/// The signal comes while it waits for what the API server tells.
#[test]
fn a_signal_ends_it_before_there_is_a_configuration() -> anyhow::Result<()> {
    let dir = Dir::new()?;
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let kubeconfig = dir.write(
        "kubeconfig",
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: 'http://{}'}}}}]\nusers: [{{name: u, user: {{}}}}]\n",
            silent.local_addr()?
        ),
    )?;
    let mut command = Command::new(binary()?);
    command.args(["gateway", "--admin-address", "off", "--namespace", "istio-system"]);
    command.args(["--labels", "istio=egressgateway", "--kubeconfig"]).arg(kubeconfig);
    let mut daemon = Daemon::spawn(&mut command, &dir.join("log"))?;
    let status = format!("/proc/{}/status", daemon.pid());
    let handles_signals = || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        caught.is_some_and(|mask| mask >> 14 & 1 == 1 && mask >> 1 & 1 == 1)
    };
    eventually("it handles signals", handles_signals)?;
    let pid = i32::try_from(daemon.pid()).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.context("no process")?, Signal::TERM)?;
    let ended = wait_for("the gateway to end", std::time::Duration::from_secs(8), || daemon.ended())?;
    assert!(ended?.success(), "{}", daemon.said());
    Ok(())
}

/// On this host: the API server is here.
#[test]
fn an_api_server_says_what_is_listened_on() -> anyhow::Result<()> {
    let (server, dir) = (ApiServer::start()?, Dir::new()?);
    server.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: egress, namespace: istio-system}\n\
         spec: {clusterIP: 10.96.0.80, selector: {istio: egressgateway}, ports: [{name: http2, port: 80, targetPort: http}]}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {name: egress-1, namespace: istio-system, labels: {kubernetes.io/service-name: egress}}\n\
         addressType: IPv4\nendpoints: [{addresses: [10.0.0.8]}]\nports: [{name: http2, port: 18081}]\n",
    )?;
    server.apply(&answering(&[80], "served"))?;
    let mut command = Command::new(binary()?);
    command.args(["gateway", "--admin-address", "off", "--listen-address", "127.0.0.1"]);
    command.args(["--namespace", "istio-system", "--labels", "istio=egressgateway", "--kubeconfig"]);
    command.arg(server.kubeconfig());
    let ask_it = || TcpStream::connect(("127.0.0.1", 18081)).ok().and_then(|stream| ask(&stream).ok());
    let daemon = Daemon::spawn(&mut command, &dir.join("log"))?
        .wait_ready("the gateway", || ask_it().as_deref() == Some("served 80"))?;
    server.apply(&answering(&[80], "changed"))?;
    eventually("the change acts", || ask_it().as_deref() == Some("changed 80"))
        .with_context(|| daemon.said())?;
    let requests = server.requests();
    let is_of = |plural: &str| requests.iter().any(|request| request.contains(plural));
    assert!(is_of("/namespaces/istio-system/endpointslices"), "{requests:#?}");
    assert!(
        is_of("/api/v1/pods?")
            && !is_of("/api/v1/nodes")
            && !is_of("/api/v1/namespaces?")
            && !is_of("/events"),
        "{requests:#?}"
    );
    Ok(())
}
