//! Where the egress gateway is enforced: which names and addresses are Services of the cluster, and which only say so.

use std::sync::Arc;

use interceptor_user::compile::{Client, CompileSettings, Compiler, compile};

use crate::support::{for_client, world};

/// The gateway, the API server, and what others have made beside.
const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: istio-egressgateway, namespace: istio-system}
spec: {clusterIP: 10.96.0.80, selector: {istio: egressgateway}, ports: [{name: http, port: 80}, {name: tcp, port: 9000}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: istio-egressgateway-x
  namespace: istio-system
  labels:
    kubernetes.io/service-name: istio-egressgateway
    endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io
addressType: IPv4
endpoints: [{addresses: [10.244.0.8]}]
ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: kubernetes, namespace: default}
spec: {clusterIP: 10.96.0.1, ports: [{name: https, port: 443}, {name: tcp, port: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: shop}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: http, port: 80}, {name: tcp, port: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere, namespace: shop}
spec: {type: ExternalName, externalName: www.example.com, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: no-selector, namespace: shop}
spec: {clusterIP: 10.96.0.20, ports: [{name: http, port: 80}, {name: tcp, port: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: mixed, namespace: shop}
spec: {clusterIP: 10.96.0.21, selector: {app: mixed}, ports: [{name: http, port: 80}, {name: tcp, port: 9000}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: mixed-more, namespace: shop, labels: {kubernetes.io/service-name: mixed}}
addressType: IPv4
endpoints: [{addresses: [203.0.113.5]}]
ports: [{name: http, port: 80}]
---
";

/// Hosts that are the gateway's, or an address that is, with endpoints outside.
const PRETENDERS: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: gateway, namespace: shop}
spec:
  hosts: [istio-egressgateway.istio-system.svc.cluster.local]
  addresses: [203.0.113.7]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 8443, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 203.0.113.6}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: kubernetes, namespace: shop}
spec:
  hosts: [nobody.shop.svc.cluster.local]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 203.0.113.6}]
---
";

fn enforced() -> Client {
    Client { enforced: true, ..Client::in_namespace("shop") }
}

#[test]
fn services_count_whose_endpoints_kubernetes_finds() {
    const GATEWAY: &str = "outbound|80||istio-egressgateway.istio-system.svc.cluster.local";
    let config = for_client(&format!("{SERVICES}{PRETENDERS}"), enforced());
    let names: Vec<_> = config.snapshot.clusters.keys().map(|name| &*name.0).collect();
    for name in &names {
        assert!(
            ["istio-egressgateway.istio-system", "kubernetes.default"]
                .iter()
                .any(|service| name.ends_with(&format!("{service}.svc.cluster.local"))),
            "{name} is a way out"
        );
    }
    assert_eq!(names.len(), 4, "{names:?}");
    // With the gateway's name it is the gateway, by whatever address it is called.
    for cluster in config.snapshot.clusters.values() {
        let discovery = format!("{:?}", cluster.discovery);
        assert!(!discovery.contains("203.0.113"), "{}: {discovery}", cluster.name);
    }
    let asked = "10.96.0.80:80 http GET http://istio-egressgateway.istio-system/";
    assert_eq!(config.ask(asked), format!("{GATEWAY} default"));
    assert_eq!(config.ask("10.96.0.1:9000 tcp"), "outbound|9000||kubernetes.default.svc.cluster.local");
}

/// The same names and addresses lead there where nothing is enforced: it is enforcement that closes them.
#[test]
fn unenforced_clients_reach_all_of_them() {
    let config = for_client(&format!("{SERVICES}{PRETENDERS}"), Client::in_namespace("shop"));
    for service in ["headless", "elsewhere", "no-selector", "mixed", "nobody"] {
        let name = format!("outbound|80||{service}.shop.svc.cluster.local");
        assert!(config.snapshot.clusters.keys().any(|cluster| *cluster.0 == *name), "{name}");
    }
}

/// A slice that is written by hand closes the Service at once, and opens it when it goes.
#[test]
fn a_slice_that_comes_later_counts() {
    let slice = SERVICES.split("---\n").find(|part| part.contains("mixed-more")).unwrap();
    let with = Arc::new(world(SERVICES).0);
    let without = Arc::new(world(&SERVICES.replace(slice, "")).0);
    let settings = CompileSettings { client: enforced(), ..CompileSettings::default() };
    let mut compiler = Compiler::new(settings.clone());
    let expected = [&without, &with].map(|world| compile(world, &settings).0);
    assert_ne!(expected[0], expected[1]);
    for (world, expected) in [(&without, &expected[0]), (&with, &expected[1]), (&without, &expected[0])] {
        assert!(compiler.compile(world).0 == *expected, "otherwise than compiled anew");
    }
}
