//! Tries a request on one endpoint after another, as the route allows.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper::body::{Body, Incoming};

use super::deadline::Deadline;
use super::failure::{is_client_error, upstream_error};
use super::forward::{Exchange, address};
use super::headers::{self, Carriage};
use super::log::RequestLog;
use super::upload::{ContinueGate, RequestBody, Upload};
use super::{Version, retry};
use crate::proxy::outcome::ResponseFlag;
use crate::proxy::upstream::pool::{Lease, Wanted};
use crate::proxy::upstream::{Outcome, Overflow, Selection, Slot, UpstreamError, Watched};
use crate::snapshot::route::host_of;
use crate::snapshot::{EndpointAddress, Forward, RetryPolicy, UpstreamProtocol};

/// How long a client that waits for `100 Continue` waits for an upstream that says nothing.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// How a try ended.
#[derive(Debug)]
pub(super) enum TryEnd {
    Answered(Response<Incoming>, Lease),
    Failed(UpstreamError),
    PerTryTimeout,
    /// The client broke off while sending its body.
    ClientGone,
}

/// The tries of one request.
pub(super) struct Tries<'a> {
    exchange: Exchange<'a>,
    parts: Parts,
    carriage: Carriage,
    upload: Option<Rc<Upload>>,
    gate: Option<Arc<ContinueGate>>,
    attempt: u32,
    tried: Vec<EndpointAddress>,
    hash: Option<u64>,
    /// The endpoint of the current try, until it is known what came of it.
    watched: Watched,
    /// Counts the current try as a retry of the cluster's.
    retry: Option<Slot>,
}

impl<'a> Tries<'a> {
    /// `gate` is there when the client waits for `100 Continue`.
    pub(super) fn new(
        exchange: Exchange<'a>,
        parts: Parts,
        carriage: Carriage,
        hash: Option<u64>,
        (upload, gate): (Option<Rc<Upload>>, Option<Arc<ContinueGate>>),
    ) -> Self {
        Self {
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
        }
    }

    /// The number of the current try, from 1.
    pub(super) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether the client waits for `100 Continue` still.
    pub(super) fn is_body_unread(&self) -> bool {
        self.gate.as_ref().is_some_and(|gate| !gate.is_open())
    }

    /// Tries until there is something to tell the client; with the flag of what kept it from another try,
    /// if there would have been one.
    pub(super) async fn run(
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
            match self.exchange.runtime.usage(&self.exchange.connection.downstream).retry() {
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
    pub(super) fn report(&mut self, outcome: Outcome) {
        self.exchange.runtime.report(&std::mem::take(&mut self.watched), outcome);
    }

    fn replayable(&self) -> bool {
        self.upload.as_ref().is_none_or(|upload| upload.replayable())
    }

    /// One try on one endpoint; `limit` is for the answer, once there is a connection. A kept connection that turns
    /// out to be closed before anything of the request was written is replaced by a new one once. What was written may
    /// have been read: sending that again is another try, whatever the method (as with Envoy).
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
            let Some(sent) = Deadline::within(&mut deadline, pin!(lease.send(request))).await else {
                return TryEnd::PerTryTimeout;
            };
            let mut error = match sent {
                Ok(response) => {
                    if response.status().is_success() {
                        self.open_gate();
                    }
                    if response.status() == StatusCode::MISDIRECTED_REQUEST {
                        lease.misdirected();
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
            if lease.reused && !fresh && unsent && self.replayable() {
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
            asker: connection.downstream.asker(),
            client_chose: false,
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
            tls_version: runtime.tls_version(),
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
    let retries = forward.and_then(|forward| forward.retries.as_deref());
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
