//! What a gateway says of itself and of what concerns it.

use std::net::TcpListener;

use interceptor_tests::{Gateway, World, eventually};

fn gateway_of(selector: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: egress, namespace: istio-system}}\nspec:\n  \
         selector: {{istio: {selector}}}\n  servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['*']}}]\n"
    )
}

const HTTPBIN: &str = "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: httpbin, namespace: istio-system}
spec:
  hosts: [httpbin.org]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: httpbin, namespace: istio-system}
spec:
  hosts: [httpbin.org]
  gateways: [egress]
  http: [{route: [{destination: {host: httpbin.org}}]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: httpbin, namespace: istio-system}
spec:
  host: httpbin.org
  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}
";

#[test]
fn a_gateway_that_none_selects_says_so() -> anyhow::Result<()> {
    let host = World::shared()?.joined_pod()?;
    let gateway = Gateway::start(&host, &gateway_of("ingressgateway"))?;
    let why = "no Gateway selects this gateway, so it listens on no port: its labels are istio=egressgateway, and there are \
               selectors istio=ingressgateway: give --labels one of them";
    eventually("it is told", || gateway.said().contains(why))?;
    gateway.reconfigure(&gateway_of("egressgateway"))?;
    eventually("the port is open", || {
        gateway.ask("/metrics").is_ok_and(|(_, text)| {
            text.lines()
                .any(|line| line.starts_with("interceptor_gateway_port_open{") && line.ends_with(" 1"))
        })
    })?;
    assert_eq!(gateway.said().matches("no Gateway selects").count(), 1, "{}", gateway.said());
    gateway.reconfigure(HTTPBIN)?;
    eventually("it is told again", || gateway.said().contains("and there is no Gateway"))
}

#[test]
fn only_what_is_a_gateways_affair_is_told() -> anyhow::Result<()> {
    let host = World::shared()?.joined_pod()?;
    let _taken = host.netns.enter(|| TcpListener::bind("127.0.0.1:15000"))??;
    let resources = gateway_of("egressgateway") + HTTPBIN;
    let gateway = Gateway::with(&host, &resources, &["--admin-address", "127.0.0.1:15000"])?;
    eventually("the missing identity is told", || gateway.said().contains("[EGR0104]"))?;
    let said = gateway.said();
    assert!(said.contains("start the gateway with --identity-dir"), "{said}");
    assert!(!said.contains("[EGR0106]"), "{said}");
    assert!(said.contains("127.0.0.1:15000 is in use"), "{said}");
    assert!(said.contains("--admin-address gives another one") && !said.contains("agent"), "{said}");
    Ok(())
}
