//! DestinationRules: which one a cluster gets and what it says.

use std::path::{Path, PathBuf};
use std::time::Duration;

use interceptor_user::analysis::{Audience, Flags, find};
use interceptor_user::compile::{Client, CompileSettings, NodePaths, compile};
use interceptor_user::snapshot::{
    CaSource, Cluster, ClusterName, Credential, Discovery, LoadBalancer, TlsOriginationMode, UpstreamProtocol,
};

use crate::support::{Config, allow_any, in_namespace};

const ENTRY: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: se, namespace: SERVICE}
spec:
  hosts: [a.example.com]
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 443, name: https, protocol: HTTPS}
  resolution: DNS
  subjectAltNames: [san.example.com]
---
";

fn rule(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: {namespace}}}
spec:
{spec}
---"
    )
}

fn cluster<'a>(config: &'a Config, port: u16, subset: &str) -> &'a Cluster {
    &config.snapshot.clusters[&ClusterName::outbound(port, subset, "a.example.com")]
}

fn with(spec: &str) -> Config {
    allow_any(&(ENTRY.replace("SERVICE", "default") + &rule("default", "dr", spec)))
}

/// The rule that applies is told by its connect timeout.
#[test]
fn lookup_order() {
    let timeout = |namespace: &str, host: &str, export_to: &str, seconds: u32| {
        let name = format!("dr{seconds}");
        let spec = format!(
            "  host: '{host}'\n  exportTo: {export_to}\n  trafficPolicy: {{connectionPool: {{tcp: {{connectTimeout: {seconds}s}}}}}}"
        );
        rule(namespace, &name, &spec)
    };
    let host = "a.example.com";
    for (what, rules, client, expected) in [
        ("none", vec![], "client", 10),
        (
            "client's",
            vec![("client", host, "[]", 1), ("service", host, "[]", 2), ("root", host, "[]", 3)],
            "client",
            1,
        ),
        ("service's", vec![("service", host, "[]", 2), ("root", host, "[]", 3)], "client", 2),
        ("root's", vec![("root", host, "[]", 3), ("elsewhere", host, "[]", 4)], "client", 3),
        ("elsewhere", vec![("elsewhere", host, "[]", 4)], "client", 10),
        ("not exported", vec![("service", host, "['.']", 2), ("root", host, "[]", 3)], "client", 3),
        ("exported by name", vec![("service", host, "[client]", 2), ("root", host, "[]", 3)], "client", 2),
        (
            "wildcard of the client",
            vec![("client", "*.example.com", "[]", 1), ("service", host, "[]", 2)],
            "client",
            1,
        ),
        (
            "longest wildcard",
            vec![("client", "*.com", "[]", 1), ("client", "*.example.com", "[]", 2)],
            "client",
            2,
        ),
        // The most specific is not exported: no second try in that namespace.
        (
            "hidden specific",
            vec![
                ("service", host, "['.']", 1),
                ("service", "*.example.com", "[]", 2),
                ("root", host, "[]", 3),
            ],
            "client",
            3,
        ),
        // In the root namespace only rules for itself come first.
        ("root client", vec![("root", host, "[]", 1), ("service", host, "[]", 2)], "root", 2),
        ("root client, own", vec![("root", host, "['.']", 1), ("service", host, "[]", 2)], "root", 1),
    ] {
        let mut yaml = ENTRY.replace("SERVICE", "service");
        for (namespace, host, export_to, seconds) in rules {
            yaml += &timeout(namespace, host, export_to, seconds);
        }
        let config = in_namespace(&yaml, "rootNamespace: root", client);
        assert_eq!(cluster(&config, 80, "").connect_timeout, Duration::from_secs(expected), "{what}");
    }
}

#[test]
fn rules_of_one_host_and_namespace_are_merged() {
    let yaml = ENTRY.replace("SERVICE", "default")
        + &rule(
            "default",
            "one",
            "  host: a.example.com\n  trafficPolicy: {loadBalancer: {simple: RANDOM}}\n  subsets: [{name: s1}]",
        )
        + &rule(
            "default",
            "two",
            "  host: a.example.com\n  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}\n  subsets: [{name: s2}, \
             {name: s1, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}]",
        );
    let config = allow_any(&yaml);
    for subset in ["", "s1", "s2"] {
        assert_eq!(cluster(&config, 80, subset).load_balancer, LoadBalancer::Random, "{subset}");
    }
}

#[test]
fn precedence_of_ports_and_subsets() {
    let config = with(
        "
  host: a.example.com
  trafficPolicy:
    loadBalancer: {simple: RANDOM}
    connectionPool: {tcp: {connectTimeout: 1s, idleTimeout: 90s}, http: {maxRequestsPerConnection: 5, idleTimeout: 30s}}
    portLevelSettings:
    - port: {number: 443}
      tls: {mode: SIMPLE}
  subsets:
  - name: plain
  - name: block
    trafficPolicy: {connectionPool: {tcp: {connectTimeout: 2s}}}
  - name: port
    trafficPolicy:
      loadBalancer: {simple: ROUND_ROBIN}
      portLevelSettings:
      - port: {number: 443}
        connectionPool: {tcp: {connectTimeout: 3s}}
",
    );
    let shown = |port, subset| {
        let cluster = cluster(&config, port, subset);
        (
            cluster.load_balancer,
            cluster.connect_timeout.as_secs(),
            cluster.max_requests_per_connection,
            cluster.tls.is_some(),
        )
    };
    use LoadBalancer::{LeastRequest, Random, RoundRobin};
    for (port, subset, expected) in [
        (80, "", (Random, 1, Some(5), false)),
        // A port's settings replace everything, also with what they leave out.
        (443, "", (LeastRequest, 10, None, true)),
        (80, "plain", (Random, 1, Some(5), false)),
        (443, "plain", (LeastRequest, 10, None, true)),
        // A subset replaces block by block.
        (80, "block", (Random, 2, None, false)),
        (443, "block", (LeastRequest, 2, None, true)),
        (80, "port", (RoundRobin, 1, Some(5), false)),
        (443, "port", (LeastRequest, 3, None, false)),
    ] {
        assert_eq!(shown(port, subset), expected, "{port} {subset}");
    }
    // Idle timeouts of opaque bytes come from the top level only.
    assert_eq!(cluster(&config, 443, "block").tcp_idle_timeout, Duration::from_secs(90));
    assert_eq!(cluster(&config, 80, "").http_idle_timeout, Duration::from_secs(30));
    assert_eq!(cluster(&config, 443, "").http_idle_timeout, Duration::from_secs(3600));
}

#[test]
fn tls() {
    let config = with("  host: a.example.com\n  trafficPolicy: {tls: {mode: DISABLE}}");
    assert_eq!(cluster(&config, 80, "").tls, None);

    let config = with("  host: a.example.com\n  trafficPolicy: {tls: {mode: SIMPLE}}");
    let tls = cluster(&config, 80, "").tls.as_ref().expect("TLS");
    assert_eq!((&tls.ca, tls.sni.as_deref(), tls.impossible.as_deref()), (&CaSource::System, None, None));
    // The entry's names, as the rule gives none.
    assert_eq!(tls.subject_alt_names.iter().map(|name| &**name).collect::<Vec<_>>(), ["san.example.com"]);
    assert!(config.found().contains("TLS inside TLS"), "{}", config.found());

    let config = with(
        "
  host: a.example.com
  trafficPolicy:
    portLevelSettings:
    - port: {number: 80}
      tls:
        mode: MUTUAL
        clientCertificate: /etc/certs/client.pem
        privateKey: /etc/certs/key.pem
        caCertificates: /etc/certs/ca.pem
        caCrl: /etc/certs/crl.pem
        sni: other.example.com
        subjectAltNames: [x.example.com]",
    );
    let tls = cluster(&config, 80, "").tls.as_ref().expect("TLS");
    assert_eq!(tls.sni.as_deref(), Some("other.example.com"));
    assert_eq!(tls.subject_alt_names.iter().map(|name| &**name).collect::<Vec<_>>(), ["x.example.com"]);
    assert_eq!(tls.ca, CaSource::File("/etc/certs/ca.pem".into()));
    assert_eq!(tls.ca_crl.as_deref(), Some(Path::new("/etc/certs/crl.pem")));
    assert!(tls.identity.is_some() && tls.impossible.is_none());
    assert!(cluster(&config, 443, "").tls.is_none());
    assert!(!config.found().contains("TLS inside TLS"), "{}", config.found());

    let config =
        with("  host: a.example.com\n  trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true}}");
    let tls = cluster(&config, 80, "").tls.as_ref().expect("TLS");
    assert!(tls.ca == CaSource::Unverified && tls.subject_alt_names.is_empty());
}

#[test]
fn tls_that_cannot_be_made_is_never_plaintext() {
    for (tls, reason) in [
        ("mode: SIMPLE, credentialName: my-secret", "credentialName my-secret"),
        ("mode: MUTUAL, credentialName: my-secret", "credentialName my-secret"),
        ("mode: MUTUAL", "client certificate required for mutual tls"),
        ("mode: MUTUAL, clientCertificate: /c.pem", "private key required for mutual tls"),
        ("mode: ISTIO_MUTUAL", "ISTIO_MUTUAL"),
    ] {
        let config = with(&format!("  host: a.example.com\n  trafficPolicy: {{tls: {{{tls}}}}}"));
        let origination = cluster(&config, 80, "").tls.as_ref().expect("TLS");
        let impossible = origination.impossible.as_deref().expect("a reason");
        assert!(
            impossible.starts_with("DestinationRule default/dr: ") && impossible.contains(reason),
            "{impossible}"
        );
        assert!(config.found().contains("never sent in clear"), "{}", config.found());
    }
}

#[test]
fn connection_pool_and_load_balancer() {
    let config = with(
        "
  host: a.example.com
  trafficPolicy:
    loadBalancer: {simple: PASSTHROUGH}
    connectionPool: {http: {h2UpgradePolicy: UPGRADE}}",
    );
    let cluster = cluster(&config, 80, "");
    assert_eq!(cluster.discovery, Discovery::OriginalDst { port: None });
    assert_eq!(cluster.protocol, UpstreamProtocol::Http2);
    assert_eq!(cluster.connect_timeout, Duration::from_secs(10));
}

#[test]
fn subsets_choose_endpoints_by_label() {
    let config = allow_any(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: se}
spec:
  hosts: [a.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 10.0.0.1, labels: {v: '1'}}, {address: 10.0.0.2, labels: {v: '2', x: y}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: dr}
spec:
  host: a.example.com
  subsets: [{name: all}, {name: one, labels: {v: '1'}}, {name: none, labels: {v: '3'}}]
",
    );
    let endpoints = |subset| {
        let Discovery::Static(endpoints) = &cluster(&config, 80, subset).discovery else {
            panic!("not static")
        };
        endpoints
            .iter()
            .map(|endpoint| endpoint.address.ip().expect("an address").to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(endpoints("all"), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(endpoints("one"), ["10.0.0.1"]);
    assert!(endpoints("none").is_empty());
}

#[test]
fn short_names_are_of_the_rules_namespace() {
    let config = with("  host: httpbin\n  trafficPolicy: {tls: {mode: SIMPLE}}");
    let found = config.found();
    assert!(
        found.contains(
            "no ServiceEntry or Service that is seen from here has host httpbin.default.svc.cluster.local"
        ),
        "{found}"
    );
}

#[test]
fn credentials_are_looked_for_in_their_directory() {
    let tls = |tls: &str| {
        let yaml = ENTRY.replace("SERVICE", "default")
            + &rule("default", "dr", &format!("  host: a.example.com\n  trafficPolicy: {{tls: {{{tls}}}}}"));
        let client = Client { credentials_dir: Some("/secrets".into()), ..Client::default() };
        let config = crate::support::for_client(&yaml, client);
        let tls = cluster(&config, 80, "").tls.clone().expect("TLS");
        (tls, config.found())
    };
    for (given, directory, ca_directories) in [
        ("my-secret", "/secrets/my-secret", &["/secrets/my-secret-cacert", "/secrets/my-secret"][..]),
        (
            "kubernetes://my-secret",
            "/secrets/my-secret",
            &["/secrets/my-secret-cacert", "/secrets/my-secret"],
        ),
        ("my-secret-cacert", "/secrets/my-secret-cacert", &["/secrets/my-secret-cacert"]),
        ("configmap://bundle", "/secrets/bundle", &["/secrets/bundle"]),
    ] {
        let (tls, found) = tls(&format!("mode: SIMPLE, credentialName: '{given}'"));
        assert_eq!(tls.impossible, None, "{given}");
        let expected = Credential::Secret {
            name: given.into(),
            directory: directory.into(),
            ca_directories: ca_directories.iter().map(PathBuf::from).collect(),
        };
        assert_eq!(tls.credential, Some(expected));
        assert!(!found.contains("credentialName"), "{found}");
    }
    for (given, expected) in [
        ("mode: SIMPLE, credentialName: ../other", "is not the name of a secret"),
        ("mode: SIMPLE, credentialName: a/b", "is not the name of a secret"),
        ("mode: SIMPLE, credentialName: ..", "is not the name of a secret"),
        ("mode: MUTUAL, credentialName: 'configmap://bundle'", "holds no client certificate"),
    ] {
        let (tls, found) = tls(given);
        let impossible = tls.impossible.expect("a reason");
        assert!(impossible.contains(expected) && found.contains(expected), "{impossible} {found}");
    }
}

#[test]
fn files_of_the_node_are_used_where_they_were_allowed() {
    let below = |directory: &str| NodePaths::Below(vec![directory.into()]);
    let pair = "mode: MUTUAL, clientCertificate: /etc/kubelet/a.pem, privateKey: /etc/kubelet/a.key";
    for (tls, allowed, expected) in [
        (pair, NodePaths::Any, None),
        (pair, below("/etc/kubelet"), None),
        (pair, NodePaths::default(), Some("clientCertificate /etc/kubelet/a.pem")),
        (pair, below("/etc/mesh"), Some("--allow-tls-files allows /etc/mesh")),
        (
            "mode: MUTUAL, clientCertificate: /etc/mesh/a.pem, privateKey: /etc/mesh/../kubelet/a.key",
            below("/etc/mesh"),
            Some("privateKey /etc/mesh/../kubelet/a.key"),
        ),
        (
            "mode: SIMPLE, caCertificates: /etc/ca.pem",
            NodePaths::default(),
            Some("caCertificates /etc/ca.pem"),
        ),
        ("mode: SIMPLE, caCrl: /etc/crl.pem", NodePaths::default(), Some("caCrl /etc/crl.pem")),
        ("mode: SIMPLE, caCertificates: ca.pem", below("/"), Some("caCertificates ca.pem")),
        // It is not shown, so that it is not read either.
        ("mode: SIMPLE, clientCertificate: /etc/a.pem", NodePaths::default(), None),
        ("mode: SIMPLE", NodePaths::default(), None),
    ] {
        let yaml = ENTRY.replace("SERVICE", "default")
            + &rule("default", "dr", &format!("  host: a.example.com\n  trafficPolicy: {{tls: {{{tls}}}}}"));
        let world = crate::support::world(&yaml).0;
        let settings = CompileSettings { tls_files: allowed.clone(), ..CompileSettings::default() };
        let (snapshot, _) = compile(&world, &settings);
        let cluster = &snapshot.clusters[&ClusterName::outbound(80, "", "a.example.com")];
        let impossible = cluster.tls.as_ref().expect("TLS").impossible.as_deref();
        assert_eq!(impossible.is_some(), expected.is_some(), "{tls} {impossible:?}");
        assert!(impossible.unwrap_or_default().contains(expected.unwrap_or_default()), "{impossible:?}");

        let flags = Flags { tls_files: Some(&allowed), ..Flags::default() };
        let told = crate::support::shown(&find(&world, Audience::Mesh(flags)));
        assert_eq!(told.contains("EGR0104"), expected.is_some(), "{told}");
        assert!(told.contains(expected.unwrap_or_default()), "{told}");
    }
}

/// The name that Istio's gateways and sidecars know the cluster by, and the identity's own roots.
#[test]
fn the_meshs_identity_is_shown_to_the_meshs_servers() {
    let yaml = |tls: &str| {
        let policy = format!("trafficPolicy: {{tls: {{mode: ISTIO_MUTUAL{tls}}}}}");
        ENTRY.replace("SERVICE", "default").replace("  subjectAltNames: [san.example.com]\n", "")
            + &rule("default", "dr", &format!("  host: a.example.com\n  {policy}\n  subsets: [{{name: v1}}]"))
    };
    let of = |tls: &str, port: u16, subset: &str| {
        let client = Client { identity_dir: Some("/identity".into()), ..Client::default() };
        let config = crate::support::for_client_of_mesh(
            &yaml(tls),
            "tlsDefaults: {minProtocolVersion: TLSV1_3}",
            client,
        );
        assert!(!config.found().contains("ISTIO_MUTUAL"), "{}", config.found());
        cluster(&config, port, subset).tls.clone().expect("TLS")
    };
    for (tls, port, subset, sni) in [
        ("", 80, "", "outbound_.80_._.a.example.com"),
        ("", 443, "v1", "outbound_.443_.v1_.a.example.com"),
        (", sni: httpbin.org", 443, "v1", "httpbin.org"),
        (", insecureSkipVerify: true", 80, "", "outbound_.80_._.a.example.com"),
    ] {
        let found = of(tls, port, subset);
        assert_eq!(
            (found.mode, found.impossible.as_deref()),
            (TlsOriginationMode::IstioMutual, None),
            "{tls}"
        );
        assert_eq!((found.sni.as_deref(), found.verify_host), (Some(sni), false), "{tls}");
        assert_ne!(found.ca, CaSource::Unverified, "{tls}");
        assert_eq!(found.credential, Some(Credential::MeshIdentity { directory: "/identity".into() }));
        // tlsDefaults is for all but ISTIO_MUTUAL.
        assert!(!found.tls_1_3_only);
    }
    let named = of(", subjectAltNames: ['spiffe://td/ns/a/sa/b']", 80, "");
    assert_eq!(named.subject_alt_names, ["spiffe://td/ns/a/sa/b".into()]);
    let impossible = with("  host: a.example.com\n  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}");
    let tls = cluster(&impossible, 80, "").tls.as_ref().expect("TLS");
    let reason = tls.impossible.as_deref().expect("a reason");
    assert!(reason.contains("give --identity-dir DIR with cert-chain.pem"), "{reason}");
}

/// The Host is verified by what the rule says; the entry's names come in addition.
#[test]
fn who_is_verified() {
    for (rule, names, verify_host) in [
        ("mode: SIMPLE", &["san.example.com"][..], true),
        ("mode: SIMPLE, sni: sni.example.com", &["san.example.com"], false),
        ("mode: SIMPLE, subjectAltNames: [own.example.com]", &["own.example.com"], false),
        ("mode: SIMPLE, subjectAltNames: ['spiffe://td/ns/a/sa/b']", &["spiffe://td/ns/a/sa/b"], false),
        ("mode: SIMPLE, insecureSkipVerify: true", &[], false),
    ] {
        let config = with(&format!("  host: a.example.com\n  trafficPolicy: {{tls: {{{rule}}}}}"));
        let tls = cluster(&config, 80, "").tls.as_ref().expect("TLS");
        let found: Vec<&str> = tls.subject_alt_names.iter().map(|name| &**name).collect();
        assert_eq!((&found[..], tls.verify_host), (names, verify_host), "{rule}");
    }
}

#[test]
fn the_lowest_version_of_tls_is_the_meshs() {
    for (mesh, expected) in [
        ("{}", false),
        ("tlsDefaults: {minProtocolVersion: TLSV1_2}", false),
        ("tlsDefaults: {minProtocolVersion: TLSV1_3}", true),
    ] {
        let yaml = ENTRY.replace("SERVICE", "default")
            + &rule("default", "dr", "  host: a.example.com\n  trafficPolicy: {tls: {mode: SIMPLE}}");
        let config = in_namespace(&yaml, mesh, "default");
        assert_eq!(
            cluster(&config, 80, "").tls.as_ref().map(|tls| tls.tls_1_3_only),
            Some(expected),
            "{mesh}"
        );
    }
}
