//! What a cluster's bounds (circuit breakers) refuse, what waits, and what is given back.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use interceptor_user::snapshot::{
    Bounds, Discovery, Endpoint, LoadBalancer, RetryBudget, RetryOn, Snapshot, UpstreamProtocol,
};

use crate::support::{Client, Config, HOST, Proxy, Record, Reply, Upstream, eventually, get};

/// A server that answers a request when told to.
struct Gate {
    upstream: Upstream,
    arrived: Receiver<()>,
    answer: Sender<()>,
}

impl Gate {
    fn start() -> Self {
        let ((arrive, arrived), (answer, wait)) = (channel(), channel::<()>());
        let (arrive, wait) = (Mutex::new(arrive), Arc::new(Mutex::new(wait)));
        let upstream = Upstream::start(move |mut client, _| {
            while client.request().is_some() {
                arrive.lock().unwrap().send(()).unwrap();
                if wait.lock().unwrap().recv().is_err() {
                    return;
                }
                client.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            }
        });
        Self { upstream, arrived, answer }
    }

    /// Waits for a request to be at the server.
    fn arrived(&self) {
        self.arrived.recv_timeout(crate::support::PATIENCE).unwrap();
    }

    fn answer(&self) {
        self.answer.send(()).unwrap();
    }

    fn proxy(&self, bounds: Bounds) -> Proxy {
        let mut config = Config::new(&[self.upstream.address]);
        config.cluster.bounds = bounds;
        config.start()
    }
}

fn asking(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    client.send(get(HOST, "/"));
    client
}

fn assert_overflow(reply: &Reply, record: &Record) {
    assert_eq!(
        (reply.status(), reply.text().as_str()),
        (503, "upstream connect error or disconnect/reset before headers. reset reason: overflow")
    );
    assert_eq!(reply.header("x-envoy-overloaded"), Some("true"));
    assert_eq!(record.end(), (503, "UO", "upstream_reset_before_response_started{overflow}"));
    assert_eq!(record.text("upstream_transport_failure_reason"), "-");
    assert_eq!(record.text("upstream_cluster"), format!("outbound|80||{HOST}"));
}

#[test]
fn a_request_beyond_the_bound_is_refused_and_the_next_one_is_not() {
    let gate = Gate::start();
    let proxy = gate.proxy(Bounds { requests: Some(1), ..Bounds::default() });
    let mut first = asking(&proxy);
    gate.arrived();
    let reply = proxy.get("/");
    assert_overflow(&reply, &proxy.records.only());
    gate.answer();
    assert_eq!(first.reply().status(), 200);
    let mut next = asking(&proxy);
    gate.arrived();
    gate.answer();
    assert_eq!(next.reply().status(), 200);
    // The connections that the refused request would have had are kept.
    assert!(gate.upstream.connections() <= 2);
}

#[test]
fn requests_beyond_the_connections_wait_for_one() {
    let gate = Gate::start();
    let proxy = gate.proxy(Bounds { connections: Some(1), ..Bounds::default() });
    let mut clients = [asking(&proxy), asking(&proxy), asking(&proxy)];
    for _ in &clients {
        gate.arrived();
        gate.answer();
    }
    for client in &mut clients {
        assert_eq!(client.reply().status(), 200);
    }
    assert_eq!(gate.upstream.connections(), 1);
}

#[test]
fn so_many_requests_may_wait_for_a_connection() {
    let gate = Gate::start();
    let bounds = Bounds { connections: Some(1), pending_requests: Some(1), ..Bounds::default() };
    let proxy = gate.proxy(bounds);
    let mut served = asking(&proxy);
    gate.arrived();
    // One of two waits, whichever came first; the other is refused.
    let mut clients = [asking(&proxy), asking(&proxy)];
    let refused = proxy.records.only();
    gate.answer();
    assert_eq!(served.reply().status(), 200);
    gate.arrived();
    gate.answer();
    let replies = clients.each_mut().map(Client::reply);
    let (overflown, answered) =
        if replies[0].status() == 503 { (&replies[0], &replies[1]) } else { (&replies[1], &replies[0]) };
    assert_overflow(overflown, &refused);
    assert_eq!(answered.status(), 200);
    assert_eq!(gate.upstream.connections(), 1);
}

/// A reload that changes nothing but the weight of the gate's endpoint.
fn reweighted(gate: &Gate, weight: u32, bounds: Bounds) -> Snapshot {
    let mut config = Config::new(&[]);
    config.cluster.discovery =
        Discovery::Static(vec![Endpoint { address: gate.upstream.address.into(), weight }]);
    config.cluster.bounds = bounds;
    config.build(80)
}

#[test]
fn requests_under_way_count_over_a_reload_of_endpoints() {
    let gate = Gate::start();
    let bounds = Bounds { requests: Some(1), ..Bounds::default() };
    let proxy = gate.proxy(bounds);
    let mut first = asking(&proxy);
    gate.arrived();
    proxy.reload(reweighted(&gate, 2, bounds));
    assert_overflow(&proxy.get("/"), &proxy.records.only());
    gate.answer();
    assert_eq!(first.reply().status(), 200);
    let mut next = asking(&proxy);
    gate.arrived();
    gate.answer();
    assert_eq!(next.reply().status(), 200);
}

#[test]
fn connections_count_over_a_reload_of_endpoints_and_make_room() {
    let gate = Gate::start();
    let bounds = Bounds { connections: Some(1), pending_requests: Some(1), ..Bounds::default() };
    let proxy = gate.proxy(bounds);
    let mut served = asking(&proxy);
    gate.arrived();
    proxy.reload(reweighted(&gate, 2, bounds));
    // One of two waits, the other is refused: so there is one connection still.
    let mut clients = [asking(&proxy), asking(&proxy)];
    let refused = proxy.records.only();
    assert_eq!(refused.end(), (503, "UO", "upstream_reset_before_response_started{overflow}"));
    assert_eq!(gate.upstream.connections(), 1);
    gate.answer();
    assert_eq!(served.reply().status(), 200);
    gate.arrived();
    gate.answer();
    let mut statuses = clients.each_mut().map(|client| client.reply().status());
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 503]);
    // The connection is idle now; after another reload it makes room for a new one.
    proxy.reload(reweighted(&gate, 3, bounds));
    let mut next = asking(&proxy);
    gate.arrived();
    gate.answer();
    assert_eq!(next.reply().status(), 200);
}

#[test]
fn a_client_that_leaves_gives_its_place_back() {
    let gate = Gate::start();
    let bounds = Bounds { connections: Some(1), pending_requests: Some(1), ..Bounds::default() };
    let proxy = gate.proxy(bounds);
    let mut served = asking(&proxy);
    gate.arrived();
    let waiting = asking(&proxy);
    eventually("the place of the one that waits is taken", || {
        let mut refused = asking(&proxy);
        refused.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        std::io::Read::read(&mut refused.stream, &mut [0; 1]).is_ok()
    });
    drop(waiting);
    eventually("the place is free", || {
        let mut next = asking(&proxy);
        next.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let is_waiting = std::io::Read::read(&mut next.stream, &mut [0; 1]).is_err();
        drop(next);
        is_waiting
    });
    gate.answer();
    assert_eq!(served.reply().status(), 200);
}

/// Endpoints of one cluster share its bound: an idle connection to one makes room for one to the other.
#[test]
fn an_idle_connection_makes_room_for_another_endpoint() {
    let (first, second) = (Upstream::echo(), Upstream::echo());
    let mut config = Config::new(&[first.address, second.address]);
    config.cluster.bounds.connections = Some(1);
    config.cluster.load_balancer = LoadBalancer::RoundRobin;
    let proxy = config.start();
    for _ in 0..6 {
        assert_eq!(proxy.get("/").status(), 200);
    }
    assert_eq!((first.connections(), second.connections()), (3, 3));
}

#[test]
fn a_failed_connection_gives_its_place_back() {
    let mut config = Config::new(&[crate::support::refused()]);
    config.cluster.bounds.connections = Some(1);
    let proxy = config.start();
    for _ in 0..3 {
        assert!(proxy.get("/").text().contains("Connection refused"));
    }
}

/// Also where the server closed it, before anybody looked.
#[test]
fn a_closed_connection_gives_its_place_back() {
    let (closed, closes) = channel();
    let closed = Mutex::new(closed);
    let upstream = Upstream::start(move |mut client, _| {
        client.request();
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        drop(client);
        closed.lock().unwrap().send(()).unwrap();
    });
    let mut config = Config::new(&[upstream.address]);
    config.cluster.bounds = Bounds { connections: Some(1), ..Bounds::default() };
    let proxy = config.start();
    for _ in 0..4 {
        assert_eq!(proxy.get("/").status(), 200);
        // A request that crosses the close on its way is lost, as it may have been served: another matter.
        closes.recv().unwrap();
    }
    assert_eq!(upstream.connections(), 4);
}

/// 5xx is tried again, but for the bound.
#[test]
fn retries_are_bounded() {
    for bounds in [
        Bounds { retries: Some(1), ..Bounds::default() },
        Bounds {
            retry_budget: Some(RetryBudget { percent_thousandths: 0, min_retry_concurrency: 1 }),
            ..Bounds::default()
        },
    ] {
        let gate = Gate::start();
        let failing = Upstream::answering("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n");
        let mut config = Config::new(&[failing.address, gate.upstream.address])
            .retries(1, RetryOn { server_error: true, ..RetryOn::default() });
        config.cluster.bounds = bounds;
        config.cluster.load_balancer = LoadBalancer::RoundRobin;
        let proxy = config.start();
        // Its first try fails, its second is under way: the one retry that may be.
        let mut retrying = asking(&proxy);
        gate.arrived();
        // The next one fails too, and may not be tried again.
        let reply = proxy.get("/");
        assert_eq!(reply.status(), 500);
        assert_eq!(proxy.records.only().end(), (500, "UO", "via_upstream"));
        gate.answer();
        assert_eq!(retrying.reply().status(), 200);
    }
}

#[test]
fn the_header_goes_with_the_other_debug_headers() {
    let gate = Gate::start();
    let mut config = Config::new(&[gate.upstream.address]);
    config.cluster.bounds.requests = Some(1);
    config.snapshot.mesh.proxy_headers.envoy_debug_headers = false;
    let proxy = config.start();
    let mut first = asking(&proxy);
    gate.arrived();
    let reply = proxy.get("/");
    assert_eq!((reply.status(), reply.header("x-envoy-overloaded")), (503, None));
    gate.answer();
    assert_eq!(first.reply().status(), 200);
}

#[test]
fn a_connection_takes_no_requests_beyond_its_duration() {
    let upstream = Upstream::echo();
    let mut config = Config::new(&[upstream.address]);
    config.cluster.http_max_connection_duration = Some(Duration::from_millis(50));
    let proxy = config.start();
    assert_eq!(proxy.get("/").status(), 200);
    eventually("a new connection", || {
        assert_eq!(proxy.get("/").status(), 200);
        upstream.connections() > 1
    });
}

#[test]
fn the_clients_version_is_kept_where_that_is_asked_for() {
    let upstream = Upstream::echo();
    let mut config = Config::new(&[upstream.address]);
    config.cluster.protocol = UpstreamProtocol::Http2;
    config.cluster.use_client_protocol = true;
    let proxy = config.start();
    assert!(proxy.get("/").text().starts_with("GET / HTTP/1.1\r\n"));
}
