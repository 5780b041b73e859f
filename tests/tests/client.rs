//! Who the client is: its namespace, labels and annotations decide what it sees and what becomes of the rest.

use interceptor_tests::{World, seeds};

const SIDECAR: &str = "
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: locked, namespace: shop}
spec:
  workloadSelector: {labels: {app: locked}}
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
  egress: [{hosts: ['default/httpbin.org']}]
";

fn registry() -> anyhow::Result<String> {
    Ok(seeds(&["000-01-se-se"])? + SIDECAR)
}

#[test]
fn a_sidecar_holds_for_the_workloads_that_it_selects() -> anyhow::Result<()> {
    let world = World::shared()?;
    for (labels, url, status, route) in [
        ("app=locked", "http://httpbin.org/status/200", 200, "default"),
        ("app=locked", "http://www.google.com/", 502, "block_all"),
        ("app=locked", "http://edition.cnn.com/", 502, "block_all"),
        ("app=open", "http://www.google.com/", 200, "default"),
        ("app=open", "http://edition.cnn.com/", 301, "allow_any"),
    ] {
        let pod = world.pod()?;
        let interceptor = pod.interceptor()?.config(&registry()?)?;
        let run = interceptor.flags(&["--namespace", "shop", "--labels", labels]).curl(&[url])?;
        run.expect_code(0)?;
        let line = run.line()?;
        assert_eq!((run.http()?.status, line.route.as_str()), (status, route), "{labels} {url}");
    }
    Ok(())
}

#[test]
fn a_pods_annotation_goes_before_what_its_namespace_says() -> anyhow::Result<()> {
    let world = World::shared()?;
    let namespace = "
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, annotations: {egress.interceptor.io/policy: REGISTRY_ONLY}}
";
    let config = seeds(&["000-01-se-se"])? + namespace;
    for (annotations, status) in
        [(vec![], 502), (vec!["--annotations", "egress.interceptor.io/policy=ALLOW_ANY"], 301)]
    {
        let pod = world.pod()?;
        let interceptor = pod.interceptor()?.config(&config)?.flags(&["--namespace", "shop"]);
        let run = interceptor.flags(&annotations).curl(&["http://edition.cnn.com/"])?;
        assert_eq!(run.http()?.status, status, "{annotations:?}");
    }
    Ok(())
}

#[test]
fn istios_annotations_leave_connections_alone() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let interceptor = pod.interceptor()?.config(&registry()?)?.registry_only();
    let annotation = "traffic.sidecar.istio.io/excludeOutboundIPRanges=203.0.113.30/32";
    let run = interceptor.flags(&["--annotations", annotation]).curl(&["http://edition.cnn.com/"])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.status, 301);
    assert!(run.lines()?.is_empty());
    Ok(())
}

#[test]
fn allow_any_dynamic_dns_goes_where_the_host_leads() -> anyhow::Result<()> {
    let world = World::shared()?;
    let pod = world.pod()?;
    let interceptor = pod.interceptor()?.flags(&["--outbound-traffic-policy", "ALLOW_ANY_DYNAMIC_DNS"]);
    // The address is another site's.
    let run = interceptor.curl(&["-H", "Host: edition.cnn.com", "http://203.0.113.20/"])?;
    run.expect_code(0)?;
    assert_eq!(run.http()?.header("location").as_deref(), Some("https://edition.cnn.com/"));
    let line = run.line()?;
    assert_eq!(
        (line.cluster.as_str(), line.route.as_str(), line.upstream_host.as_str()),
        ("AllowAnyDynamicDNSCluster", "allow_any_dynamic_dns", "203.0.113.30:80")
    );
    Ok(())
}

#[test]
fn kubernetes_services_and_selected_workloads_are_reached() -> anyhow::Result<()> {
    let world = World::shared()?;
    let config = "
apiVersion: v1
kind: Service
metadata: {name: news, namespace: shop}
spec: {clusterIP: 203.0.113.30, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: vms}
spec:
  hosts: [vms.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  workloadSelector: {labels: {app: vm}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm, labels: {app: vm}}
spec: {address: 203.0.113.40}
";
    // Whatever address a name has for the client, its Host decides.
    for (name, cluster, upstream) in [
        ("news", "outbound|80||news.shop.svc.cluster.local", "203.0.113.30:80"),
        ("news.shop", "outbound|80||news.shop.svc.cluster.local", "203.0.113.30:80"),
        ("vms.example.com", "outbound|80||vms.example.com", "203.0.113.40:80"),
    ] {
        let pod = world.pod()?;
        let interceptor = pod.interceptor()?.config(config)?.flags(&["--namespace", "shop"]);
        let resolve = format!("{name}:80:203.0.113.99");
        let run = interceptor.curl(&["--resolve", &resolve, &format!("http://{name}/")])?;
        run.expect_code(0)?;
        let line = run.line()?;
        assert_eq!((line.cluster.as_str(), line.upstream_host.as_str()), (cluster, upstream), "{name}");
    }
    Ok(())
}
