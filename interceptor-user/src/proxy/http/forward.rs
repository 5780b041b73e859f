//! Sends a request to an upstream, within its route's timeout, and turns what came of it into the client's
//! response.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, EXPECT, HeaderValue, SET_COOKIE};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper::body::{Body, Incoming};

use super::body::ResponseBody;
use super::deadline::Deadline;
use super::headers;
use super::log::RequestLog;
use super::mirror::{self, WholeBody};
use super::reply::Reply;
use super::tap::BodyReading;
use super::tries::{Tries, TryEnd};
use super::upload::{ContinueGate, RequestBody, Upload};
use super::{Connection, Version, grpc, upgrade};
use crate::proxy::active::Active;
use crate::proxy::outcome::ResponseFlags;
use crate::proxy::upstream::pool::Lease;
use crate::proxy::upstream::{ClusterRuntime, Outcome, RequestHash, ResetReason, UpstreamError};
use crate::snapshot::{Changes, Forward, ProxyHeaders};

/// What a request's way up depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exchange<'a> {
    pub(super) connection: &'a Rc<Connection>,
    pub(super) active: &'a Active,
    pub(super) settings: &'a ProxyHeaders,
    pub(super) runtime: &'a Arc<ClusterRuntime>,
    /// `None` for PassthroughCluster: no timeout, no retries.
    pub(super) forward: Option<&'a Forward>,
    /// What is changed in request and response.
    pub(super) changes: RouteChanges<'a>,
    pub(super) host: &'a HeaderValue,
    /// The client's own name for it, without port, whatever the route makes of it.
    pub(super) claimed: &'a str,
}

/// What a route changes, and before it the destination that was chosen among several: the route has the
/// last word, as in Envoy.
#[derive(Clone, Copy, Debug)]
pub(super) struct RouteChanges<'a> {
    pub(super) of_destination: Option<&'a Changes>,
    pub(super) of_route: Option<&'a Changes>,
}

impl<'a> RouteChanges<'a> {
    fn in_order(self) -> impl Iterator<Item = &'a Changes> {
        self.of_destination.into_iter().chain(self.of_route)
    }

    pub(super) fn authority(self) -> Option<&'a HeaderValue> {
        let of_route = self.of_route.and_then(|changes| changes.authority.as_ref());
        of_route.or_else(|| self.of_destination?.authority.as_ref())
    }
}

pub(super) async fn forward(
    exchange: Exchange<'_>,
    mut request: Request<Incoming>,
    reading: Option<BodyReading>,
    mut log: RequestLog,
) -> Response<ResponseBody> {
    let started = Instant::now();
    let decorator = exchange.forward.map(|forward| &*forward.decorator_operation);
    let carriage = headers::prepare_request(
        request.headers_mut(),
        exchange.settings,
        decorator,
        exchange.connection.scheme(),
    );
    let client_upgrade = carriage.upgrade.then(|| hyper::upgrade::on(&mut request));
    let gate = expects_continue(&request).then(|| Arc::new(ContinueGate::default()));
    let (mut parts, incoming) = request.into_parts();
    for changes in exchange.changes.in_order() {
        headers::change_request(&mut parts, changes, exchange.settings);
    }
    let retries = exchange.forward.and_then(|forward| forward.retries.as_deref());
    let copies = mirror::copies(&exchange, &parts, carriage);
    let upload = Upload::new(incoming, retries.is_some() || copies.is_some(), gate.clone(), reading);
    if let Some(upload) = &upload {
        log.track(upload);
    }
    match (copies, &upload) {
        (Some(copies), Some(upload)) => upload.copy_when_complete(copies),
        (Some(copies), None) => copies.send(&WholeBody::default()),
        (None, _) => {}
    }
    log.set_http(|http| http.request_id = request_id(&parts));
    let mut deadline =
        timeout(exchange.forward, &parts, &log).map(|timeout| Deadline::new(timeout, upload.clone()));

    let hash_key = exchange.runtime.cluster().hash_key.as_ref();
    let RequestHash { hash, set_cookie } = hash_key.map_or_else(RequestHash::default, |key| {
        RequestHash::new(key, &parts.headers, &parts.uri, &exchange.connection.downstream)
    });
    let mut tries = Tries::new(exchange, parts, carriage, hash, (upload, gate));
    let end = Deadline::within(&mut deadline, pin!(tries.run(retries, &mut log))).await;
    let attempts = tries.attempt();
    let Some((end, no_retry)) = end else {
        tries.report(Outcome::TimedOut);
        return Reply::timeout("upstream_response_timeout").send(exchange.settings, log);
    };
    let with_limit = |reply: Reply| match no_retry {
        Some(flag) => reply.with_flag(flag),
        None => reply,
    };
    match end {
        TryEnd::Answered(mut response, lease) => {
            if let Some(cookie) = set_cookie {
                response.headers_mut().append(SET_COOKIE, cookie);
            }
            let flags = no_retry.map_or(ResponseFlags::NONE, ResponseFlags::from);
            log.replied(response.status().as_u16(), flags, "via_upstream".into());
            log.set_http(|http| http.upstream_service_time = Some(started.elapsed()));
            log.headers(response.headers());
            // A client that was never told to continue may send its body or its next request: which of
            // them comes is not knowable, so nothing is read after this answer.
            let body_unread = tries.is_body_unread();
            let answer = Answer { response, lease, deadline, body_unread };
            match (answer.response.status(), client_upgrade) {
                (StatusCode::SWITCHING_PROTOCOLS, Some(client)) => {
                    upgrade::switch(answer.response, answer.lease, client, exchange.settings, started, log)
                }
                (StatusCode::SWITCHING_PROTOCOLS, None) => {
                    let error = UpstreamError::Reset(ResetReason::ProtocolError);
                    Reply::upstream_error(&error, attempts > 1).send(exchange.settings, log)
                }
                _ => answer.respond(exchange, started, log),
            }
        }
        TryEnd::Failed(error) => {
            with_limit(Reply::upstream_error(&error, attempts > 1)).send(exchange.settings, log)
        }
        TryEnd::PerTryTimeout => {
            with_limit(Reply::timeout("upstream_per_try_timeout")).send(exchange.settings, log)
        }
        // Nobody is there to read it; the record says who left.
        TryEnd::ClientGone => {
            let mut response = Response::new(ResponseBody::own(bytes::Bytes::new(), log));
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
        }
    }
}

/// The route's timeout, or the client's own if it speaks gRPC and waits less long (max_grpc_timeout).
fn timeout(forward: Option<&Forward>, parts: &Parts, log: &RequestLog) -> Option<Duration> {
    let of_route = forward?.timeout;
    let of_client = if log.is_grpc() { grpc::timeout(&parts.headers) } else { None };
    of_route.into_iter().chain(of_client).min()
}

/// An upstream's answer on its way to the client.
struct Answer {
    response: Response<Incoming>,
    lease: Lease,
    deadline: Option<Deadline>,
    body_unread: bool,
}

impl Answer {
    fn respond(self, exchange: Exchange<'_>, started: Instant, log: RequestLog) -> Response<ResponseBody> {
        let (mut parts, incoming) = self.response.into_parts();
        headers::prepare_response(&mut parts.headers, exchange.settings, started.elapsed(), false);
        for changes in exchange.changes.in_order() {
            changes.response.apply(&mut parts.headers);
        }
        parts.version = match exchange.connection.version {
            Version::Http1 => http::Version::HTTP_11,
            Version::Http2 => http::Version::HTTP_2,
        };
        if self.body_unread && parts.version == http::Version::HTTP_11 {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Response::from_parts(parts, ResponseBody::upstream(incoming, self.lease, log, self.deadline))
    }
}

/// A request as the connection that it goes out on has it.
pub(super) fn address(
    mut parts: Parts,
    body: RequestBody,
    lease: &Lease,
    runtime: &ClusterRuntime,
    (host, chunked): (&HeaderValue, bool),
) -> Request<RequestBody> {
    if lease.is_http2() {
        headers::to_http2(&mut parts.headers, &mut parts.uri, host, runtime.originates_tls());
        parts.version = http::Version::HTTP_2;
    } else {
        let unsized_body = !body.is_end_stream() && body.size_hint().exact().is_none();
        headers::to_http1(&mut parts.headers, &mut parts.uri, host, chunked || unsized_body);
        parts.version = http::Version::HTTP_11;
    }
    Request::from_parts(parts, body)
}

pub(super) fn expects_continue<B>(request: &Request<B>) -> bool {
    request
        .headers()
        .get(EXPECT)
        .is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

fn request_id(parts: &Parts) -> Option<String> {
    parts.headers.get(headers::X_REQUEST_ID).and_then(|id| id.to_str().ok()).map(str::to_owned)
}
