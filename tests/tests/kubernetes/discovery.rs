//! Istio's kinds come, go and change their version while they are followed.

use std::time::Duration;

use interceptor_tests::{ApiServer, Stopwatch, eventually};
use interceptor_user::source::kubernetes::WatchState;

use crate::support::{service, service_entry, synced};

const ENTRIES: &str = "serviceentries.networking.istio.io";
const KINDS: [&str; 7] = [
    "serviceentries",
    "virtualservices",
    "destinationrules",
    "gateways",
    "sidecars",
    "workloadentries",
    "workloadgroups",
];

#[test]
fn without_istio_there_are_services() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    KINDS.iter().for_each(|plural| server.serve_versions(plural, &[]));
    server.apply(&service("s"))?;
    let followed = synced(&server)?;
    assert_eq!(followed.keys(), ["Service shop/s"]);
    assert_eq!(followed.state(ENTRIES), Some(WatchState::Missing));
    assert_eq!(followed.status().failing().next(), None);
    // It is installed.
    server.serve_versions("serviceentries", &["v1", "v1beta1", "v1alpha3"]);
    server.apply(&service_entry("one", "a.example.com"))?;
    let installed = Stopwatch::start();
    followed.wait_for_keys(&["ServiceEntry shop/one", "Service shop/s"])?;
    assert!(installed.elapsed() < Duration::from_secs(8), "{:?}", installed.elapsed());
    assert_eq!(followed.state(ENTRIES), Some(WatchState::Following));
    Ok(())
}

#[test]
fn a_crd_is_removed_and_comes_back() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.apply(&(service_entry("one", "a.example.com") + &service("s")))?;
    let followed = synced(&server)?;
    server.serve_versions("serviceentries", &[]);
    followed.wait_for_keys(&["Service shop/s"])?;
    followed.wait_for_state(ENTRIES, &WatchState::Missing)?;
    server.serve_versions("serviceentries", &["v1"]);
    server.apply(&service_entry("two", "b.example.com"))?;
    followed.wait_for_keys(&["ServiceEntry shop/two", "Service shop/s"])?;
    Ok(())
}

#[test]
fn a_crd_is_removed_while_the_server_is_away() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.apply(&(service_entry("one", "a.example.com") + &service("s")))?;
    let followed = synced(&server)?;
    server.kill();
    server.serve_versions("serviceentries", &[]);
    server.restart()?;
    followed.wait_for_state(ENTRIES, &WatchState::Missing)?;
    // A server that has just started may not know the kind yet: what is known is not thrown away at once.
    assert_eq!(followed.keys(), ["ServiceEntry shop/one", "Service shop/s"]);
    followed.wait_for_keys(&["Service shop/s"])?;
    Ok(())
}

#[test]
fn the_version_that_is_served_is_used() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.serve_versions("serviceentries", &["v1alpha3", "v1beta1"]);
    server.apply(&service_entry("one", "a.example.com"))?;
    let followed = synced(&server)?;
    assert_eq!(followed.keys(), ["ServiceEntry shop/one"]);
    let version = || {
        let status = followed.status();
        status.watches.iter().find(|watch| &*watch.what == ENTRIES).map(|watch| watch.version)
    };
    assert_eq!(version(), Some("v1beta1"));
    let worlds = followed.worlds();
    server.serve_versions("serviceentries", &["v1"]);
    server.apply(&service_entry("two", "b.example.com"))?;
    followed.wait_for_keys(&["ServiceEntry shop/one", "ServiceEntry shop/two"])?;
    // The watch of the version before may still have told of the second one.
    eventually("the version that is served to be followed", || version() == Some("v1"))?;
    assert_eq!(followed.worlds(), worlds + 1, "nothing is gone meanwhile");
    Ok(())
}
