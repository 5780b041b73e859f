use std::cell::Cell;
use std::convert::Infallible;
use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::Instant;

use super::super::frame_tap::FrameTap;
use super::{Activity, GOODBYE, SHARED_HEAD_READ_TIMEOUT, SILENCE_MAX, serve_until_idle};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// Its header says more than comes.
const HALF_OF_HEADERS: &[u8] = &[0, 0, 40, 1, 5, 0, 0, 0, 1, 0x82];

/// How long a request's answer takes that asks for it.
const LONG: Duration = Duration::from_secs(3 * 3600);

/// More than the client of [`an_answer_that_waits_for_its_client_is_not_cut_off`] takes at a time.
const LARGE: usize = 60_000;

type Served = JoinHandle<Result<(), hyper::Error>>;

/// The client's end of a connection that is served as a gateway does.
fn connection() -> (DuplexStream, Served) {
    connection_until(pending())
}

fn connection_until(ending: impl Future<Output = ()> + 'static) -> (DuplexStream, Served) {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let served = tokio::task::spawn_local(async move {
        let (requests, answering) = (Cell::new(0), Rc::new(Cell::new(false)));
        let service = service_fn(|request: Request<Incoming>| {
            requests.set(requests.get() + 1);
            let answering = Rc::clone(&answering);
            answering.set(true);
            async move {
                if request.uri().path() == "/long" {
                    tokio::time::sleep(LONG).await;
                }
                answering.set(false);
                let length = if request.uri().path() == "/large" { LARGE } else { 0 };
                Ok::<_, Infallible>(Response::new("a".repeat(length)))
            }
        });
        let activity = || Activity { requests: requests.get(), is_answering: answering.get() };
        let stream = FrameTap::new(server, Some(SHARED_HEAD_READ_TIMEOUT));
        serve_until_idle(stream, service, ending, activity).await
    });
    (client, served)
}

/// How long a connection stays open whose client sends this and nothing more.
async fn open_for(bytes: &'static [u8]) -> Duration {
    let (mut client, served) = connection();
    let started = Instant::now();
    client.write_all(bytes).await.unwrap();
    // Until the server's end.
    drop(client.read_to_end(&mut Vec::new()).await);
    let open = started.elapsed();
    drop(served.await.unwrap());
    open
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_or_half_of_something_is_not_waited_for_without_end() {
    let is_idle = SILENCE_MAX..=SILENCE_MAX + 2 * GOODBYE;
    let is_late = SHARED_HEAD_READ_TIMEOUT..=SHARED_HEAD_READ_TIMEOUT + GOODBYE;
    let half: &[u8] = [PREFACE, SETTINGS, HALF_OF_HEADERS].concat().leak();
    let greeting: &[u8] = [PREFACE, SETTINGS].concat().leak();
    for (bytes, expected) in [
        (&b""[..], &is_idle),
        (greeting, &is_idle),
        (&PREFACE[..10], &is_late),
        (&greeting[..30], &is_late),
        (half, &is_late),
    ] {
        let open = LocalSet::new().run_until(open_for(bytes)).await;
        assert!(expected.contains(&open), "{bytes:?}: {open:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_in_use_goes_on() {
    let used = async {
        let (client, served) = connection();
        let (mut sender, driver) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
        let driver = tokio::task::spawn_local(driver);
        let mut get = async |path: &str| {
            let request = Request::get(format!("http://a{path}")).body(String::new()).unwrap();
            sender.send_request(request).await.map(|response| response.status().as_u16())
        };
        // Longer than a connection may be idle, with less than that between requests.
        for _ in 0..5 {
            assert_eq!(get("/").await.unwrap(), 200);
            tokio::time::sleep(SILENCE_MAX * 9 / 10).await;
        }
        assert_eq!(get("/long").await.unwrap(), 200);
        tokio::time::sleep(SILENCE_MAX * 9 / 10).await;
        assert_eq!(get("/").await.unwrap(), 200);
        let idle_since = Instant::now();
        // The last word of either may meet the other's end.
        drop(served.await.unwrap());
        drop(driver.await.unwrap());
        assert!(idle_since.elapsed() >= SILENCE_MAX, "{:?}", idle_since.elapsed());
    };
    LocalSet::new().run_until(used).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_waits_for_its_client_is_not_cut_off() {
    let slow = async {
        let (client, served) = connection_until(tokio::time::sleep(Duration::from_secs(1)));
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(8 * 1024);
        let (mut sender, driver) = builder.handshake(TokioIo::new(client)).await.unwrap();
        let driver = tokio::task::spawn_local(driver);
        let request = Request::get("http://a/large").body(String::new()).unwrap();
        let mut body = sender.send_request(request).await.unwrap().into_body();
        tokio::time::sleep(Duration::from_secs(1) + 3 * GOODBYE).await;
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            length += frame.unwrap().data_ref().map_or(0, bytes::Bytes::len);
        }
        assert_eq!(length, LARGE);
        drop(sender);
        drop(served.await.unwrap());
        drop(driver.await.unwrap());
    };
    LocalSet::new().run_until(slow).await;
}
