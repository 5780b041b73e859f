//! Pods of the node and namespaces are told at once: enrolment races the kubelet.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use interceptor_tests::{ApiServer, Stopwatch};
use interceptor_user::source::kubernetes::{NodeChange, follow};

use crate::support::{NODE, namespace, pod, settings, synced};

fn is_pod(change: &NodeChange, name: &str) -> bool {
    matches!(change, NodeChange::Pod(pod) if **pod.meta.name() == *name)
}

#[test]
fn a_pod_is_told_at_once_and_with_all_that_enrolment_asks_for() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    let followed = synced(&server)?;
    let mut longest = Duration::ZERO;
    for number in 0..10 {
        let name = format!("p{number}");
        let applied = Stopwatch::start();
        server.apply(&pod(&name, NODE, ""))?;
        followed.wait_for_node(&name, |change| is_pod(change, &name))?;
        longest = longest.max(applied.elapsed());
    }
    assert!(longest < Duration::from_millis(200), "{longest:?}");
    let more = "  runtimeClassName: gvisor\n  serviceAccountName: web\n  hostNetwork: true\nstatus: {podIP: 10.1.0.7}";
    let yaml = pod("all", NODE, "").replace("spec: {nodeName: node-a, ", "spec:\n  nodeName: node-a\n  ");
    server
        .apply(&yaml.replace("[{name: app}]}", &format!("[{{name: app}}, {{name: istio-proxy}}]\n{more}")))?;
    followed.wait_for_node("all", |change| is_pod(change, "all"))?;
    let changes = followed.node_changes();
    let Some(NodeChange::Pod(all)) = changes.iter().find(|change| is_pod(change, "all")) else {
        anyhow::bail!("{changes:?}")
    };
    assert!(all.uid.as_deref().is_some_and(|uid| uid.starts_with("00000000-")), "{all:?}");
    assert_eq!(all.node_name.as_deref(), Some(NODE));
    assert_eq!(
        (all.runtime_class_name.as_deref(), all.service_account.as_deref()),
        (Some("gvisor"), Some("web"))
    );
    assert!(all.spec.host_network && !all.is_over && !all.is_deleted);
    assert_eq!(
        all.spec.containers.iter().map(|container| &*container.name).collect::<Vec<_>>(),
        ["app", "istio-proxy"]
    );
    assert_eq!(all.addresses, ["10.1.0.7".parse::<std::net::IpAddr>()?]);
    // They are none of the World's business.
    assert_eq!(followed.worlds(), 1);
    Ok(())
}

#[test]
fn a_pod_is_told_while_a_world_is_taken_up() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    let (begin, begun) = mpsc::channel();
    let (go_on, gone_on) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    let following = follow(
        settings(&server),
        move |_, _| {
            // Neither fails while the test goes on.
            let _taken_up = begin.send(()).is_ok() && gone_on.recv().is_ok();
        },
        move |change| {
            let _told = tell.send(change).is_ok();
        },
    )?;
    begun.recv_timeout(Duration::from_secs(30))?;
    server.apply(&pod("p", NODE, ""))?;
    let until = Instant::now() + Duration::from_secs(30);
    while !is_pod(&told.recv_timeout(until.saturating_duration_since(Instant::now()))?, "p") {}
    go_on.send(())?;
    assert!(following.is_running());
    Ok(())
}

#[test]
fn what_comes_and_goes() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    let labelled = namespace("shop", "istio-injection: enabled");
    server.apply(&(labelled + &pod("p", NODE, "") + &pod("elsewhere", "node-b", "")))?;
    let followed = synced(&server)?;
    let gone = |change: &NodeChange| matches!(change, NodeChange::PodGone(pod) if **pod.meta.name() == *"p");
    // Its annotations are edited live.
    server.apply(&pod("p", NODE, "").replace("labels:", "annotations: {a: b}, labels:"))?;
    let edited =
        |change: &NodeChange| matches!(change, NodeChange::Pod(pod) if !pod.meta.annotations.is_empty());
    followed.wait_for_node("the annotation", edited)?;
    server.delete("pods", "shop", "p")?;
    followed.wait_for_node("it is gone", gone)?;
    server.apply(&namespace("shop", ""))?;
    let unlabelled = |change: &NodeChange| matches!(change, NodeChange::Namespace(namespace) if namespace.meta.labels.is_empty());
    followed.wait_for_node("no label any more", unlabelled)?;
    server.delete("namespaces", "", "shop")?;
    followed.wait_for_node("no namespace any more", |change| {
        *change == NodeChange::NamespaceGone("shop".into())
    })?;
    let changes = followed.node_changes();
    let place = |is_it: &dyn Fn(&NodeChange) -> bool| changes.iter().position(is_it);
    let listed = place(&|change| *change == NodeChange::PodsListed);
    assert!(place(&|change| is_pod(change, "p")) < listed && listed < place(&gone), "{changes:?}");
    assert!(place(&|change| *change == NodeChange::NamespacesListed).is_some(), "{changes:?}");
    assert_eq!(place(&|change| is_pod(change, "elsewhere")), None);
    Ok(())
}

#[test]
fn what_went_while_the_server_was_away_is_told() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.apply(&(pod("gone", NODE, "") + &pod("again", NODE, "")))?;
    let followed = synced(&server)?;
    server.kill();
    server.delete("pods", "shop", "gone")?;
    server.delete("pods", "shop", "again")?;
    server.apply(&pod("again", NODE, ""))?;
    server.compact();
    server.restart()?;
    let is_gone = |change: &NodeChange, name: &str| matches!(change, NodeChange::PodGone(pod) if **pod.meta.name() == *name);
    followed.wait_for_node("gone", |change| is_gone(change, "gone"))?;
    // One of the same name is another pod.
    followed.wait_for_node("the other is another", |change| is_gone(change, "again"))?;
    let uids: Vec<_> = followed
        .node_changes()
        .iter()
        .filter_map(|change| match change {
            NodeChange::Pod(pod) if is_pod(change, "again") => pod.uid.clone(),
            NodeChange::Pod(_)
            | NodeChange::PodGone(_)
            | NodeChange::PodsListed
            | NodeChange::Namespace(_)
            | NodeChange::NamespaceGone(_)
            | NodeChange::NamespacesListed => None,
        })
        .collect();
    assert!(uids.len() == 2 && uids[0] != uids[1], "{uids:?}");
    Ok(())
}
