//! Where the endpoints of a cluster come from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use interceptor_user::snapshot::{Discovery, DnsTarget};

use crate::stopwatch::Stopwatch;
use crate::support::{Config, Proxy, Upstream, get, refused};

fn proxy(discovery: Discovery) -> Proxy {
    let mut config = Config::new(&[]);
    config.cluster.discovery = discovery;
    config.start()
}

fn target(host: &str, port: u16) -> DnsTarget {
    DnsTarget { host: host.into(), port, weight: 1 }
}

#[test]
fn names_are_resolved() {
    let upstream = Upstream::echo();
    for discovery in [
        Discovery::StrictDns(vec![target("v4.test", upstream.port())]),
        Discovery::LogicalDns(target("v4.test", upstream.port())),
    ] {
        let proxy = proxy(discovery);
        for count in 1..=3 {
            assert_eq!(proxy.get("/").status(), 200);
            let record = proxy.records.wait(count).pop().unwrap();
            assert_eq!(record.text("upstream_host"), upstream.address.to_string());
        }
    }
}

#[test]
fn the_family_that_can_be_reached_is_used() {
    // Nobody listens on the same port of 127.0.0.1.
    let upstream = Upstream::echo_at(IpAddr::V6(Ipv6Addr::LOCALHOST));
    let proxy = proxy(Discovery::StrictDns(vec![target("both.test", upstream.port())]));
    assert_eq!(proxy.get("/").status(), 200);
    assert_eq!(proxy.records.only().text("upstream_host"), upstream.address.to_string());
}

#[test]
fn an_unknown_name_is_503_uh() {
    let proxy = proxy(Discovery::StrictDns(vec![target("missing.test", 80)]));
    let reply = proxy.get("/");
    assert_eq!((reply.status(), reply.text().as_str()), (503, "no healthy upstream"));
    let record = proxy.records.only();
    assert_eq!(record.end(), (503, "UH", "no_healthy_upstream"));
    let why = record.text("upstream_transport_failure_reason");
    assert!(why.starts_with("missing.test:_"), "{why}");
    let in_use = proxy.active().in_use();
    let now = in_use.values().find(|now| !now.without_address.is_empty()).expect("it is in use");
    assert_eq!(now.nobody.as_deref().map(|nobody| nobody.replace(' ', "_")).as_deref(), Some(why));
    assert_eq!((&*now.without_address[0].0, now.endpoints.len()), ("missing.test", 0));
}

#[test]
fn a_name_without_answer_does_not_hide_the_others() {
    let upstream = Upstream::echo();
    let proxy =
        proxy(Discovery::StrictDns(vec![target("missing.test", 80), target("v4.test", upstream.port())]));
    assert_eq!(proxy.get("/").status(), 200);
}

#[test]
fn a_dynamic_name_is_the_requests_own() {
    let upstream = Upstream::echo();
    let mut config = Config::new(&[]);
    config.cluster.discovery = Discovery::DynamicDns { port: Some(upstream.port()) };
    config.hosts.push("v4.test");
    config.hosts.push("missing.test");
    let proxy = config.start();
    let reply = proxy.exchange(&get("v4.test", "/"));
    assert_eq!(reply.status(), 200);
    assert!(reply.text().contains("host: v4.test\r\n"), "{}", reply.text());
    let reply = proxy.exchange(&get("missing.test", "/"));
    assert_eq!((reply.status(), reply.text().as_str()), (503, "DNS resolution failure"));
    assert_eq!(proxy.records.wait(2)[1].end(), (503, "DF", "dns_resolution_failure"));
}

#[test]
fn an_original_destination_keeps_its_address() {
    let upstream = Upstream::echo();
    for (destination, port) in
        [(upstream.address, None), (SocketAddr::new(upstream.address.ip(), 9), Some(upstream.port()))]
    {
        let mut config = Config::new(&[]);
        config.cluster.discovery = Discovery::OriginalDst { port };
        let proxy = config.start_for(destination);
        assert_eq!(proxy.get("/").status(), 200);
        assert_eq!(proxy.records.only().text("upstream_host"), upstream.address.to_string());
    }
}

#[test]
fn requests_spread_over_all_endpoints() {
    let upstreams = [Upstream::echo(), Upstream::echo(), Upstream::echo()];
    let addresses: Vec<_> = upstreams.iter().map(|upstream| upstream.address).collect();
    let proxy = Config::new(&addresses).start();
    for _ in 0..60 {
        assert_eq!(proxy.get("/").status(), 200);
    }
    for upstream in &upstreams {
        assert!(upstream.connections() > 0);
    }
}

#[test]
fn a_dead_endpoint_is_left_for_another_on_retry() {
    let upstream = Upstream::echo();
    let proxy = Config::new(&[refused(), upstream.address])
        .retries(2, interceptor_user::snapshot::RetryOn { connect_failure: true, ..Default::default() })
        .start();
    for _ in 0..20 {
        assert_eq!(proxy.get("/").status(), 200);
    }
}

/// A listening socket whose queue is full: connects to it are not answered.
struct Unanswering {
    address: SocketAddr,
    _socket: socket2::Socket,
    _queued: Vec<socket2::Socket>,
}

impl Unanswering {
    fn new() -> Self {
        let stream = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let socket = stream();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        loop {
            let client = stream();
            let answered = client.connect_timeout(&address.into(), Duration::from_millis(100)).is_ok();
            queued.push(client);
            if !answered {
                return Self { address, _socket: socket, _queued: queued };
            }
        }
    }
}

#[test]
fn an_endpoint_that_does_not_answer_is_503_after_the_connect_timeout() {
    let upstream = Unanswering::new();
    let mut config = Config::new(&[upstream.address]);
    config.cluster.connect_timeout = Duration::from_millis(200);
    let proxy = config.start();
    let (started, watch) = (Instant::now(), Stopwatch::start());
    let reply = proxy.get("/");
    assert!(started.elapsed() >= Duration::from_millis(200), "{started:?}");
    assert!(watch.elapsed() < Duration::from_secs(1), "{watch:?}");
    assert_eq!(reply.status(), 503);
    assert!(reply.text().ends_with("before headers. reset reason: connection timeout"), "{reply:?}");
    let details = "upstream_reset_before_response_started{connection_timeout}";
    assert_eq!(proxy.records.only().end(), (503, "UF", details));
}
