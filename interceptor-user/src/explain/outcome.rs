//! What the client would see, and what the access log would say: in the words that the proxy uses.

use interceptor_common::verdict::Reason;

use super::explanation::{Logged, Outcome};
use super::target::Spoken;
use crate::proxy::http::reply::Reply;
use crate::proxy::outcome::{ResponseFlag, ResponseFlags};
use crate::proxy::upstream::UpstreamError;
use crate::snapshot::listener::NO_FILTER_CHAIN_DETAILS;
use crate::snapshot::{ClusterName, DirectResponse, Redirect, Refusal, Route};

const NOTHING: &str = "-";

fn logged(cluster: &str, route: &str, flags: ResponseFlags, details: &str) -> Option<Logged> {
    let route = if route.is_empty() { NOTHING } else { route };
    Some(Logged { cluster: cluster.to_owned(), route: route.to_owned(), flags, details: details.to_owned() })
}

fn carried(client_sees: String, access_log: Option<Logged>) -> Outcome {
    Outcome { carried: true, client_sees, status: None, share: None, access_log }
}

fn answered(status: http::StatusCode, body: &str, access_log: Option<Logged>) -> Outcome {
    let body = if body.is_empty() { "an empty body".to_owned() } else { format!("the body {body:?}") };
    Outcome {
        carried: status.as_u16() < 400,
        client_sees: format!("{} from the proxy, with {body}", named(status)),
        status: Some(status.as_u16()),
        share: None,
        access_log,
    }
}

/// With its reason phrase, if it has one.
fn named(status: http::StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

pub(super) fn bypassed(reason: Reason) -> Outcome {
    let sees = format!("what the destination answers, as without interception: {}", reason.sentence());
    carried(sees, None)
}

pub(super) fn denied(reason: Reason) -> Outcome {
    Outcome { carried: false, ..carried(format!("connect() fails with EPERM: {}", reason.sentence()), None) }
}

/// `lacks_name`: for want of a learned name that tells services apart.
pub(super) fn black_hole(spoken: Spoken, lacks_name: bool) -> Outcome {
    let flag =
        if lacks_name { ResponseFlag::UnauthorizedExternalService } else { ResponseFlag::NoHealthyUpstream };
    let flags = flag.into();
    let log = logged(ClusterName::BLACK_HOLE, NOTHING, flags, NOTHING);
    Outcome { carried: false, ..carried(when_reset(spoken).to_owned(), log) }
}

/// At a gateway.
pub(super) fn no_filter_chain(spoken: Spoken) -> Outcome {
    let flags = ResponseFlag::NoRouteFound.into();
    let log = logged(NOTHING, NOTHING, flags, NO_FILTER_CHAIN_DETAILS);
    Outcome { carried: false, ..carried(when_reset(spoken).to_owned(), log) }
}

/// At a gateway, on a port that nobody listens on.
pub(super) fn nobody_listens() -> Outcome {
    Outcome { carried: false, ..carried("the connection is refused: nobody listens".into(), None) }
}

/// At a gateway, a client whose TLS is not ended, for a reason that the proxy counts.
pub(super) fn handshake_failed(result: &str) -> Outcome {
    let log = logged(NOTHING, NOTHING, ResponseFlag::DownstreamProtocolError.into(), NOTHING);
    let sees = format!("the TLS handshake fails with an alert (tls_handshake_{result})");
    Outcome { carried: false, ..carried(sees, log) }
}

/// At a gateway, of a client that may not use a cluster; `route`: of a request.
pub(super) fn not_allowed(cluster: &str, route: Option<&Route>) -> Outcome {
    let refusal = Refusal::NotAllowed;
    match route {
        Some(route) => {
            let log = logged(cluster, &route.name, refusal.into(), refusal.details());
            answered(refusal.status(), refusal.body(), log)
        }
        None => {
            let flags = ResponseFlag::UnauthorizedExternalService.into();
            let log = logged(cluster, NOTHING, flags, NOTHING);
            Outcome { carried: false, ..carried("the connection is reset".into(), log) }
        }
    }
}

/// At a gateway, what is no HTTP where HTTP alone is spoken.
pub(super) fn no_http() -> Outcome {
    let log = logged(NOTHING, NOTHING, ResponseFlag::DownstreamProtocolError.into(), "http1.codec_error");
    answered(http::StatusCode::BAD_REQUEST, "", log)
}

fn when_reset(spoken: Spoken) -> &'static str {
    match spoken {
        Spoken::Tls => "the connection is reset before the handshake",
        Spoken::Http | Spoken::Tcp => "the connection is reset",
    }
}

/// A connection that is reset because the egress gateway is enforced.
pub(super) fn around_gateway(cluster: &str) -> Outcome {
    let refusal = Refusal::AroundGateway;
    let log = logged(cluster, NOTHING, refusal.into(), refusal.details());
    Outcome { carried: false, ..carried("the connection is reset".into(), log) }
}

pub(super) fn refused(refusal: Refusal) -> Outcome {
    answered(refusal.status(), refusal.body(), logged(NOTHING, NOTHING, refusal.into(), refusal.details()))
}

/// A request that a route refuses, or that has no cluster to go to.
pub(super) fn refused_by(route: &Route, refusal: Refusal) -> Outcome {
    let log = logged(NOTHING, &route.name, refusal.into(), refusal.details());
    answered(refusal.status(), refusal.body(), log)
}

pub(super) fn direct(route: &Route, direct: &DirectResponse) -> Outcome {
    let status = http::StatusCode::from_u16(direct.status).unwrap_or(http::StatusCode::BAD_GATEWAY);
    let log = logged(NOTHING, &route.name, ResponseFlags::NONE, "direct_response");
    answered(status, &String::from_utf8_lossy(&direct.body), log)
}

pub(super) fn redirect(route: &Route, redirect: &Redirect, location: &str) -> Outcome {
    let status = http::StatusCode::from_u16(redirect.status).unwrap_or(http::StatusCode::MOVED_PERMANENTLY);
    let log = logged(NOTHING, &route.name, ResponseFlags::NONE, "direct_response");
    Outcome {
        client_sees: format!("{} from the proxy, to {location}", named(status)),
        ..answered(status, "", log)
    }
}

/// A request to `cluster` that a fault or the CORS policy of its route answers.
pub(super) fn replied(cluster: &str, route: &Route, reply: &Reply, is_grpc: bool) -> Outcome {
    let log = logged(cluster, &route.name, reply.flags, &reply.details);
    let outcome = answered(reply.status, &String::from_utf8_lossy(&reply.body), log);
    let Some(status) = reply.grpc_status().filter(|_| is_grpc) else { return outcome };
    let ok = http::StatusCode::OK;
    Outcome {
        carried: status == 0,
        client_sees: format!("{ok} from the proxy, with grpc-status {status}"),
        status: Some(ok.as_u16()),
        ..outcome
    }
}

/// A request that goes to a cluster.
pub(super) fn request_sent(cluster: &str, route: &Route) -> Outcome {
    let log = logged(cluster, &route.name, ResponseFlags::NONE, "via_upstream");
    carried("what the server answers, through the proxy".into(), log)
}

/// A request whose cluster has nobody to send it to, or no way to.
pub(super) fn request_failed(cluster: &str, route: &Route, error: &UpstreamError) -> Outcome {
    let log = logged(cluster, &route.name, error.flags(), &error.details());
    answered(error.status(), &error.body(false), log)
}

/// A name that a strict policy does not let go to the address that was asked for.
pub(super) fn mismatched(cluster: &str, route: Option<&Route>, spoken: Spoken) -> Outcome {
    let refusal = Refusal::NameMismatch;
    match spoken {
        Spoken::Http => {
            let route = route.map(|route| &*route.name).unwrap_or_default();
            let log = logged(cluster, route, refusal.into(), refusal.details());
            answered(refusal.status(), refusal.body(), log)
        }
        Spoken::Tls | Spoken::Tcp => {
            let log = logged(cluster, NOTHING, refusal.into(), NOTHING);
            Outcome { carried: false, ..carried("the connection is reset".into(), log) }
        }
    }
}

/// A connection that goes to a cluster.
pub(super) fn bytes_sent(cluster: &str) -> Outcome {
    let log = logged(cluster, NOTHING, ResponseFlags::NONE, NOTHING);
    carried("what the server answers, byte for byte".into(), log)
}

/// A connection to a cluster that has nobody to send it to, or no way to; without `error` there is no such cluster.
pub(super) fn bytes_failed(cluster: &str, error: Option<&UpstreamError>) -> Outcome {
    let cluster = if error.is_some() { cluster } else { NOTHING };
    let mut flags = error.map_or(ResponseFlag::NoClusterFound.into(), UpstreamError::flags);
    if flags.contains(ResponseFlag::UpstreamConnectionFailure) {
        flags.insert(ResponseFlag::UpstreamRetryLimitExceeded);
    }
    Outcome {
        carried: false,
        ..carried("the connection is reset".into(), logged(cluster, NOTHING, flags, NOTHING))
    }
}
