//! What is in force: /pods, /config/…, /config_dump.

use std::sync::Arc;

use interceptor_user::agent::view::{PodState, View};
use serde_json::json;

use crate::support::{Agent, CART, RESOURCES, pod_that_is, view_of};

#[test]
fn pods_with_their_states() {
    let mut view = view_of("a.yaml", RESOURCES);
    let why = "its runtime class is a sandbox".to_owned();
    view.pods.insert(0, pod_that_is("default", "boxed", PodState::OutOfReach(why)));
    let agent = Agent::start(view);
    let all = agent.over_tcp("/pods", &[]).json();
    assert_eq!(all.as_array().unwrap().len(), 4);
    assert_eq!(
        (&all[0]["state"], &all[0]["why"]),
        (&json!("outOfReach"), &json!("its runtime class is a sandbox"))
    );
    let one = agent.get(&format!("/pods?pod={CART}")).json();
    let expected = json!([{
        "namespace": "shop", "name": "cart-5d5f9b7c9d-abcde", "uid": "uid-of-cart-5d5f9b7c9d-abcde", "state": "enrolled",
        "netnsCookie": 4242, "listenerPort": 15001, "annotationMistakes": [],
        "notEnforced": null,
        "redirect": {
            "excludeIpRanges": ["10.0.0.0/8"], "includeIpRanges": "*", "excludePorts": [], "includePorts": [],
            "excludeInterfaces": [], "interfaceRanges": [],
        },
        "client": {"namespace": "shop", "labels": {"app": "cart"}},
    }]);
    assert_eq!(one, expected);
}

#[test]
fn a_pod_that_is_not_there_or_not_ours() {
    let mut view = view_of("a.yaml", RESOURCES);
    let states = [
        ("waiting", PodState::Waiting("no cgroup yet".to_owned())),
        ("alone", PodState::LeftAlone("its namespace is not labelled for it".to_owned())),
        ("broken", PodState::Failed("no room in the map".to_owned())),
        ("new", PodState::Enrolled),
    ];
    view.pods.extend(states.map(|(name, state)| pod_that_is("other", name, state)));
    let agent = Agent::start(view);
    let near = "no pod shop/cart-5d5f9b7c9d-abcdf on this node; there are shop/cart-5d5f9b7c9d-abcde, \
        shop/cart-5d5f9b7c9d-fghij, ";
    for (path, status, says) in [
        ("/config/routes", 400, "whose? Say ?pod=NAMESPACE/NAME"),
        ("/config/routes?pod=cart", 400, "pod \"cart\": expected NAMESPACE/NAME"),
        ("/config/routes?pod=shop/cart-5d5f9b7c9d-abcdf", 404, near),
        ("/config_dump?pod=shop/cart-5d5f9b7c9d-abcdf", 404, near),
        ("/pods?pod=shop/cart-5d5f9b7c9d-abcdf", 404, near),
        (
            "/config/routes?pod=other/waiting",
            409,
            "pod other/waiting is not intercepted: waiting: no cgroup yet",
        ),
        (
            "/config/routes?pod=other/alone",
            409,
            "not intercepted: left alone: its namespace is not labelled for it",
        ),
        ("/config/routes?pod=other/broken", 409, "not intercepted: failed: no room in the map"),
        ("/config/routes?pod=other/new", 409, "not intercepted: its configuration is being compiled"),
        (
            "/config/routes?pod=money/bank&nam=80",
            400,
            "unknown parameter \"nam\": expected pod, output, name",
        ),
        ("/config/clusters?pod=money/bank&port=x", 400, "port=x: invalid digit"),
        ("/config/routes?pod=money/bank&output=xml", 400, "output=xml: expected text, json or yaml"),
    ] {
        let told = agent.get(path);
        assert_eq!(told.status, status, "{told:?}");
        assert!(told.text.contains(says), "{told:?}");
    }
    let told = Agent::start(View::default()).get("/pods?pod=a/b");
    assert_eq!((told.status, &*told.text), (404, "no pod a/b on this node: no pod of it is known\n"));
}

#[test]
fn tables_in_every_form_and_filtered() {
    let agent = Agent::start(view_of("a.yaml", RESOURCES));
    let path = format!("/config/clusters?pod={CART}&port=80");
    let table = "SERVICE FQDN      PORT   SUBSET   DIRECTION   TYPE   DESTINATION RULE\n\
        www.example.com   80     -        outbound    EDS\n";
    assert_eq!(agent.over_tcp(&path, &[]).text, table);
    let json = agent.get(&format!("{path}&output=json")).json();
    assert_eq!(json[0]["name"], "outbound|80||www.example.com");
    let yaml = agent.get(&format!("{path}&output=yaml"));
    assert!(yaml.text.contains("name: outbound|80||www.example.com\n"), "{yaml:?}");
    assert!(yaml.headers.contains("content-type: application/yaml"), "{yaml:?}");
    // The service is not exported to other namespaces.
    let others = agent.get("/config/registry?pod=money/bank").text;
    assert_eq!(others.lines().count(), 1, "{others}");
}

#[test]
fn the_dump_holds_everything_once() {
    let yaml = format!(
        "{RESOURCES}---\napiVersion: networking.istio.io/v1\nkind: EnvoyFilter\nmetadata: {{name: e}}\n"
    );
    let agent = Agent::start(view_of("a.yaml", &yaml));
    let dump = agent.over_tcp("/config_dump", &[]).json();
    assert_eq!(dump["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&dump["ready"], &dump["checks"][0]["name"]), (&json!(true), &json!("hooks")));
    assert_eq!(dump["sources"], json!([{"name": "ServiceEntry", "state": "following"}]));
    assert_eq!(dump["pods"].as_array().unwrap().len(), 3);
    let web = json!({"kind": "ServiceEntry", "namespace": "shop", "name": "web", "at": "a.yaml:1:1"});
    assert!(dump["resources"].as_array().unwrap().contains(&web), "{}", dump["resources"]);
    assert_eq!(dump["diagnostics"][0]["code"], "EGR0119");
    let clients = dump["clients"].as_array().unwrap();
    let pods: Vec<_> = clients.iter().map(|client| &client["pods"]).collect();
    let carts = json!([CART, "shop/cart-5d5f9b7c9d-fghij"]);
    assert_eq!(pods, [&json!(["money/bank"]), &carts], "pods that are the same client share what they get");
    let of_shop = &clients[1];
    assert_eq!(of_shop["client"], json!({"namespace": "shop", "labels": {"app": "cart"}}));
    assert_eq!((&of_shop["outboundTrafficPolicy"], &of_shop["strict"]), (&json!("ALLOW_ANY"), &json!(false)));
    for (table, column, value) in [
        ("listeners", "destination", "Cluster: outbound|443||www.example.com"),
        ("routes", "virtualService", "slow.shop"),
        ("clusters", "name", "outbound|80||www.example.com"),
        ("endpoints", "endpoint", "192.0.2.7:80"),
        ("registry", "at", "a.yaml:1:1"),
    ] {
        let rows = of_shop[table].as_array().unwrap();
        assert!(rows.iter().any(|row| row[column] == value), "{table}: {rows:?}");
    }

    let one = agent.get("/config_dump?pod=money/bank").json();
    assert_eq!(one["pods"].as_array().unwrap().len(), 1);
    assert_eq!(one["clients"][0]["pods"], json!(["money/bank"]));
    assert_eq!(one["clients"].as_array().unwrap().len(), 1);
}

/// What is asked is answered by one version, whatever comes meanwhile; what is asked then by the next.
#[test]
fn a_new_view_is_seen_at_once() {
    let agent = Agent::start(view_of("a.yaml", RESOURCES));
    let path = format!("/config/endpoints?pod={CART}&port=80");
    assert!(agent.get(&path).text.contains("192.0.2.7:80"));
    agent.view.store(Arc::new(view_of("a.yaml", &RESOURCES.replace("192.0.2.7", "192.0.2.8"))));
    assert!(agent.get(&path).text.contains("192.0.2.8:80"));
}
