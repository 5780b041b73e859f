//! `/flows` and `interceptor flows`: a real proxy carries requests, and somebody follows.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use interceptor_user::agent::view::PodState;
use interceptor_user::compile::{Client, CompileSettings, compile};
use interceptor_user::dns::{self, Resolver};
use interceptor_user::proxy::{Intercepted, ProxiedWorkload, Proxy, ProxyOptions};
use interceptor_user::snapshot::AccessLogEncoding;
use interceptor_user::telemetry::{AccessLog, AccessLogTarget};
use interceptor_user::workload::SourceWorkload;
use serde_json::Value;

use crate::support::{Agent, RESOURCES, pod_that_is, view_of};

/// A proxy that answers every request for www.example.com itself, and clients of two pods.
struct Traffic {
    proxy: Proxy,
    clients: Vec<BufReader<TcpStream>>,
}

const PODS: [&str; 2] = ["cart-5d5f9b7c9d-abcde", "cart-5d5f9b7c9d-fghij"];

impl Traffic {
    fn start() -> Self {
        let view = view_of(
            "a.yaml",
            &RESOURCES.replace(
                "timeout: 3s, route: [{destination: {host: www.example.com}}]",
                "directResponse: {status: 418}",
            ),
        );
        let settings = CompileSettings { client: Client::in_namespace("shop"), ..CompileSettings::default() };
        let (snapshot, _) = compile(&view.world, &settings);
        let access_log =
            AccessLog::open(AccessLogTarget::Off, Arc::new(AccessLogEncoding::Text.into())).unwrap();
        let resolver = Resolver::start(dns::Options::default()).unwrap();
        let proxy = Proxy::start(ProxyOptions { resolver, access_log, threads: 1 }).unwrap();
        let configured = proxy.configure(snapshot);
        let clients = PODS.map(|pod| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let original_dst = "192.0.2.7:80".parse().unwrap();
            let source =
                SourceWorkload { namespace: "shop".into(), pod: pod.into(), ..SourceWorkload::default() };
            let workload = ProxiedWorkload {
                listeners: vec![listener],
                intercepted: Arc::new(move |_| Ok(Some(Intercepted { original_dst, source: None }))),
                netns: None,
                configured: configured.clone(),
                connections_max: usize::MAX,
                room: Arc::default(),
                shares: None,
                peers: None,
                learned: None,
                source: Arc::new(source),
            };
            proxy.add(workload).unwrap();
            BufReader::new(TcpStream::connect(address).unwrap())
        });
        Self { proxy, clients: clients.into() }
    }

    /// One request of a pod for this path; its answer is waited for.
    fn request(&mut self, pod: usize, path: &str) {
        let client = &mut self.clients[pod];
        let request = format!("GET {path} HTTP/1.1\r\nhost: www.example.com\r\n\r\n");
        client.get_mut().write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        client.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 418"), "{line}");
        while !line.trim_end().is_empty() {
            line.clear();
            client.read_line(&mut line).unwrap();
        }
    }

    fn agent(&self) -> Agent {
        Agent::with_flows(view_of("a.yaml", RESOURCES), self.proxy.flows())
    }
}

/// `interceptor flows --follow WORDS`, which follows once this returns.
fn follow(agent: &Agent, words: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_interceptor"));
    command.args(["flows", "--follow", "--agent-socket"]).arg(agent.socket()).args(words);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    (child, stdout)
}

fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    line
}

/// Its exit code, and what it said on stderr.
fn end(mut child: Child) -> (Option<i32>, String) {
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code(), said)
}

#[test]
fn in_columns_as_they_end() {
    let mut traffic = Traffic::start();
    let agent = traffic.agent();
    let (mut child, mut stdout) = follow(&agent, &[]);
    let heads = line(&mut stdout);
    assert!(heads.starts_with("TIME (UTC)   ") && heads.trim_end().ends_with("DETAILS"), "{heads}");
    traffic.request(0, "/a?token=secret");
    traffic.request(1, "/b");
    for (pod, what) in [(PODS[0], "GET www.example.com/a "), (PODS[1], "GET www.example.com/b ")] {
        let row = line(&mut stdout);
        assert_eq!(row.find(&format!("shop/{pod}")), heads.find("POD"), "{heads}{row}");
        assert!(row.contains(what) && row.contains("   418   ") && row.contains("direct_response"), "{row}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn of_one_pod_as_json() {
    let mut traffic = Traffic::start();
    let agent = traffic.agent();
    let pod = format!("shop/{}", PODS[1]);
    let (child, mut stdout) = follow(&agent, &["--pod", &pod, "-o", "json"]);
    // Until it is known to follow, there is something to be told.
    let told = loop {
        traffic.request(1, "/of-mine");
        if !stdout.buffer().is_empty() || is_readable(stdout.get_ref()) {
            break line(&mut stdout);
        }
    };
    traffic.request(0, "/of-another");
    traffic.request(1, "/last");
    let mut all = vec![told];
    while !all.last().unwrap().contains("/last") {
        all.push(line(&mut stdout));
    }
    for line in &all {
        let flow: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&flow["namespace"], &flow["pod"]), (&"shop".into(), &PODS[1].into()), "{line}");
        assert_eq!(
            (&flow["responseCode"], &flow["originalDestination"]),
            (&418.into(), &"192.0.2.7:80".into())
        );
    }
    // Nobody reads any more, and nothing ends any more.
    drop(stdout);
    assert_eq!(end(child), (Some(0), String::new()));
}

fn is_readable(stdout: &ChildStdout) -> bool {
    let mut watched = [rustix::event::PollFd::new(stdout, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    rustix::event::poll(&mut watched, Some(&now)).unwrap() > 0
}

/// Reads nothing while more ends than anybody keeps for it.
#[test]
fn a_slow_reader_is_told_how_much_it_lost() {
    const REQUESTS: usize = 4000;
    let mut traffic = Traffic::start();
    let agent = traffic.agent();
    let mut stream = UnixStream::connect(agent.socket()).unwrap();
    write!(stream, "GET /flows?follow HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    while !line(&mut reader).trim_end().is_empty() {}
    // A long path, so that buffers are full sooner.
    let path = format!("/{}", "x".repeat(400));
    (0..REQUESTS).for_each(|_| traffic.request(0, &path));
    traffic.request(0, "/last");
    let (mut told, mut lost) = (0, 0);
    loop {
        let line = line(&mut reader);
        // The sizes of chunks are between.
        let Some(flow) = line.starts_with('{').then(|| serde_json::from_str::<Value>(&line).unwrap()) else {
            continue;
        };
        match flow["lost"].as_u64() {
            Some(count) => lost += count,
            None if flow["path"] == "/last" => break,
            None => told += 1,
        }
    }
    assert!(lost > 0 && told > 1000, "told {told}, lost {lost}");
    assert_eq!(told + lost, REQUESTS as u64, "every one is told or counted as lost");
}

#[test]
fn what_can_not_be_followed() {
    let traffic = Traffic::start();
    let mut view = view_of("a.yaml", RESOURCES);
    view.pods.push(pod_that_is(
        "shop",
        "db",
        PodState::OutOfReach("hostNetwork: its sockets are the node's own".into()),
    ));
    let agent = Agent::with_flows(view, traffic.proxy.flows());
    for (words, code, says) in [
        (&["--pod", "shop/bd"][..], 1, "interceptor: no pod shop/bd on this node; there are shop/db, "),
        (
            &["--pod", "shop/db"],
            1,
            "interceptor: pod shop/db is not intercepted: out of reach: hostNetwork: its",
        ),
        (&["--pod", "db"], 2, "expected NAMESPACE/NAME"),
        (&["-o", "yaml"], 2, "possible values: table, json"),
    ] {
        let (child, mut stdout) = follow(&agent, words);
        let mut out = String::new();
        stdout.read_to_string(&mut out).unwrap();
        let (status, said) = end(child);
        assert_eq!((status, &*out), (Some(code), ""), "{said}");
        assert!(said.contains(says), "{said}");
    }
    let told = agent.over_tcp("/flows", &[]);
    assert_eq!(told.status, 403, "{told:?}");
}

#[test]
fn an_agent_that_ends_is_told() {
    let traffic = Traffic::start();
    let agent = traffic.agent();
    let path = agent.socket().display().to_string();
    let (child, mut stdout) = follow(&agent, &[]);
    assert!(line(&mut stdout).starts_with("TIME"));
    drop(agent);
    let (code, said) = end(child);
    assert_eq!(code, Some(1), "{said}");
    let expected = format!("interceptor: the agent at {path} broke the answer off; it may have ended: ");
    assert!(said.starts_with(&expected), "{said}");
}
