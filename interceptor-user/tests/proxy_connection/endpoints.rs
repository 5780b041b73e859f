//! Which endpoint opaque connections go to, how many there may be, and for how long.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use interceptor_user::snapshot::{
    Bounds, Cluster, ClusterRef, Discovery, Endpoint, HashKey, Listener, LoadBalancer, OutboundTrafficPolicy,
    OutlierDetection, Snapshot, TcpRoute,
};

use crate::support::{
    PATIENCE, Running, assert_reset, banner_then_echo, changed, cluster, read_banner, server,
};

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
pub(crate) fn with_tcp_port(cluster: Cluster) -> Snapshot {
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
