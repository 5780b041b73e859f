//! A proxy on loopback, and servers for it.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use interceptor_user::dns::Resolver;
use interceptor_user::proxy::stats::ProxyCounters;
use interceptor_user::proxy::{Intercepted, ProxiedWorkload, Proxy, ProxyOptions};
use interceptor_user::snapshot::{
    AccessLogEncoding, Cluster, ClusterName, Discovery, Endpoint, Listener, LoadBalancer,
    OutboundTrafficPolicy, RouteTable, Snapshot, Traffic,
};
use interceptor_user::telemetry::{AccessLog, AccessLogTarget};

pub(crate) const WORKLOAD: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77));
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const GRACE: Duration = Duration::from_secs(5);

pub(crate) struct Running {
    pub(crate) proxy: Proxy,
    pub(crate) address: SocketAddr,
    pub(crate) log: tempfile::NamedTempFile,
}

impl Running {
    pub(crate) fn start(snapshot: Snapshot, original_dst: Option<SocketAddr>) -> Self {
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
            room: Arc::default(),
            shares: None,
            peers: None,
            learned: None,
            source: Arc::default(),
        };
        proxy.add(workload).unwrap();
        Self { proxy, address, log }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Stops the proxy; its records and counters.
    pub(crate) fn end(self) -> (Vec<serde_json::Value>, ProxyCounters) {
        let counters = self.proxy.stop(GRACE);
        let text = std::fs::read_to_string(self.log.path()).unwrap();
        (text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), counters)
    }
}

/// A server for one connection.
pub(crate) fn server(serve: impl FnOnce(TcpStream) + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (address, std::thread::spawn(move || serve(listener.accept().unwrap().0)))
}

pub(crate) fn banner_then_echo(mut stream: TcpStream) {
    stream.write_all(b"220 ready\r\n").unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    stream.write_all(&bytes).unwrap();
}

/// A snapshot whose port of `address` has an HTTP service, so that the first bytes matter.
pub(crate) fn with_http_port(policy: OutboundTrafficPolicy, address: SocketAddr) -> Snapshot {
    let mut snapshot = Snapshot::empty(policy);
    let mut listener = Listener::new(format!("0.0.0.0_{}", address.port()).into(), policy);
    listener.http = Some(Arc::new(RouteTable::new(address.port().to_string().into(), policy)));
    snapshot.by_port.insert(address.port(), Arc::new(listener));
    snapshot
}

pub(crate) fn cluster(host: &str, endpoint: SocketAddr) -> Arc<Cluster> {
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
pub(crate) fn changed(endpoint: SocketAddr, change: impl FnOnce(&mut Traffic)) -> Cluster {
    let mut cluster = Cluster::clone(&cluster("a.example.com", endpoint));
    change(&mut cluster);
    cluster
}

/// A ClientHello for `name`, from rustls.
pub(crate) fn client_hello(name: &'static str) -> Vec<u8> {
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

pub(crate) fn assert_reset(stream: &mut TcpStream) {
    match stream.read_exact(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("expected a reset, got {other:?}"),
    }
}

pub(crate) fn read_banner(stream: &mut TcpStream) {
    let mut banner = [0; 11];
    stream.read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"220 ready\r\n");
}
