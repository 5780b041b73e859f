//! Services of Kubernetes, workloads and allocated addresses as the registry has them.

use interceptor_user::snapshot::ClusterName;

use crate::support::{Config, allow_any, in_namespace};

fn discovery(config: &Config, port: u16, subset: &str, host: &str) -> String {
    let name = ClusterName::outbound(port, subset, host);
    let cluster = config.snapshot.clusters.get(&name);
    cluster.map_or_else(|| "(none)".into(), |cluster| format!("{:?}", cluster.discovery))
}

/// The addresses of a cluster's endpoints, in order.
fn endpoints(config: &Config, port: u16, subset: &str, host: &str) -> Vec<String> {
    use interceptor_user::snapshot::Discovery::{DynamicDns, LogicalDns, OriginalDst, Static, StrictDns};
    let cluster = &config.snapshot.clusters[&ClusterName::outbound(port, subset, host)];
    match &cluster.discovery {
        Static(endpoints) => endpoints.iter().map(|e| format!("{}*{}", e.address, e.weight)).collect(),
        StrictDns(targets) => targets.iter().map(|t| format!("{}:{}*{}", t.host, t.port, t.weight)).collect(),
        LogicalDns(target) => vec![format!("{}:{}", target.host, target.port)],
        OriginalDst { .. } | DynamicDns { .. } => panic!("{:?}", cluster.discovery),
    }
}

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, 'fd00::10']
  selector: {app: web}
  ports:
  - {name: http-main, port: 80, targetPort: 8080}
  - {name: tcp-db, port: 5432, targetPort: 5432}
  - {name: auto, port: 9000}
  - {name: dns, port: 53, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: shop}
spec: {type: ExternalName, externalName: www.example.com, ports: [{name: http, port: 80}, {name: tcp, port: 7000}]}
---
apiVersion: v1
kind: Service
metadata: {name: unborn, namespace: shop}
spec: {ports: [{name: http, port: 80}, {name: tcp, port: 7001}]}
---
apiVersion: v1
kind: Service
metadata: {name: heads, namespace: shop}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: tcp, port: 6000}, {name: http, port: 80}]}
---
";

#[test]
fn services_are_called_by_name_and_by_cluster_address() {
    let config = in_namespace(SERVICES, "outboundTrafficPolicy: {mode: REGISTRY_ONLY}", "default");
    let web = "outbound|80||web.shop.svc.cluster.local default";
    for (connection, expected) in [
        ("10.96.0.10:80 http GET http://web.shop/", web),
        ("10.96.0.10:80 http GET http://web.shop.svc/", web),
        ("10.96.0.10:80 http GET http://web.shop.svc.cluster.local/", web),
        ("10.96.0.10:80 http GET http://web.shop.svc.cluster.local./", web),
        ("10.96.0.10:80 http GET http://10.96.0.10/", web),
        ("10.96.0.10:80 http GET http://[fd00::10]/", web),
        // A short name is one of the client's own namespace.
        ("10.96.0.10:80 http GET http://web/", "502 block_all"),
        ("10.96.0.10:5432 tcp", "outbound|5432||web.shop.svc.cluster.local"),
        ("[fd00::10]:5432 tcp", "outbound|5432||web.shop.svc.cluster.local"),
        ("203.0.113.9:5432 tcp", "close"),
        ("10.96.0.10:9000 tcp", "outbound|9000||web.shop.svc.cluster.local"),
        ("10.96.0.10:9000 http GET http://any/", "outbound|9000||web.shop.svc.cluster.local default"),
        ("10.96.0.10:53 tcp", "close"),
        (
            "203.0.113.9:80 http GET http://outside.shop/",
            "outbound|80||outside.shop.svc.cluster.local default",
        ),
        // Without an address that is known they take no port of their own.
        ("203.0.113.9:7000 tcp", "close"),
        ("203.0.113.9:7001 tcp", "close"),
    ] {
        assert_eq!(config.ask(connection), expected, "{connection}");
    }
    let own = in_namespace(SERVICES, "{}", "shop");
    assert_eq!(own.ask("10.96.0.10:80 http GET http://web/"), web);
    assert_eq!(own.ask("10.96.0.10:80 http GET http://web:80/"), web);
}

#[test]
fn services_are_reached_at_their_cluster_address_or_by_name() {
    let config = in_namespace(SERVICES, "{}", "shop");
    let host = |name: &str| format!("{name}.shop.svc.cluster.local");
    for (port, name, expected) in [
        (80, "web", "10.96.0.10:80*1"),
        (5432, "web", "10.96.0.10:5432*1"),
        (80, "outside", "www.example.com:80*1"),
        (80, "unborn", "unborn.shop.svc.cluster.local:80*1"),
    ] {
        assert_eq!(endpoints(&config, port, "", &host(name)), [expected], "{name} {port}");
    }
    // Whoever calls a headless Service has chosen the pod.
    assert_eq!(discovery(&config, 80, "", &host("heads")), "OriginalDst { port: None }");
}

#[test]
fn headless_services_take_their_pods_addresses_or_the_port() {
    let pods = "
apiVersion: v1
kind: Pod
metadata: {name: db-0, namespace: shop, labels: {app: db}}
spec: {}
status: {podIP: 10.1.0.7}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: shop, labels: {app: x}}
spec: {}
status: {podIP: 10.1.0.8}
";
    let mesh = "outboundTrafficPolicy: {mode: REGISTRY_ONLY}";
    let config = in_namespace(&format!("{SERVICES}{pods}"), mesh, "shop");
    assert_eq!(config.ask("10.1.0.7:6000 tcp"), "outbound|6000||heads.shop.svc.cluster.local");
    assert_eq!(config.ask("10.1.0.8:6000 tcp"), "close");
    let config = in_namespace(SERVICES, mesh, "shop");
    assert_eq!(config.ask("10.1.0.8:6000 tcp"), "outbound|6000||heads.shop.svc.cluster.local");
    // EndpointSlices know more than the pods that are known, and an empty one knows that there are none.
    let slice = |name: &str, endpoints: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: heads}}}}\n\
             endpoints: [{endpoints}]\n"
        )
    };
    let slices = slice("one", "{addresses: [10.1.0.9], conditions: {ready: false}}")
        + &slice("two", "{addresses: [10.1.0.10]}, {addresses: [10.1.0.9]}");
    let config = in_namespace(&format!("{SERVICES}{pods}{slices}"), mesh, "shop");
    assert_eq!(config.ask("10.1.0.9:6000 tcp"), "outbound|6000||heads.shop.svc.cluster.local");
    assert_eq!(config.ask("10.1.0.10:6000 tcp"), "outbound|6000||heads.shop.svc.cluster.local");
    assert_eq!(config.ask("10.1.0.7:6000 tcp"), "close");
    let config = in_namespace(&format!("{SERVICES}{pods}{}", slice("none", "")), mesh, "shop");
    assert_eq!(config.ask("10.1.0.7:6000 tcp"), "close");
    assert!(config.findings.is_empty(), "{:?}", config.findings);
}

#[test]
fn virtual_services_and_rules_name_services_by_short_names() {
    let yaml = format!(
        "{SERVICES}
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: vs, namespace: shop}}
spec:
  hosts: [web]
  http: [{{name: r, route: [{{destination: {{host: web, subset: all, port: {{number: 80}}}}}}]}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: dr, namespace: shop}}
spec: {{host: web, subsets: [{{name: all}}, {{name: v1, labels: {{version: v1}}}}]}}
"
    );
    let config = in_namespace(&yaml, "{}", "default");
    assert_eq!(
        config.ask("10.96.0.10:80 http GET http://web.shop/"),
        "outbound|80|all|web.shop.svc.cluster.local r"
    );
    assert_eq!(endpoints(&config, 80, "all", "web.shop.svc.cluster.local"), ["10.96.0.10:80*1"]);
    // Which pods have a label is not known behind a cluster address.
    assert_eq!(endpoints(&config, 80, "v1", "web.shop.svc.cluster.local"), [""; 0]);
}

#[test]
fn services_are_exported_as_their_annotation_or_the_mesh_says() {
    let annotated =
        SERVICES.replacen("name: web, ", "name: web, annotations: {networking.istio.io/exportTo: .}, ", 1);
    for (yaml, mesh, namespace, expected) in [
        (SERVICES, "{}", "default", true),
        (&annotated, "{}", "default", false),
        (&annotated, "{}", "shop", true),
        (SERVICES, "defaultServiceExportTo: ['.']", "default", false),
        (SERVICES, "defaultServiceExportTo: ['.']", "shop", true),
    ] {
        let config = in_namespace(yaml, mesh, namespace);
        let name = ClusterName::outbound(80, "", "web.shop.svc.cluster.local");
        assert_eq!(config.snapshot.clusters.contains_key(&name), expected, "{mesh} {namespace}");
    }
}

/// ISTIO.md 1.3: of a host that is a Kubernetes Service an entry gives the subjectAltNames alone.
#[test]
fn an_entry_for_a_service_gives_its_names_alone() {
    let yaml = format!(
        "{SERVICES}
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: squat, namespace: shop, creationTimestamp: '2001-01-01T00:00:00Z'}}
spec:
  hosts: [web.shop.svc.cluster.local, more.example.com]
  ports: [{{number: 80, name: http, protocol: HTTP}}, {{number: 81, name: alt, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{{address: 192.0.2.1}}]
  subjectAltNames: [spiffe://cluster.local/web]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: dr, namespace: shop}}
spec: {{host: web, trafficPolicy: {{portLevelSettings: [{{port: {{number: 80}}, tls: {{mode: SIMPLE, sni: x.example.com}}}}]}}}}
"
    );
    let config = in_namespace(&yaml, "{}", "shop");
    assert_eq!(endpoints(&config, 80, "", "web.shop.svc.cluster.local"), ["10.96.0.10:80*1"]);
    assert_eq!(discovery(&config, 81, "", "web.shop.svc.cluster.local"), "(none)");
    assert_eq!(endpoints(&config, 80, "", "more.example.com"), ["192.0.2.1:80*1"]);
    let cluster = &config.snapshot.clusters[&ClusterName::outbound(80, "", "web.shop.svc.cluster.local")];
    assert_eq!(&*cluster.tls.as_ref().unwrap().subject_alt_names[0], "spiffe://cluster.local/web");
}

#[test]
fn workloads_are_selected_by_their_labels_in_the_entrys_namespace() {
    let config = allow_any(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: vms}
spec:
  hosts: [vms.example.com]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  resolution: STATIC
  workloadSelector: {labels: {app: vm}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: named}
spec:
  hosts: [named.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
  workloadSelector: {labels: {app: vm}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: a}
spec: {address: 10.0.0.1, labels: {app: vm, version: v1}, weight: 3}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: b, labels: {app: vm}}
spec: {address: 10.0.0.2, ports: {http: 9090}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: c}
spec: {address: c.example.com, labels: {app: vm}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: d}
spec: {address: 'unix:///run/d.sock', labels: {app: vm}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: other}
spec: {address: 10.0.0.3, labels: {app: other}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: elsewhere, namespace: elsewhere}
spec: {address: 10.0.0.4, labels: {app: vm}}
---
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: vm, version: v1}}
spec: {}
status: {phase: Running, podIP: 10.0.0.5}
---
apiVersion: v1
kind: Pod
metadata: {name: pending, labels: {app: vm}}
spec: {}
---
apiVersion: v1
kind: Pod
metadata: {name: done, labels: {app: vm}}
spec: {}
status: {phase: Succeeded, podIP: 10.0.0.6}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: dr}
spec: {host: vms.example.com, subsets: [{name: v1, labels: {version: v1}}]}
",
    );
    for (subset, host, expected) in [
        (
            "",
            "vms.example.com",
            &["10.0.0.1:8080*3", "10.0.0.2:9090*1", "/run/d.sock*1", "10.0.0.5:8080*1"][..],
        ),
        ("v1", "vms.example.com", &["10.0.0.1:8080*3", "10.0.0.5:8080*1"]),
        (
            "",
            "named.example.com",
            &["10.0.0.1:80*3", "10.0.0.2:9090*1", "c.example.com:80*1", "10.0.0.5:80*1"],
        ),
    ] {
        assert_eq!(endpoints(&config, 80, subset, host), expected, "{subset} {host}");
    }
}

#[test]
fn allocated_addresses_are_the_entrys_own() {
    let yaml = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: se}
spec:
  hosts: [a.example.com, b.example.com]
  ports: [{number: 5432, name: tcp, protocol: TLS}, {number: 80, name: http, protocol: HTTP}]
  resolution: DNS
status:
  addresses:
  - {host: a.example.com, value: 240.240.0.1}
  - {host: b.example.com, value: 240.240.0.2}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: tcp}
spec:
  hosts: [c.example.com]
  ports: [{number: 6000, name: tcp, protocol: TCP}]
  resolution: DNS
status: {addresses: [{value: 240.240.0.3}]}
";
    let captured = "defaultConfig: {proxyMetadata: {ISTIO_META_DNS_CAPTURE: 'true'}}";
    for (mesh, whole_port) in [("{}", "outbound|6000||c.example.com"), (captured, "PassthroughCluster")] {
        let config = in_namespace(yaml, mesh, "default");
        for (connection, expected) in [
            ("240.240.0.1:5432 tls -", "outbound|5432||a.example.com"),
            ("240.240.0.2:5432 tls -", "outbound|5432||b.example.com"),
            ("240.240.0.2:80 http GET http://240.240.0.2/", "outbound|80||b.example.com default"),
            ("240.240.0.3:6000 tcp", "outbound|6000||c.example.com"),
            // Who is not told the address asks for another.
            ("203.0.113.9:6000 tcp", whole_port),
        ] {
            assert_eq!(config.ask(connection), expected, "{mesh} {connection}");
        }
    }
}
