//! What an API server does on a bad day. What was known goes on holding, the status says what is wrong, and as soon as it
//! is better, all that changed meanwhile is known.

use std::time::{Duration, Instant};

use interceptor_tests::{ApiServer, Fault, Stopwatch, StreamingLists, eventually, wait_for};
use interceptor_user::source::kubernetes::{NodeChange, WatchState};

use crate::support::{Followed, NODE, namespace, pod, service, service_entry, start, synced};

const ENTRIES: &str = "serviceentries.networking.istio.io";

/// A server with one entry, followed.
fn one_entry() -> anyhow::Result<(ApiServer, Followed)> {
    let server = ApiServer::start()?;
    server.apply(&service_entry("one", "a.example.com"))?;
    let followed = synced(&server)?;
    followed.wait_for_keys(&["ServiceEntry shop/one"])?;
    followed.wait_for_state(ENTRIES, &WatchState::Following)?;
    Ok((server, followed))
}

/// Everything that was taken away or given while nobody watched is known in the end.
fn change_all(server: &ApiServer) -> anyhow::Result<()> {
    server.delete("serviceentries", "shop", "one")?;
    server.apply(&(service_entry("two", "b.example.com") + &service("s")))
}

const CHANGED: [&str; 2] = ["ServiceEntry shop/two", "Service shop/s"];

#[test]
fn slow() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.apply(&service_entry("one", "a.example.com"))?;
    server.delay(Duration::from_millis(400));
    let followed = synced(&server)?;
    assert_eq!((followed.worlds(), followed.keys()), (1, vec!["ServiceEntry shop/one".to_owned()]));
    change_all(&server)?;
    followed.wait_for_keys(&CHANGED)?;
    Ok(())
}

#[test]
fn away_at_the_start() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.apply(&service_entry("one", "a.example.com"))?;
    server.terminate();
    let followed = start(&server)?;
    wait_for("the status says so", Duration::from_secs(30), || followed.status().api_server.clone())?;
    let status = followed.status();
    let why = status.api_server.as_ref().map(|trouble| trouble.why.to_string()).unwrap_or_default();
    assert!(why.contains("Connection refused"), "{why}");
    assert_eq!((status.is_synced, followed.worlds()), (false, 0));
    server.restart()?;
    followed.wait_for_keys(&["ServiceEntry shop/one"])?;
    eventually("the status says so", || {
        let status = followed.status();
        status.is_synced && status.api_server.is_none() && status.failing().next().is_none()
    })
}

#[test]
fn killed_and_restarted() -> anyhow::Result<()> {
    let (server, followed) = one_entry()?;
    server.kill();
    change_all(&server)?;
    eventually("the status says so", || followed.status().api_server.is_some())?;
    assert_eq!(followed.keys(), ["ServiceEntry shop/one"]);
    server.restart()?;
    let restarted = Stopwatch::start();
    followed.wait_for_keys(&CHANGED)?;
    assert!(restarted.elapsed() < Duration::from_secs(5), "{:?}", restarted.elapsed());
    // It went on where it was: nothing was listed again.
    let lists = server.requests().iter().filter(|request| request.contains("sendInitialEvents")).count();
    let watches = followed.status().watches.len();
    assert_eq!(lists, watches, "{:#?}", server.requests());
    eventually("all is well", || followed.status().failing().next().is_none())
}

#[test]
fn told_to_stop_it_leaves_watches_open_and_silent() -> anyhow::Result<()> {
    let (server, followed) = one_entry()?;
    server.terminate();
    // Long enough for it to be noticed: what is looked at every few seconds does not answer.
    wait_for("the status says so", Duration::from_secs(20), || followed.status().api_server.clone())?;
    change_all(&server)?;
    server.restart()?;
    let restarted = Stopwatch::start();
    followed.wait_for_keys(&CHANGED)?;
    assert!(restarted.elapsed() < Duration::from_secs(5), "{:?}", restarted.elapsed());
    Ok(())
}

#[test]
fn told_to_stop_it_is_back_before_anybody_has_noticed() -> anyhow::Result<()> {
    let (server, followed) = one_entry()?;
    server.terminate();
    change_all(&server)?;
    server.restart()?;
    let restarted = Stopwatch::start();
    followed.wait_for_keys(&CHANGED)?;
    assert!(restarted.elapsed() < Duration::from_secs(15), "{:?}", restarted.elapsed());
    Ok(())
}

#[test]
fn watches_are_cut_again_and_again() -> anyhow::Result<()> {
    let (server, followed) = one_entry()?;
    let before = server.requests().len();
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        server.drop_watches();
        std::thread::yield_now();
    }
    let asked = server.requests().len() - before;
    assert!(asked < 40 * followed.status().watches.len(), "{asked} requests in two seconds");
    change_all(&server)?;
    followed.wait_for_keys(&CHANGED)?;
    Ok(())
}

#[test]
fn too_old_to_go_on() -> anyhow::Result<()> {
    let (server, followed) = one_entry()?;
    server.kill();
    change_all(&server)?;
    server.compact();
    server.restart()?;
    followed.wait_for_keys(&CHANGED)?;
    eventually("all is well", || followed.status().failing().next().is_none())
}

#[test]
fn too_old_in_the_middle_of_a_watch() -> anyhow::Result<()> {
    for streaming_lists in [StreamingLists::Served, StreamingLists::Refused] {
        let server = ApiServer::start()?;
        server.streaming_lists(streaming_lists);
        server
            .apply(&(service_entry("one", "a.example.com") + &namespace("shop", "") + &pod("p", NODE, "")))?;
        let followed = synced(&server)?;
        let worlds = followed.worlds();
        followed.wait_for_state(ENTRIES, &WatchState::Following)?;
        server.expire_watches();
        server.apply(&service_entry("two", "b.example.com"))?;
        followed.wait_for_keys(&["ServiceEntry shop/one", "ServiceEntry shop/two", "Namespace shop"])?;
        // What was listed anew and is as it was is not told anew.
        assert_eq!(followed.worlds(), worlds + 1);
        let pods = followed.node_changes().iter().filter(|told| matches!(told, NodeChange::Pod(_))).count();
        assert_eq!(pods, 1, "{:?}", followed.node_changes());
    }
    Ok(())
}

#[test]
fn a_line_that_is_no_json_loses_nothing() -> anyhow::Result<()> {
    let (server, followed) = one_entry()?;
    // The garbage stands where the deletion of one stood.
    server.apply(&service_entry("two", "b.example.com"))?;
    followed.wait_for_keys(&["ServiceEntry shop/one", "ServiceEntry shop/two"])?;
    server.delete_behind_garbage("serviceentries", "shop", "one")?;
    followed.wait_for_keys(&["ServiceEntry shop/two"])?;
    Ok(())
}

#[test]
fn a_kind_that_is_no_json() -> anyhow::Result<()> {
    let (server, followed) = one_entry()?;
    server.fault("serviceentries", Some(Fault::Garbage));
    server.kill();
    server.compact();
    change_all(&server)?;
    server.restart()?;
    followed.wait_for_keys(&["ServiceEntry shop/one", "Service shop/s"])?;
    followed.wait_for_failure(ENTRIES, "line 1")?;
    server.fault("serviceentries", None);
    followed.wait_for_keys(&CHANGED)?;
    followed.wait_for_state(ENTRIES, &WatchState::Following)
}

#[test]
fn a_kind_that_fails() -> anyhow::Result<()> {
    let (server, followed) = one_entry()?;
    server.fault("serviceentries", Some(Fault::Status(500)));
    server.drop_watches();
    change_all(&server)?;
    followed.wait_for_keys(&["ServiceEntry shop/one", "Service shop/s"])?;
    followed.wait_for_failure(ENTRIES, "500 asked for by the test")?;
    let failing: Vec<String> = followed.status().failing().map(|(watch, _)| watch.what.to_string()).collect();
    assert_eq!(failing, [ENTRIES]);
    server.fault("serviceentries", None);
    followed.wait_for_keys(&CHANGED)?;
    followed.wait_for_state(ENTRIES, &WatchState::Following)
}

#[test]
fn a_kind_that_may_not_be_read() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.apply(&(service_entry("one", "a.example.com") + &service("s")))?;
    server.fault("serviceentries", Some(Fault::Status(403)));
    let followed = synced(&server)?;
    assert_eq!(followed.keys(), ["Service shop/s"]);
    followed.wait_for_failure(ENTRIES, "403 serviceentries is forbidden: User \"test\"")?;
    server.fault("serviceentries", None);
    followed.wait_for_keys(&["ServiceEntry shop/one", "Service shop/s"])?;
    // Taken away again: the open watch goes on, a new one is refused, and what is known stays.
    followed.wait_for_state(ENTRIES, &WatchState::Following)?;
    server.fault("serviceentries", Some(Fault::Status(403)));
    server.apply(&service_entry("two", "b.example.com"))?;
    let all = ["ServiceEntry shop/one", "ServiceEntry shop/two", "Service shop/s"];
    followed.wait_for_keys(&all)?;
    server.drop_watches();
    followed.wait_for_failure(ENTRIES, "403")?;
    assert_eq!(followed.keys(), all);
    Ok(())
}

#[test]
fn a_server_that_knows_no_streaming_lists_and_does_not_say_so() -> anyhow::Result<()> {
    let server = ApiServer::start()?;
    server.streaming_lists(StreamingLists::Ignored);
    server.apply(&service_entry("one", "a.example.com"))?;
    let followed = synced(&server)?;
    followed.wait_for_keys(&["ServiceEntry shop/one"])?;
    Ok(())
}
