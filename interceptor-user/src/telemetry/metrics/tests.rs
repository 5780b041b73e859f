use std::sync::Arc;
use std::time::Duration;

use super::{
    CLIENTS_SERIES_MAX, Destination, Metrics, NAME_MAX, Outcome, RequestProtocol, SERIES_MAX, SourceLabels,
    WorkerSeries,
};
use crate::proxy::outcome::{ResponseFlag, ResponseFlags};
use crate::snapshot::{Cluster, ClusterName, Discovery};
use crate::workload::SourceWorkload;

const OK: Outcome =
    Outcome { protocol: RequestProtocol::Http, response_code: 200, flags: ResponseFlags::NONE };
const TCP: Outcome = Outcome { protocol: RequestProtocol::Tcp, response_code: 0, flags: ResponseFlags::NONE };

fn source(workload: &str) -> SourceWorkload {
    SourceWorkload {
        namespace: "shop".into(),
        pod: format!("{workload}-7d4b9-x2x"),
        workload: workload.into(),
        app: workload.into(),
        version: "v1".into(),
        canonical_service: workload.into(),
        canonical_revision: "v1".into(),
        cluster: "Kubernetes".into(),
        ..SourceWorkload::default()
    }
}

fn service(host: &str) -> Destination {
    let name = ClusterName::outbound(443, "", host);
    Destination::of(&Cluster::new(name, host.into(), 443, Discovery::Static(Vec::new())))
}

fn text(metrics: &Metrics) -> String {
    let mut out = String::new();
    metrics.append(&mut out);
    out
}

/// The values of a metric, in order.
fn values(metrics: &Metrics, name: &str) -> Vec<String> {
    let text = text(metrics);
    let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    lines.map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn labels_are_istios() {
    let metrics = Metrics::default();
    let cart = metrics.source(&source("cart"));
    let worker = WorkerSeries::new(&cart);
    let grpc = Outcome { protocol: RequestProtocol::Grpc(Some(14)), ..OK };
    worker.find(None, &service("api.example.com"), grpc).unwrap().request(
        Duration::from_micros(1500),
        10,
        2000,
    );
    let flags = ResponseFlag::NoHealthyUpstream.into();
    let blocked = Destination::undeclared(Some("a\"b.example.com"), Some("BlackHoleCluster"));
    let tcp = worker.find(None, &blocked, Outcome { flags, ..TCP }).unwrap();
    tcp.connection_opened();
    tcp.connection_carried(3, 4);
    tcp.connection_closed();

    let text = text(&metrics);
    let source_labels = "reporter=\"source\",source_workload=\"cart\",source_workload_namespace=\"shop\",\
        source_principal=\"unknown\",source_app=\"cart\",source_version=\"v1\",source_cluster=\"Kubernetes\",\
        source_canonical_service=\"cart\",source_canonical_revision=\"v1\",destination_workload=\"unknown\",\
        destination_workload_namespace=\"unknown\",destination_principal=\"unknown\",destination_app=\"unknown\",\
        destination_version=\"unknown\"";
    let rest = "destination_cluster=\"unknown\",destination_canonical_service=\"unknown\",\
        destination_canonical_revision=\"latest\"";
    let request = format!(
        "{source_labels},destination_service=\"api.example.com\",destination_service_name=\"api.example.com\",\
         destination_service_namespace=\"unknown\",{rest},request_protocol=\"grpc\",response_code=\"200\",\
         grpc_response_status=\"14\",response_flags=\"-\",connection_security_policy=\"unknown\""
    );
    let connection = format!(
        "{source_labels},destination_service=\"a\\\"b.example.com\",destination_service_name=\"BlackHoleCluster\",\
         destination_service_namespace=\"unknown\",{rest},request_protocol=\"tcp\",response_flags=\"UH\",\
         connection_security_policy=\"unknown\""
    );
    for line in [
        "# TYPE istio_requests_total counter".to_owned(),
        format!("istio_requests_total{{{request}}} 1"),
        "# TYPE istio_request_duration_milliseconds histogram".to_owned(),
        format!("istio_request_duration_milliseconds_bucket{{{request},le=\"1\"}} 0"),
        format!("istio_request_duration_milliseconds_bucket{{{request},le=\"5\"}} 1"),
        format!("istio_request_duration_milliseconds_bucket{{{request},le=\"3600000\"}} 1"),
        format!("istio_request_duration_milliseconds_bucket{{{request},le=\"+Inf\"}} 1"),
        format!("istio_request_duration_milliseconds_sum{{{request}}} 1.500"),
        format!("istio_request_duration_milliseconds_count{{{request}}} 1"),
        format!("istio_request_bytes_bucket{{{request},le=\"10\"}} 1"),
        format!("istio_request_bytes_sum{{{request}}} 10.000"),
        format!("istio_response_bytes_bucket{{{request},le=\"1000\"}} 0"),
        format!("istio_response_bytes_bucket{{{request},le=\"2500\"}} 1"),
        format!("istio_tcp_connections_opened_total{{{connection}}} 1"),
        format!("istio_tcp_connections_closed_total{{{connection}}} 1"),
        format!("istio_tcp_received_bytes_total{{{connection}}} 3"),
        format!("istio_tcp_sent_bytes_total{{{connection}}} 4"),
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\n{text}");
    }
    let families = text.lines().filter(|line| line.starts_with("# TYPE"));
    assert_eq!(families.count(), 8, "each is in one piece: {text}");
}

#[test]
fn pods_of_one_workload_are_one_source_and_leave_their_counts() {
    let metrics = Metrics::default();
    let (one, two) = (metrics.source(&source("cart")), metrics.source(&source("cart")));
    let other = metrics.source(&source("web"));
    for (source, times) in [(&one, 1), (&two, 2), (&other, 4)] {
        let worker = WorkerSeries::new(source);
        for _ in 0..times {
            let series = worker.find(None, &service("a.example.com"), OK).unwrap();
            series.request(Duration::from_millis(1), 0, 0);
        }
        assert_eq!(values(&metrics, "istio_requests_total").len(), if times == 4 { 2 } else { 1 });
    }
    assert_eq!(values(&metrics, "istio_requests_total"), ["3", "4"]);
    drop(one);
    assert_eq!(values(&metrics, "istio_requests_total"), ["3", "4"]);
    assert_eq!(values(&metrics, "istio_request_duration_milliseconds_sum"), ["3.000", "4.000"]);
    drop(two);
    assert_eq!(values(&metrics, "istio_requests_total"), ["4"]);
    drop(other);
    assert_eq!(text(&metrics), "");
}

#[test]
fn a_source_has_a_bounded_number_of_series() {
    let metrics = Metrics::default();
    let source = metrics.source(&source("cart"));
    let (worker, another) = (WorkerSeries::new(&source), WorkerSeries::new(&source));
    for number in 0..SERIES_MAX {
        let host = Destination::undeclared(Some(&format!("{number}.example.com")), None);
        assert!(worker.find(None, &host, OK).is_some(), "{number}");
    }
    let one_more = Destination::undeclared(Some("one-more.example.com"), None);
    assert!(worker.find(None, &one_more, OK).is_none());
    assert!(another.find(None, &Destination::undeclared(Some("0.example.com"), None), OK).is_some());
    for worker in [&worker, &another] {
        let grpc = RequestProtocol::Grpc(Some(2));
        worker.overflow(grpc).request(Duration::ZERO, 0, 0);
    }
    let text = text(&metrics);
    let overflow = text.lines().find(|line| line.contains("destination_service=\"overflow\"")).unwrap();
    assert!(overflow.starts_with("istio_requests_total{") && overflow.ends_with(" 2"), "{overflow}");
}

#[test]
fn a_gateways_clients_are_sources_and_bounded_by_themselves() {
    let metrics = Metrics::default();
    let gateway = metrics.source(&source("egress"));
    let worker = WorkerSeries::new(&gateway);
    let client =
        |name: &str| Arc::new(SourceLabels::with_principal(&source(name), "spiffe://td/ns/shop/sa/x"));
    for number in 0..CLIENTS_SERIES_MAX {
        let found = worker.find(Some(&client(&number.to_string())), &service("a.example.com"), OK);
        found.unwrap().request(Duration::ZERO, 0, 0);
    }
    assert!(worker.find(Some(&client("one-more")), &service("a.example.com"), OK).is_none());
    // Those that nobody can name are not in their way, nor the other way round.
    worker.find(None, &service("a.example.com"), OK).unwrap().request(Duration::ZERO, 0, 0);
    drop(worker);
    let text = text(&metrics);
    let of = |workload: &str| {
        let labels = format!("istio_requests_total{{reporter=\"source\",source_workload=\"{workload}\",");
        text.lines().filter(|line| line.starts_with(&labels)).collect::<Vec<_>>()
    };
    let [of_client] = of("7")[..] else { panic!("{text}") };
    assert!(of_client.contains(",source_principal=\"spiffe://td/ns/shop/sa/x\","), "{of_client}");
    assert!(of_client.ends_with("} 1"), "{of_client}");
    let [own] = of("egress")[..] else { panic!("{text}") };
    assert!(own.contains(",source_principal=\"unknown\","), "{own}");
}

#[test]
fn a_name_in_a_label_is_no_longer_than_a_name_can_be() {
    let long = "\u{e9}".repeat(4000);
    assert_eq!(super::cut(&long, NAME_MAX).len(), 254);
    assert_eq!(super::cut("short.example.com", NAME_MAX), "short.example.com");
}
