//! What is asked of the control loop, and how requests that can't be served are refused.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;

use interceptor_user::admin::{AdminRequest, CniCommand, CniRefusal, CniRequest};
use interceptor_user::agent::view::View;

use crate::support::Agent;

const ADD: &str = r#"{"command":"ADD","namespace":"shop","name":"cart","uid":"u-1","containerId":"abc",
    "netns":"/run/netns/x","more":"of a newer plugin"}"#;

#[test]
fn the_plugin_is_answered_by_the_loop() {
    let (sender, asked) = channel();
    let agent = Agent::with_loop(View::default(), move |request| {
        let AdminRequest::Cni(request, answer) = request else { panic!("{request:?}") };
        let refusal = |why: &str, ask_again| Err(CniRefusal { why: why.to_owned(), ask_again });
        let said = match &*request.uid {
            "u-1" => Ok(()),
            "u-2" => refusal("no \"cgroup\"", false),
            _ => refusal("starting", true),
        };
        sender.send(request).unwrap();
        answer.send(said).unwrap();
    });
    let told = agent.post("/cni", ADD);
    assert_eq!((told.status, told.json()), (200, serde_json::json!({})));
    let expected = CniRequest {
        command: CniCommand::Add,
        namespace: "shop".into(),
        name: "cart".into(),
        uid: "u-1".into(),
        container_id: "abc".into(),
        netns: "/run/netns/x".into(),
    };
    assert_eq!(asked.recv().unwrap(), expected);

    let told = agent.post("/cni", &ADD.replace("u-1", "u-2").replace("ADD", "CHECK"));
    assert_eq!((told.status, told.json()), (409, serde_json::json!({"error": "no \"cgroup\""})));
    assert_eq!(asked.recv().unwrap().command, CniCommand::Check);

    let told =
        agent.post("/cni", r#"{"command":"DEL","namespace":"shop","name":"cart","containerId":"abc"}"#);
    assert_eq!((told.status, told.json()), (503, serde_json::json!({"error": "starting"})));
    assert_eq!(asked.recv().unwrap().command, CniCommand::Del);

    for (body, says) in
        [("", "EOF"), (r#"{"command":"ADD"}"#, "missing field `namespace`"), (r#"{"command":"GC"}"#, "GC")]
    {
        let told = agent.post("/cni", body);
        let error = told.json()["error"].as_str().unwrap().to_owned();
        assert!(told.status == 400 && error.contains(says), "{told:?}");
    }
    assert!(asked.try_recv().is_err(), "what can't be read is not asked");
}

#[test]
fn a_loop_that_does_not_decide_means_try_again() {
    let agent = Agent::with_loop(View::default(), drop);
    let told = agent.post("/cni", ADD);
    let expected = serde_json::json!({"error": "the agent can't decide this now: try again"});
    assert_eq!((told.status, told.json()), (503, expected));
}

#[test]
fn a_loop_that_is_behind_is_not_asked_more() {
    let agent = Agent::with_idle_loop(View::default());
    let mut waiting = UnixStream::connect(agent.socket()).unwrap();
    write!(waiting, "POST /cni HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{ADD}", ADD.len()).unwrap();
    // Connections are taken in the order in which they come.
    let told = agent.post("/cni", ADD);
    let expected = serde_json::json!({"error": "the agent has too many requests to answer: try again"});
    assert_eq!((told.status, told.json()), (503, expected));
    waiting.set_nonblocking(true).unwrap();
    let nothing = waiting.read(&mut [0]).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock, "the first one still waits");
}

#[test]
fn a_successor_has_the_agent_retire() {
    let (sender, asked) = channel();
    let agent = Agent::with_loop(View::default(), move |request| {
        let AdminRequest::Retire(answer) = request else { panic!("{request:?}") };
        sender.send(()).unwrap();
        answer.send(()).unwrap();
    });
    let told = agent.post("/retire", "");
    assert_eq!(told.status, 200);
    assert_eq!(told.json()["pid"], std::process::id());
    assert_eq!(told.json()["version"], env!("CARGO_PKG_VERSION"));
    asked.try_recv().unwrap();
}

#[test]
fn tcp_only_reads() {
    let agent = Agent::with_loop(View::default(), |request| panic!("{request:?}"));
    for path in ["/cni", "/retire", "/explain?pod=a/b", "/logging?level=debug"] {
        let told = agent.over_tcp(path, &["--data-binary", "{}"]);
        assert_eq!(told.status, 403, "{told:?}");
        assert!(told.text.contains("is served on the agent's unix socket only"), "{told:?}");
    }
    assert_eq!(agent.get("/logging").text, "warn\n");
}

#[test]
fn unknown_paths_and_methods_are_told_what_there_is() {
    let agent = Agent::start(View::default());
    let told = agent.get("/config");
    assert_eq!(told.status, 404);
    assert!(told.text.starts_with("there is no /config; there are\n"), "{}", told.text);
    for path in [
        "/healthz",
        "/readyz",
        "/metrics",
        "/pods",
        "/config/listeners",
        "/config_dump",
        "/explain",
        "/logging",
        "/cni",
        "/retire",
    ] {
        assert!(told.text.contains(&format!(" {path} ")), "{path}: {}", told.text);
    }
    let documented = include_str!("../../../docs/operations.md");
    for line in told.text.lines().skip(1) {
        let mut words = line.split_whitespace();
        let row = format!("| {} | `{}` |", words.next().unwrap(), words.next().unwrap());
        assert!(documented.contains(&row), "docs/operations.md has no {row}");
    }
    let told = agent.get("/cni");
    assert_eq!(told.status, 405);
    assert!(told.headers.contains("allow: POST"), "{}", told.headers);
    let told = agent.post("/pods", "");
    assert_eq!(told.status, 405);
    assert!(told.headers.contains("allow: GET"), "{}", told.headers);
    let told = agent.over_tcp("/healthz", &["--head"]);
    assert_eq!((told.status, &*told.text), (200, ""));
    assert!(told.headers.contains("content-length: 3"), "{}", told.headers);
    let told = agent.get("/healthz?verbos");
    assert_eq!((told.status, &*told.text), (400, "unknown parameter \"verbos\": none is expected here\n"));
}
