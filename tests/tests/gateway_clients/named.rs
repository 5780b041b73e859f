//! What access log and metrics say of a client.

use std::io::BufReader;
use std::net::{SocketAddr, TcpStream};

use interceptor_tests::{ApiServer, Fault, eventually};
use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::support::{CLEAR, Following, identities, pod, request};

#[test]
fn log_and_metrics_name_the_pod_that_has_the_address() -> anyhow::Result<()> {
    let (_mesh, own) = identities()?;
    let following = Following::start(&own, "", &[])?;
    let server = &following.server;
    assert_eq!(following.fetch("127.0.0.2")?, "200 - 127.0.0.2 - - - -");
    server.put([pod("cart", "10", "127.0.0.2", "cart-sa", &json!({"app": "cart-app"}))])?;
    following.eventually_logs("127.0.0.2", "200 - 127.0.0.2 shop cart-7d4-10 cart-sa cart")?;
    let metrics = following.metrics()?;
    let has = |labels: &str| {
        metrics.lines().any(|line| line.contains(labels) && line.contains("istio_requests_total"))
    };
    assert!(
        has(
            "source_workload=\"cart\",source_workload_namespace=\"shop\",source_principal=\"unknown\",source_app=\"cart-app\""
        ),
        "{metrics}"
    );
    assert!(metrics.contains("\ninterceptor_gateway_pods 1\n"), "{metrics}");

    // An address goes to the youngest pod that has it, and back to nobody.
    server.put([pod("next", "11", "127.0.0.2", "next-sa", &json!({}))])?;
    following.eventually_logs("127.0.0.2", "200 - 127.0.0.2 shop next-7d4-11 next-sa next")?;
    server.put([pod("cart", "10", "127.0.0.2", "cart-sa", &json!({"app": "changed"}))])?;
    server.put([pod("other", "12", "127.0.0.5", "other-sa", &json!({}))])?;
    following.eventually_logs("127.0.0.5", "200 - 127.0.0.5 shop other-7d4-12 other-sa other")?;
    assert_eq!(following.fetch("127.0.0.2")?, "200 - 127.0.0.2 shop next-7d4-11 next-sa next");
    server.delete("pods", "shop", "cart-7d4-10")?;
    let mut ended = pod("next", "11", "127.0.0.2", "next-sa", &json!({}));
    ended["status"]["phase"] = "Failed".into();
    server.put([ended])?;
    following.eventually_logs("127.0.0.2", "200 - 127.0.0.2 - - - -")?;

    // The node's own address is no pod's.
    let mut of_node = pod("daemon", "13", "127.0.0.6", "daemon-sa", &json!({}));
    of_node["spec"]["hostNetwork"] = true.into();
    server.put([of_node, pod("last", "14", "127.0.0.7", "last-sa", &json!({}))])?;
    following.eventually_logs("127.0.0.7", "200 - 127.0.0.7 shop last-7d4-14 last-sa last")?;
    assert_eq!(following.fetch("127.0.0.6")?, "200 - 127.0.0.6 - - - -");
    Ok(())
}

/// A pod may be here before the API server tells its address. What it keeps open is named from then on.
#[test]
fn a_connection_is_named_as_soon_as_its_pod_is_known() -> anyhow::Result<()> {
    let (_mesh, own) = identities()?;
    let following = Following::start(&own, "", &[])?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 8], 0)).into())?;
    socket.connect(&SocketAddr::from((following.address, CLEAR)).into())?;
    let mut reader = BufReader::new(TcpStream::from(socket));
    assert_eq!(request(&mut reader.get_ref().try_clone()?, &mut reader)?, 200);
    assert_eq!(following.line(0)?, "200 - 127.0.0.8 - - - -");
    following.server.put([pod("early", "10", "127.0.0.8", "early-sa", &json!({}))])?;
    eventually("the pod is named", || {
        let before = following.lines().len();
        let status = reader.get_ref().try_clone().map(|mut writer| request(&mut writer, &mut reader));
        matches!(status, Ok(Ok(200)))
            && following
                .line(before)
                .is_ok_and(|line| line == "200 - 127.0.0.8 shop early-7d4-10 early-sa early")
    })
}

/// The certificate says whose a connection is. An address adds which pod, if it is one of that service account.
#[test]
fn a_certificate_goes_before_an_address() -> anyhow::Result<()> {
    let (mesh, own) = identities()?;
    let cart = mesh.identity("cart", "spiffe://cluster.local/ns/shop/sa/cart")?;
    let following = Following::start(&own, "", &[])?;
    following.server.put([
        pod("cart", "10", "127.0.0.2", "cart", &json!({})),
        pod("other", "11", "127.0.0.3", "other", &json!({})),
    ])?;
    following.eventually_logs("127.0.0.3", "200 - 127.0.0.3 shop other-7d4-11 other other")?;
    assert_eq!(following.fetch_as("127.0.0.2", &cart)?, "200 - 127.0.0.2 shop cart-7d4-10 cart cart");
    assert_eq!(following.fetch_as("127.0.0.3", &cart)?, "200 - 127.0.0.3 shop - cart -");
    assert_eq!(following.fetch_as("127.0.0.4", &cart)?, "200 - 127.0.0.4 shop - cart -");
    let metrics = following.metrics()?;
    let principal = "source_principal=\"spiffe://cluster.local/ns/shop/sa/cart\"";
    for workload in ["cart", "unknown"] {
        let labels = format!("source_workload=\"{workload}\",source_workload_namespace=\"shop\",{principal}");
        assert!(metrics.contains(&labels), "{labels}\n{metrics}");
    }
    Ok(())
}

/// Without the right to list pods, or the wish to, the gateway serves and names nobody.
#[test]
fn pods_need_not_be_followed() -> anyhow::Result<()> {
    let (_mesh, own) = identities()?;
    let following = Following::start(&own, "", &["--follow-pods=false"])?;
    following.server.put([pod("cart", "10", "127.0.0.2", "cart", &json!({}))])?;
    assert_eq!(following.fetch("127.0.0.2")?, "200 - 127.0.0.2 - - - -");
    assert!(following.server.requests().iter().all(|request| !request.contains("/pods")));
    drop(following);

    let server = ApiServer::start()?;
    server.fault("pods", Some(Fault::Status(403)));
    server.put([pod("cart", "10", "127.0.0.2", "cart", &json!({}))])?;
    let following = Following::with(server, &own, "", &[])?;
    assert_eq!(following.fetch("127.0.0.2")?, "200 - 127.0.0.2 - - - -");
    following.server.fault("pods", None);
    following.eventually_logs("127.0.0.2", "200 - 127.0.0.2 shop cart-7d4-10 cart cart")
}
