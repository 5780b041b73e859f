//! Whom a rule with labels lets through.

use std::time::Duration;

use anyhow::ensure;
use interceptor_tests::{Stopwatch, eventually};
use serde_json::{Value, json};

use crate::support::{Following, Open, identities, pod};

/// A rule with labels wants the certificate, and a running pod of its service account that has the address and the labels.
#[test]
fn a_host_is_for_pods_with_the_labels_of_its_rule() -> anyhow::Result<()> {
    let (mesh, own) = identities()?;
    let cart = mesh.identity("cart", "spiffe://cluster.local/ns/shop/sa/cart")?;
    let other = mesh.identity("other", "spiffe://cluster.local/ns/shop/sa/other")?;
    let elsewhere = mesh.identity("elsewhere", "spiffe://cluster.local/ns/elsewhere/sa/cart")?;
    let rule = "egress.interceptor.io/allow-from: 'ns/shop/sa/cart{app=curl,tier=web}'";
    let following = Following::start(&own, rule, &[])?;
    let wanted = json!({"app": "curl", "tier": "web", "more": "x"});
    let server = &following.server;
    server.put([
        pod("right", "10", "127.0.0.2", "cart", &wanted),
        pod("other", "11", "127.0.0.3", "other", &wanted),
        pod("lacks", "12", "127.0.0.4", "cart", &json!({"app": "curl"})),
        pod("differs", "13", "127.0.0.5", "cart", &json!({"app": "curl", "tier": "db"})),
    ])?;
    eventually("all are known", || {
        following.metrics().is_ok_and(|metrics| metrics.contains("interceptor_gateway_pods 4\n"))
    })?;
    for (from, identity, status) in [
        ("127.0.0.2", &cart, "200"),
        ("127.0.0.2", &other, "403"),
        ("127.0.0.2", &elsewhere, "403"),
        ("127.0.0.3", &cart, "403"),
        ("127.0.0.3", &other, "403"),
        ("127.0.0.4", &cart, "403"),
        ("127.0.0.5", &cart, "403"),
        ("127.0.0.9", &cart, "403"),
    ] {
        let line = following.fetch_as(from, identity)?;
        assert!(line.starts_with(status), "{from} as {identity}: {line}");
    }
    // Nothing but an address.
    assert!(following.fetch("127.0.0.2")?.starts_with("403"));

    // Labels that come and go count for what is open, too.
    let mut open = Open::new(&following, "127.0.0.2", &cart)?;
    assert_eq!(open.request()?, 200);
    let mut becomes = |labels: &Value, status: u16| {
        server.put([pod("right", "10", "127.0.0.2", "cart", labels)])?;
        let changed = Stopwatch::start();
        eventually("the labels count", || open.request().is_ok_and(|now| now == status))?;
        ensure!(changed.elapsed() < Duration::from_secs(1), "after {:?}", changed.elapsed());
        anyhow::Ok(())
    };
    becomes(&json!({"app": "curl", "tier": "db"}), 403)?;
    becomes(&wanted, 200)?;
    let mut ended = pod("right", "10", "127.0.0.2", "cart", &wanted);
    ended["status"]["phase"] = "Succeeded".into();
    server.put([ended])?;
    eventually("it has ended", || open.request().is_ok_and(|now| now == 403))?;
    // What is known goes on holding while the API server is away.
    server.put([pod("again", "14", "127.0.0.2", "cart", &wanted)])?;
    eventually("another has begun", || open.request().is_ok_and(|now| now == 200))?;
    server.kill();
    assert_eq!(open.request()?, 200);
    Ok(())
}
