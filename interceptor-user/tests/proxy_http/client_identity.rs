//! Who a client is whose TLS ends here: by its certificate, not by the address that its connection comes from.

use std::io::Write;

use interceptor_user::resource::mesh_config;
use interceptor_user::snapshot::LogFormat;
use interceptor_user::telemetry::FlowEvent;
use rcgen::{DnType, SanType, SerialNumber};

use crate::mesh_identity::identity;
use crate::support::{HOST, Proxy, Upstream, eventually, get};
use crate::termination::{
    CART, ORIGINAL_DST, Speaks, connect, istio_mutual, lax, mutual, opaque, refusal, snapshot, start,
};
use crate::tls::Authority;

const FORMAT: &str = r#"accessLogEncoding: JSON
accessLogFormat: '{"uri":"%DOWNSTREAM_PEER_URI_SAN%","dns":"%DOWNSTREAM_PEER_DNS_SAN%","subject":"%DOWNSTREAM_PEER_SUBJECT%",
  "issuer":"%DOWNSTREAM_PEER_ISSUER%","serial":"%DOWNSTREAM_PEER_SERIAL%","hash":"%DOWNSTREAM_PEER_FINGERPRINT_256%",
  "version":"%DOWNSTREAM_TLS_VERSION%","why":"%DOWNSTREAM_TRANSPORT_FAILURE_REASON%"}'
"#;

#[test]
fn log_metrics_and_flows_name_the_client_by_its_certificate() {
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

    let principal = format!("source_principal=\"{CART}\"");
    let labels = [&*principal, "source_workload_namespace=\"shop\""];
    assert_eq!(proxy.metric("istio_requests_total", &labels), 1.0);
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
    let proxy = start(opaque(&upstream, istio_mutual(&authority)));
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
