//! Endpoints that are unix sockets are used as those with addresses are.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use interceptor_user::resource::UnixPath;
use interceptor_user::snapshot::{
    CaSource, Discovery, Endpoint, EndpointAddress, LoadBalancer, OutlierDetection, ProxyProtocol, RetryOn,
    TlsOrigination, UpstreamProtocol,
};

use crate::http2::Http2Upstream;
use crate::support::{Config, HOST, Upstream, get, refused};
use crate::tls::Authority;

/// A unix socket that leads to a server.
struct Door {
    path: String,
    opened: Arc<AtomicUsize>,
    _folder: tempfile::TempDir,
}

impl Door {
    fn to(server: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("door.sock");
        let opened = open(UnixListener::bind(&path).unwrap(), server);
        Self { path: path.display().to_string(), opened, _folder: folder }
    }

    /// In the abstract namespace, under the name of a folder that is this test's own.
    fn abstract_to(server: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().display().to_string();
        let listener = UnixListener::bind_addr(&UnixAddress::from_abstract_name(&name).unwrap()).unwrap();
        Self { path: format!("@{name}"), opened: open(listener, server), _folder: folder }
    }

    fn connections(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }
}

fn open(listener: UnixListener, server: SocketAddr) -> Arc<AtomicUsize> {
    let opened = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&opened);
    std::thread::spawn(move || {
        for inside in listener.incoming().map_while(Result::ok) {
            counter.fetch_add(1, Ordering::SeqCst);
            let outside = TcpStream::connect(server).unwrap();
            let (from, to) = (inside.try_clone().unwrap(), outside.try_clone().unwrap());
            std::thread::spawn(move || pass(from, &to, |to| to.shutdown(Shutdown::Write)));
            std::thread::spawn(move || pass(outside, &inside, |to| to.shutdown(Shutdown::Write)));
        }
    });
    opened
}

/// Carries one direction to its end. Whoever breaks off ends it, too.
fn pass<W>(mut from: impl io::Read, to: &W, end: impl FnOnce(&W) -> io::Result<()>)
where
    for<'a> &'a W: io::Write,
{
    let mut writer = to;
    let _ended = io::copy(&mut from, &mut writer).and_then(|_| end(to)).is_ok();
}

fn unix(path: &str) -> EndpointAddress {
    UnixPath::of_address(&format!("unix://{path}")).unwrap().unwrap().into()
}

fn config(endpoints: &[EndpointAddress]) -> Config {
    let mut config = Config::new(&[]);
    config.cluster.discovery = Discovery::Static(endpoints.iter().cloned().map(Endpoint::new).collect());
    config
}

#[test]
fn connections_are_kept_and_logged_by_their_path() {
    let upstream = Upstream::echo();
    for door in [Door::to(upstream.address), Door::abstract_to(upstream.address)] {
        let proxy = config(&[unix(&door.path)]).start();
        for _ in 0..5 {
            let reply = proxy.get("/");
            assert_eq!((reply.status(), reply.header("server")), (200, Some("origin")));
        }
        assert_eq!(door.connections(), 1);
        let records = proxy.records.wait(5);
        for record in &records {
            assert_eq!(record.text("upstream_host"), door.path);
            // As in Envoy, a pipe has no address at our end.
            assert_eq!(record.text("upstream_local_address"), "-");
        }
    }
}

#[test]
fn a_reload_that_leaves_the_cluster_alone_keeps_its_connections() {
    let upstream = Upstream::echo();
    let door = Door::to(upstream.address);
    let of_path = || config(&[unix(&door.path)]);
    let proxy = of_path().start();
    assert_eq!(proxy.get("/").status(), 200);
    proxy.reload(of_path().timeout(Duration::from_secs(9)).build(80));
    assert_eq!(proxy.get("/").status(), 200);
    assert_eq!(door.connections(), 1);
}

#[test]
fn http2_streams_share_a_unix_socket() {
    let upstream = Http2Upstream::echo();
    let door = Door::to(upstream.address);
    let mut config = config(&[unix(&door.path)]);
    config.cluster.protocol = UpstreamProtocol::Http2;
    let proxy = config.start();
    let mut clients: Vec<_> = (0..10).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send(get(HOST, "/path?q"));
    }
    for client in &mut clients {
        let seen = client.reply().text();
        assert!(seen.starts_with(&format!("GET http://{HOST}/path?q HTTP/2.0\r\n")), "{seen}");
    }
    assert_eq!(door.connections(), 1);
}

#[test]
fn tls_is_originated_and_verified_over_a_unix_socket() {
    let authority = Authority::new();
    let upstream = Authority::serve(authority.issue(&[HOST], |_| {}), None);
    let door = Door::to(upstream.address);
    let with = |names: &[&str]| {
        let mut config = config(&[unix(&door.path)]);
        config.cluster.tls = Some(TlsOrigination {
            ca: CaSource::File(authority.file()),
            sni: names.first().map(|name| (*name).into()),
            ..TlsOrigination::simple()
        });
        config.start()
    };
    let reply = with(&[]).get("/");
    assert_eq!((reply.status(), reply.text().as_str()), (200, HOST));
    let misnamed = with(&["other.example.com"]);
    assert_eq!(misnamed.get("/").status(), 503);
    let record = misnamed.records.only();
    assert_eq!((record.text("response_flags"), record.text("upstream_host")), ("UF", door.path.as_str()));
    assert!(record.text("upstream_transport_failure_reason").contains("CERTIFICATE_VERIFY_FAILED"));
}

#[test]
fn a_changed_protocol_passes_and_is_half_closed() {
    let upstream = Upstream::start(|mut client, _| {
        client.read_until("\r\n\r\n");
        client.send("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: x\r\n\r\nhello");
        client.read_until("ping");
        client.send("pong");
        assert!(client.is_closed());
        client.send("bye");
    });
    let door = Door::to(upstream.address);
    let proxy = config(&[unix(&door.path)]).start();
    let mut client = proxy.client();
    client.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"));
    client.read_until("hello");
    client.send("ping");
    client.read_until("pong");
    client.half_close();
    assert_eq!(client.read_to_end(), b"bye");
}

#[test]
fn a_proxy_header_goes_first() {
    let told = Upstream::start(move |mut client, _| {
        let line = client.read_until("\r\n");
        client.request();
        client.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{line}", line.len()));
    });
    let door = Door::to(told.address);
    let mut config = config(&[unix(&door.path)]);
    config.cluster.proxy_protocol = Some(ProxyProtocol::V1);
    let line = config.start().get("/").text();
    assert!(line.starts_with("PROXY TCP4 127.0.0.1 192.0.2.1 "), "{line}");
}

/// A path that is there, and nobody behind it.
fn abandoned(folder: &Path) -> String {
    let path = folder.join("abandoned.sock");
    drop(UnixListener::bind(&path).unwrap());
    path.display().to_string()
}

/// A listener whose queue is full.
fn busy(folder: &Path) -> (String, socket2::Socket, Vec<UnixStream>) {
    let path = folder.join("busy.sock");
    let listener = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    listener.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    listener.listen(0).unwrap();
    let queued = vec![UnixStream::connect(&path).unwrap()];
    (path.display().to_string(), listener, queued)
}

#[test]
fn nobody_behind_a_path_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "no socket").unwrap();
    let (busy, _listener, _queued) = busy(folder.path());
    let missing = folder.path().join("missing.sock").display().to_string();
    for (path, reason) in [
        (missing, "No such file or directory"),
        (abandoned(folder.path()), "Connection refused"),
        (file.display().to_string(), "Connection refused"),
        (format!("@{}", folder.path().display()), "Connection refused"),
        (format!("{}/below", file.display()), "Not a directory"),
        (busy, "Resource temporarily unavailable"),
    ] {
        let proxy = config(&[unix(&path)]).start();
        let reply = proxy.get("/");
        assert_eq!(
            (reply.status(), reply.text()),
            (
                503,
                format!(
                    "upstream connect error or disconnect/reset before headers. reset reason: remote connection \
                     failure, transport failure reason: immediate connect error: {reason}"
                )
            )
        );
        let record = proxy.records.only();
        assert_eq!((record.text("response_flags"), record.text("upstream_host")), ("UF", path.as_str()));
        let reason = format!("immediate_connect_error:_{}", reason.replace(' ', "_"));
        assert_eq!(record.text("upstream_transport_failure_reason"), reason);
    }
}

#[test]
fn sockets_and_addresses_stand_in_for_each_other() {
    let upstream = Upstream::echo();
    let door = Door::to(upstream.address);
    let folder = tempfile::tempdir().unwrap();
    let retry_on = || RetryOn { connect_failure: true, ..Default::default() };
    for endpoints in
        [[unix(&abandoned(folder.path())), upstream.address.into()], [refused().into(), unix(&door.path)]]
    {
        let proxy = config(&endpoints).retries(2, retry_on()).start();
        for _ in 0..20 {
            assert_eq!(proxy.get("/").status(), 200);
        }
    }
    let mut both = config(&[unix(&door.path), upstream.address.into()]);
    both.cluster.load_balancer = LoadBalancer::RoundRobin;
    let proxy = both.start();
    for _ in 0..4 {
        assert_eq!(proxy.get("/").status(), 200);
    }
    let records = proxy.records.wait(4);
    let through = |host: &str| records.iter().filter(|record| record.text("upstream_host") == host).count();
    assert_eq!((through(&door.path), through(&upstream.address.to_string())), (2, 2));
}

#[test]
fn a_socket_that_fails_is_ejected() {
    let upstream = Upstream::echo();
    let folder = tempfile::tempdir().unwrap();
    let missing = unix(&folder.path().join("missing.sock").display().to_string());
    let mut config = config(&[missing.clone(), upstream.address.into()]);
    config.cluster.load_balancer = LoadBalancer::RoundRobin;
    config.cluster.outlier_detection = Some(OutlierDetection {
        consecutive_gateway_errors: 1,
        max_ejection_percent: 100,
        ..OutlierDetection::default()
    });
    let cluster = config.cluster.name.clone();
    let proxy = config.start();
    let codes: Vec<u16> = (0..6).map(|_| proxy.get("/").status()).collect();
    assert_eq!(codes.iter().filter(|code| **code == 503).count(), 1, "{codes:?}");
    let active = proxy.active();
    let statuses = active.runtime(&cluster).unwrap().endpoints();
    let ejected = statuses.iter().filter(|status| status.ejected_for.is_some());
    assert_eq!(ejected.map(|status| &status.address).collect::<Vec<_>>(), [&missing]);
}
