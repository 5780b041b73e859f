//! Copies of requests for other clusters (Envoy's request mirroring): sent once the client has sent its
//! whole request, and forgotten. A copy costs the request that it is of nothing: it does not wait, its
//! answer is read to nowhere, its failure is counted. What is too large to be kept whole, what comes while
//! too many copies are on their way, and what a strict policy refuses, is given up and counted.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{EXPECT, HeaderValue};
use http::request::Parts;
use http_body_util::BodyExt;

use super::forward::{Exchange, address};
use super::headers::{self, Carriage};
use super::upload::RequestBody;
use crate::proxy::downstream::Downstream;
use crate::proxy::names::Claim;
use crate::proxy::upstream::pool::Wanted;
use crate::proxy::upstream::{ClusterRuntime, Selection, random};
use crate::proxy::worker::Worker;
use crate::snapshot::ProxyHeaders;
use crate::snapshot::route::host_of;

/// Copies that a worker has on their way.
const COPIES_MAX: u32 = 128;
/// How long a copy may take in all, where its route's timeout does not end it before.
const COPY_TIMEOUT_MAX: Duration = Duration::from_secs(15);

/// A request's body as it was sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct WholeBody {
    pub(crate) data: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl WholeBody {
    /// In memory of its own: what was read is a small part of a buffer each, which would live as long.
    pub(super) fn new<'a>(
        chunks: impl Iterator<Item = &'a Bytes> + Clone,
        trailers: Option<HeaderMap>,
    ) -> Self {
        let mut data = BytesMut::with_capacity(chunks.clone().map(Bytes::len).sum());
        chunks.for_each(|chunk| data.extend_from_slice(chunk));
        Self { data: data.freeze(), trailers }
    }
}

/// What came of a copy that did not fail.
#[derive(Debug)]
enum Delivery {
    Answered,
    /// The client's name for the host does not fit the address, and the policy is strict.
    Refused,
}

/// Copies of one request that wait for its end.
#[derive(Debug)]
pub(super) struct Copies {
    worker: Rc<Worker>,
    downstream: Downstream,
    settings: ProxyHeaders,
    parts: Parts,
    carriage: Carriage,
    /// The name that the client gave.
    claimed: Box<str>,
    /// What the request itself goes to.
    host: HeaderValue,
    /// What the copies' own header says.
    shadow: HeaderValue,
    timeout: Duration,
    targets: Vec<Arc<ClusterRuntime>>,
}

/// Counts a copy as on its way for as long as it lives.
struct OnItsWay(Rc<Cell<u32>>);

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The copies that `exchange` asks for. `None` for requests that don't end: those that change the protocol.
pub(super) fn copies(exchange: &Exchange<'_>, parts: &Parts, carriage: Carriage) -> Option<Copies> {
    let forward = exchange.forward.filter(|forward| !forward.mirrors.is_empty() && !carriage.upgrade)?;
    let chosen = forward.mirrors.iter().filter(|mirror| mirror.share.takes(random()));
    let (downstream, snapshot) = (&exchange.connection.downstream, &exchange.active.snapshot);
    let name = host_of(exchange.host.to_str().unwrap_or_default());
    let targets: Vec<_> = chosen
        .filter_map(|mirror| exchange.active.runtime_of(&mirror.cluster).cloned())
        .filter(|runtime| downstream.may_use(snapshot, runtime.cluster(), Some(name)))
        .collect();
    if targets.is_empty() {
        return None;
    }
    let mut parts = parts.clone();
    // The whole body is there.
    parts.headers.remove(EXPECT);
    Some(Copies {
        worker: Rc::clone(&exchange.connection.worker),
        downstream: exchange.connection.downstream.clone(),
        settings: exchange.settings.clone(),
        parts,
        carriage,
        claimed: exchange.claimed.into(),
        host: exchange.host.clone(),
        shadow: shadow(exchange.host),
        timeout: limit(forward.timeout),
        targets,
    })
}

/// How long a copy may take in all.
fn limit(of_route: Option<Duration>) -> Duration {
    of_route.map_or(COPY_TIMEOUT_MAX, |timeout| timeout.min(COPY_TIMEOUT_MAX))
}

/// `host-shadow:port`, as Envoy names the copies. An address has no such name.
fn shadow(host: &HeaderValue) -> HeaderValue {
    let Ok(text) = host.to_str() else { return host.clone() };
    let name = host_of(text);
    if name.contains(':') || name.is_empty() {
        return host.clone();
    }
    let port = text.strip_prefix(name).unwrap_or_default();
    HeaderValue::from_str(&format!("{name}-shadow{port}")).unwrap_or_else(|_invalid| host.clone())
}

impl Copies {
    /// The client has sent all of its request.
    pub(super) fn send(self, body: &WholeBody) {
        let copies = Rc::new(self);
        for target in &copies.targets {
            let on_their_way = copies.worker.copies_on_their_way();
            if on_their_way.get() >= COPIES_MAX {
                copies.worker.stats().mirror_given_up();
                continue;
            }
            on_their_way.set(on_their_way.get() + 1);
            let guard = OnItsWay(Rc::clone(on_their_way));
            let (copies, target, body) = (Rc::clone(&copies), Arc::clone(target), body.clone());
            tokio::task::spawn_local(async move {
                let _guard = guard;
                let sent = tokio::time::timeout(copies.timeout, copies.deliver(&target, body)).await;
                match sent {
                    Ok(Ok(Delivery::Answered)) => copies.worker.stats().mirror_sent(),
                    Ok(Ok(Delivery::Refused)) => copies.worker.stats().mirror_given_up(),
                    Ok(Err(reason)) => copies.failed(&target, &*reason),
                    Err(elapsed) => copies.failed(&target, &elapsed),
                }
            });
        }
    }

    /// The request is too large to be kept.
    pub(super) fn give_up(&self) {
        self.targets.iter().for_each(|_| self.worker.stats().mirror_given_up());
    }

    fn failed(&self, target: &ClusterRuntime, reason: &dyn std::error::Error) {
        tracing::debug!(cluster = %target.cluster().name, %reason, "a mirrored request failed");
        self.worker.stats().mirror_failed();
    }

    /// Whether a copy may go to the original address, which the request itself need not have gone to.
    async fn admitted(&self, target: &ClusterRuntime) -> bool {
        let active = self.worker.current();
        if !active.snapshot.strict || !target.cluster().is_original_dst() {
            return true;
        }
        let claim = Claim {
            name: &self.claimed,
            original_dst: self.downstream.original_dst,
            runtime: Some(target),
            uses_original_dst: true,
        };
        self.worker.names.admits(&active, claim).await
    }

    async fn deliver(
        &self,
        target: &Arc<ClusterRuntime>,
        body: WholeBody,
    ) -> Result<Delivery, Box<dyn std::error::Error>> {
        if !self.admitted(target).await {
            return Ok(Delivery::Refused);
        }
        // Nobody has an address or a certificate for the name of a shadow.
        let name = host_of(self.host.to_str().unwrap_or_default());
        let selection = Selection {
            original_dst: self.downstream.original_dst,
            name: Some(name),
            avoid: &[],
            hash: None,
            asker: self.downstream.asker(),
            client_chose: false,
        };
        let pick = target.choose(selection).await?;
        let host = &*target.cluster().host;
        let server_name = if host.starts_with('*') { name } else { host };
        let wanted = Wanted {
            downstream: &self.downstream,
            server_name: target.server_name(server_name),
            tls_version: target.tls_version(),
            protocol: target.cluster().protocol,
            preserve_header_case: self.settings.preserve_http1_header_case,
            fresh: false,
        };
        let mut lease = self.worker.pools().lease(target, pick, wanted).await?;
        let body = RequestBody::whole(body);
        let mut parts = self.parts.clone();
        headers::count_attempt(&mut parts.headers, &self.settings, 1);
        let request = address(parts, body, &lease, target, (&self.shadow, self.carriage.chunked));
        let response = lease.send(request).await.map_err(|error| error.into_error())?;
        let mut answer = response.into_body();
        while let Some(frame) = answer.frame().await {
            frame?;
        }
        lease.release();
        Ok(Delivery::Answered)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http::HeaderValue;

    use super::{WholeBody, limit, shadow};

    #[test]
    fn a_copy_is_over_with_its_route_and_soon() {
        for (of_route, expected) in [(None, 15_000), (Some(200), 200), (Some(60_000), 15_000)] {
            let of_route = of_route.map(Duration::from_millis);
            assert_eq!(limit(of_route), Duration::from_millis(expected), "{of_route:?}");
        }
    }

    #[test]
    fn a_whole_body_holds_no_buffer_that_it_was_read_into() {
        for pieces in [&[(3, 5)][..], &[(0, 2), (100, 101), (8000, 8192)]] {
            let buffer = Bytes::from(vec![7; 8192]);
            let chunks: Vec<_> = pieces.iter().map(|&(start, end)| buffer.slice(start..end)).collect();
            let body = WholeBody::new(chunks.iter(), None);
            assert_eq!(body.data, chunks.concat());
            drop(chunks);
            assert!(buffer.is_unique(), "{pieces:?}");
        }
    }

    #[test]
    fn shadows() {
        for (host, expected) in [
            ("a.example.com", "a.example.com-shadow"),
            ("a.example.com:8080", "a.example.com-shadow:8080"),
            ("192.0.2.1:80", "192.0.2.1-shadow:80"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
            ("", ""),
        ] {
            assert_eq!(shadow(&HeaderValue::from_static(host)), expected, "{host}");
        }
    }
}
