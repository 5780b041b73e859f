//! A proxy worker on loopback, upstreams made of closures, and clients that see every byte.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use interceptor_user::dns::{self, Resolver};
use interceptor_user::proxy::active::Active;
use interceptor_user::proxy::stats::ProxyCounters;
use interceptor_user::proxy::{self, Configured, Intercepted, ProxiedWorkload, ProxyOptions, WorkloadId};
use interceptor_user::snapshot::{
    AccessLogEncoding, Changes, Cluster, ClusterName, ClusterRef, Discovery, Endpoint, Forward, Listener,
    LogFormat, OutboundTrafficPolicy, Redirect, RetryOn, RetryPolicy, Route, RouteAction, RouteMatch,
    RouteTable, Snapshot, VirtualHost, WeightedCluster,
};
use interceptor_user::telemetry::{AccessLog, AccessLogTarget, Follower};

pub(crate) use crate::client::{Client, Reply, get, header};

/// Longer than anything here takes, on a machine that is busy with other things, too; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The host that `Config` declares.
pub(crate) const HOST: &str = "declared.example.com";

/// The access log of a proxy, as JSON.
pub(crate) struct Records(tempfile::NamedTempFile);

/// One line of it.
#[derive(Debug)]
pub(crate) struct Record(serde_json::Value);

impl Record {
    /// A text, or `-`.
    pub(crate) fn text(&self, field: &str) -> &str {
        let value = self.0.get(field).unwrap_or_else(|| panic!("{field} in {self:?}"));
        if value.is_null() {
            return "-";
        }
        value.as_str().unwrap_or_else(|| panic!("{field} in {self:?}"))
    }

    pub(crate) fn number(&self, field: &str) -> u64 {
        self.0[field].as_u64().unwrap_or_else(|| panic!("{field} in {self:?}"))
    }

    /// Code, flags and details.
    pub(crate) fn end(&self) -> (u64, &str, &str) {
        (self.number("response_code"), self.text("response_flags"), self.text("response_code_details"))
    }
}

impl Records {
    /// The first `count` records.
    pub(crate) fn wait(&self, count: usize) -> Vec<Record> {
        let mut lines = Vec::new();
        eventually(&format!("{count} records"), || {
            let text = std::fs::read_to_string(self.0.path()).unwrap();
            lines = text.lines().filter_map(|line| serde_json::from_str(line).ok()).map(Record).collect();
            lines.len() >= count
        });
        lines
    }

    /// The only record.
    pub(crate) fn only(&self) -> Record {
        let mut records = self.wait(1);
        assert_eq!(records.len(), 1, "{records:#?}");
        records.remove(0)
    }
}

/// The names that tests use, of a hosts file; no server is asked.
pub(crate) const HOSTS: &str = "127.0.0.1 v4.test both.test\n::1 v6.test both.test\n";

pub(crate) fn resolver() -> (Resolver, tempfile::NamedTempFile) {
    let hosts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(hosts.path(), HOSTS).unwrap();
    let servers = dns::Servers::Fixed(Vec::new());
    let hosts_file = hosts.path().to_owned();
    (Resolver::start(dns::Options { servers, hosts_file, ..dns::Options::default() }).unwrap(), hosts)
}

/// A workload whose connections are all meant for `original_dst`, and where they arrive.
pub(crate) fn workload(configured: &Configured, original_dst: SocketAddr) -> (SocketAddr, ProxiedWorkload) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let workload = ProxiedWorkload {
        listeners: vec![listener],
        intercepted: Arc::new(move |_| Ok(Some(Intercepted { original_dst, source: None }))),
        netns: None,
        configured: configured.clone(),
        connections_max: usize::MAX,
        room: Arc::default(),
        shares: None,
        peers: None,
        learned: None,
        source: Arc::default(),
    };
    (address, workload)
}

/// A proxy of one thread, accepting on loopback as if for `original_dst`.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) records: Records,
    proxy: proxy::Proxy,
    configured: Configured,
    workload: WorkloadId,
    _hosts: tempfile::NamedTempFile,
}

impl Proxy {
    pub(crate) fn start(snapshot: Snapshot, original_dst: SocketAddr) -> Self {
        Self::logging(AccessLogEncoding::Json.into(), snapshot, original_dst)
    }

    /// With this format of the access log, which is JSON.
    pub(crate) fn logging(format: LogFormat, snapshot: Snapshot, original_dst: SocketAddr) -> Self {
        let records = Records(tempfile::NamedTempFile::new().unwrap());
        let log = AccessLogTarget::File(records.0.path().to_owned());
        let access_log = AccessLog::open(log, Arc::new(format)).unwrap();
        let (resolver, hosts) = resolver();
        let proxy = proxy::Proxy::start(ProxyOptions { resolver, access_log, threads: 1 }).unwrap();
        let configured = proxy.configure(snapshot);
        let (address, workload) = workload(&configured, original_dst);
        let workload = proxy.add(workload).unwrap();
        Self { address, records, proxy, configured, workload, _hosts: hosts }
    }

    /// Puts another snapshot in force.
    pub(crate) fn reload(&self, snapshot: Snapshot) {
        self.configured.publish(snapshot);
    }

    /// What is in force.
    pub(crate) fn active(&self) -> Arc<Active> {
        self.configured.active()
    }

    pub(crate) fn counters(&self) -> ProxyCounters {
        self.proxy.counters()
    }

    pub(crate) fn follow(&self) -> Follower {
        self.proxy.flows().follow()
    }

    /// The samples of a metric whose labels hold all of `labels`, summed up.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let mut text = String::new();
        self.proxy.metrics()(&mut text);
        let of_name = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
        let samples = of_name.filter(|line| labels.iter().all(|label| line.contains(label)));
        samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    pub(crate) fn start_draining(&self) {
        assert!(self.proxy.remove(self.workload, PATIENCE));
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// One request on a connection of its own; what came back until the proxy closed it.
    pub(crate) fn exchange(&self, request: &str) -> Reply {
        let mut client = self.client();
        client.send(request);
        client.reply()
    }

    /// `GET path` of the declared host.
    pub(crate) fn get(&self, path: &str) -> Reply {
        self.exchange(&get(HOST, path))
    }
}

/// A server on loopback that does with each connection what a closure says.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl Upstream {
    pub(crate) fn start(serve: impl Fn(Client, usize) + Send + Sync + 'static) -> Self {
        Self::start_at(IpAddr::V4(Ipv4Addr::LOCALHOST), serve)
    }

    fn start_at(address: IpAddr, serve: impl Fn(Client, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let (counter, serve) = (Arc::clone(&accepted), Arc::new(serve));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
                let serve = Arc::clone(&serve);
                thread::spawn(move || {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    stream.set_nodelay(true).unwrap();
                    serve(Client::over(stream), number);
                });
            }
        });
        Self { address, accepted }
    }

    /// Answers every request with 200 and its own head as the body.
    pub(crate) fn echo() -> Self {
        Self::echo_at(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    pub(crate) fn echo_at(address: IpAddr) -> Self {
        Self::start_at(address, |mut client, _| {
            while let Some(request) = client.request() {
                let body = request.head + &String::from_utf8_lossy(&request.body);
                client.send(format!(
                    "HTTP/1.1 200 OK\r\nServer: origin\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                ));
            }
        })
    }

    /// Answers every request with these bytes.
    pub(crate) fn answering(answer: &'static str) -> Self {
        Self::start(move |mut client, _| {
            while client.request().is_some() {
                client.send(answer);
            }
        })
    }

    pub(crate) fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }
}

/// Another address each time where nobody listens: a port that was free a moment ago is soon somebody else's.
pub(crate) fn refused() -> SocketAddr {
    static GIVEN: AtomicU8 = AtomicU8::new(1);
    ([127, 0, 1, GIVEN.fetch_add(1, Ordering::Relaxed)], 1).into()
}

/// Waits until something holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A snapshot with one declared host and its cluster.
pub(crate) struct Config {
    pub(crate) policy: OutboundTrafficPolicy,
    pub(crate) cluster: Cluster,
    pub(crate) forward: Forward,
    pub(crate) changes: Option<Changes>,
    /// Instead of forwarding.
    pub(crate) redirect: Option<Redirect>,
    pub(crate) snapshot: Snapshot,
    /// What the route takes; everything when empty.
    pub(crate) matches: Vec<RouteMatch>,
    /// Hosts that the route takes beside [`HOST`].
    pub(crate) hosts: Vec<&'static str>,
}

impl Config {
    pub(crate) fn new(endpoints: &[SocketAddr]) -> Self {
        let discovery = Discovery::Static(endpoints.iter().copied().map(Endpoint::new).collect());
        let cluster = Cluster::new(ClusterName::outbound(80, "", HOST), HOST.into(), 80, discovery);
        let forward = Forward::to(Vec::new(), format!("{HOST}:80/*").into());
        let policy = OutboundTrafficPolicy::AllowAny;
        Self {
            policy,
            cluster,
            forward,
            changes: None,
            redirect: None,
            matches: Vec::new(),
            snapshot: Snapshot::empty(policy),
            hosts: Vec::new(),
        }
    }

    pub(crate) fn registry_only(mut self) -> Self {
        self.policy = OutboundTrafficPolicy::RegistryOnly;
        self.snapshot = Snapshot::empty(self.policy);
        self
    }

    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.forward.timeout = Some(timeout);
        self
    }

    pub(crate) fn retries(mut self, attempts: u32, retry_on: RetryOn) -> Self {
        self.forward.retries = Some(Arc::new(RetryPolicy {
            base_interval: Duration::from_millis(1),
            ..RetryPolicy::new(attempts, retry_on)
        }));
        self
    }

    /// Requests with other destinations find no listener for their port.
    pub(crate) fn build(mut self, port: u16) -> Snapshot {
        let cluster = Arc::new(self.cluster);
        let reference = ClusterRef { name: cluster.name.clone(), cluster: Some(Arc::clone(&cluster)) };
        if self.forward.clusters.is_empty() {
            self.forward.clusters.push(WeightedCluster::new(reference, 1));
        }
        let mut table = RouteTable::new("80".into(), self.policy);
        let action = match self.redirect {
            Some(redirect) => RouteAction::Redirect(Arc::new(redirect)),
            None => RouteAction::Forward(Arc::new(self.forward)),
        };
        let route = Route {
            matches: self.matches,
            changes: self.changes.map(Arc::new),
            ..Route::new("default".into(), action)
        };
        let virtual_host =
            VirtualHost { name: format!("{HOST}:80").into(), routes: [route].into(), source: None };
        let virtual_host = Arc::new(virtual_host);
        for host in self.hosts.iter().chain([&HOST]) {
            table.hosts.insert(*host, Arc::clone(&virtual_host));
        }
        let mut listener = Listener::new("0.0.0.0_80".into(), self.policy);
        listener.http = Some(Arc::new(table));
        let mut snapshot = self.snapshot;
        snapshot.by_port.insert(port, Arc::new(listener));
        snapshot.clusters.insert(cluster.name.clone(), cluster);
        snapshot
    }

    /// A proxy that takes every connection for one to port 80 of a documentation address.
    pub(crate) fn start(self) -> Proxy {
        let original_dst = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 80);
        Proxy::start(self.build(80), original_dst)
    }

    /// A proxy whose connections were meant for `original_dst`.
    pub(crate) fn start_for(self, original_dst: SocketAddr) -> Proxy {
        Proxy::start(self.build(original_dst.port()), original_dst)
    }
}
