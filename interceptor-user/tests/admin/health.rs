//! /healthz, /readyz, /metrics, /logging.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use interceptor_user::agent::view::{Check, PodState, SourceState, SourceStatus, View};

use crate::support::{Agent, RESOURCES, pod_that_is, view_of};

#[test]
fn liveness_is_that_of_the_loop_and_the_threads_alone() {
    let failing = SourceState::Failing { since: SystemTime::now(), error: "connection refused".to_owned() };
    let sources = vec![SourceStatus { name: "ServiceEntry".into(), state: failing }];
    let agent = Agent::start(View { sources, ..View::default() });
    agent.heartbeat.beat();
    let told = agent.over_tcp("/healthz", &[]);
    assert_eq!(
        (told.status, &*told.text),
        (200, "ok\n"),
        "neither ready nor in touch with anybody, and alive"
    );
    agent.workers_alive.store(false, Ordering::Relaxed);
    let told = agent.over_tcp("/healthz", &[]);
    assert_eq!((told.status, &*told.text), (503, "a thread of the proxy has ended; the log says why\n"));
}

#[test]
fn readiness_follows_the_view() {
    let agent = Agent::start(View::default());
    let told = agent.over_tcp("/readyz", &[]);
    assert_eq!((told.status, &*told.text), (503, "the agent is starting\n"));
    let told = agent.get("/readyz?verbose");
    assert_eq!((told.status, &*told.text), (503, "[-]the agent is starting\nreadyz check failed\n"));

    let mut view = view_of("a.yaml", RESOURCES);
    agent.view.store(Arc::new(view.clone()));
    assert_eq!(agent.get("/readyz").text, "ok\n");
    assert_eq!(agent.get("/readyz?verbose=true").text, "[+]hooks ok\n[+]pods ok\nreadyz check passed\n");

    view.checks.push(Check::fails("kernel", "a map is full"));
    agent.view.store(Arc::new(view));
    let told = agent.get("/readyz");
    assert_eq!((told.status, &*told.text), (503, "kernel: a map is full\n"));
    let expected = "[+]hooks ok\n[+]pods ok\n[-]kernel: a map is full\nreadyz check failed\n";
    assert_eq!(agent.get("/readyz?verbose").text, expected);
}

#[test]
fn metrics_in_the_text_format() {
    let mut view = view_of("a.yaml", RESOURCES);
    view.pods.push(pod_that_is("shop", "late", PodState::Waiting("no cgroup".to_owned())));
    view.pods.push(pod_that_is("kube-system", "proxy", PodState::OutOfReach("hostNetwork".to_owned())));
    let failing = SourceState::Failing { since: SystemTime::now(), error: "gone".to_owned() };
    view.sources.push(SourceStatus { name: "Side\"car".into(), state: failing });
    let agent = Agent::start(view);
    let told = agent.over_tcp("/metrics", &[]);
    assert_eq!(told.status, 200);
    assert!(
        told.headers.contains("content-type: text/plain; version=0.0.4; charset=utf-8"),
        "{}",
        told.headers
    );
    let lines: BTreeSet<&str> = told.text.lines().collect();
    for line in [
        concat!("interceptor_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\",arch=\"x86_64\"} 1"),
        "interceptor_ready 1",
        "interceptor_pods{state=\"enrolled\"} 3",
        "interceptor_pods{state=\"waiting\"} 1",
        "interceptor_pods{state=\"out_of_reach\"} 1",
        "interceptor_pods{state=\"left_alone\"} 0",
        "interceptor_pods{state=\"failed\"} 0",
        "interceptor_enforced_pods_with_net_raw 0",
        "interceptor_resources{kind=\"ServiceEntry\"} 1",
        "interceptor_resources{kind=\"Pod\"} 3",
        "interceptor_source_failing{source=\"ServiceEntry\"} 0",
        "interceptor_source_failing{source=\"Side\\\"car\"} 1",
        "interceptor_diagnostics{level=\"error\"} 0",
        "# TYPE process_resident_memory_bytes gauge",
        "added_total 7",
    ] {
        assert!(lines.contains(line), "{line} is missing:\n{}", told.text);
    }
    assert_is_exposition(&told.text);
}

/// Heads before samples, each family in one piece, names and values as the format wants them.
fn assert_is_exposition(text: &str) {
    let mut seen = BTreeSet::new();
    let mut family = "";
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(head) = line.strip_prefix("# TYPE ") {
            family = head.split(' ').next().unwrap();
            assert!(seen.insert(family), "{family} comes twice");
        } else if !line.starts_with("# HELP ") {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let bare = name.split('{').next().unwrap();
            assert_eq!(bare, family, "{line}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert_eq!(name.contains('{'), name.ends_with('}'), "{line}");
        }
    }
    assert!(seen.len() > 10, "{seen:?}");
}

#[test]
fn the_log_level_is_changed_at_run_time() {
    let agent = Agent::start(View::default());
    assert_eq!(agent.over_tcp("/logging", &[]).text, "warn\n");
    assert_eq!(
        agent.post("/logging?level=debug", "").text,
        "interceptor_user=debug,hickory_net=off,rustls=off,hyper=off,h2=off,info\n"
    );
    assert_eq!(
        agent.post("/logging?filter=interceptor_user::dns=trace", "").text,
        "interceptor_user::dns=trace\n"
    );
    for (path, says) in [
        ("/logging?level=loud", "level=loud: expected off, error, warn, info, debug or trace"),
        ("/logging?filter=a=loud", "\"a=loud\" is no filter"),
        ("/logging", "say ?level=debug"),
        ("/logging?lvel=debug", "unknown parameter \"lvel\": expected level, filter"),
        ("/logging?level=info&filter=info", "either level or filter"),
    ] {
        let told = agent.post(path, "");
        assert_eq!(told.status, 400, "{told:?}");
        assert!(told.text.contains(says), "{told:?}");
    }
    let forgotten = agent.get("/logging?level=debug");
    assert_eq!((forgotten.status, forgotten.text.contains("POST does")), (400, true), "{forgotten:?}");
    assert_eq!(
        agent.get("/logging").text,
        "interceptor_user::dns=trace\n",
        "what is refused changes nothing"
    );
}
