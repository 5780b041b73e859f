//! The story of one connection, over real sockets on loopback: who speaks first, which chain takes it,
//! what the record says. Only the original destination is told by the test instead of the kernel.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use interceptor_user::dns::Resolver;
use interceptor_user::proxy::stats::ProxyCounters;
use interceptor_user::proxy::{Intercepted, ProxiedWorkload, Proxy, ProxyOptions};
use interceptor_user::snapshot::{
    AccessLogEncoding, Bounds, CaSource, Cluster, ClusterName, ClusterRef, Discovery, Endpoint, HashKey,
    Listener, LoadBalancer, OutboundTrafficPolicy, OutlierDetection, RouteTable, Snapshot, TcpRoute,
    TlsOrigination, Traffic, Tunnel, TunnelMethod,
};
use interceptor_user::telemetry::{AccessLog, AccessLogTarget};

const WORKLOAD: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77));
const PATIENCE: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(5);

struct Running {
    proxy: Proxy,
    address: SocketAddr,
    log: tempfile::NamedTempFile,
}

impl Running {
    fn start(snapshot: Snapshot, original_dst: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log = tempfile::NamedTempFile::new().unwrap();
        let target = AccessLogTarget::File(log.path().to_owned());
        let proxy = Proxy::start(ProxyOptions {
            resolver: Resolver::start(Default::default()).unwrap(),
            access_log: AccessLog::open(target, Arc::new(AccessLogEncoding::Json.into())).unwrap(),
            threads: 2,
        })
        .unwrap();
        let workload = ProxiedWorkload {
            listeners: vec![listener],
            intercepted: Arc::new(move |_| {
                Ok(original_dst.map(|original_dst| Intercepted { original_dst, source: Some(WORKLOAD) }))
            }),
            netns: None,
            configured: proxy.configure(snapshot),
            connections_max: usize::MAX,
            shares: None,
            peers: None,
            learned: None,
            source: Arc::default(),
        };
        proxy.add(workload).unwrap();
        Self { proxy, address, log }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Stops the proxy; its records and counters.
    fn end(self) -> (Vec<serde_json::Value>, ProxyCounters) {
        let counters = self.proxy.stop(GRACE);
        let text = std::fs::read_to_string(self.log.path()).unwrap();
        (text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), counters)
    }
}

/// A server for one connection.
fn server(serve: impl FnOnce(TcpStream) + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (address, std::thread::spawn(move || serve(listener.accept().unwrap().0)))
}

fn banner_then_echo(mut stream: TcpStream) {
    stream.write_all(b"220 ready\r\n").unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    stream.write_all(&bytes).unwrap();
}

/// A snapshot whose port of `address` has an HTTP service, so that the first bytes matter.
fn with_http_port(policy: OutboundTrafficPolicy, address: SocketAddr) -> Snapshot {
    let mut snapshot = Snapshot::empty(policy);
    let mut listener = Listener::new(format!("0.0.0.0_{}", address.port()).into(), policy);
    listener.http = Some(Arc::new(RouteTable::new(address.port().to_string().into(), policy)));
    snapshot.by_port.insert(address.port(), Arc::new(listener));
    snapshot
}

fn cluster(host: &str, endpoint: SocketAddr) -> Arc<Cluster> {
    let name = ClusterName::outbound(endpoint.port(), "", host);
    let discovery = Discovery::Static(vec![Endpoint::new(endpoint)]);
    let traffic = Traffic {
        load_balancer: LoadBalancer::RoundRobin,
        connect_timeout: Duration::from_secs(5),
        tcp_idle_timeout: Duration::from_secs(60),
        ..Traffic::default()
    };
    let cluster = Cluster::new(name, host.into(), endpoint.port(), discovery);
    Arc::new(Cluster { traffic: Arc::new(traffic), ..cluster })
}

/// The cluster of `a.example.com`, with something changed.
fn changed(endpoint: SocketAddr, change: impl FnOnce(&mut Traffic)) -> Cluster {
    let mut cluster = Cluster::clone(&cluster("a.example.com", endpoint));
    change(&mut cluster);
    cluster
}

/// A ClientHello for `name`, from rustls.
fn client_hello(name: &'static str) -> Vec<u8> {
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

fn assert_reset(stream: &mut TcpStream) {
    let mut byte = [0];
    match stream.read(&mut byte) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("expected a reset, got {other:?}"),
    }
}

fn read_banner(stream: &mut TcpStream) {
    let mut banner = [0; 11];
    stream.read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"220 ready\r\n");
}

#[test]
fn a_server_that_speaks_first_is_heard_at_once_on_a_port_shared_with_http() {
    let (address, serving) = server(banner_then_echo);
    let running = Running::start(with_http_port(OutboundTrafficPolicy::AllowAny, address), Some(address));
    let started = Instant::now();
    let mut client = running.connect();
    read_banner(&mut client);
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());

    client.write_all(b"GET / HTTP/1.1 is not HTTP here").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut echoed = String::new();
    client.read_to_string(&mut echoed).unwrap();
    assert_eq!(echoed, "GET / HTTP/1.1 is not HTTP here");
    serving.join().unwrap();

    let (records, _) = running.end();
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0]["upstream_cluster"], "PassthroughCluster");
    assert_eq!(records[0]["bytes_received"], 31);
    assert_eq!(records[0]["bytes_sent"], 42);
    assert_eq!(records[0]["response_flags"], "-");
}

#[test]
fn a_client_that_speaks_late_gets_the_connection_opened_ahead() {
    let (address, serving) = server(|mut stream| {
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    let running = Running::start(with_http_port(OutboundTrafficPolicy::AllowAny, address), Some(address));
    let mut client = running.connect();
    // Longer than the silence after which the connection is opened ahead: the server has accepted.
    std::thread::sleep(Duration::from_millis(100));
    client.write_all(b"\x01late").unwrap();
    let mut echoed = [0; 5];
    client.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"\x01late");
    serving.join().unwrap();
    drop(client);
    assert_eq!(running.end().0.len(), 1);
}

#[test]
fn tls_goes_where_its_sni_says() {
    let (endpoint, serving) = server(|mut stream| {
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes[0], 0x16);
        stream.write_all(b"hello").unwrap();
    });
    let cluster = cluster("www.example.com", endpoint);
    let mut snapshot = Snapshot::empty(OutboundTrafficPolicy::RegistryOnly);
    let mut listener = Listener::new("0.0.0.0_443".into(), OutboundTrafficPolicy::RegistryOnly);
    let route = TcpRoute::to(ClusterRef { name: cluster.name.clone(), cluster: Some(Arc::clone(&cluster)) });
    listener.tls.insert("www.example.com", Arc::new(route));
    snapshot.by_port.insert(443, Arc::new(listener));
    snapshot.clusters.insert(cluster.name.clone(), Arc::clone(&cluster));
    let running = Running::start(snapshot, Some("192.0.2.1:443".parse().unwrap()));

    let mut client = running.connect();
    client.write_all(&client_hello("www.example.com")).unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
    serving.join().unwrap();
    drop(client);

    let mut stranger = running.connect();
    stranger.write_all(&client_hello("other.example.com")).unwrap();
    assert_reset(&mut stranger);

    let (mut records, _) = running.end();
    records.sort_by_key(|record| record["upstream_cluster"].to_string());
    assert_eq!(records.len(), 2, "{records:#?}");
    assert_eq!(records[0]["upstream_cluster"], "BlackHoleCluster");
    assert_eq!(records[0]["response_flags"], "UH");
    assert_eq!(records[0]["requested_server_name"], "other.example.com");
    assert_eq!(records[0]["downstream_local_address"], "192.0.2.1:443");
    let remote: SocketAddr = records[0]["downstream_remote_address"].as_str().unwrap().parse().unwrap();
    assert_eq!(remote.ip(), WORKLOAD, "the workload's own address, as without the redirect");
    assert_eq!(records[1]["upstream_cluster"], cluster.name.to_string());
    assert_eq!(records[1]["upstream_host"], endpoint.to_string());
    assert_eq!(records[1]["requested_server_name"], "www.example.com");
}

#[test]
fn what_policy_refuses_is_reset_and_its_name_logged() {
    let running = Running::start(
        Snapshot::empty(OutboundTrafficPolicy::RegistryOnly),
        Some("192.0.2.1:443".parse().unwrap()),
    );
    let mut client = running.connect();
    client.write_all(&client_hello("blocked.example.com")).unwrap();
    assert_reset(&mut client);
    let (records, counters) = running.end();
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0]["requested_server_name"], "blocked.example.com");
    assert_eq!(records[0]["upstream_cluster"], "BlackHoleCluster");
    assert_eq!(records[0]["response_flags"], "UH");
    assert_eq!(records[0]["response_code"], 0);
    assert_eq!(counters.connections_accepted, 1);
}

#[test]
fn an_upstream_that_refuses_is_a_reset_with_its_reason() {
    // A port that was free a moment ago, and that nobody listens on.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let running = Running::start(Snapshot::empty(OutboundTrafficPolicy::AllowAny), Some(address));
    let mut client = running.connect();
    assert_reset(&mut client);
    let (records, _) = running.end();
    assert_eq!(records[0]["response_flags"], "UF,URX");
    assert_eq!(records[0]["upstream_host"], address.to_string());
    assert_eq!(records[0]["upstream_cluster"], "PassthroughCluster");
    assert_eq!(records[0]["upstream_transport_failure_reason"], "delayed_connect_error:_Connection_refused");
}

#[test]
fn a_connection_without_an_original_destination_is_closed_and_counted() {
    let running = Running::start(Snapshot::empty(OutboundTrafficPolicy::AllowAny), None);
    let mut client = running.connect();
    let mut bytes = Vec::new();
    // An orderly end or a reset, and not a byte.
    let _ended = client.read_to_end(&mut bytes).is_ok();
    assert!(bytes.is_empty());
    let (records, counters) = running.end();
    assert!(records.is_empty(), "{records:#?}");
    assert_eq!(counters.connections_without_original_dst, 1);
    assert_eq!(counters.connections_accepted, 0);
}

#[test]
fn a_silent_client_holds_up_nobody_and_is_recorded_when_it_leaves() {
    let address = "192.0.2.1:80".parse().unwrap();
    let running = Running::start(with_http_port(OutboundTrafficPolicy::RegistryOnly, address), Some(address));
    let silent: Vec<TcpStream> = (0..50).map(|_| running.connect()).collect();
    let mut client = running.connect();
    client.write_all(b"GET / HTTP/1.1\r\nHost: unknown.example.com\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{answer}");
    drop(silent);
    drop(client);
    let (records, counters) = running.end();
    assert_eq!(counters.connections_accepted, 51);
    assert_eq!(records.len(), 51);
    assert_eq!(records.iter().filter(|record| record["response_flags"] == "DC").count(), 50);
    let answered = records.iter().find(|record| record["response_code"] == 502).unwrap();
    assert_eq!(answered["request_id"].as_str().map(str::len), Some(36), "{answered:#?}");
}

#[test]
fn opaque_bytes_go_out_in_tls_where_the_cluster_asks_for_it() {
    carried_in_tls(true);
}

#[test]
fn nothing_is_lost_when_a_server_ends_tls_without_saying_so() {
    carried_in_tls(false);
}

fn carried_in_tls(says_so: bool) {
    /// More than sockets and TLS keep on the way.
    const ECHOED: usize = 8 << 20;
    let certified = rcgen::generate_simple_self_signed(vec!["db.example.com".to_owned()]).unwrap();
    let authority = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(authority.path(), certified.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key.into())
            .unwrap();
    let (endpoint, serving) = server(move |stream| {
        let connection = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, stream);
        stream.write_all(b"220 ready\r\n").unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        assert_eq!(stream.conn.server_name(), Some("db.example.com"));
        stream.write_all(&bytes).unwrap();
        if says_so {
            stream.conn.send_close_notify();
        }
        stream.flush().unwrap();
    });
    let mut cluster = cluster("db.example.com", endpoint);
    Arc::make_mut(&mut cluster).tls =
        Some(TlsOrigination { ca: CaSource::File(authority.path().to_owned()), ..TlsOrigination::simple() });
    let mut snapshot = Snapshot::empty(OutboundTrafficPolicy::RegistryOnly);
    let mut listener = Listener::new("0.0.0.0_3306".into(), OutboundTrafficPolicy::RegistryOnly);
    let route = TcpRoute::to(ClusterRef { name: cluster.name.clone(), cluster: Some(Arc::clone(&cluster)) });
    listener.tcp = Some(Arc::new(route));
    snapshot.by_port.insert(3306, Arc::new(listener));
    snapshot.clusters.insert(cluster.name.clone(), Arc::clone(&cluster));
    let running = Running::start(snapshot, Some("192.0.2.1:3306".parse().unwrap()));

    let mut client = running.connect();
    let connected = Instant::now();
    read_banner(&mut client);
    assert!(connected.elapsed() < Duration::from_millis(900), "nobody waits for a ClientHello meanwhile");
    client.write_all(&vec![b'x'; ECHOED]).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    // The server has closed long before the last of it is read.
    std::thread::sleep(Duration::from_millis(200));
    let mut echoed = Vec::new();
    client.read_to_end(&mut echoed).unwrap();
    assert_eq!(echoed.len(), ECHOED);
    serving.join().unwrap();
    let (records, _) = running.end();
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0]["upstream_cluster"], cluster.name.to_string());
    assert_eq!(records[0]["bytes_sent"], ECHOED + 11);
    assert_eq!(records[0]["response_flags"], "-");
    assert_eq!(records[0]["connection_termination_details"], serde_json::Value::Null);
}

/// What a client that stayed silent for a while says is HTTP, whatever the connection opened ahead did.
fn late_request_is_routed(first: impl FnOnce(TcpStream) + Send + 'static) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (ahead_ended, ended) = std::sync::mpsc::channel();
    let serving = std::thread::spawn(move || {
        first(listener.accept().unwrap().0);
        ahead_ended.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 16];
        stream.read_exact(&mut request).unwrap();
        stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").unwrap();
    });
    let running = Running::start(with_http_port(OutboundTrafficPolicy::AllowAny, address), Some(address));
    let mut client = running.connect();
    ended.recv_timeout(PATIENCE).unwrap();
    // Gives the end of the connection opened ahead time to arrive; the outcome must not depend on it.
    std::thread::sleep(Duration::from_millis(50));
    client.write_all(b"GET /late HTTP/1.1\r\nHost: a.example.com\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    serving.join().unwrap();
    let (records, _) = running.end();
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0]["path"], "/late");
    assert_eq!(records[0]["route_name"], "allow_any");
}

#[test]
fn a_late_request_is_routed_though_its_server_closed_the_connection_opened_ahead() {
    late_request_is_routed(drop);
}

#[test]
fn a_late_request_is_routed_though_its_server_lost_patience() {
    late_request_is_routed(|mut stream| {
        stream.write_all(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n").unwrap();
    });
}

#[test]
fn a_configured_detection_timeout_makes_a_silent_client_opaque() {
    let (address, serving) = server(|mut stream| {
        let mut request = [0; 5];
        stream.read_exact(&mut request).unwrap();
        stream.write_all(&request).unwrap();
    });
    let mut snapshot = with_http_port(OutboundTrafficPolicy::AllowAny, address);
    snapshot.mesh.protocol_detection_timeout = Duration::from_millis(50);
    let running = Running::start(snapshot, Some(address));
    let mut client = running.connect();
    std::thread::sleep(Duration::from_millis(200));
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut echoed = [0; 5];
    client.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"GET /");
    drop(client);
    serving.join().unwrap();
    let (records, _) = running.end();
    assert_eq!(records[0]["method"], serde_json::Value::Null);
    assert_eq!(records[0]["upstream_cluster"], "PassthroughCluster");
}

/// Servers that say their number to everybody.
fn numbered_servers(count: u8) -> Vec<SocketAddr> {
    let start = |number| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            // Whoever leaves early hears nothing.
            listener.incoming().flatten().for_each(|mut stream| drop(stream.write_all(&[number])));
        });
        address
    };
    (0..count).map(start).collect()
}

/// A proxy that sends everything to these endpoints of a cluster.
fn to_endpoints(endpoints: &[SocketAddr], change: impl FnOnce(&mut Cluster)) -> Running {
    let mut cluster = (*cluster("db.example.com", endpoints[0])).clone();
    cluster.discovery = Discovery::Static(endpoints.iter().copied().map(Endpoint::new).collect());
    change(&mut cluster);
    let cluster = Arc::new(cluster);
    let mut snapshot = Snapshot::empty(OutboundTrafficPolicy::RegistryOnly);
    let mut listener = Listener::new("0.0.0.0_3306".into(), OutboundTrafficPolicy::RegistryOnly);
    let route = TcpRoute::to(ClusterRef { name: cluster.name.clone(), cluster: Some(Arc::clone(&cluster)) });
    listener.tcp = Some(Arc::new(route));
    snapshot.by_port.insert(3306, Arc::new(listener));
    snapshot.clusters.insert(cluster.name.clone(), cluster);
    Running::start(snapshot, Some("192.0.2.1:3306".parse().unwrap()))
}

/// Which server each of so many connections reaches, if any.
fn reached(running: &Running, connections: usize) -> Vec<Option<u8>> {
    let number = |mut stream: TcpStream| {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok().map(|()| byte[0])
    };
    (0..connections).map(|_| number(running.connect())).collect()
}

#[test]
fn connections_of_one_source_go_to_one_endpoint() {
    let ring = LoadBalancer::RingHash { minimum_size: 1024 };
    let servers = numbered_servers(3);
    for (key, expected) in [(HashKey::SourceIp, 1), (HashKey::QueryParameter("q".into()), 3)] {
        let running = to_endpoints(&servers, |cluster| {
            cluster.load_balancer = ring;
            cluster.hash_key = Some(key.clone());
        });
        let mut reached = reached(&running, 40);
        reached.sort_unstable();
        reached.dedup();
        assert!(reached.len() == expected && !reached.contains(&None), "{key:?} {reached:?}");
    }
}

#[test]
fn an_endpoint_that_refuses_connections_is_ejected() {
    let mut endpoints = numbered_servers(1);
    endpoints.push(TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let running = to_endpoints(&endpoints, |cluster| {
        cluster.outlier_detection =
            Some(OutlierDetection { consecutive_5xx: 3, ..OutlierDetection::default() });
    });
    let refused = reached(&running, 20).iter().filter(|server| server.is_none()).count();
    assert_eq!(refused, 3);
}

/// A snapshot whose port 7000 is a TCP service.
fn with_tcp_port(cluster: Cluster) -> Snapshot {
    let mut snapshot = Snapshot::empty(OutboundTrafficPolicy::RegistryOnly);
    let cluster = Arc::new(cluster);
    let mut listener = Listener::new("0.0.0.0_7000".into(), OutboundTrafficPolicy::RegistryOnly);
    let route = TcpRoute::to(ClusterRef { name: cluster.name.clone(), cluster: Some(Arc::clone(&cluster)) });
    listener.tcp = Some(Arc::new(route));
    snapshot.by_port.insert(7000, Arc::new(listener));
    snapshot.clusters.insert(cluster.name.clone(), cluster);
    snapshot
}

#[test]
fn an_opaque_connection_beyond_the_bound_is_closed() {
    let (address, serving) = server(banner_then_echo);
    let bounds = Bounds { connections: Some(1), ..Bounds::default() };
    let snapshot = with_tcp_port(changed(address, |traffic| traffic.bounds = bounds));
    let running = Running::start(snapshot, Some("192.0.2.1:7000".parse().unwrap()));
    let mut first = running.connect();
    read_banner(&mut first);
    let mut second = running.connect();
    assert_reset(&mut second);
    first.shutdown(std::net::Shutdown::Write).unwrap();
    first.read_to_end(&mut Vec::new()).unwrap();
    serving.join().unwrap();
    let (records, _) = running.end();
    let refused: Vec<_> = records.iter().filter(|record| record["response_flags"] == "UO").collect();
    assert_eq!((records.len(), refused.len()), (2, 1), "{records:#?}");
    assert_eq!(refused[0]["upstream_host"], serde_json::Value::Null);
    assert_eq!(refused[0]["upstream_cluster"], format!("outbound|{}||a.example.com", address.port()));
}

#[test]
fn an_opaque_connection_ends_after_its_duration() {
    let (address, serving) = server(banner_then_echo);
    let duration = Some(Duration::from_millis(200));
    let snapshot = with_tcp_port(changed(address, |traffic| traffic.tcp_max_connection_duration = duration));
    let running = Running::start(snapshot, Some("192.0.2.1:7000".parse().unwrap()));
    let mut client = running.connect();
    read_banner(&mut client);
    let started = Instant::now();
    assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 0);
    assert!(started.elapsed() < PATIENCE);
    serving.join().unwrap();
    let (records, _) = running.end();
    assert_eq!(records[0]["response_flags"], "DT", "{records:#?}");
}

#[test]
fn a_proxy_is_asked_for_the_target_and_its_refusal_is_told() {
    for (answer, expected) in [
        (&b"HTTP/1.1 200 OK\r\n\r\n220 ready\r\n"[..], None),
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            Some("CONNECT_b.example.com:443:_the_proxy_answered_HTTP/1.1_407_Proxy_Authentication_Required"),
        ),
    ] {
        let (address, serving) = server(move |mut stream| {
            let mut request = [0; 63];
            stream.read_exact(&mut request).unwrap();
            assert!(request.starts_with(b"CONNECT b.example.com:443 HTTP/1.1\r\n"), "{request:?}");
            stream.write_all(answer).unwrap();
            stream.read_to_end(&mut Vec::new()).unwrap();
        });
        let tunnel = Tunnel { method: TunnelMethod::Connect, target: "b.example.com:443".into() };
        let cluster = changed(address, |traffic| traffic.tunnel = Some(tunnel));
        let running = Running::start(with_tcp_port(cluster), Some("192.0.2.1:7000".parse().unwrap()));
        let mut client = running.connect();
        match expected {
            None => read_banner(&mut client),
            Some(_) => assert_reset(&mut client),
        }
        drop(client);
        serving.join().unwrap();
        let (records, _) = running.end();
        let flags = if expected.is_some() { "UF,URX" } else { "-" };
        assert_eq!(records[0]["response_flags"], flags, "{records:#?}");
        assert_eq!(records[0]["upstream_transport_failure_reason"].as_str(), expected);
        assert_eq!(records[0]["upstream_host"], address.to_string());
    }
}

/// Reads what is sent by chunks, and the chunk without bytes that ends it; `None` when it breaks off.
fn read_chunks(stream: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let mut size = String::new();
        stream.read_line(&mut size).unwrap();
        let size = usize::from_str_radix(size.strip_suffix("\r\n")?, 16).unwrap();
        let start = whole.len();
        whole.resize(start + size + 2, 0);
        stream.read_exact(&mut whole[start..]).ok()?;
        assert_eq!(whole.split_off(start + size), b"\r\n");
        if size == 0 {
            return Some(whole);
        }
    }
}

/// A snapshot that sends port 7000 through a proxy which is asked by POST.
fn posted(address: SocketAddr) -> Snapshot {
    let tunnel = Tunnel { method: TunnelMethod::Post, target: "b.example.com:443".into() };
    with_tcp_port(changed(address, |traffic| traffic.tunnel = Some(tunnel)))
}

fn read_post(stream: &mut impl BufRead) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_until(b'\n', &mut head).unwrap();
    }
    let head = String::from_utf8(head).unwrap();
    let expected = "POST / HTTP/1.1\r\nhost: b.example.com:443\r\ntransfer-encoding: chunked\r\n\r\n";
    assert_eq!(head, expected);
}

#[test]
fn a_tunnel_by_post_carries_both_ways_at_once_and_both_ends() {
    /// More than sockets and buffers keep on the way.
    const CARRIED: usize = 8 << 20;
    let (address, serving) = server(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        read_post(&mut reader);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nb\r\n220 ready\r\n\r\n")
            .unwrap();
        let returning = std::thread::spawn(move || {
            for _ in 0..CARRIED >> 16 {
                stream.write_all(b"10000\r\n").unwrap();
                stream.write_all(&[b'y'; 1 << 16]).unwrap();
                stream.write_all(b"\r\n").unwrap();
            }
            stream
        });
        let received = read_chunks(&mut reader).unwrap();
        assert!(received.len() == CARRIED && received.iter().all(|byte| *byte == b'x'));
        returning.join().unwrap().write_all(b"4\r\nbye\n\r\n0\r\n\r\n").unwrap();
    });
    let running = Running::start(posted(address), Some("192.0.2.1:7000".parse().unwrap()));
    let mut client = running.connect();
    read_banner(&mut client);
    let mut sender = client.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        sender.write_all(&vec![b'x'; CARRIED]).unwrap();
        sender.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut returned = Vec::new();
    client.read_to_end(&mut returned).unwrap();
    assert!(returned.len() == CARRIED + 4 && returned.ends_with(b"ybye\n"), "{}", returned.len());
    sending.join().unwrap();
    serving.join().unwrap();
    let (records, _) = running.end();
    assert_eq!(records[0]["response_flags"], "-", "{records:#?}");
    assert_eq!(records[0]["bytes_received"], CARRIED, "{records:#?}");
    assert_eq!(records[0]["bytes_sent"], CARRIED + 4 + 11, "{records:#?}");
}

#[test]
fn what_is_wrong_with_a_tunnel_by_post_is_told() {
    for (answer, expected) in [
        (
            &b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"[..],
            "the_proxy_answered_HTTP/1.1_403_Forbidden",
        ),
        (b"SSH-2.0-x\r\n\r\n", "the_proxy_does_not_speak_HTTP/1.1"),
        (b"", "the_proxy_closed_without_an_answer"),
    ] {
        let (address, serving) = server(move |mut stream| {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            read_post(&mut reader);
            stream.write_all(answer).unwrap();
        });
        let running = Running::start(posted(address), Some("192.0.2.1:7000".parse().unwrap()));
        assert_reset(&mut running.connect());
        serving.join().unwrap();
        let (records, _) = running.end();
        assert_eq!(records[0]["response_flags"], "UF,URX", "{records:#?}");
        let reason = records[0]["upstream_transport_failure_reason"].as_str();
        assert_eq!(reason, Some(&*format!("POST_b.example.com:443:_{expected}")));
    }
}

/// Neither side takes what broke off for an end.
#[test]
fn a_tunnel_by_post_that_breaks_off_is_a_reset() {
    let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nb\r\n220 ready\r\n\r\n";
    for server_breaks_off in [true, false] {
        let (address, serving) = server(move |mut stream| {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            read_post(&mut reader);
            stream.write_all(answer).unwrap();
            if !server_breaks_off {
                assert_eq!(read_chunks(&mut reader), None);
            }
        });
        let running = Running::start(posted(address), Some("192.0.2.1:7000".parse().unwrap()));
        let mut client = running.connect();
        read_banner(&mut client);
        let expected = if server_breaks_off {
            assert_reset(&mut client);
            "UC"
        } else {
            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
            "DC"
        };
        drop(client);
        serving.join().unwrap();
        let (records, _) = running.end();
        assert_eq!(records[0]["response_flags"], expected, "{records:#?}");
    }
}
