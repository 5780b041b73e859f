//! What a connection may cost: slow, large and many ones.

use std::sync::Arc;
use std::time::Duration;

use interceptor_user::admin::{Admin, Heartbeat, Listener, serve};
use interceptor_user::agent::view::View;
use interceptor_user::telemetry::Flows;
use interceptor_user::telemetry::logging::LogFilter;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing_subscriber::EnvFilter;

use crate::support::{Agent, RESOURCES, view_of};

/// A server in this runtime, whose clock may be paused.
struct Here {
    directory: tempfile::TempDir,
    tcp: std::net::SocketAddr,
    _server: JoinSet<()>,
}

impl Here {
    async fn start(view: View) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let shared = View::shared();
        shared.store(Arc::new(view));
        let admin = Admin {
            view: shared,
            heartbeat: Heartbeat::new(),
            workers_alive: Box::new(|| true),
            log_filter: LogFilter::new(EnvFilter::new("warn")).0,
            metrics: Vec::new(),
            requests: mpsc::channel(1).0,
            flows: Flows::default(),
        };
        let unix = Listener::unix(&directory.path().join("agent.sock")).unwrap();
        let tcp = Listener::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let Listener::Tcp(listening) = &tcp else { panic!("{tcp:?}") };
        let address = listening.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(async move { panic!("{}", serve(admin, vec![unix, tcp]).await) });
        Self { directory, tcp: address, _server: server }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.directory.path().join("agent.sock")).await.unwrap()
    }
}

async fn all(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_slowly_is_let_go() {
    let server = Here::start(View::default()).await;
    for (sent, answer) in [
        ("", ""),
        ("GET /healthz HTTP/1.1\r\nhost:", ""),
        ("POST /cni HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{", "HTTP/1.1 408 Request Timeout"),
    ] {
        let mut stream = server.connect().await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        let started = Instant::now();
        let told = all(&mut stream).await;
        assert!(told.starts_with(answer), "{sent:?}: {told:?}");
        let waited = started.elapsed();
        assert!(waited > Duration::from_secs(5) && waited < Duration::from_secs(30), "{sent:?}: {waited:?}");
    }
}

/// More than sockets and buffers hold is on its way; nothing of it is read.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_let_go() {
    let entry = |index: usize| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: s{index}, namespace: shop}}\n\
             spec: {{hosts: [h{index}.example.com], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: DNS}}\n"
        )
    };
    let yaml = format!("{RESOURCES}{}", (0..3000).map(entry).collect::<String>());
    let server = Here::start(view_of("a.yaml", &yaml)).await;
    let mut stuck = Vec::new();
    for _ in 0..2 {
        let mut stream = server.connect().await;
        stream.write_all(b"GET /config_dump HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        stream.readable().await.unwrap();
        stuck.push(stream);
    }
    let mut third = server.connect().await;
    third.write_all(b"GET /config_dump HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let told = all(&mut third).await;
    assert!(told.starts_with("HTTP/1.1 503") && told.ends_with("try again later\n"), "{told}");
    let patience = std::time::Instant::now() + Duration::from_secs(20);
    for mut stream in stuck {
        while !stream.ready(Interest::READABLE).await.unwrap().is_read_closed() {
            assert!(std::time::Instant::now() < patience, "it is still served");
            // Time does not pass by itself while a thread waits for the client.
            tokio::time::advance(Duration::from_secs(5)).await;
        }
        let mut sent = Vec::new();
        let _ended = stream.read_to_end(&mut sent).await.is_ok();
        assert!(
            !sent.is_empty() && !sent.ends_with(b"0\r\n\r\n"),
            "the dump came whole: {} bytes",
            sent.len()
        );
    }
    // The threads that wrote notice a little later.
    let told = loop {
        let mut after = server.connect().await;
        let asked = b"GET /config_dump?pod=money/bank HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        after.write_all(asked).await.unwrap();
        let told = all(&mut after).await;
        if !told.starts_with("HTTP/1.1 503") {
            break told;
        }
        assert!(std::time::Instant::now() < patience, "{told}");
    };
    assert!(told.starts_with("HTTP/1.1 200 OK") && told.ends_with("0\r\n\r\n"), "{}", &told[..100]);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_follow_looks_for_five_seconds() {
    let server = Here::start(View::default()).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /flows HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let started = Instant::now();
    let told = all(&mut stream).await;
    assert!(
        told.starts_with("HTTP/1.1 200 OK") && told.contains("content-type: application/x-ndjson"),
        "{told}"
    );
    assert!(told.ends_with("\r\n\r\n0\r\n\r\n"), "nothing, and whole: {told}");
    let waited = started.elapsed();
    assert!(waited >= Duration::from_secs(5) && waited < Duration::from_secs(6), "{waited:?}");
}

#[tokio::test]
async fn so_many_follow_and_no_more() {
    let server = Here::start(View::default()).await;
    let follow = b"GET /flows?follow HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut followers = Vec::new();
    for _ in 0..16 {
        let mut stream = server.connect().await;
        stream.write_all(follow).await.unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        followers.push(stream);
    }
    let one_more = async || {
        let mut stream = server.connect().await;
        stream.write_all(follow).await.unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        String::from_utf8(start.to_vec()).unwrap()
    };
    assert_eq!(one_more().await, "HTTP/1.1 503");
    followers.pop();
    let has_place = async { while one_more().await != "HTTP/1.1 200" {} };
    timeout(Duration::from_secs(10), has_place).await.unwrap();
}

#[tokio::test]
async fn connections_beyond_the_bound_are_told_so() {
    let server = Here::start(View::default()).await;
    let mut open = Vec::new();
    for _ in 0..16 {
        let mut stream = TcpStream::connect(server.tcp).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        stream.read_u8().await.unwrap();
        open.push(stream);
    }
    let mut one_more = TcpStream::connect(server.tcp).await.unwrap();
    let told = all(&mut one_more).await;
    assert!(told.starts_with("HTTP/1.1 503") && told.ends_with("try again later\n"), "{told}");
    let body = told.split_once("\r\n\r\n").unwrap().1;
    assert!(told.contains(&format!("content-length: {}\r\n", body.len())), "{told}");
    // Those over TCP take no place of those on the unix socket.
    let mut unix = server.connect().await;
    unix.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(all(&mut unix).await.starts_with("HTTP/1.1 200 OK"));
    drop(open);
    let served = async {
        loop {
            let mut stream = TcpStream::connect(server.tcp).await.unwrap();
            let asked = b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            let mut told = String::new();
            // One that is turned away may be reset before it has read why.
            let exchanged =
                stream.write_all(asked).await.is_ok() && stream.read_to_string(&mut told).await.is_ok();
            if exchanged && told.starts_with("HTTP/1.1 200 OK") {
                return;
            }
        }
    };
    timeout(Duration::from_secs(10), served).await.unwrap();
}

#[test]
fn what_is_too_large_is_refused() {
    let agent = Agent::start(View::default());
    let long = format!("x-long: {}", "x".repeat(20_000));
    assert_eq!(agent.over_tcp("/healthz", &["-H", &long]).status, 431);
    let many: Vec<String> = (0..100).map(|index| format!("x-{index}: 1")).collect();
    let many: Vec<&str> = many.iter().flat_map(|header| ["-H", header]).collect();
    assert_eq!(agent.over_tcp("/healthz", &many).status, 431);
    let told = agent.post("/explain?pod=a/b", &"x".repeat(70_000));
    assert_eq!((told.status, &*told.text), (413, "the request is longer than 65536 bytes\n"));
    assert_eq!(agent.over_tcp("/healthz", &[]).status, 200);
}
