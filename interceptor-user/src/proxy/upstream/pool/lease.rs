//! A connection of the pool for as long as one request has it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};

use super::bounded::StreamOf;
use super::{ConnectionFacts, Idle, PoolKey, Pools, Wanted};
use crate::proxy::http::upload::RequestBody;
use crate::proxy::upstream::bounds::Slot;
use crate::proxy::upstream::error::UpstreamError;
use crate::proxy::upstream::host::ActiveRequest;
use crate::proxy::upstream::{ClusterRuntime, Pick};
use crate::snapshot::UpstreamProtocol;

pub(super) enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    /// With what counts it as a user by living.
    Http2(http2::SendRequest<RequestBody>, Rc<()>),
}

/// A connection in use by one request. Dropped before [`Lease::release`], an HTTP/1 connection closes.
pub(crate) struct Lease {
    sender: Sender,
    pub(crate) facts: Rc<ConnectionFacts>,
    /// Carried a request before: the upstream may have closed it meanwhile.
    pub(crate) reused: bool,
    pools: Rc<Pools>,
    _active: Option<ActiveRequest>,
    /// After `sender`, so that its stream is over when those who wait are told.
    counted: Option<Box<Counted>>,
}

/// What a request counts as, where that is bounded.
struct Counted {
    _request: Option<Slot>,
    _stream: Option<StreamOf>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Lease").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Lease {
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Http2(..))
    }

    /// Sends a request; on failure it comes back when none of it can have reached the upstream.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                self.facts.before_answer.begin();
                let answer = sender.try_send_request(request).await;
                self.facts.before_answer.answered();
                answer
            }
            Sender::Http2(sender, _) => sender.try_send_request(request).await,
        }
    }

    /// No other request goes out on the connection: the server has answered 421 (RFC 9110 §15.5.20).
    pub(crate) fn misdirected(&self) {
        self.facts.misdirected.set(true);
    }

    /// The response has been read to its end: the connection may serve another request.
    pub(crate) fn release(self) {
        let Self { sender, facts, pools, counted, .. } = self;
        match sender {
            Sender::Http1(sender) => {
                // Whoever waits for the connection may have the request's place, too.
                drop(counted);
                if !sender.is_closed() && !facts.exhausted() {
                    pools.put(Idle { sender, facts, since: Instant::now() });
                }
            }
            Sender::Http2(sender, users) => drop((sender, users, counted)),
        }
    }
}

impl Pools {
    /// A connection to `pick`: a kept one, else a new one.
    pub(crate) async fn lease(
        self: &Rc<Self>,
        runtime: &Arc<ClusterRuntime>,
        pick: Pick,
        wanted: Wanted<'_>,
    ) -> Result<Lease, UpstreamError> {
        let Wanted { protocol, preserve_header_case, fresh, .. } = wanted;
        let key =
            PoolKey { runtime: runtime.id(), address: pick.address.clone(), protocol, preserve_header_case };
        let kept = if fresh { None } else { self.kept(&key, &wanted) };
        let (sender, facts, reused) = match kept {
            Some((sender, facts)) => (sender, facts, true),
            // Boxed, so that requests on kept connections carry no room for making one.
            None => Box::pin(self.obtain(runtime, &pick, &key, &wanted)).await?,
        };
        facts.requests.set(facts.requests.get().saturating_add(1));
        let stream = match key.protocol {
            UpstreamProtocol::Http1 => None,
            UpstreamProtocol::Http2 => StreamOf::bounded(self, &facts),
        };
        let pools = Rc::clone(self);
        let mut lease = Lease { sender, facts, reused, pools, _active: pick.active, counted: None };
        match runtime.usage(wanted.downstream).request() {
            Ok(None) if stream.is_none() => {}
            Ok(request) => lease.counted = Some(Box::new(Counted { _request: request, _stream: stream })),
            Err(overflow) => {
                lease.release();
                return Err(overflow.into());
            }
        }
        Ok(lease)
    }
}
