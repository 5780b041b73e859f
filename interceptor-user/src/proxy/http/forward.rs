//! Sends a request to an upstream: try after try as the route allows, within its timeout, and turns
//! what came of it into the client's response.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, EXPECT, HeaderValue, SET_COOKIE};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::{Body, Incoming};

use super::body::ResponseBody;
use super::deadline::Deadline;
use super::failure::{is_client_error, is_disconnect, upstream_error};
use super::headers::{self, Carriage};
use super::log::RequestLog;
use super::mirror::{self, WholeBody};
use super::reply::Reply;
use super::tap::BodyReading;
use super::upload::{ContinueGate, RequestBody, Upload};
use super::{Connection, Version, grpc, retry, upgrade};
use crate::proxy::active::Active;
use crate::proxy::outcome::{ResponseFlag, ResponseFlags};
use crate::proxy::upstream::pool::{Lease, Wanted};
use crate::proxy::upstream::{
    ClusterRuntime, Outcome, Overflow, RequestHash, ResetReason, Selection, Slot, UpstreamError, Watched,
};
use crate::snapshot::route::host_of;
use crate::snapshot::{Changes, EndpointAddress, Forward, ProxyHeaders, RetryPolicy, UpstreamProtocol};

/// How long a client that waits for `100 Continue` waits for an upstream that says nothing.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

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

/// How a try ended.
#[derive(Debug)]
enum TryEnd {
    Answered(Response<Incoming>, Lease),
    Failed(UpstreamError),
    PerTryTimeout,
    /// The client broke off while sending its body.
    ClientGone,
}

pub(super) async fn forward(
    exchange: Exchange<'_>,
    mut request: Request<Incoming>,
    reading: Option<BodyReading>,
    mut log: RequestLog,
) -> Response<ResponseBody> {
    let started = Instant::now();
    let decorator = exchange.forward.map(|forward| &*forward.decorator_operation);
    let carriage = headers::prepare_request(request.headers_mut(), exchange.settings, decorator);
    let client_upgrade = carriage.upgrade.then(|| hyper::upgrade::on(&mut request));
    let gate = expects_continue(&request).then(|| Arc::new(ContinueGate::default()));
    let (mut parts, incoming) = request.into_parts();
    for changes in exchange.changes.in_order() {
        headers::change_request(&mut parts, changes, exchange.settings);
    }
    let retries = exchange.forward.and_then(|forward| forward.retries.as_ref());
    let may_repeat = retries.is_some() || is_idempotent(&parts.method);
    let copies = mirror::copies(&exchange, &parts, carriage);
    let upload = Upload::new(incoming, may_repeat || copies.is_some(), gate.clone(), reading);
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
    let mut tries = Tries {
        exchange,
        parts,
        carriage,
        upload,
        gate,
        attempt: 0,
        tried: Vec::new(),
        hash,
        watched: Watched::default(),
        retry: None,
    };
    let end = Deadline::within(&mut deadline, tries.run(retries, &mut log)).await;
    let attempts = tries.attempt;
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
            let body_unread = tries.gate.as_ref().is_some_and(|gate| !gate.is_open());
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

/// The tries of one request.
struct Tries<'a> {
    exchange: Exchange<'a>,
    parts: Parts,
    carriage: Carriage,
    upload: Option<Rc<Upload>>,
    gate: Option<Arc<ContinueGate>>,
    /// The number of the current try, from 1.
    attempt: u32,
    tried: Vec<EndpointAddress>,
    hash: Option<u64>,
    /// The endpoint of the current try, until it is known what came of it.
    watched: Watched,
    /// Counts the current try as a retry of the cluster's.
    retry: Option<Slot>,
}

impl Tries<'_> {
    /// Tries until there is something to tell the client; with the flag of what kept it from another try,
    /// if there would have been one.
    async fn run(
        &mut self,
        retries: Option<&RetryPolicy>,
        log: &mut RequestLog,
    ) -> (TryEnd, Option<ResponseFlag>) {
        loop {
            self.attempt += 1;
            let end = self.try_once(retries.and_then(|policy| policy.per_try_timeout), log).await;
            if let Some(outcome) = outcome(&end) {
                self.report(outcome);
            }
            let Some(policy) = retries.filter(|policy| wants_retry(policy, &end)) else {
                return (end, None);
            };
            if self.attempt > policy.attempts {
                return (end, Some(ResponseFlag::UpstreamRetryLimitExceeded));
            }
            if !self.replayable() {
                return (end, None);
            }
            self.retry = None;
            match self.exchange.runtime.usage().retry() {
                Ok(retry) => self.retry = retry,
                Err(Overflow) => return (end, Some(ResponseFlag::UpstreamOverflow)),
            }
            if let TryEnd::Answered(response, lease) = end
                && response.body().is_end_stream()
            {
                lease.release();
            }
            tokio::time::sleep(retry::back_off(policy, self.attempt)).await;
        }
    }

    /// What came of the current try, told once.
    fn report(&mut self, outcome: Outcome) {
        self.exchange.runtime.report(&std::mem::take(&mut self.watched), outcome);
    }

    fn replayable(&self) -> bool {
        self.upload.as_ref().is_none_or(|upload| upload.replayable())
    }

    /// One try on one endpoint; `limit` is for the answer, once there is a connection. A kept connection that turns out to be closed is replaced by a new
    /// one once, when the request can be sent again without harm.
    async fn try_once(&mut self, limit: Option<Duration>, log: &mut RequestLog) -> TryEnd {
        let mut fresh = false;
        loop {
            let mut lease = match self.lease(fresh).await {
                Ok(lease) => lease,
                Err(error) => {
                    // Whoever was tried last is who failed.
                    log.set(|record| {
                        record.upstream_host = self.tried.last().cloned();
                        record.upstream_local_address = None;
                    });
                    return TryEnd::Failed(error);
                }
            };
            log.set(|record| {
                record.upstream_host = Some(lease.facts.peer.clone());
                record.upstream_local_address = lease.facts.local;
            });
            let request = self.request(&lease);
            let mut deadline = limit.map(|limit| Deadline::new(limit, self.upload.clone()));
            let Some(sent) = Deadline::within(&mut deadline, lease.send(request)).await else {
                return TryEnd::PerTryTimeout;
            };
            let mut error = match sent {
                Ok(response) => {
                    if response.status().is_success() {
                        self.open_gate();
                    }
                    return TryEnd::Answered(response, lease);
                }
                Err(error) => error,
            };
            let unsent = error.take_message().is_some();
            let error = error.into_error();
            if self.upload.as_ref().is_some_and(|upload| upload.broken()) || is_client_error(&error) {
                return TryEnd::ClientGone;
            }
            let harmless = unsent || (is_idempotent(&self.parts.method) && is_disconnect(&error));
            if lease.reused && !fresh && harmless && self.replayable() {
                fresh = true;
                continue;
            }
            return TryEnd::Failed(upstream_error(&error));
        }
    }

    async fn lease(&mut self, fresh: bool) -> Result<Lease, UpstreamError> {
        let Exchange { connection, settings, runtime, forward, host, .. } = self.exchange;
        let name = host_of(host.to_str().unwrap_or_default());
        let selection = Selection {
            original_dst: connection.downstream.original_dst,
            name: Some(name),
            avoid: if avoid_tried(forward) { &self.tried } else { &[] },
            hash: self.hash,
        };
        self.watched = Watched::default();
        let mut pick = runtime.choose(selection).await?;
        self.watched = std::mem::take(&mut pick.watched);
        if self.attempt <= 8 {
            self.tried.push(pick.address.clone());
        }
        // Passthrough speaks to the server what the client speaks to us.
        let is_clients = forward.is_none() || runtime.cluster().use_client_protocol;
        let protocol = match connection.version {
            _ if !is_clients => runtime.cluster().protocol,
            Version::Http1 => UpstreamProtocol::Http1,
            Version::Http2 => UpstreamProtocol::Http2,
        };
        let wanted = Wanted {
            downstream: &connection.downstream,
            server_name: runtime.server_name(name),
            protocol,
            preserve_header_case: settings.preserve_http1_header_case,
            fresh,
        };
        let lease = connection.worker.pools().lease(runtime, pick, wanted).await?;
        runtime.report(&self.watched, Outcome::Connected);
        Ok(lease)
    }

    fn request(&mut self, lease: &Lease) -> Request<RequestBody> {
        let body = Upload::body(self.upload.as_ref());
        let Exchange { settings, runtime, host, .. } = self.exchange;
        let mut parts = self.parts.clone();
        headers::count_attempt(&mut parts.headers, settings, self.attempt);
        let mut request = address(parts, body, lease, runtime, (host, self.carriage.chunked));
        if let Some(gate) = &self.gate {
            let on_continue = Arc::clone(gate);
            hyper::ext::on_informational(&mut request, move |response| {
                if response.status() == StatusCode::CONTINUE {
                    on_continue.open();
                }
            });
            let after_wait = Arc::downgrade(gate);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(CONTINUE_WAIT).await;
                if let Some(gate) = after_wait.upgrade() {
                    gate.open();
                }
            });
        }
        request
    }

    /// The upstream has agreed without waiting for the body: what it has not read it may read.
    fn open_gate(&self) {
        if let Some(gate) = &self.gate {
            gate.open();
        }
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

/// What a try says of its endpoint.
fn outcome(end: &TryEnd) -> Option<Outcome> {
    match end {
        TryEnd::Answered(response, _) => {
            Some(Outcome::Answered(retry::status_of(response.status(), response.headers())))
        }
        TryEnd::Failed(error) => error.outcome(),
        TryEnd::PerTryTimeout => Some(Outcome::TimedOut),
        TryEnd::ClientGone => None,
    }
}

fn avoid_tried(forward: Option<&Forward>) -> bool {
    let retries = forward.and_then(|forward| forward.retries.as_ref());
    retries.is_none_or(|policy| policy.avoid_previous_hosts)
}

fn wants_retry(policy: &RetryPolicy, end: &TryEnd) -> bool {
    match end {
        TryEnd::Answered(response, _) => {
            retry::on_response(&policy.retry_on, response.status(), response.headers())
        }
        TryEnd::Failed(error) => retry::on_error(&policy.retry_on, error),
        TryEnd::PerTryTimeout => retry::on_per_try_timeout(&policy.retry_on),
        TryEnd::ClientGone => false,
    }
}

pub(super) fn expects_continue<B>(request: &Request<B>) -> bool {
    request
        .headers()
        .get(EXPECT)
        .is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Methods that may be sent twice (RFC 9110 §9.2.2).
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE].contains(method)
}

fn request_id(parts: &Parts) -> Option<String> {
    parts.headers.get(headers::X_REQUEST_ID).and_then(|id| id.to_str().ok()).map(str::to_owned)
}
