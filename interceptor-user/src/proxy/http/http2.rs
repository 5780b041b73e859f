//! HTTP/2 with a client. What HTTP/1 ends for silence and for heads that don't become whole is ended here, too: hyper waits
//! for either without a limit.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::rt::bounds::Http2ServerConnExec;
use hyper::server::conn::http2;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::frame_tap::FrameTap;
use super::http1::{SHARED_HEAD_READ_TIMEOUT, SILENCE_MAX};
use super::log::RequestLog;
use super::{Connection, request};
use crate::proxy::maybe_tls::ClientIo;
use crate::proxy::upstream::pool::LocalExecutor;

const STREAMS_MAX: u32 = 256;
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const SEND_BUFFER_MAX: usize = 64 * 1024;
const HEADER_LIST_MAX: u32 = 60 * 1024;

/// How often it is looked whether requests are under way.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// How long a client that is told of the end has for requests that are on their way (Envoy's drain_timeout).
const GOODBYE: Duration = Duration::from_secs(5);

/// Serves the requests of a connection until it ends.
pub(super) async fn serve(stream: ClientIo, connection: &Rc<Connection>) -> Result<(), hyper::Error> {
    let worker = &connection.worker;
    let requests = Cell::new(0_u64);
    let service = service_fn(|mut request| {
        let connection = Rc::clone(connection);
        requests.set(requests.get() + 1);
        connection.worker.current().snapshot.mesh.path_normalization.apply(request.uri_mut());
        connection.first_request.is_there();
        // The connection counts as one of its workload's, and pays for one request.
        let is_beside_others = connection.tap.is_answering();
        // Begun before the answer is first worked on: a client may be gone by then.
        let mut log = RequestLog::new(&connection, &request);
        let has_room = !is_beside_others || request::take_room(&connection, &mut log);
        async move {
            if !has_room {
                return Ok::<_, Infallible>(request::refuse_surplus(&connection, log));
            }
            Ok(request::answer(connection, request, log).await)
        }
    });
    let head_limit = worker.workload().shares.is_some().then_some(SHARED_HEAD_READ_TIMEOUT);
    let activity = || Activity { requests: requests.get(), is_answering: connection.tap.is_answering() };
    serve_until_idle(FrameTap::new(stream, head_limit), service, connection.ending(), activity).await
}

/// What has happened on a connection so far, and whether something does.
#[derive(Clone, Copy, Debug)]
struct Activity {
    requests: u64,
    is_answering: bool,
}

/// To its end, which comes after the requests that it is at when `ending` is ready or it has been idle for too long.
async fn serve_until_idle<S, B>(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    service: S,
    ending: impl Future<Output = ()>,
    activity: impl Fn() -> Activity,
) -> Result<(), hyper::Error>
where
    S: HttpService<Incoming, ResBody = B, Error = Infallible>,
    S::Future: 'static,
    B: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
    LocalExecutor: Http2ServerConnExec<S::Future, B>,
{
    let server = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER_MAX)
        .max_header_list_size(HEADER_LIST_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut server = pin!(server);
    tokio::select! {
        biased;
        ended = server.as_mut() => return ended,
        () = ending => {
            server.as_mut().graceful_shutdown();
            // What is answered may wait for the client's window: whoever ends things says for how long.
            return server.await;
        }
        () = idle(&activity) => {}
    }
    server.as_mut().graceful_shutdown();
    loop {
        let served = activity();
        tokio::select! {
            biased;
            ended = server.as_mut() => return ended,
            () = tokio::time::sleep(GOODBYE) => {}
        }
        // Whoever does not take note of the goodbye is not waited for, unless there are requests.
        let now = activity();
        if !now.is_answering && now.requests == served.requests {
            return Ok(());
        }
    }
}

/// Ready when no request has been under way for as long as a connection may be idle.
async fn idle(activity: impl Fn() -> Activity) {
    let (mut requests, mut busy) = (0, Instant::now());
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        let now = activity();
        if now.is_answering || now.requests != requests {
            (requests, busy) = (now.requests, Instant::now());
        } else if busy.elapsed() >= SILENCE_MAX {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
