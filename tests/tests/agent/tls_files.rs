//! Certificates and keys of the node are not for those who write resources, unless the agent was told so.

use interceptor_tests::{Node, World};

#[test]
fn a_rules_files_are_read_where_the_agent_was_allowed_to() -> anyhow::Result<()> {
    let root = World::shared()?.ca.root();
    let node = Node::new()?;
    node.apply(
        "apple",
        &format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: apple, namespace: shop}}\nspec:\n  \
             hosts: [www.apple.com]\n  ports: [{{number: 80, targetPort: 443, name: http, protocol: HTTP}}]\n  \
             resolution: DNS\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
             metadata: {{name: apple, namespace: shop}}\nspec:\n  host: www.apple.com\n  \
             trafficPolicy: {{tls: {{mode: SIMPLE, caCertificates: '{}'}}}}\n",
            root.display()
        ),
    )?;
    let pod = node.pod("web", "")?;
    pod.start()?;
    let _pause = pod.pause()?;
    let refused = format!("caCertificates {} is a file of the node", root.display());

    let agent = node.agent(&["--allow-tls-files", "/etc/mesh"])?;
    pod.wait_enrolled(&agent)?;
    let http = pod.curl(&["http://www.apple.com/"])?.http()?;
    assert_eq!(http.status, 503, "{}", agent.said());
    assert!(http.body.contains(&refused), "{}", http.body);
    agent.wait_said(&format!("[EGR0104] DestinationRule shop/apple: spec.trafficPolicy.tls: {refused}"))?;
    agent.stop()?;

    let directory = root.parent().map(|path| path.display().to_string()).unwrap_or_default();
    let agent = node.agent(&["--allow-tls-files", &directory])?;
    pod.wait_enrolled(&agent)?;
    let http = pod.curl(&["http://www.apple.com/"])?.http()?;
    assert_eq!(
        (http.status, http.body.as_str()),
        (200, "www.apple.com says hello over https\n"),
        "{}",
        agent.said()
    );
    agent.stop()
}
