//! Injected faults: who waits how long, who is answered here, and what the record says.

use std::time::{Duration, Instant};

use interceptor_user::snapshot::{AbortStatus, ClusterName, ClusterRef, Fault, Share, WeightedCluster};

use crate::support::{Config, HOST, Upstream, refused};

const ALL: Share = Share(1_000_000);
const NONE: Share = Share(0);

fn aborting(status: AbortStatus, share: Share) -> Fault {
    Fault { delay: None, abort: Some((status, share)) }
}

fn delaying(delay: Duration, share: Share) -> Fault {
    Fault { delay: Some((delay, share)), abort: None }
}

fn with(fault: Fault, upstream: &Upstream) -> Config {
    let mut config = Config::new(&[upstream.address]);
    config.forward.fault = Some(fault);
    config
}

fn grpc(path: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/grpc+proto\r\ncontent-length: 0\r\n\r\n"
    )
}

#[test]
fn an_abort_answers_instead_of_the_upstream() {
    let upstream = Upstream::echo();
    let proxy = with(aborting(AbortStatus::Http(418), ALL), &upstream).start();
    let reply = proxy.get("/");
    assert_eq!((reply.status(), reply.text().as_str()), (418, "fault filter abort"));
    assert_eq!(reply.header("content-type"), Some("text/plain"));
    assert_eq!(reply.header("content-length"), Some("18"));
    assert_eq!(reply.header("server"), Some("interceptor"));
    let record = proxy.records.only();
    assert_eq!(record.end(), (418, "FI", "fault_filter_abort"));
    assert_eq!(record.text("upstream_cluster"), format!("outbound|80||{HOST}"));
    assert_eq!(record.text("upstream_host"), "-");
    assert_eq!(record.text("route_name"), "default");
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn an_abort_that_takes_nobody_changes_nothing() {
    let upstream = Upstream::echo();
    let proxy = with(aborting(AbortStatus::Http(500), NONE), &upstream).start();
    assert_eq!(proxy.get("/").status(), 200);
    assert_eq!(proxy.records.only().end(), (200, "-", "via_upstream"));
}

#[test]
fn a_share_of_the_requests_is_aborted() {
    let upstream = Upstream::echo();
    let proxy = with(aborting(AbortStatus::Http(503), Share(500_000)), &upstream).start();
    let statuses: Vec<u16> = (0..64).map(|_| proxy.get("/").status()).collect();
    assert!(statuses.contains(&200) && statuses.contains(&503), "{statuses:?}");
}

#[test]
fn a_client_that_speaks_grpc_is_told_in_its_own_words() {
    let upstream = Upstream::echo();
    for (status, grpc_status) in [
        (AbortStatus::Grpc(5), "5"),
        (AbortStatus::Http(503), "14"),
        (AbortStatus::Http(404), "12"),
        (AbortStatus::Http(418), "2"),
    ] {
        let proxy = with(aborting(status, ALL), &upstream).start();
        let reply = proxy.exchange(&grpc("/Service/Method"));
        assert_eq!((reply.status(), reply.body.len()), (200, 0), "{status:?}");
        assert_eq!(reply.header("content-type"), Some("application/grpc"));
        assert_eq!(reply.header("grpc-status"), Some(grpc_status), "{status:?}");
        assert_eq!(reply.header("grpc-message"), Some("fault filter abort"));
        assert_eq!(proxy.records.only().end(), (200, "FI", "fault_filter_abort"));
    }
}

#[test]
fn a_grpc_status_is_200_for_others() {
    let upstream = Upstream::echo();
    let proxy = with(aborting(AbortStatus::Grpc(14), ALL), &upstream).start();
    let reply = proxy.get("/");
    assert_eq!((reply.status(), reply.text().as_str()), (200, "fault filter abort"));
    assert_eq!(reply.header("grpc-status"), None);
}

#[test]
fn every_reply_of_our_own_to_grpc_is_grpcs() {
    let proxy = Config::new(&[]).start();
    let reply = proxy.exchange(&grpc("/"));
    assert_eq!((reply.status(), reply.header("grpc-status")), (200, Some("14")));
    assert_eq!(reply.header("grpc-message"), Some("no healthy upstream"));
    assert_eq!(proxy.records.only().end(), (200, "UH", "no_healthy_upstream"));
}

#[test]
fn a_delay_holds_the_request_up_and_is_recorded() {
    let upstream = Upstream::echo();
    let proxy = with(delaying(Duration::from_millis(150), ALL), &upstream).start();
    let started = Instant::now();
    let reply = proxy.get("/");
    assert!(started.elapsed() >= Duration::from_millis(150));
    assert_eq!(reply.status(), 200);
    let service_time: u64 = reply.header("x-envoy-upstream-service-time").unwrap().parse().unwrap();
    let record = proxy.records.only();
    assert_eq!(record.end(), (200, "DI", "via_upstream"));
    // The upstream's own time is its own.
    assert!(record.number("duration") >= 150 + service_time, "{service_time} {record:?}");
    let proxy = with(delaying(Duration::from_secs(60), NONE), &upstream).start();
    assert_eq!(proxy.get("/").status(), 200);
    assert_eq!(proxy.records.only().end(), (200, "-", "via_upstream"));
}

#[test]
fn a_delay_comes_before_an_abort() {
    let upstream = Upstream::echo();
    let fault =
        Fault { delay: Some((Duration::from_millis(100), ALL)), abort: Some((AbortStatus::Http(503), ALL)) };
    let proxy = with(fault, &upstream).start();
    let started = Instant::now();
    assert_eq!(proxy.get("/").status(), 503);
    assert!(started.elapsed() >= Duration::from_millis(100));
    assert_eq!(proxy.records.only().end(), (503, "DI,FI", "fault_filter_abort"));
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn the_routes_timeout_begins_after_the_delay() {
    let upstream = Upstream::echo();
    let (delay, timeout) = (delaying(Duration::from_millis(1200), ALL), Duration::from_secs(1));
    let proxy = with(delay.clone(), &upstream).timeout(timeout).start();
    assert_eq!(proxy.get("/").status(), 200);

    let silent = Upstream::start(|mut client, _| {
        client.request();
        client.read_to_end();
    });
    let proxy = with(delay, &silent).timeout(timeout).start();
    let started = Instant::now();
    assert_eq!(proxy.get("/").status(), 504);
    assert!(started.elapsed() >= Duration::from_millis(2200));
    assert_eq!(proxy.records.only().end(), (504, "UT,DI", "upstream_response_timeout"));
}

#[test]
fn a_client_that_leaves_while_it_waits_is_recorded() {
    let upstream = Upstream::echo();
    let proxy = with(delaying(Duration::from_secs(60), ALL), &upstream).start();
    let mut client = proxy.client();
    client.send(crate::support::get(HOST, "/"));
    drop(client);
    assert_eq!(proxy.records.only().end(), (0, "DI,DC", "downstream_remote_disconnect"));
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_fault_needs_no_cluster() {
    let mut config = Config::new(&[refused()]);
    config.forward.fault = Some(aborting(AbortStatus::Http(429), ALL));
    let name = ClusterName::outbound(80, "gone", HOST);
    config.forward.clusters.push(WeightedCluster::new(ClusterRef { name, cluster: None }, 1));
    let proxy = config.start();
    assert_eq!(proxy.get("/").status(), 429);
    let record = proxy.records.only();
    assert_eq!(record.end(), (429, "FI", "fault_filter_abort"));
    assert_eq!(record.text("upstream_cluster"), "-");
}

#[test]
fn a_connection_goes_on_after_an_abort() {
    let upstream = Upstream::echo();
    let proxy = with(aborting(AbortStatus::Http(503), ALL), &upstream).start();
    let mut client = proxy.client();
    for _ in 0..3 {
        client.send(crate::support::get(HOST, "/"));
        assert_eq!(client.reply().status(), 503);
    }
    client.send(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 3\r\n\r\nabc"));
    assert_eq!(client.reply().status(), 503);
    assert_eq!(proxy.records.wait(4).len(), 4);
}

#[test]
fn the_clients_own_deadline_bounds_grpc() {
    let silent = Upstream::start(|mut client, _| {
        client.request();
        client.read_to_end();
    });
    let call = |content_type: &str| {
        format!(
            "POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: {content_type}\r\ngrpc-timeout: 100m\r\n\
             content-length: 0\r\n\r\n"
        )
    };
    for timeout in [None, Some(Duration::from_secs(60))] {
        let mut config = Config::new(&[silent.address]);
        config.forward.timeout = timeout;
        let proxy = config.start();
        let reply = proxy.exchange(&call("application/grpc"));
        assert_eq!((reply.status(), reply.header("grpc-status")), (200, Some("14")), "{timeout:?}");
        assert_eq!(proxy.records.only().end(), (200, "UT", "upstream_response_timeout"));
    }
    // Only up to the route's own, and for nobody else.
    let own = Duration::from_millis(300);
    for (request, at_least) in [
        (call("application/grpc").replace("100m", "60S"), own),
        (call("application/json"), own),
        (call("application/grpc").replace("100m", "nonsense"), own),
    ] {
        let proxy = Config::new(&[silent.address]).timeout(own).start();
        let started = Instant::now();
        proxy.exchange(&request);
        assert!(started.elapsed() >= at_least, "{request}");
        assert_eq!(proxy.records.only().text("response_flags"), "UT");
    }
}
