//! The snapshot depends on the resources, not on the order they come in.

use interceptor_user::compile::{CompileSettings, compile};
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
    }
    documents
}

proptest! {
    #[test]
    fn any_order_compiles_to_the_same(order in Just(documents()).prop_shuffle()) {
        let build = |documents: &[String]| {
            let mut world = World::default();
            for document in documents {
                for resource in parse(&"f.yaml".into(), document, &"default".into()).resources {
                    world.resources.insert(resource.meta().key.clone(), resource);
                }
            }
            compile(&world, &CompileSettings::default())
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
        kind in prop::sample::select(vec!["ServiceEntry", "VirtualService", "DestinationRule", "Gateway"]),
        text in "[a-z:{}\\[\\], \n\\-&*!|>'\"#%@`0-9]{0,120}",
    ) {
        let text = format!("apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: x}}\nspec:\n  {text}");
        let mut world = World::default();
        for resource in parse(&"f.yaml".into(), &text, &"default".into()).resources {
            world.resources.insert(resource.meta().key.clone(), resource);
        }
        let _compiled = compile(&world, &CompileSettings::default());
    }
}
