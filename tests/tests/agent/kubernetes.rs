//! The agent against an API server: what `kubectl` would change takes effect, and the server's bad days do not.

use interceptor_tests::{ApiServer, Node, World};

use crate::HTTPBIN;

#[test]
fn an_api_servers_pods_and_resources_take_effect() -> anyhow::Result<()> {
    let world = World::shared()?;
    let api: &'static ApiServer = Box::leak(Box::new(world.outside.enter(ApiServer::start)??));
    let node = Node::following(api)?;
    api.apply(HTTPBIN)?;
    api.apply(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n\
         data: {mesh: \"outboundTrafficPolicy: {mode: REGISTRY_ONLY}\"}\n",
    )?;
    let agent = node.agent(&[])?;
    let pod = node.pod("web", "")?;
    pod.start()?;
    let _pause = pod.pause()?;
    pod.wait_enrolled(&agent)?;
    assert_eq!(pod.curl(&["http://httpbin.org/get"])?.http()?.status, 200, "{}", agent.said());
    assert_eq!(pod.curl(&["http://www.google.com/"])?.http()?.status, 502);

    // As the tutorials do it: kubectl get configmap | sed | kubectl replace.
    api.apply(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n\
         data: {mesh: \"outboundTrafficPolicy: {mode: ALLOW_ANY}\"}\n",
    )?;
    interceptor_tests::eventually("ALLOW_ANY to be in effect", || {
        pod.curl(&["http://www.google.com/"])
            .is_ok_and(|answer| answer.http().is_ok_and(|http| http.status == 200))
    })?;

    pod.describe("  annotations: {traffic.sidecar.istio.io/excludeOutboundIPRanges: 10.10.0.4}\n")?;
    agent.wait_said("write 10.10.0.4/32 for this one address; it changes nothing")?;
    interceptor_tests::eventually("an Event on the pod", || {
        api.objects("events").iter().any(|event| event.to_string().contains("10.10.0.4/32"))
    })?;
    pod.describe("  annotations: {egress.interceptor.io/polcy: strict}\n")?;
    agent.wait_said(
        "Unknown annotation: egress.interceptor.io/polcy: did you mean egress.interceptor.io/policy?",
    )?;
    interceptor_tests::eventually("an Event on the pod", || {
        api.objects("events").iter().any(|event| event.to_string().contains("egress.interceptor.io/policy?"))
    })?;
    // The last good state goes on while the server is away.
    api.kill();
    assert_eq!(pod.curl(&["http://httpbin.org/get"])?.http()?.status, 200);
    agent.stop()
}
