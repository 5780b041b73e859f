//! The snapshot depends on the resources, not on the order they come in.

use interceptor_user::compile::{Client, CompileSettings, compile};
use interceptor_user::resource::{World, parse};
use proptest::prelude::*;

/// Documents that compete for the same hosts, ports and subsets.
fn documents() -> Vec<String> {
    let mut documents = Vec::new();
    for index in 0..4 {
        let time = if index % 2 == 0 { "" } else { ", creationTimestamp: '2020-01-01T00:00:00Z'" };
        let meta = format!("metadata: {{name: n{index}, namespace: ns{}{time}}}", index % 2);
        documents.push(format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n{meta}\nspec:\n  hosts: [a.example.com]\n  ports: \
             [{{number: 80, name: http, protocol: HTTP}}, {{number: 90, name: tcp, protocol: TCP}}]\n  resolution: DNS\n  \
             endpoints: [{{address: e{index}.internal}}]\n"
        ));
        documents.push(format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\n{meta}\nspec:\n  hosts: [a.example.com]\n  http: \
             [{{name: r{index}, route: [{{destination: {{host: a.example.com, subset: s{index}}}}}]}}]\n"
        ));
        documents.push(format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n{meta}\nspec:\n  host: a.example.com\n  subsets: \
             [{{name: s{index}}}]\n  trafficPolicy: {{connectionPool: {{tcp: {{connectTimeout: {index}5s}}}}}}\n"
        ));
        documents.push(format!(
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\n{meta}\nspec:\n  egress: [{{hosts: ['ns{}/*', './*']}}]\n",
            index % 2
        ));
        documents.push(format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n{meta}\nspec: {{address: 10.0.0.{index}, labels: {{app: a}}}}\n"
        ));
        documents.push(format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: w{index}, namespace: ns{}{time}}}\nspec:\n  \
             hosts: [w.example.com, s.ns0.svc.cluster.local]\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  resolution: \
             STATIC\n  workloadSelector: {{labels: {{app: a}}}}\n  subjectAltNames: [n{index}]\n",
            index % 2
        ));
        documents.push(format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{index}, namespace: ns{}, labels: {{app: a}}}}\nspec: {{}}\nstatus: \
             {{podIP: 10.1.0.{index}}}\n",
            index % 2
        ));
        documents.push(format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: r{index}, namespace: ns{}{time}}}\nspec:\n  \
             host: a.example.com\n  workloadSelector: {{matchLabels: {{app: c}}}}\n  trafficPolicy: {{connectionPool: {{tcp: \
             {{connectTimeout: {index}6s}}}}}}\n",
            index % 2
        ));
    }
    for (name, address) in [("s", "10.96.0.1"), ("t", "None")] {
        documents.push(format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: ns0}}\nspec: {{clusterIP: {address}, selector: {{app: \
             a}}, ports: [{{port: 80, name: http}}, {{port: 90, name: tcp}}]}}\n"
        ));
    }
    documents
}

/// Those with and without a Sidecar, and with labels that a rule selects.
fn clients() -> Vec<Client> {
    let labels = [("app".into(), "c".into())].into();
    vec![Client::default(), Client::in_namespace("ns0"), Client { labels, ..Client::in_namespace("ns1") }]
}

proptest! {
    #[test]
    fn any_order_compiles_to_the_same(order in Just(documents()).prop_shuffle()) {
        let build = |documents: &[String]| {
            let mut world = World::default();
            for document in documents {
                for resource in parse(&"f.yaml".into(), document, &"default".into()).resources {
                    world.resources.insert(resource);
                }
            }
            clients().into_iter().map(|client| {
                compile(&world, &CompileSettings { client, ..CompileSettings::default() })
            }).collect::<Vec<_>>()
        };
        prop_assert_eq!(build(&order), build(&documents()));
    }

    #[test]
    fn any_text_is_read_without_panic(text in "\\PC{0,200}") {
        let _parsed = parse(&"f.yaml".into(), &text, &"default".into());
    }

    /// Characters that mean something to YAML, in documents that almost are resources.
    #[test]
    fn almost_resources_are_read_without_panic(
        kind in prop::sample::select(vec!["ServiceEntry", "VirtualService", "DestinationRule", "Gateway", "Sidecar", "WorkloadEntry", "WorkloadGroup"]),
        text in "[a-z:{}\\[\\], \n\\-&*!|>'\"#%@`0-9]{0,120}",
    ) {
        let text = format!("apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: x}}\nspec:\n  {text}");
        let mut world = World::default();
        for resource in parse(&"f.yaml".into(), &text, &"default".into()).resources {
            world.resources.insert(resource);
        }
        let _compiled = compile(&world, &CompileSettings::default());
    }
}
