//! What the server has becomes a World: at the start, and whenever it changes.

use std::time::Duration;

use interceptor_tests::{ApiServer, Stopwatch, StreamingLists, eventually};
use interceptor_user::resource::World;
use interceptor_user::source::kubernetes::WatchState;
use serde_json::json;

use crate::support::{namespace, pod, service, service_entry, start, synced};

const ALL_KINDS: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: vs, namespace: shop}
spec: {hosts: [a.example.com], http: [{timeout: 3s, route: [{destination: {host: a.example.com}}]}]}
---
apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata: {name: dr, namespace: shop}
spec: {host: a.example.com}
---
apiVersion: networking.istio.io/v1alpha3
kind: Gateway
metadata: {name: gw, namespace: shop}
spec: {selector: {istio: egressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [a.example.com]}]}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: sc, namespace: shop}
spec: {egress: [{hosts: ['*/*']}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: we, namespace: shop}
spec: {address: 10.1.0.1}
---
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: wg, namespace: shop}
spec: {template: {}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: headless, namespace: shop, labels: {service.kubernetes.io/headless: '', kubernetes.io/service-name: s}}
addressType: IPv4
endpoints: [{addresses: [10.1.0.2]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: by-hand, namespace: shop, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
endpoints: [{addresses: [10.1.0.3]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: of-kube-proxy
  namespace: shop
  labels: {endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io, kubernetes.io/service-name: s}
addressType: IPv4
endpoints: [{addresses: [10.1.0.4]}]
";

#[test]
fn every_kind_that_matters_is_read() -> anyhow::Result<()> {
    for streaming_lists in [StreamingLists::Served, StreamingLists::Refused] {
        let server = ApiServer::start()?;
        server.streaming_lists(streaming_lists);
        server.apply(&(namespace("shop", "") + &service("s") + &service_entry("se", "a.example.com")))?;
        server.apply(ALL_KINDS)?;
        // Of another node, and selected by nobody.
        server.apply(&pod("p", "node-b", ""))?;
        let followed = synced(&server)?;
        assert_eq!(
            followed.keys(),
            [
                "ServiceEntry shop/se",
                "VirtualService shop/vs",
                "DestinationRule shop/dr",
                "Gateway shop/gw",
                "Sidecar shop/sc",
                "WorkloadEntry shop/we",
                "WorkloadGroup shop/wg",
                "Service shop/s",
                "EndpointSlice shop/by-hand",
                "EndpointSlice shop/headless",
                "Namespace shop"
            ]
        );
        assert_eq!(followed.worlds(), 1, "all at once");
        assert_eq!(followed.findings(), Vec::<String>::new());
        // Where it comes from is in the resource's origin.
        let world = followed.world();
        let origin = &world.service_entries().next().expect("one").meta.origin;
        assert!(origin.to_string().starts_with("shop/se@10"), "{origin}");
        let is_streamed = server.requests().iter().any(|request| request.contains("limit=500"));
        assert_eq!(is_streamed, streaming_lists == StreamingLists::Refused, "{:#?}", server.requests());
    }
    Ok(())
}

#[test]
fn changes_are_told_within_moments() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.apply(&service_entry("one", "a.example.com"))?;
    let followed = synced(&server)?;
    followed.wait_for_keys(&["ServiceEntry shop/one"])?;
    let mut longest = Duration::ZERO;
    for round in 0..5 {
        let name = format!("two-{round}");
        let applied = Stopwatch::start();
        server.apply(&service_entry(&name, "b.example.com"))?;
        followed
            .wait_for(&name, |world, _| world.service_entries().any(|entry| *entry.meta.key.name == *name))?;
        longest = longest.max(applied.elapsed());
        server.delete("serviceentries", "shop", &name)?;
        followed.wait_for_keys(&["ServiceEntry shop/one"])?;
    }
    assert!(longest < Duration::from_millis(500), "{longest:?}");
    server.apply(&service_entry("one", "c.example.com"))?;
    let host = |world: &World| world.service_entries().next().map(|entry| entry.hosts[0].value.to_string());
    followed.wait_for("the new host", |world, _| host(world).as_deref() == Some("c.example.com"))?;
    Ok(())
}

#[test]
fn what_means_nothing_here_changes_nothing() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.apply(&(service("s") + &service_entry("e", "a.example.com")))?;
    let followed = synced(&server)?;
    let before = followed.world();
    for round in 0..5 {
        server.apply(&(service("s") + &format!("status: {{loadBalancer: {{round: {round}}}}}\n")))?;
    }
    // What comes after them all has come: they were looked at.
    server.apply(&service_entry("last", "b.example.com"))?;
    followed.wait_for_keys(&["ServiceEntry shop/e", "ServiceEntry shop/last", "Service shop/s"])?;
    let same = before.services().next().zip(followed.world().services().next().cloned());
    assert!(same.is_some_and(|(before, after)| std::sync::Arc::ptr_eq(before, &after)));
    Ok(())
}

#[test]
fn ten_thousand_at_the_start_are_one_world() -> anyhow::Result<()> {
    for streaming_lists in [StreamingLists::Served, StreamingLists::Refused] {
        let server = ApiServer::start()?;
        server.streaming_lists(streaming_lists);
        server.put((0..10_000).map(|number| {
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": format!("s{number}"), "namespace": "shop"},
                "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]},
            })
        }))?;
        let followed = synced(&server)?;
        assert_eq!((followed.worlds(), followed.world().resources.len()), (1, 10_000));
        let status = followed.status();
        let services = status.watches.iter().find(|watch| &*watch.what == "services");
        assert_eq!(services.map(|watch| watch.objects), Some(10_000));
    }
    Ok(())
}

#[test]
fn a_burst_is_gathered() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    let followed = synced(&server)?;
    let many: String = (0..500).map(|number| service_entry(&format!("e{number}"), "a.example.com")).collect();
    server.apply(&many)?;
    followed.wait_for("all of them", |world, _| world.resources.len() == 500)?;
    assert!(followed.worlds() <= 10, "{} Worlds for one burst", followed.worlds());
    Ok(())
}

#[test]
fn pods_are_read_where_a_service_entry_selects_them() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.apply(&pod("p", "node-b", "status: {podIP: 10.1.0.9}"))?;
    let followed = synced(&server)?;
    followed.wait_for_keys(&[])?;
    let selecting = |extra: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e, namespace: shop}}\n\
             spec:\n  hosts: [a.example.com]\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  {extra}\n"
        )
    };
    server.apply(&selecting("resolution: STATIC\n  workloadSelector: {labels: {app: p}}"))?;
    followed.wait_for_keys(&["ServiceEntry shop/e", "Pod shop/p"])?;
    server.apply(&selecting("resolution: DNS"))?;
    followed.wait_for_keys(&["ServiceEntry shop/e"])?;
    assert_eq!(followed.state("pods of namespace shop"), None);
    // At the start, too, before the first World.
    server.apply(&selecting("resolution: STATIC\n  workloadSelector: {labels: {app: p}}"))?;
    let again = synced(&server)?;
    assert_eq!(
        (again.worlds(), again.keys()),
        (1, vec!["ServiceEntry shop/e".to_owned(), "Pod shop/p".to_owned()])
    );
    Ok(())
}

#[test]
fn an_endpoint_slice_that_moves_from_one_watch_to_another_stays() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    let slice = |label: &str, address: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{name: e, namespace: shop, labels: {{{label} kubernetes.io/service-name: s}}}}\n\
             endpoints: [{{addresses: [{address}]}}]\n"
        )
    };
    let has = |world: &World, address: &str| {
        world.endpoint_slices().any(|slice| slice.addresses.iter().any(|have| have.to_string() == address))
    };
    server.apply(&slice("service.kubernetes.io/headless: '',", "10.1.0.1"))?;
    let followed = synced(&server)?;
    for (label, address) in [("", "10.1.0.2"), ("service.kubernetes.io/headless: '',", "10.1.0.3")] {
        server.apply(&slice(label, address))?;
        followed.wait_for(address, |world, _| has(world, address))?;
        // Whatever came after it came on both watches.
        server.apply(&slice(label, address).replace("name: e,", "name: last,"))?;
        followed.wait_for("the last", |world, _| world.endpoint_slices().count() == 2)?;
        assert!(has(&followed.world(), address));
        server.delete("endpointslices", "shop", "last")?;
        followed.wait_for_keys(&["EndpointSlice shop/e"])?;
    }
    server.delete("endpointslices", "shop", "e")?;
    followed.wait_for_keys(&[])?;
    Ok(())
}

#[test]
fn nothing_goes_on_when_it_is_dropped() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    let followed = synced(&server)?;
    eventually("the watch is open", || server.open_watches("services") == 1)?;
    assert_eq!(followed.state("services"), Some(WatchState::Following));
    drop(followed);
    eventually("the watch is closed", || server.open_watches("services") == 0)
}

#[test]
fn a_kubeconfig_that_is_no_kubeconfig_is_told() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    let path = server.dir().write("broken", "clusters: 3")?;
    let settings = interceptor_user::source::kubernetes::KubernetesSettings {
        kubeconfig: Some(path.clone()),
        ..crate::support::settings(&server)
    };
    let error = crate::support::start_with(settings).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains(&format!("can't use the kubeconfig {}", path.display())), "{error}");
    drop(start(&server)?);
    Ok(())
}
