//! Which ServiceEntries a client sees, and whose goes first.

use interceptor_user::snapshot::{ClusterName, Discovery};

use crate::support::in_namespace;

#[test]
fn visibility_is_the_clients() {
    let yaml = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: private, namespace: other}
spec:
  hosts: [private.example.com]
  exportTo: ['.']
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: shared, namespace: other}
spec:
  hosts: [shared.example.com]
  exportTo: [web]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: hidden}
spec:
  hosts: [hidden.example.com]
  exportTo: ['~']
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: public, namespace: other}
spec:
  hosts: [public.example.com]
  exportTo: ['*']
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
";
    for (namespace, visible) in [
        ("default", vec!["public.example.com"]),
        ("web", vec!["public.example.com", "shared.example.com"]),
        ("other", vec!["private.example.com", "public.example.com"]),
    ] {
        let config = in_namespace(yaml, "{}", namespace);
        let mut hosts: Vec<&str> = config.snapshot.clusters.values().map(|cluster| &*cluster.host).collect();
        hosts.sort_unstable();
        assert_eq!(hosts, visible, "{namespace}");
        let told = config.found().matches("where the client is; does not act").count();
        assert_eq!(told, 4 - visible.len(), "{}", config.found());
    }
}

#[test]
fn an_absent_export_to_means_what_the_mesh_says() {
    let yaml = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: se, namespace: other}
spec:
  hosts: [a.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: everywhere, namespace: other}
spec:
  hosts: [b.example.com]
  exportTo: ['*']
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: vs, namespace: other}
spec:
  hosts: [b.example.com]
  http: [{name: own, route: [{destination: {host: b.example.com}}]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: dr, namespace: other}
spec: {host: b.example.com, subsets: [{name: s}]}
";
    let ask = |mesh: &str, namespace: &str| {
        let config = in_namespace(yaml, mesh, namespace);
        let known = |name| config.snapshot.clusters.contains_key(&name);
        (
            known(ClusterName::outbound(80, "", "a.example.com")),
            config.ask("203.0.113.9:80 http GET http://b.example.com/"),
            known(ClusterName::outbound(80, "s", "b.example.com")),
        )
    };
    let default = || "outbound|80||b.example.com default".to_owned();
    let own = || "outbound|80||b.example.com own".to_owned();
    for (mesh, namespace, expected) in [
        ("{}", "default", (true, own(), true)),
        ("defaultServiceExportTo: ['.']", "default", (false, own(), true)),
        ("defaultServiceExportTo: ['.']", "other", (true, own(), true)),
        ("defaultServiceExportTo: [default]", "default", (true, own(), true)),
        ("defaultVirtualServiceExportTo: ['.']", "default", (true, default(), true)),
        ("defaultDestinationRuleExportTo: ['~']", "default", (true, own(), false)),
    ] {
        assert_eq!(ask(mesh, namespace), expected, "{mesh} {namespace}");
    }
}

#[test]
fn the_clients_namespace_goes_first_then_age() {
    let entry = |namespace: &str, name: &str, time: &str| {
        format!(
            "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '{time}'}}
spec:
  hosts: [a.example.com]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: DNS
  endpoints: [{{address: {name}.internal}}]
---"
        )
    };
    let yaml = entry("x", "old", "2020-01-01T00:00:00Z") + &entry("y", "new", "2021-01-01T00:00:00Z");
    for (namespace, expected) in [("y", "new.internal"), ("x", "old.internal"), ("default", "old.internal")] {
        let config = in_namespace(&yaml, "{}", namespace);
        let discovery = &config.snapshot.clusters[&ClusterName::outbound(80, "", "a.example.com")].discovery;
        let Discovery::StrictDns(targets) = discovery else { panic!("{discovery:?}") };
        assert_eq!(&*targets[0].host, expected, "{namespace}");
    }
}
