//! What becomes of hosts that nobody declared, and who has the say: command line, pod, namespace, mesh.

use interceptor_user::compile::{Client, CompileSettings, compile};
use interceptor_user::resource::{ClientPolicy, mesh_config};
use interceptor_user::snapshot::OutboundTrafficPolicy::{self, AllowAny, AllowAnyDynamicDns, RegistryOnly};

use crate::support::{Config, compiled, shown, world};

fn namespace(policy: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: web, annotations: {{egress.interceptor.io/policy: '{policy}'}}}}\n"
    )
}

fn asked(flag: Option<OutboundTrafficPolicy>, pod: &str, of_namespace: &str, mesh: &str) -> Config {
    let (mut world, mut findings) = world(&namespace(of_namespace));
    world.mesh = mesh_config::parse(&"mesh.yaml".into(), mesh).0.unwrap();
    let client = Client { policy: ClientPolicy::parse(pod).unwrap(), ..Client::in_namespace("web") };
    let (snapshot, more) = compile(
        &world,
        &CompileSettings { client, outbound_traffic_policy: flag, ..CompileSettings::default() },
    );
    findings.extend(more);
    Config { snapshot, findings }
}

#[test]
fn the_nearest_has_the_say() {
    let registry_only = "outboundTrafficPolicy: {mode: REGISTRY_ONLY}";
    for (flag, pod, of_namespace, mesh, policy, strict) in [
        (None, "", "", "{}", AllowAny, false),
        (None, "", "", registry_only, RegistryOnly, false),
        (None, "", "ALLOW_ANY", registry_only, AllowAny, false),
        (None, "REGISTRY_ONLY", "ALLOW_ANY", "{}", RegistryOnly, false),
        (None, "ALLOW_ANY", "REGISTRY_ONLY,strict", registry_only, AllowAny, true),
        (Some(RegistryOnly), "ALLOW_ANY,strict", "", "{}", RegistryOnly, true),
        (None, "strict", "", registry_only, RegistryOnly, true),
    ] {
        let config = asked(flag, pod, of_namespace, mesh);
        let row = format!("{flag:?} {pod:?} {of_namespace:?} {mesh}");
        assert_eq!(config.snapshot.outbound_traffic_policy, policy, "{row}");
        assert_eq!(config.snapshot.strict, strict, "{row}");
        assert!(config.findings.is_empty(), "{row}\n{}", config.found());
    }
}

#[test]
fn an_annotation_that_cannot_be_read_is_the_most_restrictive_that_it_can_mean() {
    for (written, policy, strict) in [
        ("REGISTRYONLY, strict", RegistryOnly, true),
        ("strct", RegistryOnly, true),
        ("ALLOW_ANY,strct", AllowAny, true),
        ("ALLOW_ANY,REGISTRY_ONLY", RegistryOnly, false),
    ] {
        let config = asked(None, "", written, "{}");
        assert_eq!(
            (config.snapshot.outbound_traffic_policy, config.snapshot.strict),
            (policy, strict),
            "{written}"
        );
    }
    let config = asked(None, "", "REGISTRYONLY, strict", "{}");
    assert!(
        shown(&config.findings).contains(
            "test.yaml:3:67: error: [IST0125] Namespace web: metadata.annotations[egress.interceptor.io/policy]: \"REGISTRYONLY\" is \
             no word of egress.interceptor.io/policy: expected ALLOW_ANY or REGISTRY_ONLY, and strict; did you mean \
             `REGISTRY_ONLY`?; until it is mended, it counts as REGISTRY_ONLY,strict"
        ),
        "{}",
        config.found()
    );
    // Whoever goes before it still does.
    let config = asked(None, "ALLOW_ANY", "REGISTRYONLY", "{}");
    assert_eq!(config.snapshot.outbound_traffic_policy, AllowAny);
}

/// ISTIO.md 1.5, the table's rows of ALLOW_ANY_DYNAMIC_DNS.
#[test]
fn allow_any_dynamic_dns_resolves_the_host_of_plain_http() {
    let entry = |addresses: &str| {
        format!(
            "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: se}}
spec:
  hosts: [istio.io]
  resolution: DNS
  {addresses}
  ports:
  - {{number: 80, name: http, protocol: HTTP}}
  - {{number: 81, name: auto}}
  - {{number: 82, name: tcp, protocol: TCP}}
  - {{number: 83, name: tls, protocol: TLS}}
  - {{number: 84, name: https, protocol: HTTPS}}
  - {{number: 85, name: grpc, protocol: GRPC}}
  - {{number: 86, name: h2, protocol: HTTP2}}
"
        )
    };
    let config = compiled(&entry(""), AllowAnyDynamicDns);
    let dynamic = "AllowAnyDynamicDNSCluster allow_any_dynamic_dns";
    for (port, http, tls, tcp) in [
        (80, dynamic, "PassthroughCluster", "PassthroughCluster"),
        (81, dynamic, "outbound|81||istio.io", "outbound|81||istio.io"),
        (82, "outbound|82||istio.io", "outbound|82||istio.io", "outbound|82||istio.io"),
        (83, "PassthroughCluster", "PassthroughCluster", "PassthroughCluster"),
        (84, "PassthroughCluster", "PassthroughCluster", "PassthroughCluster"),
        (85, dynamic, "PassthroughCluster", "PassthroughCluster"),
        (86, dynamic, "PassthroughCluster", "PassthroughCluster"),
    ] {
        for (first_bytes, expected) in [("http GET http://foo/", http), ("tls foo", tls), ("tcp", tcp)] {
            let connection = format!("203.0.113.9:{port} {first_bytes}");
            assert_eq!(config.ask(&connection), expected, "{connection}");
        }
    }
    // With an address of its own it leaves the ports of all others to the policy.
    let with_vip = compiled(&entry("addresses: [1.1.1.1]"), AllowAnyDynamicDns);
    for port in 80..=87 {
        for (first_bytes, expected) in [
            ("http GET http://foo/", dynamic),
            ("tls foo", "PassthroughCluster"),
            ("tcp", "PassthroughCluster"),
        ] {
            let connection = format!("203.0.113.9:{port} {first_bytes}");
            assert_eq!(with_vip.ask(&connection), expected, "{connection}");
        }
    }
    assert!(config.snapshot.clusters.keys().any(|name| &*name.0 == "AllowAnyDynamicDNSCluster"));
    // Declared hosts go where they went.
    assert_eq!(config.ask("203.0.113.9:80 http GET http://istio.io/"), "outbound|80||istio.io default");
}
