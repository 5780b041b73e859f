//! Whoever follows is told of each connection and request as it ends.

use std::io::Read;
use std::net::TcpListener;
use std::sync::Arc;

use interceptor_user::proxy::{Proxy, ProxyOptions};
use interceptor_user::snapshot::{AccessLogEncoding, OutboundTrafficPolicy, Snapshot};
use interceptor_user::telemetry::{AccessLog, Flow, FlowEvent, Follower};
use interceptor_user::workload::SourceWorkload;
use serde_json::{Value, json};

use crate::support::{Client, Config, HOST, PATIENCE, Upstream, get, resolver, workload};

/// The next event, or nothing when there are no more.
fn next(follower: &mut Follower) -> Option<FlowEvent> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, follower.next()).await.unwrap() })
}

fn ended(follower: &mut Follower) -> Arc<Flow> {
    match next(follower) {
        Some(FlowEvent::Ended(flow)) => flow,
        other => panic!("{other:?}"),
    }
}

#[test]
fn followers_are_told_what_the_access_log_is_told_and_whose_it_is() {
    let upstream = Upstream::echo();
    let (resolver, _hosts) = resolver();
    // Nothing is logged: followers alone have records made.
    let access_log = AccessLog::open(Default::default(), Arc::new(AccessLogEncoding::Text.into())).unwrap();
    let proxy = Proxy::start(ProxyOptions { resolver, access_log, threads: 2 }).unwrap();
    let configured = proxy.configure(Config::new(&[upstream.address]).build(80));
    let (address, mut workload) = workload(&configured, "192.0.2.1:80".parse().unwrap());
    let source = SourceWorkload { namespace: "shop".into(), pod: "cart-0".into(), ..Default::default() };
    workload.source = source.into();
    proxy.add(workload).unwrap();

    let mut client = Client::connect(address);
    client.send(get(HOST, "/before"));
    assert_eq!(client.reply().status(), 200);
    let (mut one, mut two) = (proxy.flows().follow(), proxy.flows().follow());
    client.send(get(HOST, "/orders/17?token=secret"));
    let sent = client.reply().body.len();

    let flow = ended(&mut one);
    assert_eq!(flow, ended(&mut two));
    let mut told = serde_json::to_value(&*flow).unwrap();
    let time = told["time"].take();
    assert!(time.as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z')), "{time}");
    assert!(told["durationMs"].take().as_f64().is_some_and(|duration| duration > 0.0));
    assert!(told["requestId"].take().as_str().is_some_and(|id| id.len() == 36));
    let expected = json!({
        "time": null, "durationMs": null, "requestId": null,
        "kind": "request", "namespace": "shop", "pod": "cart-0",
        "source": client.stream.local_addr().unwrap().to_string(), "originalDestination": "192.0.2.1:80",
        "method": "GET", "authority": HOST, "path": "/orders/17",
        "cluster": format!("outbound|80||{HOST}"), "route": "default", "upstream": upstream.address.to_string(),
        "responseCode": 200, "responseFlags": "-", "details": "via_upstream",
        "bytesReceived": 0, "bytesSent": sent,
    });
    assert_eq!(told, expected);

    drop((one, proxy));
    assert_eq!(next(&mut two), None);
}

#[test]
fn connections_of_opaque_bytes_are_told() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let proxy = crate::support::Proxy::start(Snapshot::empty(OutboundTrafficPolicy::AllowAny), address);
    let mut follower = proxy.follow();
    let mut client = proxy.client();
    client.send("12345");
    client.half_close();
    let (mut upstream, _) = server.accept().unwrap();
    upstream.read_to_end(&mut Vec::new()).unwrap();
    drop(upstream);
    assert_eq!(client.read_to_end(), b"");
    let told = serde_json::to_value(&*ended(&mut follower)).unwrap();
    assert_eq!((&told["kind"], &told["cluster"]), (&json!("connection"), &json!("PassthroughCluster")));
    assert_eq!(
        (&told["bytesReceived"], &told["originalDestination"]),
        (&json!(5), &json!(address.to_string()))
    );
    assert_eq!((&told["responseCode"], &told["pod"]), (&Value::Null, &Value::Null));
}

#[test]
fn a_slow_follower_is_told_how_much_it_has_missed() {
    let upstream = Upstream::echo();
    let proxy = Config::new(&[upstream.address]).start();
    let (mut slow, mut quick) = (proxy.follow(), proxy.follow());
    let mut client = proxy.client();
    let requests = 1500;
    for number in 0..requests {
        client.send(get(HOST, &format!("/{number}")));
        assert_eq!(client.reply().status(), 200);
        assert_eq!(ended(&mut quick).path.as_deref(), Some(&*format!("/{number}")));
    }
    let Some(FlowEvent::Lost(lost)) = next(&mut slow) else { panic!("nothing was lost") };
    assert!(lost > 0 && lost < requests, "{lost}");
    for number in lost..requests {
        assert_eq!(ended(&mut slow).path.as_deref(), Some(&*format!("/{number}")));
    }
}
