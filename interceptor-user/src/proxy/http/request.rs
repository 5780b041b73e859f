//! The story of one request: checked, routed to a plain [`Route`], then answered as the route says.

use std::rc::Rc;
use std::sync::Arc;

use http::header::{CONNECTION, HeaderValue, TRANSFER_ENCODING};
use http::{Request, Response, Version};
use hyper::body::{Body, Incoming};

use super::body::ResponseBody;
use super::forward::{self, Exchange, RouteChanges};
use super::log::RequestLog;
use super::reply::{ProtocolError, Reply};
use super::tap::{BodyReading, Framing};
use super::{Connection, cors, fault};
use crate::proxy::counting::Taker;
use crate::proxy::downstream::Downstream;
use crate::proxy::names::Claim;
use crate::snapshot::route::{BLOCK_ALL, host_of};
use crate::snapshot::{Refusal, RequestFacts, Route, RouteAction, Snapshot, Then, VirtualHost, request};

/// Answers one request, whatever becomes of it.
pub(super) async fn answer(
    connection: Rc<Connection>,
    request: Request<Incoming>,
    log: RequestLog,
) -> Response<ResponseBody> {
    let is_http1 = connection.version == super::Version::Http1;
    let framing = framing(&request);
    let (has_length, reading) = if is_http1 { connection.tap.begin(framing) } else { (Some(false), None) };
    if framing == Framing::NoBody && is_last(&request) {
        connection.tap.set_last();
    }
    // A head that says in two ways where its body ends is refused, or may do so; hyper has chosen one of them.
    let refused = match (framing, has_length) {
        (Framing::NoBody | Framing::Length(_), _) | (Framing::Chunked, Some(false)) => None,
        (Framing::Chunked, Some(true)) => Some(Refusal::TwoLengths),
        (Framing::Chunked, None) => Some(Refusal::Ambiguous),
    };
    let expects_continue = forward::expects_continue(&request);
    let mut response = route_and_send(&connection, request, refused, reading, log).await;
    // After what could not be read in one way only, nothing more is read; nor where the client may send
    // its body or, never told to, its next request.
    let unreadable = response.extensions().get::<ProtocolError>().is_some();
    if is_http1 && response.body().is_own() && (unreadable || expects_continue || !connection.tap.is_clear())
    {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Has a request beside others on its connection count as a connection of its own: each may take as much. False when its
/// workload has as many as it may have.
pub(super) fn take_room(connection: &Connection, log: &mut RequestLog) -> bool {
    let client = connection.downstream.remote_address.ip();
    let extra = connection.worker.workload().take_extra(client);
    extra.map(|extra| log.counts_as_connection(extra)).is_some()
}

/// Answers a request that is one too many for its workload.
pub(super) fn refuse_surplus(connection: &Connection, log: RequestLog) -> Response<ResponseBody> {
    connection.worker.stats().surplus();
    Reply::surplus().send(&connection.worker.current().snapshot.mesh.proxy_headers, log)
}

/// Whether hyper closes after the answer, by the plainest of the ways to ask for that.
fn is_last(request: &Request<Incoming>) -> bool {
    let mut connection = request.headers().get_all(CONNECTION).iter();
    let closes = connection.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
    closes && connection.next().is_none() && request.version() == Version::HTTP_11
}

/// Where the request ends, as hyper reads it.
fn framing(request: &Request<Incoming>) -> Framing {
    if request.headers().contains_key(TRANSFER_ENCODING) {
        return Framing::Chunked;
    }
    match request.body().size_hint().exact() {
        Some(0) | None => Framing::NoBody,
        Some(length) => Framing::Length(length),
    }
}

async fn route_and_send(
    connection: &Rc<Connection>,
    request: Request<Incoming>,
    refused: Option<Refusal>,
    reading: Option<BodyReading>,
    mut log: RequestLog,
) -> Response<ResponseBody> {
    let active = connection.worker.current();
    let settings = &active.snapshot.mesh.proxy_headers;

    if let Some(refusal) = refused {
        return Reply::refused(refusal).send(settings, log);
    }
    let host = match request::check(request.version(), request.method(), request.uri(), request.headers()) {
        Ok(host) => host,
        Err(refusal) => return Reply::refused(refusal).send(settings, log),
    };
    log.goes_to_undeclared(Taker::Nobody, &host);
    // Without one the port's HTTP service is gone since the connection was accepted.
    let virtual_host = match virtual_host(&active.snapshot, connection, &host) {
        Ok(virtual_host) => virtual_host,
        Err(refusal) => {
            let mut response = Reply::refused(refusal).send(settings, log);
            // Another connection is let in, or not, by the configuration of now.
            connection.misdirected.notify_one();
            if connection.version == super::Version::Http1 {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            return response;
        }
    };
    let virtual_host = virtual_host.unwrap_or(&active.snapshot.catch_all);
    let scheme = connection.scheme();
    let route = match route(virtual_host, &request, &host, scheme) {
        Some(route) => route,
        None => return Reply::refused(Refusal::NoRoute).send(settings, log),
    };
    log.set(|record| record.route_name = Some(Arc::clone(&route.name)).filter(|name| !name.is_empty()));

    let forward = match &route.action {
        RouteAction::DirectResponse(direct) => {
            if &*route.name == BLOCK_ALL {
                log.goes_to_undeclared(Taker::BlackHoleCluster, &host);
            }
            return own(route, Reply::direct(direct).send(settings, log));
        }
        RouteAction::Redirect(redirect) => {
            let location = redirect.location(host.to_str().unwrap_or_default(), request.uri());
            return own(route, Reply::redirect(redirect.status, &location).send(settings, log));
        }
        RouteAction::Refused(refusal) => {
            log.goes_to_undeclared(Taker::BlackHoleCluster, &host);
            connection.worker.stats().leads_around_gateway();
            return Reply::refused(*refusal).send(settings, log);
        }
        RouteAction::Passthrough => None,
        RouteAction::Forward(forward) => Some(&**forward),
    };
    let mut without_cluster = Refusal::NoCluster;
    let (runtime, of_destination) = match forward {
        None => (Some(&active.passthrough), None),
        Some(forward) => match active.choose(&forward.clusters) {
            Some((chosen, runtime)) => {
                without_cluster = active.snapshot.refusal_without(&chosen.cluster.name);
                (runtime, chosen.changes.as_deref())
            }
            None => (None, None),
        },
    };
    // Named from here on, whoever answers.
    if let Some(runtime) = runtime {
        log.goes_to(runtime, &host);
        log.set(|record| record.upstream_cluster = Some(runtime.cluster().name.clone()));
    }
    if let Some(fault) = forward.and_then(|forward| forward.fault.as_ref())
        && let Some(reply) = Box::pin(fault::inject(fault, &mut log)).await
    {
        return reply.send(settings, log);
    }
    let mut cors = cors::Verdict::Nothing;
    if let Some(policy) = forward.and_then(|forward| forward.cors.as_deref()) {
        cors = cors::verdict(policy, &request);
        if let cors::Verdict::Preflight(headers) = cors {
            return Reply::preflight(headers).send(settings, log);
        }
    }
    let Some(runtime) = runtime else {
        if without_cluster == Refusal::AroundGateway {
            connection.worker.stats().leads_around_gateway();
        }
        let mut response = Reply::refused(without_cluster).send(settings, log);
        cors.apply(response.headers_mut());
        return response;
    };
    let changes = RouteChanges { of_destination, of_route: route.changes.as_deref() };
    let authority = changes.authority();
    let goes_to = host_of(authority.unwrap_or(&host).to_str().unwrap_or_default());
    if !connection.downstream.may_use(&active.snapshot, runtime.cluster(), Some(goes_to)) {
        let mut response = Reply::refused(Refusal::NotAllowed).send(settings, log);
        cors.apply(response.headers_mut());
        return response;
    }
    let claimed = host_name(&host);
    let claim = Claim {
        name: claimed,
        original_dst: connection.downstream.original_dst,
        runtime: Some(runtime),
        uses_original_dst: runtime.cluster().is_original_dst(),
    };
    if !connection.worker.names.admits(&active, claim).await {
        return Reply::refused(Refusal::NameMismatch).send(settings, log);
    }
    if let Some(authority) = authority {
        log.set_http(|http| {
            http.authority = Some(String::from_utf8_lossy(authority.as_bytes()).into_owned())
        });
    }
    let host = authority.unwrap_or(&host);
    let exchange =
        Exchange { connection, active: &active, settings, runtime, forward, changes, host, claimed };
    let mut response = forward::forward(exchange, request, reading, log).await;
    cors.apply(response.headers_mut());
    response
}

/// A reply of our own, with what the route changes in responses.
fn own(route: &Route, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    if let Some(changes) = &route.changes {
        changes.response.apply(response.headers_mut());
    }
    response
}

/// The host of an authority, without its port.
fn host_name(host: &HeaderValue) -> &str {
    let host = host.to_str().unwrap_or_default();
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        Some(_) | None => host,
    }
}

fn virtual_host<'a>(
    snapshot: &'a Snapshot,
    connection: &Connection,
    host: &HeaderValue,
) -> Result<Option<&'a VirtualHost>, Refusal> {
    let Downstream { original_dst, tls, requested_server_name, .. } = &connection.downstream;
    let listener = snapshot.listener(original_dst.ip(), original_dst.port());
    let table = match tls {
        None => listener.http.as_ref(),
        Some(tls) => {
            // Whoever was let in by other settings than those of now, or to another chain, has to come again.
            let chain = listener.terminated(requested_server_name.as_deref());
            let chain = chain.filter(|chain| chain.tls == tls.termination).ok_or(Refusal::Misdirected)?;
            match &chain.then {
                Then::Http(table) => Some(table),
                Then::Tcp(_) => return Err(Refusal::Misdirected),
            }
        }
    };
    Ok(table.map(|table| &**table.virtual_host(host.to_str().unwrap_or_default())))
}

fn route<'a, B>(
    virtual_host: &'a VirtualHost,
    request: &Request<B>,
    host: &HeaderValue,
    scheme: &str,
) -> Option<&'a Route> {
    let facts = RequestFacts::new(request.method(), request.uri(), host, request.headers());
    virtual_host.route(&RequestFacts { scheme, ..facts })
}
