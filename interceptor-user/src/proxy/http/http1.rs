//! HTTP/1.1 with a client. A connection that has been idle for a while keeps its socket and little else: the buffers that
//! hyper holds for it are most of what a connection costs.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::Connection;
use super::head_limit::HeadLimit;
use super::log::RequestLog;
use super::request;
use super::tap::Activity;
use super::tapped_stream::TappedStream;
use crate::proxy::maybe_tls::ClientIo;

/// The largest request head (Envoy's max_request_headers_kb), answered 431 beyond it.
pub(super) const HEAD_MAX: usize = 60 * 1024;
/// What a connection may buffer while reading; bodies beyond it wait in the kernel.
const READ_BUFFER_MAX: usize = 64 * 1024;
/// How long a request's head may take, and how long a connection may be idle between two requests (Istio's idle timeout
/// of connections).
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(3600);
/// How long a head may take that has begun, where many clients share what there is. With Envoy it is off unless
/// request_headers_timeout is set, which Envoy's page for edge proxies advises.
pub(super) const SHARED_HEAD_READ_TIMEOUT: Duration = Duration::from_secs(60);

/// How often it is looked whether a connection is idle: after so long, or twice that, its buffers go.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often while a request is being answered: that may take hours.
const BUSY_CHECK_INTERVAL_MAX: Duration = Duration::from_secs(64);

/// What became of a connection.
enum Served {
    Ended(Result<(), hyper::Error>),
    /// Nothing is under way on it.
    Idle(ClientIo),
}

/// Serves the requests of a connection until it ends.
pub(super) async fn serve(mut stream: ClientIo, connection: &Rc<Connection>) -> Result<(), hyper::Error> {
    let mut is_ending = false;
    loop {
        // Boxed, to be nothing while the connection is idle.
        stream = match Box::pin(serve_until_idle(stream, connection, &mut is_ending)).await {
            Served::Ended(ended) => return ended,
            Served::Idle(stream) => stream,
        };
        let _resting = connection.worker.rest();
        tokio::select! {
            biased;
            _readable_or_broken = stream.socket().readable() => {}
            () = connection.ending() => is_ending = true,
            () = tokio::time::sleep(SILENCE_MAX) => is_ending = true,
        }
    }
}

/// Serves them until the connection is idle and has been for a while; to its end if it `is_ending`.
async fn serve_until_idle(stream: ClientIo, connection: &Rc<Connection>, is_ending: &mut bool) -> Served {
    let worker = &connection.worker;
    let tap = &connection.tap;
    let head_limit = worker.workload().shares.is_some().then_some(SHARED_HEAD_READ_TIMEOUT);
    let io = TokioIo::new(TappedStream::new(stream, tap.clone(), HeadLimit::new(head_limit)));
    let preserve_case = worker.current().snapshot.mesh.proxy_headers.preserve_http1_header_case;
    let service = service_fn(|mut request| {
        let connection = Rc::clone(connection);
        worker.current().snapshot.mesh.path_normalization.apply(request.uri_mut());
        connection.first_request.is_there();
        // Begun before the answer is first worked on: a client may be gone by then.
        let log = RequestLog::new(&connection, &request);
        async move { Ok::<_, Infallible>(request::answer(connection, request, log).await) }
    });
    let ended = {
        let server = http1::Builder::new()
            .max_header_size(HEAD_MAX)
            .max_buf_size(READ_BUFFER_MAX)
            .preserve_header_case(preserve_case)
            .serve_connection(io, service)
            .with_upgrades();
        tokio::pin!(server);
        if *is_ending {
            server.as_mut().graceful_shutdown();
        }
        let ending = connection.ending();
        let rest = rest(connection);
        tokio::pin!(ending, rest);
        loop {
            tokio::select! {
                biased;
                ended = server.as_mut() => break Some(ended),
                () = &mut ending, if !*is_ending => {
                    *is_ending = true;
                    server.as_mut().graceful_shutdown();
                }
                rest = &mut rest => break match rest { Rest::Idle => None, Rest::TooLong => Some(Ok(())) },
            }
        }
    };
    match (ended, tap.take_back()) {
        (None, Some(stream)) => Served::Idle(stream),
        (None, None) => Served::Ended(Ok(())),
        (Some(ended), _stream) => Served::Ended(ended),
    }
}

/// Why nothing has happened on a connection for a while.
enum Rest {
    /// There is nothing to do.
    Idle,
    /// Something is not whole, and has not been for as long as there is patience.
    TooLong,
}

/// Ready when nothing happens any more.
async fn rest(connection: &Connection) -> Rest {
    let mut heads = 0;
    let mut interval = CHECK_INTERVAL;
    let mut busy = Instant::now();
    loop {
        tokio::time::sleep(interval).await;
        interval = match connection.tap.activity(&mut heads) {
            Activity::Idle => return Rest::Idle,
            Activity::Waiting if busy.elapsed() >= SILENCE_MAX => return Rest::TooLong,
            Activity::Waiting => CHECK_INTERVAL,
            Activity::Busy => {
                busy = Instant::now();
                let is_answering = connection.tap.is_answering();
                if is_answering { (interval * 2).min(BUSY_CHECK_INTERVAL_MAX) } else { CHECK_INTERVAL }
            }
        };
    }
}
