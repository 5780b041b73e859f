//! Who may use the hosts of a ServiceEntry at an egress gateway.

use interceptor_user::compile::{CompileSettings, Role, compile};
use interceptor_user::resource::{Level, World, parse};
use interceptor_user::snapshot::{AllowFrom, ClusterName};

use crate::support::world;

fn entry(annotation: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: api\n  annotations:\n    {annotation}\n\
         spec: {{hosts: [api.example.com], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: DNS}}\n"
    )
}

#[test]
fn a_gateway_keeps_to_it_and_applications_are_not_asked() {
    let (world, findings) =
        world(&entry("egress.interceptor.io/allow-from: 'ns/shop, ns/bar/sa/baz{app=x,tier=web}'"));
    assert_eq!(findings, []);
    let rule = |role: Role| {
        let (snapshot, _) = compile(&world, &CompileSettings { role, ..CompileSettings::default() });
        snapshot.clusters[&ClusterName::outbound(80, "", "api.example.com")].allow_from.clone()
    };
    let expected = AllowFrom::parse("ns/shop,ns/bar/sa/baz{tier=web,app=x}").unwrap();
    assert_eq!(rule(Role::Gateway { own_addresses: Default::default() }), Some(expected));
    assert_eq!(rule(Role::Workload), None);
}

/// Left out of the registry, the hosts are for nobody.
#[test]
fn a_rule_that_cannot_be_read_refuses_its_entry() {
    for (text, why) in [
        ("shop", "\"shop\" is not who may use these hosts"),
        ("'ns/shop{app=a b}'", "\"app=a b\" is no label"),
        ("'ns/shop{app=a,app=b}'", "app is there twice"),
        ("'ns/shop{app=a'", "labels stand between one { and the } at its end"),
    ] {
        let (world, findings) = world(&entry(&format!("egress.interceptor.io/allow-from: {text}")));
        assert_eq!(world.resources.len(), 0);
        let [finding] = &findings[..] else { panic!("{findings:#?}") };
        assert_eq!(finding.level, Level::Error);
        let said = finding.to_string();
        for words in
            ["test.yaml:6:", "allow-from", why, "expected ns/NAMESPACE or ns/NAMESPACE/sa/SERVICE-ACCOUNT"]
        {
            assert!(said.contains(words), "{said}");
        }
    }
}

/// A wildcard's entry would lead there, too.
#[test]
fn the_rules_of_hosts_are_kept_beside_their_clusters() {
    let of = |yaml: &str, role: Role| {
        let parsed = parse(&"test.yaml".into(), yaml, &"default".into());
        let guards = parsed.refused.into_iter().filter_map(|refused| refused.instead);
        let resources = parsed.resources.into_iter().chain(guards);
        let world = World { resources: resources.collect(), ..World::default() };
        let (snapshot, _) = compile(&world, &CompileSettings { role, ..CompileSettings::default() });
        let is_there = snapshot.clusters.contains_key(&ClusterName::outbound(80, "", "api.example.com"));
        (snapshot.allow_from.get("API.example.com.").cloned(), is_there)
    };
    let gateway = || Role::Gateway { own_addresses: Default::default() };
    let good = entry("egress.interceptor.io/allow-from: ns/shop");
    let rule = AllowFrom::parse("ns/shop").unwrap();
    assert_eq!(of(&good, gateway()), (Some(vec![rule.clone()]), true));
    assert_eq!(of(&good, Role::Workload), (None, true));
    assert_eq!(of(&entry("unrelated: ns/shop"), gateway()), (None, true));
    // Whatever is wrong with it, nobody gets in by it.
    let nobody = (Some(vec![AllowFrom::nobody()]), false);
    assert_eq!(of(&entry("egress.interceptor.io/allow-from: shop"), gateway()), nobody);
    assert_eq!(of(&good.replace("resolution: DNS", "resolution: DSN"), gateway()), nobody);
    let again = good.replace("name: api", "name: again").replace("ns/shop", "ns/bar");
    let (both, _) = of(&format!("{good}---\n{again}"), gateway());
    assert_eq!(both.unwrap(), [AllowFrom::parse("ns/bar").unwrap(), rule]);
}
