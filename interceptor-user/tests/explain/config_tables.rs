//! `config`: the compiled tables, with the columns and words of istioctl proxy-config.

use std::time::Duration;

use interceptor_user::proxy::upstream::{EndpointStatus, EndpointsNow, InUse};
use interceptor_user::snapshot::ClusterName;
use interceptor_user::tables::{
    ClusterFilter, EndpointFilter, ListenerFilter, RegistryFilter, clusters, endpoints, listeners, registry,
    routes, text,
};

use crate::support::{Case, same_text};

const SERVICES: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: web}
spec:
  hosts: [www.example.com, '*.example.org']
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: HTTPS}]
  resolution: DNS
  endpoints: [{address: edge.example.net}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: data}
spec:
  hosts: [db.example.com]
  addresses: [192.0.2.10, 10.0.0.0/8]
  ports: [{number: 5432, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.2}, {address: 198.51.100.1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: any}
spec:
  hosts: [any.example.com]
  ports: [{number: 82, name: tcp, protocol: TCP}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: [www.example.com]
  http:
  - match: [{uri: {prefix: /api/}, method: {exact: GET}}, {uri: {exact: /health}}]
    directResponse: {status: 200}
  - route: [{destination: {host: www.example.com, subset: v1}, weight: 3}, {destination: {host: db.example.com}, weight: 1}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web}
spec: {host: www.example.com, subsets: [{name: v1}]}
";

#[test]
fn listeners_in_the_order_in_which_their_chains_are_asked() {
    let snapshot = Case::new(SERVICES).registry_only().snapshot();
    same_text(
        &text(&listeners(&snapshot, &ListenerFilter::default())),
        "
ADDRESSES    PORT   MATCH                          DESTINATION
0.0.0.0      80     Trans: raw_buffer; App: HTTP   Route: 80
0.0.0.0      80     ALL                            BlackHoleCluster
0.0.0.0      82     ALL                            Cluster: outbound|82||any.example.com
0.0.0.0      443    SNI: *.example.org             Cluster: outbound|443||*.example.org
0.0.0.0      443    SNI: www.example.com           Cluster: outbound|443||www.example.com
0.0.0.0      443    ALL                            BlackHoleCluster
0.0.0.0      5432   Addr: 10.0.0.0/8               Cluster: outbound|5432||db.example.com
0.0.0.0      5432   ALL                            BlackHoleCluster
192.0.2.10   5432   ALL                            Cluster: outbound|5432||db.example.com
0.0.0.0      *      ALL                            BlackHoleCluster
",
    );
    let filter = ListenerFilter { address: Some("192.0.2.10".into()), port: Some(5432) };
    assert_eq!(listeners(&snapshot, &filter).len(), 1);
    let nowhere = ListenerFilter { port: Some(1), ..ListenerFilter::default() };
    assert_eq!(text(&listeners(&snapshot, &nowhere)), "ADDRESSES   PORT   MATCH   DESTINATION\n");
}

#[test]
fn routes_with_their_virtual_services() {
    let snapshot = Case::new(SERVICES).snapshot();
    same_text(
        &text(&routes(&snapshot, None)),
        "
NAME   VHOST NAME           DOMAINS           MATCH                       VIRTUAL SERVICE
80     *.example.org:80     *.example.org     /*
80     www.example.com:80   www.example.com   /api/* method exact \"GET\"   web.default
80     www.example.com:80   www.example.com   /health                     web.default
80     www.example.com:80   www.example.com   /*                          web.default
80     allow_any            *                 /*
",
    );
    assert_eq!(routes(&snapshot, Some("80")).len(), 5);
    assert_eq!(routes(&snapshot, Some("81")), []);
    let weighted = &routes(&snapshot, None)[3];
    assert_eq!(
        weighted.destination,
        "Cluster: outbound|80|v1|www.example.com (3), outbound|5432||db.example.com (1)"
    );
}

#[test]
fn clusters_with_their_destination_rules() {
    let snapshot = Case::new(SERVICES).snapshot();
    same_text(
        &text(&clusters(&snapshot, &ClusterFilter::default())),
        "
SERVICE FQDN         PORT   SUBSET   DIRECTION   TYPE           DESTINATION RULE
*.example.org        80     -        outbound    STRICT_DNS
*.example.org        443    -        outbound    STRICT_DNS
BlackHoleCluster     -      -        -           STATIC
PassthroughCluster   -      -        -           ORIGINAL_DST
any.example.com      82     -        outbound    ORIGINAL_DST
db.example.com       5432   -        outbound    EDS
www.example.com      80     -        outbound    STRICT_DNS     web.default
www.example.com      80     v1       outbound    STRICT_DNS     web.default
www.example.com      443    -        outbound    STRICT_DNS     web.default
www.example.com      443    v1       outbound    STRICT_DNS     web.default
",
    );
    let names = |fqdn: Option<&str>, port, subset: Option<&str>| {
        let filter = ClusterFilter { fqdn: fqdn.map(str::to_owned), port, subset: subset.map(str::to_owned) };
        clusters(&snapshot, &filter).iter().map(|row| row.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(Some("WWW.example.com"), Some(80), Some("v1")), ["outbound|80|v1|www.example.com"]);
    assert_eq!(
        names(None, Some(80), Some("")),
        ["outbound|80||*.example.org", "outbound|80||www.example.com"]
    );
}

#[test]
fn endpoints_are_addresses_and_names() {
    let snapshot = Case::new(SERVICES).snapshot();
    let rows = |filter| text(&endpoints(&snapshot, None, &filter));
    same_text(
        &rows(EndpointFilter { port: Some(5432), ..EndpointFilter::default() }),
        "
ENDPOINT            STATUS    OUTLIER CHECK   CLUSTER                         NOTE
198.51.100.1:5432   HEALTHY   OK              outbound|5432||db.example.com
198.51.100.2:5432   HEALTHY   OK              outbound|5432||db.example.com
",
    );
    same_text(
        &rows(EndpointFilter {
            status: Some("unknown".into()),
            address: Some("edge.example.net".into()),
            cluster: Some("outbound|443||www.example.com".into()),
            port: None,
        }),
        "
ENDPOINT               STATUS    OUTLIER CHECK   CLUSTER                         NOTE
edge.example.net:443   UNKNOWN   -               outbound|443||www.example.com
",
    );
}

#[test]
fn endpoints_are_as_a_proxy_knows_them() {
    let snapshot = Case::new(SERVICES).snapshot();
    let (db, www) = (
        ClusterName::outbound(5432, "", "db.example.com"),
        ClusterName::outbound(443, "", "www.example.com"),
    );
    let known = |now: EndpointsNow, cluster: &ClusterName, address: Option<&str>| {
        let in_use = InUse::from([(cluster.clone(), now)]);
        let filter = EndpointFilter {
            cluster: Some(cluster.to_string()),
            address: address.map(str::to_owned),
            ..EndpointFilter::default()
        };
        text(&endpoints(&snapshot, Some(&in_use), &filter))
    };
    let status = |address: &str, ejected_for| EndpointStatus {
        address: address.parse::<std::net::SocketAddr>().unwrap().into(),
        weight: 1,
        active_requests: 0,
        ejected_for,
    };
    let ejected = Some(Duration::from_millis(31_400));
    let endpoints_now = vec![status("198.51.100.1:5432", ejected), status("198.51.100.2:5432", None)];
    same_text(
        &known(EndpointsNow { endpoints: endpoints_now, ..EndpointsNow::default() }, &db, None),
        "
ENDPOINT            STATUS      OUTLIER CHECK   CLUSTER                         NOTE
198.51.100.1:5432   UNHEALTHY   FAILED          outbound|5432||db.example.com   ejected by outlier detection for 32 s more
198.51.100.2:5432   HEALTHY     OK              outbound|5432||db.example.com
",
    );
    // A name's addresses are found by the name, too.
    let endpoints_now = vec![status("192.0.2.7:443", None)];
    same_text(
        &known(
            EndpointsNow { endpoints: endpoints_now, ..EndpointsNow::default() },
            &www,
            Some("edge.example.net"),
        ),
        "
ENDPOINT        STATUS    OUTLIER CHECK   CLUSTER                         NOTE
192.0.2.7:443   HEALTHY   OK              outbound|443||www.example.com
",
    );
    let without_address = vec![("edge.example.net".into(), "the name server knows no address".into())];
    same_text(
        &known(EndpointsNow { without_address, ..EndpointsNow::default() }, &www, None),
        "
ENDPOINT               STATUS      OUTLIER CHECK   CLUSTER                         NOTE
edge.example.net:443   UNHEALTHY   -               outbound|443||www.example.com   the name server knows no address
",
    );
    let unused = endpoints(&snapshot, Some(&InUse::new()), &EndpointFilter::default());
    assert!(unused.iter().any(|row| row.note == "looked up when it is first used"), "{unused:#?}");
}

#[test]
fn a_unix_socket_is_an_endpoint_without_port() {
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: s}\nspec:\n  \
                 hosts: [s.org]\n  ports: [{number: 80, name: http, protocol: HTTP}]\n  resolution: STATIC\n  \
                 endpoints: [{address: 198.51.100.1}, {address: 'unix:///run/a.sock'}]\n";
    let snapshot = Case::new(entry).snapshot();
    let rows = |filter| text(&endpoints(&snapshot, None, &filter));
    same_text(
        &rows(EndpointFilter::default()),
        "
ENDPOINT             STATUS    OUTLIER CHECK   CLUSTER              NOTE
198.51.100.1:80      HEALTHY   OK              outbound|80||s.org
unix:///run/a.sock   HEALTHY   OK              outbound|80||s.org
",
    );
    same_text(
        &rows(EndpointFilter { address: Some("unix:///run/a.sock".into()), ..EndpointFilter::default() }),
        "
ENDPOINT             STATUS    OUTLIER CHECK   CLUSTER              NOTE
unix:///run/a.sock   HEALTHY   OK              outbound|80||s.org
",
    );
}

#[test]
fn the_registry_says_where_hosts_are_declared() {
    let case = Case::new(SERVICES);
    let filter = RegistryFilter { fqdn: Some("db.example.com".into()), port: Some(5432) };
    same_text(
        &text(&registry(&case.world, &case.snapshot(), &filter)),
        "
HOST             PORT   PROTOCOL   RESOLUTION   ADDRESSES               KIND           SERVICE   AT
db.example.com   5432   TCP        STATIC       192.0.2.10,10.0.0.0/8   ServiceEntry   db.data   a.yaml:10:1
",
    );
    let all = registry(&case.world, &case.snapshot(), &RegistryFilter::default());
    let hosts: Vec<String> = all.iter().map(|row| format!("{}:{}", row.host, row.port)).collect();
    assert_eq!(
        hosts,
        [
            "*.example.org:80",
            "*.example.org:443",
            "any.example.com:82",
            "db.example.com:5432",
            "www.example.com:80",
            "www.example.com:443",
        ]
    );
}
