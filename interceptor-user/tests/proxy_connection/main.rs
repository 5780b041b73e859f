//! The story of one connection, over real sockets on loopback: who speaks first, which chain takes it,
//! what the record says. Only the original destination is told by the test instead of the kernel.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod endpoints;
#[expect(unreachable_pub, reason = "other crates use it elsewhere")]
#[path = "../../../tests/src/stopwatch.rs"]
mod stopwatch;
mod support;
mod tunnels;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use interceptor_user::snapshot::{
    CaSource, ClusterRef, Listener, OutboundTrafficPolicy, Snapshot, TcpRoute, TlsOrigination,
};

use crate::stopwatch::Stopwatch;
use crate::support::{
    PATIENCE, Running, WORKLOAD, assert_reset, banner_then_echo, client_hello, cluster, read_banner, server,
    with_http_port,
};

#[test]
fn a_server_that_speaks_first_is_heard_at_once_on_a_port_shared_with_http() {
    let (address, serving) = server(banner_then_echo);
    let running = Running::start(with_http_port(OutboundTrafficPolicy::AllowAny, address), Some(address));
    let started = Stopwatch::start();
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
    let connected = Stopwatch::start();
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
    std::thread::sleep(Duration::from_secs(1));
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
