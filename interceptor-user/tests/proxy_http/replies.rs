//! What a client gets in each situation, and what the record says about it.

use std::time::Duration;

use interceptor_user::snapshot::ClusterName;
use interceptor_user::snapshot::ClusterRef;
use interceptor_user::snapshot::WeightedCluster;

use crate::stopwatch::Stopwatch;
use crate::support::{Config, HOST, Upstream, get, refused};

#[test]
fn a_declared_host_is_forwarded_with_its_headers() {
    let upstream = Upstream::echo();
    let proxy = Config::new(&[upstream.address]).start();
    let reply = proxy.get("/path?query");
    assert_eq!(reply.status(), 200);
    assert_eq!(reply.header("server"), Some("origin"));
    assert!(reply.header("x-envoy-upstream-service-time").unwrap().parse::<u64>().is_ok());
    let seen = reply.text();
    assert!(seen.starts_with("GET /path?query HTTP/1.1\r\n"), "{seen}");
    for line in [
        format!("host: {HOST}"),
        "user-agent: test".to_owned(),
        "x-envoy-attempt-count: 1".to_owned(),
        format!("x-envoy-decorator-operation: {HOST}:80/*"),
        "x-forwarded-proto: http".to_owned(),
    ] {
        assert!(seen.lines().any(|seen| seen == line), "{line} in {seen}");
    }
    assert_eq!(crate::support::header(&seen, "x-request-id").unwrap().len(), 36);
    assert!(!seen.contains("x-envoy-peer-metadata"), "{seen}");

    let record = proxy.records.only();
    assert_eq!(record.number("response_code"), 200);
    assert_eq!(record.text("response_flags"), "-");
    assert_eq!(record.text("response_code_details"), "via_upstream");
    assert_eq!(record.text("route_name"), "default");
    assert_eq!(record.text("upstream_cluster"), format!("outbound|80||{HOST}"));
    assert_eq!(record.text("upstream_host"), upstream.address.to_string());
    assert_eq!(record.number("bytes_sent"), reply.body.len() as u64);
    assert_eq!((record.text("method"), record.text("path")), ("GET", "/path?query"));
    assert_eq!((record.text("protocol"), record.text("authority")), ("HTTP/1.1", HOST));
    assert_eq!(Some(record.text("request_id")), crate::support::header(&seen, "x-request-id"));
}

#[test]
fn an_unknown_host_passes_to_its_original_destination() {
    let upstream = Upstream::echo();
    let proxy = Config::new(&[refused()]).start_for(upstream.address);
    let reply = proxy.exchange(&get("unknown.example.com", "/"));
    assert_eq!(reply.status(), 200);
    let seen = reply.text();
    assert!(seen.contains("x-envoy-attempt-count: 1\r\n"), "{seen}");
    assert!(!seen.contains("x-envoy-decorator-operation"), "{seen}");
    let record = proxy.records.only();
    assert_eq!(record.text("upstream_cluster"), "PassthroughCluster");
    assert_eq!(record.text("route_name"), "allow_any");
    assert_eq!(record.text("upstream_host"), upstream.address.to_string());
}

#[test]
fn an_unknown_host_is_blocked_under_registry_only() {
    let upstream = Upstream::echo();
    let proxy = Config::new(&[upstream.address]).registry_only().start();
    let reply = proxy.exchange(&get("unknown.example.com", "/"));
    assert!(reply.head.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{reply:?}");
    assert_eq!(reply.header("content-length"), Some("0"));
    assert_eq!(reply.header("server"), Some("interceptor"));
    assert!(reply.header("date").is_some());
    assert_eq!(reply.header("content-type"), None);
    let record = proxy.records.only();
    assert_eq!(record.number("response_code"), 502);
    assert_eq!(record.text("response_flags"), "-");
    assert_eq!(record.text("response_code_details"), "direct_response");
    assert_eq!(record.text("route_name"), "block_all");
    assert_eq!(record.text("upstream_cluster"), "-");
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_user_and_password_are_not_logged() {
    let upstream = Upstream::echo();
    let proxy = Config::new(&[upstream.address]).start();
    let target = format!("http://user:secret@{HOST}/");
    assert_eq!(proxy.get(&target).status(), 200);
    assert_eq!(proxy.records.only().text("authority"), HOST);
}

#[test]
fn a_cluster_that_does_not_exist_is_503_nc() {
    let mut config = Config::new(&[]);
    let name = ClusterName::outbound(80, "v9", HOST);
    let cluster = ClusterRef { name, cluster: None };
    config.forward.clusters.push(WeightedCluster::new(cluster, 1));
    let proxy = config.start();
    let reply = proxy.get("/");
    assert_eq!((reply.status(), reply.body.len()), (503, 0));
    let record = proxy.records.only();
    assert_eq!(record.text("response_flags"), "NC");
    assert_eq!(record.text("response_code_details"), "cluster_not_found");
    assert_eq!(record.text("upstream_cluster"), "-");
}

#[test]
fn no_endpoint_is_503_uh() {
    let proxy = Config::new(&[]).start();
    let reply = proxy.get("/");
    assert_eq!((reply.status(), reply.text().as_str()), (503, "no healthy upstream"));
    assert_eq!(reply.header("content-type"), Some("text/plain"));
    let record = proxy.records.only();
    assert_eq!(record.text("response_flags"), "UH");
    assert_eq!(record.text("response_code_details"), "no_healthy_upstream");
}

#[test]
fn a_refused_connection_is_503_uf() {
    let address = refused();
    let proxy = Config::new(&[address]).start();
    let reply = proxy.get("/");
    assert_eq!(reply.status(), 503);
    assert_eq!(
        reply.text(),
        "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, \
         transport failure reason: delayed connect error: Connection refused"
    );
    let record = proxy.records.only();
    assert_eq!(record.text("response_flags"), "UF");
    assert_eq!(
        record.text("response_code_details"),
        "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
    );
    assert_eq!(record.text("upstream_transport_failure_reason"), "delayed_connect_error:_Connection_refused");
}

#[test]
fn a_timeout_is_504_after_that_time() {
    let upstream = Upstream::start(|mut client, _| {
        client.request();
        client.read_to_end();
    });
    let proxy = Config::new(&[upstream.address]).timeout(Duration::from_millis(200)).start();
    let (started, watch) = (std::time::Instant::now(), Stopwatch::start());
    let reply = proxy.get("/");
    assert!(started.elapsed() >= Duration::from_millis(200), "{started:?}");
    assert!(watch.elapsed() < Duration::from_millis(800), "{watch:?}");
    assert_eq!((reply.status(), reply.text().as_str()), (504, "upstream request timeout"));
    assert_eq!(reply.header("content-type"), Some("text/plain"));
    assert_eq!(reply.header("content-length"), Some("24"));
    let record = proxy.records.only();
    assert_eq!(record.text("response_flags"), "UT");
    assert_eq!(record.text("response_code_details"), "upstream_response_timeout");
    assert_eq!(record.text("upstream_host"), upstream.address.to_string());
}
