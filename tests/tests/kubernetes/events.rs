//! Events about what is wrong, on the objects that it is about.

use std::time::Duration;

use interceptor_tests::{ApiServer, Fault, wait_for};
use interceptor_user::resource::{Diagnostic, Level};
use serde_json::Value;

use crate::support::{NODE, pod, service_entry, synced};

fn wait_for_events(server: &ApiServer, count: usize) -> anyhow::Result<Vec<Value>> {
    wait_for(&format!("{count} Events"), Duration::from_secs(30), || {
        Some(server.objects("events")).filter(|events| events.len() == count)
    })
}

fn about_pod(name: &str) -> Diagnostic {
    Diagnostic {
        level: Level::Warning,
        code: Some("IST0125"),
        origin: None,
        resource: format!("Pod shop/{name}").into(),
        field: "metadata.annotations[traffic.sidecar.istio.io/excludeOutboundIPRanges]".into(),
        message: "10.10.0.4 is no range: write 10.10.0.4/32".into(),
        effect: "the pod keeps the policy that it had".into(),
        mend: String::new(),
    }
}

#[test]
fn a_refused_resource_gets_an_event_that_kubectl_describe_shows() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.apply(&service_entry("bad", "'*'"))?;
    let followed = synced(&server)?;
    followed.following.reporter().resources(&followed.diagnostics());
    let event = wait_for_events(&server, 1)?.remove(0);
    let object = server.objects("serviceentries").remove(0);
    for (pointer, expected) in [
        ("/regarding/kind", "ServiceEntry"),
        ("/regarding/apiVersion", "networking.istio.io/v1"),
        ("/regarding/namespace", "shop"),
        ("/regarding/name", "bad"),
        ("/regarding/uid", object["metadata"]["uid"].as_str().unwrap_or_default()),
        ("/metadata/namespace", "shop"),
        ("/type", "Warning"),
        ("/reason", "SchemaValidationError"),
        ("/reportingController", "egress.interceptor.io/agent"),
        ("/reportingInstance", NODE),
    ] {
        assert_eq!(event.pointer(pointer).and_then(Value::as_str), Some(expected), "{pointer} of {event:#}");
    }
    let note = event["note"].as_str().unwrap_or_default();
    assert!(note.starts_with("[IST0106] spec.hosts[0]: "), "{note}");
    Ok(())
}

#[test]
fn all_nodes_write_one_event() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.apply(&service_entry("bad", "'*'"))?;
    let nodes: Vec<_> = (0..4).map(|_| synced(&server)).collect::<anyhow::Result<_>>()?;
    for node in &nodes {
        node.following.reporter().resources(&node.diagnostics());
    }
    let tries = || server.requests().iter().filter(|request| request.starts_with("POST")).count();
    wait_for("each has tried", Duration::from_secs(30), || (tries() == 4).then_some(()))?;
    wait_for("the others have found it", Duration::from_secs(30), || {
        let looked =
            server.requests().iter().filter(|request| request.starts_with("GET /apis/events")).count();
        (looked == 3).then_some(())
    })?;
    let events = server.objects("events");
    assert_eq!(events.len(), 1, "{events:#?}");
    assert!(events[0]["series"].is_null(), "seen at once, it is one: {:#}", events[0]);
    Ok(())
}

#[test]
fn one_that_is_found_again_later_is_counted_up() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.apply(&pod("p", NODE, ""))?;
    let followed = synced(&server)?;
    followed.following.reporter().pods(&[about_pod("p")]);
    let mut event = wait_for_events(&server, 1)?.remove(0);
    // As if it had been written by an earlier agent.
    event["eventTime"] = "2026-01-01T00:00:00.000000Z".into();
    server.apply(&event.to_string())?;
    let later = synced(&server)?;
    later.following.reporter().pods(&[about_pod("p")]);
    let count = wait_for("a count", Duration::from_secs(30), || {
        server.objects("events").first()?["series"]["count"].as_i64()
    })?;
    assert_eq!((count, server.objects("events").len()), (2, 1));
    Ok(())
}

#[test]
fn a_pod_is_told_of_its_annotation_at_once_and_once() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.apply(&(pod("p", NODE, "") + &pod("q", NODE, "")))?;
    let followed = synced(&server)?;
    let reporter = followed.following.reporter().clone();
    reporter.pods(&[about_pod("p")]);
    let event = wait_for_events(&server, 1)?.remove(0);
    assert_eq!(event["reason"], "InvalidAnnotation");
    let note = event["note"].as_str().unwrap_or_default();
    assert!(
        note.ends_with(
            "write 10.10.0.4/32; the pod keeps the policy that it had; write it as the message says"
        ),
        "{note}"
    );
    // The same again, with another: only the other is news. One that nobody knows is left out.
    for _ in 0..10 {
        reporter.pods(&[about_pod("p"), about_pod("q"), about_pod("nobody")]);
    }
    wait_for_events(&server, 2)?;
    let posts = server.requests().iter().filter(|request| request.starts_with("POST")).count();
    assert_eq!(posts, 2);
    Ok(())
}

#[test]
fn what_can_not_be_written_holds_nothing_up() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.apply(&pod("p", NODE, ""))?;
    server.fault("events", Some(Fault::Status(403)));
    let followed = synced(&server)?;
    followed.following.reporter().pods(&[about_pod("p")]);
    let tried = || server.requests().iter().any(|request| request.starts_with("POST"));
    wait_for("it is tried", Duration::from_secs(30), || tried().then_some(()))?;
    server.apply(&service_entry("e", "a.example.com"))?;
    followed.wait_for_keys(&["ServiceEntry shop/e"])?;
    Ok(())
}
