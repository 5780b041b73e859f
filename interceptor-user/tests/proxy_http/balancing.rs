//! Which endpoint a request goes to, and which ones are left out.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use interceptor_user::proxy::upstream::EndpointStatus;
use interceptor_user::snapshot::{
    ClusterName, Discovery, Endpoint, HashCookie, HashKey, LoadBalancer, OutlierDetection, Placement, RetryOn,
};

use crate::support::{Config, HOST, Proxy, Upstream, eventually, get, refused};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const FAILED: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
const LONG: Duration = Duration::from_secs(3600);
const RING: LoadBalancer = LoadBalancer::RingHash { minimum_size: 1024 };
const MAGLEV: LoadBalancer = LoadBalancer::Maglev { table_size: 65537 };

/// Requests in turn to `endpoints`, of which any may be ejected at its third failure.
fn in_turn(endpoints: &[SocketAddr], settings: OutlierDetection) -> Config {
    let mut config = Config::new(endpoints);
    config.cluster.load_balancer = LoadBalancer::RoundRobin;
    config.cluster.outlier_detection =
        Some(OutlierDetection { consecutive_5xx: 3, max_ejection_percent: 100, ..settings });
    config
}

fn for_long() -> OutlierDetection {
    OutlierDetection { base_ejection_time: LONG, ..OutlierDetection::default() }
}

/// What a test can wait for.
fn for_a_moment() -> OutlierDetection {
    OutlierDetection {
        base_ejection_time: Duration::from_millis(50),
        interval: Duration::from_millis(10),
        ..OutlierDetection::default()
    }
}

/// `response` from a server that closes after it: it says so, or the next request may be on its way there already.
fn last(response: &str) -> String {
    response.replacen("\r\n", "\r\nConnection: close\r\n", 1)
}

fn statuses(proxy: &Proxy, requests: usize) -> Vec<u16> {
    (0..requests).map(|_| proxy.get("/").status()).collect()
}

fn endpoints(proxy: &Proxy) -> HashMap<SocketAddr, EndpointStatus> {
    let active = proxy.active();
    let runtime = active.runtime(&ClusterName::outbound(80, "", HOST)).expect("the cluster");
    runtime.endpoints().into_iter().map(|endpoint| (endpoint.address.as_ip().unwrap(), endpoint)).collect()
}

fn is_ejected(proxy: &Proxy, address: SocketAddr) -> bool {
    endpoints(proxy)[&address].ejected_for.is_some()
}

/// Why the next request would find nobody.
fn nobody(proxy: &Proxy) -> Option<Arc<str>> {
    let cluster = ClusterName::outbound(80, "", HOST);
    proxy.active().in_use().remove(&cluster).expect("the cluster is in use").nobody
}

#[test]
fn an_endpoint_that_fails_is_ejected() {
    let (good, bad) = (Upstream::answering(OK), Upstream::answering(FAILED));
    let proxy = in_turn(&[good.address, bad.address], for_long()).start();
    assert_eq!(statuses(&proxy, 6).iter().filter(|status| **status == 500).count(), 3);
    let ejected = endpoints(&proxy)[&bad.address].ejected_for.expect("it is ejected");
    assert!(ejected <= LONG && ejected > LONG / 2);
    assert!(!is_ejected(&proxy, good.address));
    assert_eq!(statuses(&proxy, 10), [200; 10]);
}

#[test]
fn an_endpoint_that_cannot_be_reached_is_ejected() {
    let good = Upstream::answering(OK);
    let nobody = refused();
    let proxy = in_turn(&[good.address, nobody], for_long()).start();
    assert_eq!(statuses(&proxy, 6).iter().filter(|status| **status == 503).count(), 3);
    assert!(is_ejected(&proxy, nobody));
    assert_eq!(statuses(&proxy, 10), [200; 10]);
}

#[test]
fn an_endpoint_that_does_not_answer_is_ejected() {
    let good = Upstream::answering(OK);
    let silent = Upstream::start(|mut client, _| while client.request().is_some() {});
    let proxy = in_turn(&[good.address, silent.address], for_long()).timeout(Duration::from_secs(1)).start();
    assert_eq!(statuses(&proxy, 6).iter().filter(|status| **status == 504).count(), 3);
    assert_eq!(statuses(&proxy, 10), [200; 10]);
}

#[test]
fn a_success_between_failures_ejects_nobody() {
    let other = Upstream::start(|mut client, connection| {
        client.request().unwrap();
        client.send(last(if connection % 3 == 0 { OK } else { FAILED }));
    });
    let proxy = in_turn(&[other.address], for_long()).start();
    let expected: Vec<u16> = [500, 500, 200].into_iter().cycle().take(12).collect();
    assert_eq!(statuses(&proxy, 12), expected);
}

#[test]
fn everybody_ejected_is_503_uh() {
    let bad = Upstream::start(|mut client, _| {
        client.request().unwrap();
        client.send(last(FAILED));
    });
    let proxy = in_turn(&[bad.address], for_long()).start();
    assert_eq!(statuses(&proxy, 3), [500; 3]);
    let reply = proxy.get("/");
    assert_eq!((reply.status(), reply.text().as_str()), (503, "no healthy upstream"));
    let record = proxy.records.wait(4).pop().unwrap();
    assert_eq!(record.end(), (503, "UH", "no_healthy_upstream"));
    let why = "every endpoint is ejected by outlier detection";
    assert_eq!(record.text("upstream_transport_failure_reason"), why.replace(' ', "_"));
    assert_eq!(nobody(&proxy).as_deref(), Some(why));
    assert_eq!(bad.connections(), 3);
}

#[test]
fn below_the_minimum_everybody_is_used() {
    let bad = Upstream::answering(FAILED);
    let settings = OutlierDetection { min_health_percent: 50, ..for_long() };
    let proxy = in_turn(&[bad.address], settings).start();
    assert_eq!(statuses(&proxy, 10), [500; 10]);
    assert!(is_ejected(&proxy, bad.address));
    assert_eq!(nobody(&proxy), None);
}

#[test]
fn no_more_are_ejected_than_allowed() {
    let bad: Vec<_> = (0..3).map(|_| Upstream::answering(FAILED)).collect();
    let addresses: Vec<_> = bad.iter().map(|upstream| upstream.address).collect();
    let mut config = in_turn(&addresses, for_long());
    config.cluster.outlier_detection.as_mut().unwrap().max_ejection_percent = 10;
    let proxy = config.start();
    assert_eq!(statuses(&proxy, 30), [500; 30]);
    assert_eq!(addresses.iter().filter(|address| is_ejected(&proxy, **address)).count(), 1);
}

#[test]
fn an_ejected_endpoint_comes_back() {
    let recovering = Upstream::start(|mut client, connection| {
        client.request().unwrap();
        client.send(last(if connection <= 3 { FAILED } else { OK }));
    });
    let proxy = in_turn(&[recovering.address], for_a_moment()).start();
    assert_eq!(statuses(&proxy, 3), [500; 3]);
    eventually("the endpoint is used again", || proxy.get("/").status() == 200);
    assert!(!is_ejected(&proxy, recovering.address));
}

#[test]
fn an_ejection_outlives_a_reload() {
    let (good, bad) = (Upstream::answering(OK), Upstream::answering(FAILED));
    let config = || in_turn(&[good.address, bad.address], for_long());
    let proxy = config().start();
    statuses(&proxy, 6);
    assert!(is_ejected(&proxy, bad.address));
    proxy.reload(config().timeout(Duration::from_secs(9)).build(80));
    assert!(is_ejected(&proxy, bad.address));
    assert_eq!(statuses(&proxy, 10), [200; 10]);
    // Another cluster is another story.
    let mut changed = config();
    changed.cluster.connect_timeout = Duration::from_secs(9);
    proxy.reload(changed.build(80));
    assert!(!is_ejected(&proxy, bad.address));
}

#[test]
fn endpoints_that_stay_are_what_they_were() {
    let (good, bad, other) =
        (Upstream::answering(OK), Upstream::answering(FAILED), Upstream::answering(FAILED));
    let proxy = in_turn(&[good.address, bad.address], for_long()).start();
    statuses(&proxy, 6);
    assert!(is_ejected(&proxy, bad.address));
    // One more: it starts anew, and the ejected one stays ejected.
    proxy.reload(in_turn(&[other.address, good.address, bad.address], for_long()).build(80));
    assert!(is_ejected(&proxy, bad.address) && !is_ejected(&proxy, other.address));
    assert_eq!(statuses(&proxy, 20).iter().filter(|status| **status == 500).count(), 3);
    assert_eq!(endpoints(&proxy).values().filter(|endpoint| endpoint.ejected_for.is_some()).count(), 2);
}

#[test]
fn failures_to_connect_count_apart() {
    let (good, nobody) = (Upstream::answering(OK), refused());
    let settings = OutlierDetection { consecutive_local_origin_failures: Some(2), ..for_long() };
    let proxy = in_turn(&[good.address, nobody], settings).start();
    assert_eq!(statuses(&proxy, 10).iter().filter(|status| **status == 503).count(), 2);
}

#[test]
fn requests_under_way_are_counted() {
    let (seen, requests) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (seen, wait) = (std::sync::Mutex::new(seen), std::sync::Mutex::new(wait));
    let slow = Upstream::start(move |mut client, _| {
        client.request().unwrap();
        seen.lock().unwrap().send(()).unwrap();
        wait.lock().unwrap().recv().unwrap();
        client.send(OK);
    });
    let proxy = Config::new(&[slow.address]).start();
    let mut client = proxy.client();
    client.send(get(HOST, "/"));
    requests.recv().unwrap();
    assert_eq!(endpoints(&proxy)[&slow.address].active_requests, 1);
    go.send(()).unwrap();
    assert_eq!(client.reply().status(), 200);
    eventually("the request is over", || endpoints(&proxy)[&slow.address].active_requests == 0);
}

#[test]
fn those_farther_away_take_over() {
    let (near, far) = (Upstream::answering(FAILED), Upstream::answering(OK));
    let mut config = in_turn(&[near.address, far.address], for_long());
    config.cluster.placements =
        (0..2).map(|priority| Placement { priority, ..Placement::default() }).collect();
    let proxy = config.start();
    assert_eq!(statuses(&proxy, 3), [500; 3]);
    assert_eq!(far.connections(), 0);
    assert_eq!(statuses(&proxy, 10), [200; 10]);
}

/// Some upstreams, and a cluster of them that hashes.
fn hashing(upstreams: &[Upstream], load_balancer: LoadBalancer, key: HashKey) -> Config {
    let endpoints: Vec<_> = upstreams.iter().map(|upstream| upstream.address).collect();
    let mut config = Config::new(&endpoints);
    config.cluster.load_balancer = load_balancer;
    config.cluster.hash_key = Some(key);
    config
}

fn upstreams(count: usize) -> Vec<Upstream> {
    (0..count).map(|_| Upstream::echo()).collect()
}

fn by_user() -> HashKey {
    HashKey::Header(HeaderName::from_static("x-user"))
}

/// Where each request went.
fn destinations(proxy: &Proxy, requests: &[String]) -> Vec<String> {
    requests.iter().for_each(|request| assert_eq!(proxy.exchange(request).status(), 200));
    proxy.records.wait(requests.len()).iter().map(|record| record.text("upstream_host").to_owned()).collect()
}

fn request(path: &str, header: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{header}\r\n\r\n")
}

#[test]
fn a_hash_goes_to_one_endpoint_of_every_proxy() {
    let upstreams = upstreams(3);
    let by_header: Vec<_> = (0..40).map(|user| request("/", &format!("X-User: {user}"))).collect();
    let by_query: Vec<_> = (0..40).map(|user| request(&format!("/?user={user}"), "X: y")).collect();
    let query = HashKey::QueryParameter("user".into());
    for (key, requests) in [(by_user(), by_header), (query, by_query)] {
        for load_balancer in [RING, MAGLEV] {
            let first = destinations(&hashing(&upstreams, load_balancer, key.clone()).start(), &requests);
            let second = destinations(&hashing(&upstreams, load_balancer, key.clone()).start(), &requests);
            assert_eq!(first, second, "{load_balancer:?} {key:?}");
            assert_eq!(first.iter().collect::<HashSet<_>>().len(), 3, "{load_balancer:?} {key:?}");
        }
    }
}

#[test]
fn a_source_goes_to_one_endpoint() {
    let upstreams = upstreams(3);
    let requests: Vec<_> = (0..20).map(|_| request("/", "X: y")).collect();
    let destinations = destinations(&hashing(&upstreams, RING, HashKey::SourceIp).start(), &requests);
    assert_eq!(destinations.iter().collect::<HashSet<_>>().len(), 1);
}

#[test]
fn what_cannot_be_hashed_goes_anywhere() {
    let upstreams = upstreams(2);
    let requests: Vec<_> = (0..40).map(|_| request("/", "X: y")).collect();
    let destinations = destinations(&hashing(&upstreams, MAGLEV, by_user()).start(), &requests);
    assert_eq!(destinations.iter().collect::<HashSet<_>>().len(), 2);
}

#[test]
fn a_missing_cookie_is_made_and_comes_back() {
    let upstreams = upstreams(4);
    let cookie = HashCookie { name: "user".into(), made_with: Some("; Max-Age=60; Path=/; HttpOnly".into()) };
    let proxy = hashing(&upstreams, RING, HashKey::Cookie(cookie)).start();
    let first = proxy.get("/");
    let set = first.header("set-cookie").expect("a cookie");
    let (cookie, rest) = set.split_once(';').unwrap();
    assert_eq!(rest, " Max-Age=60; Path=/; HttpOnly");
    for count in 2..=10 {
        let reply = proxy.exchange(&request("/", &format!("Cookie: a=b; {cookie}")));
        assert_eq!((reply.status(), reply.header("set-cookie")), (200, None));
        let records = proxy.records.wait(count);
        assert_eq!(records[count - 1].text("upstream_host"), records[0].text("upstream_host"));
    }
}

#[test]
fn a_cookie_without_ttl_is_not_made() {
    let upstreams = upstreams(2);
    let cookie = HashCookie { name: "user".into(), made_with: None };
    let proxy = hashing(&upstreams, RING, HashKey::Cookie(cookie)).start();
    assert_eq!(proxy.get("/").header("set-cookie"), None);
}

#[test]
fn another_try_goes_to_another_endpoint() {
    let good = Upstream::answering(OK);
    let retry_on = RetryOn { connect_failure: true, ..RetryOn::default() };
    for load_balancer in [RING, MAGLEV] {
        let config = || {
            let mut config = Config::new(&[refused(), refused(), good.address]);
            config.cluster.load_balancer = load_balancer;
            config.cluster.hash_key = Some(by_user());
            config.retries(2, retry_on.clone())
        };
        let proxy = config().start();
        for user in 0..20 {
            let reply = proxy.exchange(&request("/", &format!("X-User: {user}")));
            assert_eq!(reply.status(), 200, "{load_balancer:?} {user}");
        }
    }
}

#[test]
fn weights_are_followed() {
    let upstreams = upstreams(2);
    let requests: Vec<_> = (0..60).map(|_| request("/", "X: y")).collect();
    for load_balancer in [LoadBalancer::RoundRobin, LoadBalancer::LeastRequest] {
        let mut config = Config::new(&[]);
        let weighted =
            |(upstream, weight): (&Upstream, u32)| Endpoint { address: upstream.address.into(), weight };
        config.cluster.discovery = Discovery::Static(upstreams.iter().zip([1, 2]).map(weighted).collect());
        config.cluster.load_balancer = load_balancer;
        let destinations = destinations(&config.start(), &requests);
        let first = destinations.iter().filter(|host| **host == upstreams[0].address.to_string()).count();
        // Twenty; chance may have it otherwise, but hardly like that.
        assert!((5..=40).contains(&first), "{load_balancer:?}: {first} of 60");
    }
}
