//! HTTP/2 on either side, or on both.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use interceptor_user::snapshot::{RetryOn, UpstreamProtocol};

use crate::stopwatch::Stopwatch;
use crate::support::{Config, HOST, Proxy, Upstream, get, header};

/// A body whose frames are all there.
#[derive(Default)]
struct Frames(VecDeque<Frame<Bytes>>);

impl Frames {
    fn of(chunks: &[&'static str]) -> Self {
        Self(chunks.iter().map(|chunk| Frame::data(Bytes::from_static(chunk.as_bytes()))).collect())
    }

    fn text(text: String) -> Self {
        Self([Frame::data(Bytes::from(text))].into())
    }

    fn with_trailer(mut self, name: &'static str, value: &'static str) -> Self {
        let mut trailers = HeaderMap::new();
        trailers.insert(name, HeaderValue::from_static(value));
        self.0.push_back(Frame::trailers(trailers));
        self
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

/// An HTTP/2 server that counts its connections.
pub(crate) struct Http2Upstream {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Http2Upstream {
    fn start(
        answer: impl Fn(Request<Incoming>, Vec<u8>, Option<HeaderMap>) -> Response<Frames> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (counter, answer) = (Arc::clone(&connections), Arc::new(answer));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    counter.fetch_add(1, Ordering::SeqCst);
                    let answer = Arc::clone(&answer);
                    let service = service_fn(move |mut request: Request<Incoming>| {
                        let answer = Arc::clone(&answer);
                        async move {
                            let body = request.body_mut().collect().await.unwrap();
                            let trailers = body.trailers().cloned();
                            let body = body.to_bytes().to_vec();
                            Ok::<_, Infallible>(answer(request, body, trailers))
                        }
                    });
                    tokio::spawn(
                        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(TokioIo::new(stream), service),
                    );
                }
            });
        });
        Self { address, connections }
    }

    /// Tells what it was asked.
    pub(crate) fn echo() -> Self {
        Self::start(|request, body, trailers| {
            let mut text = format!("{} {} {:?}\r\n", request.method(), request.uri(), request.version());
            for (name, value) in request.headers() {
                text += &format!("{name}: {}\r\n", value.to_str().unwrap());
            }
            text += &format!("\r\n{}", String::from_utf8(body).unwrap());
            if let Some(trailers) = trailers {
                text += &format!("{trailers:?}");
            }
            Response::new(Frames::text(text))
        })
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn http2_cluster(address: SocketAddr) -> Config {
    let mut config = Config::new(&[address]);
    config.cluster.protocol = UpstreamProtocol::Http2;
    config
}

fn http2_proxy(config: Config) -> Proxy {
    let original_dst = SocketAddr::from(([192, 0, 2, 1], 80));
    Proxy::start(config.build(80), original_dst)
}

/// Runs a client with one HTTP/2 connection to the proxy.
fn with_client<T>(proxy: &Proxy, client: impl AsyncFnOnce(SendRequest<Frames>) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let driver = tokio::spawn(connection);
        let result = tokio::time::timeout(crate::support::PATIENCE, client(sender)).await.unwrap();
        driver.abort();
        result
    })
}

fn request(method: &str, body: Frames) -> Request<Frames> {
    Request::builder().method(method).uri(format!("http://{HOST}/path?q")).body(body).unwrap()
}

async fn collect(response: Response<Incoming>) -> (http::response::Parts, String, Option<HeaderMap>) {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned();
    (parts, String::from_utf8(body.to_bytes().to_vec()).unwrap(), trailers)
}

#[test]
fn http1_clients_reach_http2_servers() {
    let upstream = Http2Upstream::echo();
    let proxy = http2_cluster(upstream.address).start();
    let mut client = proxy.client();
    client.send(
        get(HOST, "/path?q")
            .replace("User-Agent", "Connection: x-hop, te\r\nX-Hop: 1\r\nTE: trailers, gzip\r\nUser-Agent"),
    );
    let reply = client.reply();
    let seen = reply.text();
    assert!(seen.starts_with(&format!("GET http://{HOST}/path?q HTTP/2.0\r\n")), "{seen}");
    assert_eq!(header(&seen, "te"), Some("trailers"));
    for dropped in ["host", "connection", "x-hop"] {
        assert_eq!(header(&seen, dropped), None, "{seen}");
    }
    assert!(reply.head.starts_with("HTTP/1.1 200 OK\r\n"), "{reply:?}");
    client.send(format!(
        "POST / HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
    ));
    let seen = client.reply().text();
    assert!(seen.ends_with("\r\nbody") && header(&seen, "transfer-encoding").is_none(), "{seen}");
    assert_eq!(proxy.records.wait(2)[0].text("protocol"), "HTTP/1.1");
}

#[test]
fn http1_clients_share_one_http2_connection() {
    let upstream = Http2Upstream::echo();
    let proxy = http2_cluster(upstream.address).start();
    let mut clients: Vec<_> = (0..20).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send(get(HOST, "/"));
    }
    for client in &mut clients {
        assert_eq!(client.reply().status(), 200);
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn http2_clients_reach_http1_servers() {
    let upstream = Upstream::echo();
    let proxy = http2_proxy(Config::new(&[upstream.address]));
    with_client(&proxy, async |mut sender| {
        let mut split = request("GET", Frames::default());
        split.headers_mut().append("cookie", HeaderValue::from_static("a=1"));
        split.headers_mut().append("cookie", HeaderValue::from_static("b=2"));
        let (parts, seen, _) = collect(sender.send_request(split).await.unwrap()).await;
        assert_eq!((parts.status.as_u16(), parts.version), (200, Version::HTTP_2));
        assert!(seen.starts_with("GET /path?q HTTP/1.1\r\n"), "{seen}");
        assert_eq!(header(&seen, "host"), Some(HOST));
        assert_eq!(header(&seen, "cookie"), Some("a=1; b=2"));

        let sized = sender.send_request(request("POST", Frames::of(&["bo", "dy"]))).await.unwrap();
        let (_, seen, _) = collect(sized).await;
        assert_eq!(header(&seen, "transfer-encoding"), Some("chunked"), "{seen}");
        assert!(seen.ends_with("\r\n\r\nbody"), "{seen}");
    });
    assert_eq!(proxy.records.wait(2)[0].text("protocol"), "HTTP/2");
}

#[test]
fn grpc_passes_whole() {
    let upstream = Http2Upstream::start(|request, body, trailers| {
        assert_eq!(request.headers()["te"], "trailers");
        assert_eq!((body.as_slice(), trailers.unwrap()["x-up"].as_bytes()), (&b"messages"[..], &b"1"[..]));
        Response::builder()
            .header("content-type", "application/grpc")
            .body(Frames::of(&["an", "swer"]).with_trailer("grpc-status", "0"))
            .unwrap()
    });
    let proxy = http2_proxy(http2_cluster(upstream.address));
    with_client(&proxy, async |mut sender| {
        let mut call = request("POST", Frames::of(&["mess", "ages"]).with_trailer("x-up", "1"));
        call.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        let (_, text, trailers) = collect(sender.send_request(call).await.unwrap()).await;
        assert_eq!((text.as_str(), trailers.unwrap()["grpc-status"].as_bytes()), ("answer", &b"0"[..]));
    });
    let record = proxy.records.only();
    assert_eq!((record.number("bytes_received"), record.number("bytes_sent")), (8, 6));
    assert_eq!(record.end(), (200, "-", "via_upstream"));
}

#[test]
fn passthrough_speaks_what_the_client_speaks() {
    let upstream = Http2Upstream::echo();
    let snapshot = Config::new(&[]).build(upstream.address.port());
    let proxy = Proxy::start(snapshot, upstream.address);
    with_client(&proxy, async |mut sender| {
        let unknown = Request::get("http://unknown.example.com/").body(Frames::default()).unwrap();
        let (_, seen, _) = collect(sender.send_request(unknown).await.unwrap()).await;
        assert!(seen.starts_with("GET http://unknown.example.com/ HTTP/2.0\r\n"), "{seen}");
    });
    assert_eq!(proxy.records.only().text("upstream_cluster"), "PassthroughCluster");
}

#[test]
fn a_cancelled_stream_is_recorded_and_the_others_go_on() {
    let upstream = Upstream::start(|mut client, _| {
        while let Some(request) = client.request() {
            if request.head.contains("/path") {
                client.read_to_end();
                return;
            }
            client.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let proxy = http2_proxy(Config::new(&[upstream.address]));
    with_client(&proxy, async |mut sender| {
        let pending = sender.send_request(request("GET", Frames::default()));
        let pending = tokio::spawn(pending);
        while upstream.connections() == 0 {
            tokio::task::yield_now().await;
        }
        pending.abort();
        let other = Request::get(format!("http://{HOST}/other")).body(Frames::default()).unwrap();
        assert_eq!(sender.send_request(other).await.unwrap().status(), 200);
    });
    let records = proxy.records.wait(2);
    let cancelled = records.iter().find(|record| record.text("path") == "/path?q").unwrap();
    assert_eq!(cancelled.end(), (0, "DC", "downstream_remote_disconnect"));
}

/// A server that speaks just enough HTTP/2 to reset its first streams with this code, after these frames.
fn resetting(code: u32, streams: usize) -> Upstream {
    resetting_after(&[], code, streams)
}

fn resetting_after(frame: &'static [u8], code: u32, streams: usize) -> Upstream {
    let count = Arc::new(AtomicUsize::new(0));
    Upstream::start(move |mut client, _| {
        client.read_until("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        // SETTINGS.
        client.send([0, 0, 0, 4, 0, 0, 0, 0, 0]);
        loop {
            let head = client.read_exactly(9);
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            client.read_exactly(usize::try_from(length).unwrap());
            let stream = &head[5..9];
            match head[3] {
                // HEADERS.
                1 if count.fetch_add(1, Ordering::SeqCst) < streams => {
                    if let Some((head, payload)) = frame.split_at_checked(5) {
                        client.send([head, stream, payload].concat());
                    }
                    client.send([&[0, 0, 4, 3, 0], stream, &code.to_be_bytes()[..]].concat());
                }
                // `:status: 200`, and the end of the stream.
                1 => client.send([&[0, 0, 1, 1, 5], stream, &[0x88][..]].concat()),
                // SETTINGS that are no acknowledgement.
                4 if head[4] == 0 => client.send([0, 0, 0, 4, 1, 0, 0, 0, 0]),
                _ => {}
            }
        }
    })
}

const REFUSED_STREAM: u32 = 7;
const INTERNAL_ERROR: u32 = 2;

#[test]
fn a_reset_stream_is_503_ur() {
    for (code, words, details) in [
        (INTERNAL_ERROR, "remote reset", "remote_reset"),
        (REFUSED_STREAM, "remote refused stream reset", "remote_refused_stream_reset"),
    ] {
        let upstream = resetting(code, 1);
        let proxy = http2_cluster(upstream.address).start();
        let reply = proxy.get("/");
        assert_eq!(reply.status(), 503);
        assert!(reply.text().ends_with(&format!("reset reason: {words}")), "{}", reply.text());
        let details = format!("upstream_reset_before_response_started{{{details}}}");
        assert_eq!(proxy.records.only().end(), (503, "UR", details.as_str()));
    }
}

#[test]
fn a_refused_stream_is_retried() {
    for (code, status) in [(REFUSED_STREAM, 200), (INTERNAL_ERROR, 503)] {
        let upstream = resetting(code, 1);
        let retry_on = RetryOn { refused_stream: true, ..RetryOn::default() };
        let proxy = http2_cluster(upstream.address).retries(1, retry_on).start();
        assert_eq!(proxy.get("/").status(), status);
    }
}

#[test]
fn a_server_that_does_not_speak_http2_is_told_as_such() {
    let upstream = Upstream::start(|mut client, _| {
        client.read_until("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        client.send("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        client.read_to_end();
    });
    let proxy = http2_cluster(upstream.address).start();
    assert_eq!(proxy.get("/").status(), 502);
    assert_eq!(proxy.records.only().text("response_flags"), "UPE");
}

#[test]
fn many_streams_at_once_all_end() {
    let upstream = Http2Upstream::echo();
    let proxy = http2_proxy(http2_cluster(upstream.address));
    let answered = Arc::new(Mutex::new(0));
    with_client(&proxy, async |sender| {
        let tasks: Vec<_> = (0..500)
            .map(|_| {
                let (mut sender, answered) = (sender.clone(), Arc::clone(&answered));
                tokio::spawn(async move {
                    let response = sender.send_request(request("POST", Frames::of(&["body"]))).await.unwrap();
                    collect(response).await;
                    *answered.lock().unwrap() += 1;
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    assert_eq!(*answered.lock().unwrap(), 500);
    assert_eq!(upstream.connections(), 1);
    proxy.records.wait(500);
}

#[test]
fn those_who_wait_for_a_connection_fail_with_it() {
    // Accepts and says nothing: the TLS handshake does not end.
    let upstream = Upstream::start(|mut client, _| {
        client.read_to_end();
    });
    let mut config = http2_cluster(upstream.address);
    config.cluster.connect_timeout = std::time::Duration::from_millis(300);
    config.cluster.tls = Some(crate::tls::unverified());
    let proxy = config.start();
    let started = Stopwatch::start();
    let mut clients: Vec<_> = (0..20).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send(get(HOST, "/"));
    }
    for client in &mut clients {
        let reply = client.reply();
        assert!(reply.text().ends_with("reset reason: connection timeout"), "{reply:?}");
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(3), "{:?}", started.elapsed());
}

#[test]
fn a_stream_that_is_reset_during_the_response_is_ur() {
    // `:status: 200`, and more to come.
    let upstream = resetting_after(&[0, 0, 1, 1, 4, 0x88], INTERNAL_ERROR, 1);
    let proxy = http2_cluster(upstream.address).start();
    let mut client = proxy.client();
    client.send(get(HOST, "/"));
    let answer = String::from_utf8(client.read_to_end()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && !answer.ends_with("0\r\n\r\n"), "{answer}");
    let details = "upstream_reset_after_response_started{remote_reset}";
    assert_eq!(proxy.records.only().end(), (200, "UR", details));
}

#[test]
fn the_clients_version_is_kept_where_that_is_asked_for() {
    let upstream = Http2Upstream::echo();
    let mut config = Config::new(&[upstream.address]);
    config.cluster.use_client_protocol = true;
    let proxy = http2_proxy(config);
    with_client(&proxy, async |mut sender| {
        let request = Request::builder().uri(format!("http://{HOST}/")).body(Frames::default()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains("HTTP/2.0"), "{body:?}");
    });
}

/// Requests come in pairs at a server that answers no less than two at a time: with one stream on a
/// connection that is two connections, and never a third one.
#[test]
fn streams_beyond_their_bound_take_another_connection_or_wait() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let (connections, shared) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counter, streams_max) = (Arc::clone(&connections), Arc::clone(&shared));
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let pair = Arc::new(tokio::sync::Barrier::new(2));
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                let (pair, streams_max) = (Arc::clone(&pair), Arc::clone(&streams_max));
                let streams = Arc::new(AtomicUsize::new(0));
                let service = service_fn(move |_request: Request<Incoming>| {
                    let (pair, streams) = (Arc::clone(&pair), Arc::clone(&streams));
                    streams_max.fetch_max(streams.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    async move {
                        pair.wait().await;
                        streams.fetch_sub(1, Ordering::SeqCst);
                        Ok::<_, Infallible>(Response::new(Frames::default()))
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
    });
    let mut config = http2_cluster(address);
    config.cluster.max_concurrent_streams = Some(1);
    config.cluster.bounds.connections = Some(2);
    let proxy = config.start();
    let mut clients: Vec<_> = (0..6).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send(get(HOST, "/"));
    }
    for client in &mut clients {
        assert_eq!(client.reply().status(), 200);
    }
    assert_eq!((connections.load(Ordering::SeqCst), shared.load(Ordering::SeqCst)), (2, 1));
}

#[test]
fn a_connection_whose_server_takes_no_such_requests_is_given_up() {
    let asked = AtomicUsize::new(0);
    let upstream = Http2Upstream::start(move |_, _, _| {
        let mut response = Response::new(Frames::default());
        if asked.fetch_add(1, Ordering::SeqCst) == 1 {
            *response.status_mut() = http::StatusCode::MISDIRECTED_REQUEST;
        }
        response
    });
    let proxy = http2_cluster(upstream.address).start();
    let statuses: Vec<u16> = (0..4).map(|_| proxy.get("/").status()).collect();
    assert_eq!(statuses, [200, 421, 200, 200]);
    assert_eq!(upstream.connections(), 2);
}
