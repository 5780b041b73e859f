//! Who a client is whose TLS ends here: by its certificate, not by the address that its connection comes from.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderValue;
use interceptor_user::resource::mesh_config;
use interceptor_user::snapshot::{
    AllowFrom, Changes, Discovery, HostMap, LogFormat, Snapshot, TlsTermination, TlsTerminationMode,
};
use interceptor_user::telemetry::FlowEvent;
use rcgen::{DnType, SanType, SerialNumber};

use crate::mesh_identity::identity;
use crate::support::{Config, HOST, Proxy, Upstream, eventually, get};
use crate::termination::{
    CART, ORIGINAL_DST, Speaks, connect, istio_mutual, lax, mutual, opaque, refusal, simple, snapshot, start,
    terminating,
};
use crate::tls::Authority;

const FORMAT: &str = r#"accessLogEncoding: JSON
accessLogFormat: '{"uri":"%DOWNSTREAM_PEER_URI_SAN%","dns":"%DOWNSTREAM_PEER_DNS_SAN%","subject":"%DOWNSTREAM_PEER_SUBJECT%",
  "issuer":"%DOWNSTREAM_PEER_ISSUER%","serial":"%DOWNSTREAM_PEER_SERIAL%","hash":"%DOWNSTREAM_PEER_FINGERPRINT_256%",
  "version":"%DOWNSTREAM_TLS_VERSION%","why":"%DOWNSTREAM_TRANSPORT_FAILURE_REASON%"}'
"#;

#[test]
fn the_log_tells_what_a_certificate_says_that_metrics_and_flows_do_not_believe() {
    let (mesh, findings) = mesh_config::parse(&"mesh.yaml".into(), FORMAT);
    assert_eq!(findings, []);
    let format = LogFormat::clone(&mesh.unwrap().access_log_format.unwrap());
    let (authority, clients, upstream) = (Authority::new(), Authority::new(), Upstream::echo());
    let shown = identity(&clients, CART, |params| {
        params.serial_number = Some(SerialNumber::from(0x1234_u64));
        params.subject_alt_names.push(SanType::DnsName("cart.shop.svc".try_into().unwrap()));
        params.distinguished_name.push(DnType::OrganizationName, "shop, inc");
        params.distinguished_name.push(DnType::CommonName, "cart");
    });
    let proxy = Proxy::logging(format, snapshot(&upstream, mutual(&authority, &clients)), ORIGINAL_DST);
    let mut follower = proxy.follow();
    let mut client = connect(&proxy, &authority, &Speaks { shows: Some(&shown), ..Speaks::default() });
    client.send(get(HOST, "/"));
    assert_eq!(client.reply().status(), 200);
    drop(client);
    refusal(&proxy, &authority, &Speaks::default());

    let records = proxy.records.wait(2);
    for (field, expected) in
        [("uri", CART), ("dns", "cart.shop.svc"), ("serial", "1234"), ("version", "TLSv1.3"), ("why", "-")]
    {
        assert_eq!(records[0].text(field), expected, "{field}");
    }
    let subject = records[0].text("subject");
    assert!(subject.contains("CN=cart") && subject.contains("O=shop\\, inc"), "{subject}");
    assert!(records[0].text("issuer").contains("CN="), "{:?}", records[0]);
    assert_eq!(records[0].text("hash").len(), 64);
    assert_eq!(records[1].text("uri"), "-");
    assert!(records[1].text("why").starts_with("TLS_error:|peer_sent_no_certificates"), "{:?}", records[1]);

    // Whoever `clients` is may have signed any name.
    assert_eq!(proxy.metric("istio_requests_total", &["source_principal=\"unknown\""]), 1.0);
    assert_eq!(proxy.metric("istio_requests_total", &["source_workload_namespace=\"shop\""]), 0.0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Some(FlowEvent::Ended(flow)) = runtime.block_on(follower.next()) else { panic!("a flow") };
    assert_eq!(flow.principal.as_deref(), None);
    assert_ne!(&*flow.namespace, "shop");
}

#[test]
fn metrics_and_flows_name_the_client_by_its_identity_of_the_mesh() {
    let (authority, upstream) = (Authority::new(), Upstream::echo());
    let proxy = start(snapshot(&upstream, istio_mutual(&authority)));
    let mut follower = proxy.follow();
    let shown = identity(&authority, CART, |_| {});
    let mut client = lax(&proxy, &Speaks { shows: Some(&shown), ..Speaks::default() });
    client.send(get(HOST, "/"));
    assert_eq!(client.reply().status(), 200);
    let principal = format!("source_principal=\"{CART}\"");
    let labels = [&*principal, "source_workload_namespace=\"shop\""];
    eventually("the request is counted", || proxy.metric("istio_requests_total", &labels) == 1.0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Some(FlowEvent::Ended(flow)) = runtime.block_on(follower.next()) else { panic!("a flow") };
    assert_eq!((flow.principal.as_deref(), &*flow.namespace), (Some(CART), "shop"));
}

#[test]
fn opaque_bytes_are_counted_for_the_client_that_its_certificate_names() {
    let authority = Authority::new();
    let upstream = Upstream::start(|mut client, _| {
        client.read_to_end();
    });
    let proxy = start(opaque(Config::new(&[upstream.address]), istio_mutual(&authority)));
    let shown = identity(&authority, CART, |_| {});
    let mut client = lax(&proxy, &Speaks { shows: Some(&shown), ..Speaks::default() });
    client.send("hello");
    client.stream.conn.send_close_notify();
    client.stream.flush().unwrap();
    client.read_to_end();
    drop(client);
    let principal = format!("source_principal=\"{CART}\"");
    let labels = [&*principal, "source_workload_namespace=\"shop\""];
    eventually("the connection is counted", || {
        proxy.metric("istio_tcp_connections_closed_total", &labels) == 1.0
    });
    assert_eq!(proxy.metric("istio_tcp_received_bytes_total", &labels), 5.0);
}

const OTHER: &str = "spiffe://cluster.local/ns/shop/sa/other";
const NEIGHBOUR: &str = "spiffe://cluster.local/ns/neighbour/sa/cart";

/// To a cluster that these may use.
fn guarded(upstream: &Upstream, rule: &str) -> Config {
    let mut config = Config::new(&[upstream.address]);
    config.cluster.allow_from = Some(AllowFrom::parse(rule).unwrap());
    config
}

#[test]
fn requests_are_for_those_whom_the_rule_of_the_host_names() {
    let (authority, upstream) = (Authority::new(), Upstream::echo());
    for (rule, uri, allowed) in [
        ("ns/shop", CART, true),
        ("ns/shop", OTHER, true),
        ("ns/shop", NEIGHBOUR, false),
        ("ns/else, ns/shop/sa/cart", CART, true),
        ("ns/else, ns/shop/sa/cart", OTHER, false),
        ("ns/shop", "spiffe://cluster.local/shop", false),
    ] {
        let proxy = start(terminating(guarded(&upstream, rule), istio_mutual(&authority)));
        let shown = identity(&authority, uri, |_| {});
        let mut client = lax(&proxy, &Speaks { shows: Some(&shown), ..Speaks::default() });
        client.send(get(HOST, "/"));
        let reply = client.reply();
        let record = proxy.records.only();
        if allowed {
            assert_eq!(reply.status(), 200, "{rule}: {uri}");
            continue;
        }
        assert_eq!((reply.status(), &*reply.text()), (403, "RBAC: access denied"), "{rule}: {uri}");
        assert_eq!(record.end(), (403, "-", "rbac_access_denied_matched_policy[none]"));
    }
}

/// Headers say nothing about who somebody is, nor does the address.
#[test]
fn who_shows_no_identity_of_the_mesh_is_nobody() {
    let (authority, upstream) = (Authority::new(), Upstream::echo());
    let optional =
        TlsTermination { mode: TlsTerminationMode::OptionalMutual, ..mutual(&authority, &authority) };
    let proxy = start(terminating(guarded(&upstream, "ns/shop"), optional));
    let mut client = connect(&proxy, &authority, &Speaks::default());
    client.send(format!(
        "GET / HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-Client-Cert: URI={CART}\r\nX-Envoy-Peer-Metadata-Id: \
         sidecar~10.0.0.1~cart.shop~shop.svc.cluster.local\r\n\r\n"
    ));
    assert_eq!(client.reply().status(), 403);
    // Whose trust domain nobody has verified.
    let shown = identity(&authority, CART, |_| {});
    let mut client = connect(&proxy, &authority, &Speaks { shows: Some(&shown), ..Speaks::default() });
    client.send(get(HOST, "/"));
    assert_eq!(client.reply().status(), 403);
    let plain = guarded(&upstream, "ns/shop").start();
    assert_eq!(plain.get("/").status(), 403);
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn connections_of_opaque_bytes_are_closed_for_others() {
    let authority = Authority::new();
    let upstream = Upstream::start(|mut client, _| {
        client.send("hello");
        client.read_to_end();
    });
    let proxy = start(opaque(guarded(&upstream, "ns/shop/sa/cart"), istio_mutual(&authority)));
    let heard = |uri: &str| {
        let shown = identity(&authority, uri, |_| {});
        let mut client = lax(&proxy, &Speaks { shows: Some(&shown), ..Speaks::default() });
        client.stream.conn.send_close_notify();
        drop(client.stream.flush());
        client.read_to_end()
    };
    assert_eq!(heard(CART), b"hello");
    assert_eq!(heard(OTHER), b"");
    let records = proxy.records.wait(2);
    assert_eq!(records[1].text("response_flags"), "UAEX");
    assert_eq!(records[1].text("connection_termination_details"), "rbac_access_denied_matched_policy[none]");
    assert_eq!(upstream.connections(), 1);
}

/// To the cluster of a wildcard, which has no rule, while `v4.test` has.
fn through_a_wildcard(upstream: &Upstream) -> Config {
    let mut config = Config::new(&[]);
    config.cluster.host = "*.test".into();
    config.cluster.discovery = Discovery::DynamicDns { port: Some(upstream.port()) };
    config.hosts = vec!["*"];
    config
}

fn with_rule(mut snapshot: Snapshot, host: &str, rules: &[AllowFrom]) -> Snapshot {
    let mut by_host = HostMap::default();
    by_host.insert(host, rules.to_vec());
    snapshot.allow_from = Arc::new(by_host);
    snapshot
}

#[test]
fn the_rule_of_a_host_holds_through_the_cluster_of_a_wildcard() {
    let (authority, upstream) = (Authority::new(), Upstream::echo());
    let rules = [AllowFrom::parse("ns/shop").unwrap()];
    let plain = SocketAddr::from(([192, 0, 2, 1], 80));
    let proxy = Proxy::start(with_rule(through_a_wildcard(&upstream).build(80), "v4.test", &rules), plain);
    let port = format!("v4.test:{}", upstream.port());
    for (host, expected) in [
        ("v4.test", 403),
        ("V4.Test", 403),
        ("v4.test.", 403),
        (&*port, 403),
        ("v4.test.:80", 403),
        ("both.test", 200),
    ] {
        assert_eq!(proxy.exchange(&get(host, "/")).status(), expected, "{host}");
    }
    // What counts is where it goes, whatever the client calls it.
    let mut alias = through_a_wildcard(&upstream);
    alias.changes =
        Some(Changes { authority: Some(HeaderValue::from_static("v4.test:80")), ..Changes::default() });
    let proxy = Proxy::start(with_rule(alias.build(80), "v4.test", &rules), plain);
    assert_eq!(proxy.exchange(&get("both.test", "/")).status(), 403);
    let connections = upstream.connections();

    for (rules, expected) in [(&rules[..], 200), (&[rules[0].clone(), AllowFrom::nobody()], 403)] {
        let snapshot = terminating(through_a_wildcard(&upstream), istio_mutual(&authority));
        let proxy = start(with_rule(snapshot, "v4.test", rules));
        let shown = identity(&authority, CART, |_| {});
        let mut client = lax(&proxy, &Speaks { shows: Some(&shown), ..Speaks::default() });
        client.send(get("v4.test", "/"));
        assert_eq!(client.reply().status(), expected);
    }
    assert_eq!(upstream.connections(), connections + 1);
}

#[test]
fn opaque_bytes_for_a_host_with_a_rule_are_closed_through_the_cluster_of_a_wildcard() {
    let authority = Authority::new();
    let upstream = Upstream::start(|mut client, _| {
        client.send("hello");
        client.read_to_end();
    });
    let heard = |host: &str| {
        let mut config = Config::new(&[upstream.address]);
        config.cluster.host = "*.example.com".into();
        let snapshot = opaque(config, simple(&authority));
        let proxy = start(with_rule(snapshot, host, &[AllowFrom::parse("ns/shop").unwrap()]));
        let mut client = connect(&proxy, &authority, &Speaks::default());
        client.stream.conn.send_close_notify();
        drop(client.stream.flush());
        client.read_to_end()
    };
    assert_eq!(heard(HOST), b"");
    assert_eq!(heard("other.example.com"), b"hello");
}
