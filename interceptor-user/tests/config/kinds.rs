//! The kinds that say who clients and endpoints are: what is read of them, and what is said.

use interceptor_user::resource::World;
use interceptor_user::resource::service::{ServiceType, TargetPort};
use interceptor_user::resource::service_entry::Protocol;

use crate::support::{shown, world};

/// Nothing is said of what is right.
#[track_caller]
fn read(yaml: &str) -> World {
    let (world, findings) = world(yaml);
    assert!(findings.is_empty(), "{}", shown(&findings));
    world
}

fn keys(world: &World) -> Vec<String> {
    world.resources.keys().map(ToString::to_string).collect()
}

#[test]
fn what_kubernetes_has_is_read_and_the_rest_of_it_is_its_own() {
    let world = read(
        "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {networking.istio.io/exportTo: '., other'}}
spec:
  type: ClusterIP
  clusterIPs: [10.0.0.1, 'fd00::1']
  selector: {app: web}
  sessionAffinity: None
  ports:
  - {name: http-web, port: 80, targetPort: 8080, protocol: TCP}
  - {name: db, port: 81, appProtocol: mysql, targetPort: db}
  - {name: dns, port: 53, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: ExternalName, externalName: WWW.example.com., ports: [{port: 443}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None}
---
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: web}, annotations: {a: b}}
spec:
  hostNetwork: true
  securityContext: {runAsUser: 1337}
  containers: [{name: main, image: x, securityContext: {runAsUser: 0}}]
  initContainers: [{name: first}]
status: {phase: Running, podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.1}, {ip: 'fd01::1'}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: d, annotations: {of: object}}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: d}, annotations: {of: template}}
    spec: {containers: []}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: c}
spec: {jobTemplate: {spec: {template: {metadata: {labels: {app: c}}}}}}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
data: {tls.crt: YQ==}
stringData: {tls.key: a}
",
    );
    assert_eq!(
        keys(&world),
        [
            "Service default/headless",
            "Service default/outside",
            "Service shop/web",
            "Pod default/p",
            "Deployment default/d",
            "CronJob default/c",
            "Namespace shop",
            "Secret default/s",
        ]
    );
    let services: Vec<_> = world.services().collect();
    let [headless, outside, web] = services[..] else { panic!("{services:?}") };
    assert!(headless.headless && headless.cluster_ips.is_empty());
    assert_eq!(outside.kind, ServiceType::ExternalName("www.example.com".into()));
    assert_eq!(web.cluster_ips.len(), 2);
    let export_to = &web.export_to;
    assert!(export_to.reaches("shop", "shop") && export_to.reaches("shop", "other"));
    assert!(!export_to.reaches("shop", "default"));
    let ports: Vec<_> = web.ports.iter().map(|port| (port.number, port.protocol)).collect();
    assert_eq!(ports, [(80, Protocol::Http), (81, Protocol::Mysql), (53, Protocol::Udp)]);
    assert_eq!(web.ports[1].target_port, Some(TargetPort::Name("db".into())));
    let pod = world.pods().next().unwrap();
    assert_eq!((pod.addresses.len(), pod.spec.host_network), (2, true));
    assert_eq!(pod.spec.run_as_user.as_ref().unwrap().value, 1337);
    assert_eq!(pod.spec.containers[0].run_as_user.as_ref().unwrap().value, 0);
    assert_eq!(&*pod.meta.labels["app"], "web");
    let templates: Vec<_> = world.pod_templates().collect();
    assert_eq!(&*templates[0].annotations["of"].value, "template");
    assert_eq!(&*templates[0].meta.annotations["of"].value, "object");
    let place = templates[0].annotations["of"].position;
    assert_eq!((place.line, place.column), (41, 52));
    assert_eq!(&*templates[1].labels["app"], "c");
    let secret = world.secrets().next().unwrap();
    assert_eq!(secret.keys.iter().map(|key| &**key).collect::<Vec<_>>(), ["tls.crt", "tls.key"]);
}

#[test]
fn what_is_wrong_in_kubernetes_own_kinds_is_a_warning() {
    for (document, said) in [
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: w}\nspec: {ports: [{port: 99999}]}",
            "warning: Service default/w: spec.ports[0].port: expected a whole number from 1 to 65535",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: w, labels: {a: 1}}\nspec: {hostNetwork: 'yes'}",
            "warning: : metadata.labels[a]: expected text",
        ),
        ("apiVersion: v1\nkind: Pod\nmetadata: {generateName: w-}", "warning: metadata: `name` is missing"),
    ] {
        let (_, findings) = world(document);
        let said_here = shown(&findings);
        assert!(said_here.contains(&said.replace(": : ", ": ")), "{document}\n{said_here}");
        assert!(!said_here.contains("error"), "{document}\n{said_here}");
    }
}

#[test]
fn sidecars_and_workloads_are_read() {
    let world = read(
        "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: s}
spec:
  workloadSelector: {labels: {app: web}}
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
  egress:
  - port: {number: 9080, protocol: HTTP, name: egresshttp}
    bind: 10.0.0.1
    captureMode: NONE
    hosts: [prod-us1/*]
  - hosts: [./*, istio-system/*, '~/*', '*/a.example.com']
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: w, labels: {app: web}}
spec: {address: 10.0.0.1, ports: {http: 8080}, labels: {version: v1}, weight: 3, serviceAccount: x, network: n}
---
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: g}
spec:
  metadata: {labels: {app: web}}
  template: {ports: {http: 8080}, serviceAccount: x}
  probe: {httpGet: {port: 80}}
",
    );
    assert_eq!(keys(&world), ["Sidecar default/s", "WorkloadEntry default/w", "WorkloadGroup default/g"]);
    let workload = world.workload_entries().next().unwrap();
    assert_eq!((workload.endpoint.weight, workload.endpoint.labels.len()), (3, 2));
    assert_eq!(world.sidecars().next().unwrap().egress.len(), 2);
}

#[test]
fn mistakes_of_sidecars_and_workloads() {
    let of = |kind: &str, spec: &str| {
        format!("apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}")
    };
    for (document, said) in [
        (
            of("Sidecar", "{outboundTrafficPolicy: {}}"),
            "warning: [EGR0114] Sidecar default/x: spec.outboundTrafficPolicy: `mode` is missing, which means REGISTRY_ONLY",
        ),
        (
            of("Sidecar", "{outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}}"),
            "error: Sidecar default/x: spec.outboundTrafficPolicy.mode: ALLOW_ANY_DYNAMIC_DNS is for MeshConfig only",
        ),
        (
            of(
                "Sidecar",
                "{outboundTrafficPolicy: {mode: REGISTRY_ONLY, egressProxy: {host: a.com, port: {number: 80}}}}",
            ),
            "spec.outboundTrafficPolicy.egressProxy: sidecar: egress_proxy must be set only with ALLOW_ANY",
        ),
        (
            of("Sidecar", "{outboundTrafficPolicy: {egressProxy: {host: a.com, port: {number: 80}}}}"),
            "egress_proxy must be set only with ALLOW_ANY outbound_traffic_policy mode",
        ),
        (
            of("Sidecar", "{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: a.com}}}"),
            "sidecar: egress_proxy port must be non-nil",
        ),
        (
            of("Sidecar", "{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {port: {number: 80}}}}"),
            "spec.outboundTrafficPolicy.egressProxy: `host` is missing",
        ),
        (of("Sidecar", "{egress: [{}]}"), "egress listener must contain at least one host"),
        (of("Sidecar", "{egress: [{hosts: [a.com]}]}"), "`a.com` is not of the form namespace/dnsName"),
        (of("Sidecar", "{egress: [{hosts: [x/a.*.com]}]}"), "invalid host a.*.com"),
        (of("Sidecar", "{egress: [{hosts: [X/*]}]}"), "`X` is not a namespace"),
        (
            of("Sidecar", "{egress: [{hosts: ['*/*']}, {hosts: ['./*']}]}"),
            "sidecar: egress can have only one listener with empty port",
        ),
        (
            of("Sidecar", "{egress: [{hosts: ['*/*']}, {port: {number: 80}, hosts: ['./*']}]}"),
            "sidecar: the egress listener with empty port should be the last listener in the list",
        ),
        (
            of(
                "Sidecar",
                "{egress: [{port: {number: 80}, hosts: ['*/*']}, {port: {number: 80}, hosts: ['./*']}]}",
            ),
            "sidecar: ports on IP bound listeners must be unique",
        ),
        (
            of("Sidecar", "{egress: [{port: {number: 80}, bind: x, hosts: ['*/*']}]}"),
            "`x` is not an IP address",
        ),
        (of("WorkloadEntry", "{ports: {http: 80}}"), "`address` is missing"),
        (of("WorkloadEntry", "{address: 'a b'}"), "neither a host name nor an IP address"),
        (
            of("WorkloadEntry", "{address: 'unix://a'}"),
            "spec.address: a is not an absolute path to a file: write unix:///path/to/socket",
        ),
        (
            of("WorkloadEntry", "{address: 'unix:///a', ports: {http: 80}}"),
            "unix endpoint unix:///a must not include ports",
        ),
        (of("WorkloadGroup", "{}"), "`template` is missing"),
    ] {
        let (_, findings) = world(&document);
        let said_here = shown(&findings);
        assert!(said_here.contains(said), "{document}\n{said_here}");
    }
}
