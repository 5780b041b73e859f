//! Requests that a route answers before they are sent anywhere: injected faults, then CORS preflights.

use http::Request;

use super::explanation::Outcome;
use super::outcome;
use crate::proxy::http::reply::Reply;
use crate::proxy::http::{cors, grpc};
use crate::proxy::outcome::ResponseFlag;
use crate::snapshot::{Forward, Route, Share, WeightedCluster};

/// What becomes of a request; `sent` tells what becomes of the share that is sent on.
pub(super) fn outcomes(
    route: &Route,
    forward: &Forward,
    request: &Request<()>,
    sent: impl FnOnce() -> Vec<Outcome>,
) -> Vec<Outcome> {
    let fault = forward.fault.as_ref();
    let abort = fault.and_then(|fault| fault.abort).filter(|(_, share)| share.0 > 0);
    let is_grpc = grpc::is_grpc(request.headers());
    let mut outcomes: Vec<Outcome> = Vec::new();
    if let Some((status, share)) = abort {
        let of_all = (!share.is_everything()).then(|| percent(share));
        let aborted = outcome::replied(&named(forward), route, &Reply::fault(status), is_grpc);
        outcomes.push(Outcome { share: of_all, ..aborted });
    }
    if abort.is_none_or(|(_, share)| !share.is_everything()) {
        let rest = abort.map(|(_, share)| percent(Share(1_000_000 - share.0)));
        let others = preflight(route, forward, request).map_or_else(sent, |answer| vec![answer]);
        outcomes.extend(
            others.into_iter().map(|other| Outcome { share: within(rest.as_deref(), other.share), ..other }),
        );
    }
    if fault.and_then(|fault| fault.delay).is_some_and(|(_, share)| share.is_everything()) {
        let logs = outcomes.iter_mut().filter_map(|outcome| outcome.access_log.as_mut());
        logs.for_each(|log| log.flags.insert(ResponseFlag::DelayInjected));
    }
    outcomes
}

fn preflight(route: &Route, forward: &Forward, request: &Request<()>) -> Option<Outcome> {
    let cors::Verdict::Preflight(headers) = cors::verdict(forward.cors.as_deref()?, request) else {
        return None;
    };
    Some(outcome::replied(&named(forward), route, &Reply::preflight(headers), false))
}

/// The cluster that the request is for, which the log names though nothing is sent there: one of those that have a share.
fn named(forward: &Forward) -> String {
    let has_one = forward.clusters.len() < 2;
    let chosen = forward.clusters.iter().filter(|weighted| has_one || weighted.weight > 0);
    let name = |weighted: &WeightedCluster| match &weighted.cluster.cluster {
        Some(_) => weighted.cluster.name.to_string(),
        None => "-".to_owned(),
    };
    chosen.map(name).collect::<Vec<_>>().join(" or ")
}

/// Of those that are not aborted, perhaps one of several clusters' share.
fn within(rest: Option<&str>, own: Option<String>) -> Option<String> {
    match (rest, own) {
        (None, own) => own,
        (Some(rest), None) => Some(rest.to_owned()),
        (Some(rest), Some(own)) => Some(format!("{own} of {rest}")),
    }
}

fn percent(share: Share) -> String {
    format!("{} %", f64::from(share.0) / 10_000.0)
}
