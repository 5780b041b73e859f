//! A pod's connections are made in its network namespace: with its addresses, by its routes. When it goes, so does
//! everything that was kept of it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use interceptor_tests::{Netns, Origin, Veth, echo_heads, eventually, read_head};
use interceptor_user::dns::Resolver;
use interceptor_user::proxy::{Configured, Intercepted, ProxiedWorkload, Proxy, ProxyOptions, WorkloadId};
use interceptor_user::snapshot::{AccessLogEncoding, Listener, OutboundTrafficPolicy, RouteTable, Snapshot};
use interceptor_user::telemetry::{AccessLog, AccessLogTarget};

const PATIENCE: Duration = Duration::from_secs(30);

/// The outside, and a proxy that is neither there nor in a pod.
struct Bed {
    outside: Netns,
    proxy: Proxy,
    configured: Configured,
    log: tempfile::NamedTempFile,
    pods: AtomicU8,
}

/// A pod with a listener of the proxy inside.
struct Pod {
    netns: Netns,
    _cable: Veth,
    address: Ipv4Addr,
    listener: SocketAddr,
    id: WorkloadId,
}

impl Bed {
    fn new() -> anyhow::Result<Self> {
        let outside = Netns::new()?;
        outside.ip("route add local 203.0.113.0/24 dev lo\n")?;
        let log = tempfile::NamedTempFile::new()?;
        let target = AccessLogTarget::File(log.path().to_owned());
        let proxy = Proxy::start(ProxyOptions {
            resolver: Resolver::start(Default::default())?,
            access_log: AccessLog::open(target, Arc::new(AccessLogEncoding::Json.into()))?,
            threads: 2,
        })?;
        // Requests to port 80 are looked at, and sent where they were meant to go.
        let policy = OutboundTrafficPolicy::AllowAny;
        let mut snapshot = Snapshot::empty(policy);
        let mut listener = Listener::new("0.0.0.0_80".into(), policy);
        listener.http = Some(Arc::new(RouteTable::new("80".into(), policy)));
        snapshot.by_port.insert(80, Arc::new(listener));
        let configured = proxy.configure(snapshot);
        Ok(Self { outside, proxy, configured, log, pods: AtomicU8::new(1) })
    }

    /// A pod whose connections are all meant for `original_dst`.
    fn pod(&self, original_dst: SocketAddr) -> anyhow::Result<Pod> {
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        let netns = Netns::new()?;
        let cable = Veth::new(&netns, "eth0", &self.outside, &format!("pod{number}"))?;
        let address = Ipv4Addr::new(10, 244, number, 2);
        self.outside.ip(&format!("addr add 10.244.{number}.1/24 dev pod{number}\n"))?;
        netns.ip(&format!("addr add {address}/24 dev eth0\nroute add default via 10.244.{number}.1\n"))?;
        let listener = netns.enter(|| TcpListener::bind("127.0.0.1:0"))??;
        let inside = listener.local_addr()?;
        let id = self.add(listener, File::open(netns.path())?.into(), original_dst)?;
        Ok(Pod { netns, _cable: cable, address, listener: inside, id })
    }

    fn add(
        &self,
        listener: TcpListener,
        netns: OwnedFd,
        original_dst: SocketAddr,
    ) -> anyhow::Result<WorkloadId> {
        Ok(self.proxy.add(ProxiedWorkload {
            listeners: vec![listener],
            intercepted: Arc::new(move |_| Ok(Some(Intercepted { original_dst, source: None }))),
            netns: Some(Arc::new(netns)),
            configured: self.configured.clone(),
            connections_max: usize::MAX,
            room: Arc::default(),
            shares: None,
            peers: None,
            learned: None,
            source: Arc::default(),
        })?)
    }

    fn server(
        &self,
        port: u16,
        serve: impl Fn(TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> anyhow::Result<Origin> {
        Origin::start(&self.outside, SocketAddr::from(([203, 0, 113, 1], port)), serve)
    }

    fn records(&self) -> anyhow::Result<Vec<serde_json::Value>> {
        let text = std::fs::read_to_string(self.log.path())?;
        text.lines().map(|line| serde_json::from_str(line).context("a record")).collect()
    }
}

impl Pod {
    fn connect(&self) -> anyhow::Result<TcpStream> {
        let stream = self.netns.enter(|| TcpStream::connect(self.listener))??;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// What comes back for a request.
    fn get(&self) -> anyhow::Result<String> {
        let mut stream = self.connect()?;
        write!(stream, "GET / HTTP/1.1\r\nHost: anybody.example.com\r\n\r\n")?;
        read_head(&mut stream).context("no answer")
    }
}

#[test]
fn servers_see_the_pods_own_address() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    let http = bed.server(80, echo_heads)?;
    let opaque = bed.server(9000, |mut stream| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        stream.write_all(&bytes)
    })?;
    let greeting = bed.server(25, |mut stream| stream.write_all(b"220 ready\r\n"))?;
    // Requests on connections that are kept, of two pods: none goes out as the other's.
    let pods = [bed.pod(http.address)?, bed.pod(http.address)?];
    for pod in pods.iter().chain(&pods) {
        assert!(pod.get()?.starts_with("HTTP/1.1 200 "));
    }
    // One for each thread that has carried something.
    let mut peers: Vec<_> = http.peers().iter().map(SocketAddr::ip).collect();
    peers.sort();
    peers.dedup();
    assert_eq!(peers, pods.each_ref().map(|pod| pod.address));

    let pod = bed.pod(opaque.address)?;
    let mut stream = pod.connect()?;
    stream.write_all(b"some bytes")?;
    stream.shutdown(Shutdown::Write)?;
    let mut echoed = String::new();
    stream.read_to_string(&mut echoed)?;
    assert_eq!(echoed, "some bytes");
    assert_eq!(opaque.peers().iter().map(SocketAddr::ip).collect::<Vec<_>>(), [pod.address]);

    let pod = bed.pod(greeting.address)?;
    let mut line = String::new();
    BufReader::new(pod.connect()?).read_line(&mut line)?;
    assert_eq!(line, "220 ready\r\n");
    assert_eq!(greeting.peers().iter().map(SocketAddr::ip).collect::<Vec<_>>(), [pod.address]);
    Ok(())
}

#[test]
fn a_client_that_has_finished_sending_gets_its_answer() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    let (asked, was_asked) = std::sync::mpsc::channel();
    let (answer, may_answer) = std::sync::mpsc::channel::<()>();
    let (asked, may_answer) = (Mutex::new(asked), Mutex::new(may_answer));
    let http = bed.server(80, move |mut stream| {
        read_head(&mut stream)?;
        let told = asked.lock().is_ok_and(|asked| asked.send(()).is_ok());
        let is_let = may_answer.lock().is_ok_and(|may_answer| may_answer.recv().is_ok());
        assert!(told && is_let);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    })?;
    let pod = bed.pod(http.address)?;
    let mut stream = pod.connect()?;
    write!(stream, "GET / HTTP/1.1\r\nHost: anybody.example.com\r\n\r\n")?;
    stream.shutdown(Shutdown::Write)?;
    was_asked.recv_timeout(PATIENCE).context("nobody asked the server")?;
    // The end came right behind the request, and has been read by now.
    assert!(bed.records()?.is_empty(), "the client is there, and waits");
    answer.send(())?;
    assert!(read_head(&mut stream)?.starts_with("HTTP/1.1 200 "));
    Ok(())
}

#[test]
fn a_pod_is_not_kept_alive() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    let http = bed.server(80, echo_heads)?;
    let pod = bed.pod(http.address)?;
    assert!(pod.get()?.starts_with("HTTP/1.1 200 "));
    // The connection to the server is kept for the next request, until the pod is removed.
    assert!(bed.proxy.remove(pod.id, PATIENCE));
    drop(pod);
    // The kernel takes an interface away with its peer's namespace.
    eventually("the pod's namespace is gone", || bed.outside.ip("link show pod1\n").is_err())
}

#[test]
fn a_namespace_that_cannot_be_entered_is_a_failed_connection() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    let http = bed.server(80, echo_heads)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    bed.add(listener, File::open("/dev/null")?.into(), http.address)?;
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: anybody.example.com\r\n\r\n")?;
    assert!(read_head(&mut stream)?.starts_with("HTTP/1.1 503 "));
    drop(stream);
    eventually("a record", || bed.records().is_ok_and(|records| !records.is_empty()))?;
    let record = &bed.records()?[0];
    assert_eq!(record["response_flags"], "UF");
    let reason = record["upstream_transport_failure_reason"].as_str().unwrap_or_default();
    assert!(reason.contains("network_namespace_can't_be_entered"), "{record}");
    assert_eq!(http.connections(), 0);

    // The thread is where it was, and serves others.
    let pod = bed.pod(http.address)?;
    assert!(pod.get()?.starts_with("HTTP/1.1 200 "));
    Ok(())
}

#[test]
fn a_pod_that_is_gone_answers_nobody_and_hurts_nobody() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    let http = bed.server(80, echo_heads)?;
    let (gone, kept) = (bed.pod(http.address)?, bed.pod(http.address)?);
    // Deleted before anybody told the proxy: its namespace lives on in our descriptors, without the cable.
    gone.netns.ip("link delete eth0\n")?;
    let started = Instant::now();
    let answer = gone.get()?;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(started.elapsed() < Duration::from_secs(10), "it waited for an answer");
    assert!(kept.get()?.starts_with("HTTP/1.1 200 "));
    Ok(())
}
