//! Every request and connection is counted, by whom it was for and how it ended.

use std::io::Read;
use std::net::{Shutdown, TcpListener};

use interceptor_user::snapshot::{OutboundTrafficPolicy, Snapshot};

use crate::support::{Config, HOST, Proxy, Upstream, eventually, get, refused};

fn requests(proxy: &Proxy, labels: &[&str]) -> f64 {
    proxy.metric("istio_requests_total", labels)
}

#[test]
fn requests_to_a_declared_host() {
    let upstream = Upstream::echo();
    let proxy = Config::new(&[upstream.address]).start();
    let body = "x".repeat(70);
    let post = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut client = proxy.client();
    let mut response_bytes = 0;
    for request in [get(HOST, "/"), get(HOST, "/two"), post] {
        client.send(request);
        response_bytes += client.reply().body.len();
    }
    let service = format!("destination_service=\"{HOST}\"");
    let labels = [&*service, "response_code=\"200\"", "response_flags=\"-\"", "request_protocol=\"http\""];
    eventually("they are counted", || requests(&proxy, &labels) == 3.0);
    assert_eq!(requests(&proxy, &[]), 3.0);
    let sum = |name: &str| {
        (proxy.metric(&format!("{name}_sum"), &labels), proxy.metric(&format!("{name}_count"), &labels))
    };
    assert_eq!(sum("istio_request_bytes"), (70.0, 3.0));
    assert_eq!(sum("istio_response_bytes"), (response_bytes as f64, 3.0));
    let (milliseconds, count) = sum("istio_request_duration_milliseconds");
    assert!(milliseconds > 0.0 && milliseconds < 10_000.0 && count == 3.0, "{milliseconds}");
    assert_eq!(proxy.metric("istio_request_bytes_bucket", &["le=\"50\""]), 2.0);
}

#[test]
fn failures_say_how() {
    let proxy = Config::new(&[refused()]).start();
    assert_eq!(proxy.get("/").status(), 503);
    let service = format!("destination_service_name=\"{HOST}\"");
    let labels = [&*service, "response_code=\"503\"", "response_flags=\"UF\""];
    eventually("it is counted", || requests(&proxy, &labels) == 1.0);
}

#[test]
fn hosts_that_nobody_declared() {
    let upstream = Upstream::echo();
    let proxy = Config::new(&[]).start_for(upstream.address);
    proxy.exchange(&get("else.example.com", "/"));
    let service = "destination_service=\"else.example.com\"";
    let passed = [service, "destination_service_name=\"PassthroughCluster\"", "response_code=\"200\""];
    eventually("it is counted", || requests(&proxy, &passed) == 1.0);

    let proxy = Config::new(&[]).registry_only().start();
    proxy.exchange(&get("else.example.com", "/"));
    let blocked = [service, "destination_service_name=\"BlackHoleCluster\"", "response_code=\"502\""];
    eventually("it is counted", || requests(&proxy, &blocked) == 1.0);
}

#[test]
fn what_is_no_request_has_no_destination() {
    let upstream = Upstream::echo();
    let proxy = Config::new(&[upstream.address]).start();
    let mut client = proxy.client();
    client.send(get(HOST, "/") + "GET / HTTP/1.1\r\nno colon\r\n\r\n");
    assert_eq!((client.reply().status(), client.reply().status()), (200, 400));
    let labels = ["destination_service=\"unknown\"", "response_code=\"400\"", "response_flags=\"DPE\""];
    eventually("it is counted", || requests(&proxy, &labels) == 1.0);
}

#[test]
fn grpc_has_its_own_status() {
    let upstream = Upstream::answering(
        "HTTP/1.1 200 OK\r\nTrailer: grpc-status\r\nTransfer-Encoding: chunked\r\n\r\n0\r\ngrpc-status: 5\r\n\r\n",
    );
    let proxy = Config::new(&[upstream.address]).start();
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nTE: trailers\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n"
    );
    assert_eq!(proxy.exchange(&request).status(), 200);
    let labels = ["request_protocol=\"grpc\"", "grpc_response_status=\"5\"", "response_code=\"200\""];
    eventually("it is counted", || requests(&proxy, &labels) == 1.0);

    let proxy = Config::new(&[refused()]).start();
    assert_eq!(proxy.exchange(&request).header("grpc-status"), Some("14"));
    let labels = ["request_protocol=\"grpc\"", "grpc_response_status=\"14\"", "response_flags=\"UF\""];
    eventually("it is counted", || requests(&proxy, &labels) == 1.0);
}

#[test]
fn opaque_bytes_are_counted_while_they_flow() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let snapshot = Snapshot::empty(OutboundTrafficPolicy::AllowAny);
    let proxy = Proxy::start(snapshot, server.local_addr().unwrap());
    let mut client = proxy.client();
    client.send("12345");
    let (mut upstream, _) = server.accept().unwrap();
    let mut bytes = [0; 5];
    upstream.read_exact(&mut bytes).unwrap();
    let labels = ["destination_service_name=\"PassthroughCluster\"", "request_protocol=\"tcp\""];
    let count = |what: &str| proxy.metric(&format!("istio_tcp_{what}_total"), &labels);
    eventually("it is counted", || count("connections_opened") == 1.0);
    assert_eq!((count("received_bytes"), count("connections_closed")), (5.0, 0.0));

    client.send("678");
    client.half_close();
    drop(upstream);
    eventually("its end is counted", || count("connections_closed") == 1.0);
    assert_eq!((count("received_bytes"), count("connections_opened")), (8.0, 1.0));
    assert_eq!(requests(&proxy, &[]), 0.0);
}

#[test]
fn refused_connections_are_counted() {
    let proxy = Proxy::start(Snapshot::empty(OutboundTrafficPolicy::RegistryOnly), refused());
    let client = proxy.client();
    client.stream.shutdown(Shutdown::Write).unwrap();
    let labels = ["destination_service_name=\"BlackHoleCluster\"", "response_flags=\"UH\""];
    for what in ["opened", "closed"] {
        let name = format!("istio_tcp_connections_{what}_total");
        eventually("it is counted", || proxy.metric(&name, &labels) == 1.0);
    }
}
