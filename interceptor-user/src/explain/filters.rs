//! What a route does to requests beside sending them on: faults and CORS before, copies beside it.

use super::Context;
use super::explanation::Step;
use crate::snapshot::{AbortStatus, Cors, Fault, Forward, Route, Share};

/// What may answer a request, or hold it up, before it is sent anywhere.
pub(super) fn before(context: Context<'_>, route: &Route, forward: &Forward) -> Option<Step> {
    let fault = forward.fault.as_ref().map(fault);
    let cors = forward.cors.as_deref().map(cors);
    let told: Vec<String> = fault.into_iter().flatten().chain(cors).collect();
    step(context, route, "filters", told)
}

/// Where copies go.
pub(super) fn beside(context: Context<'_>, route: &Route, forward: &Forward) -> Option<Step> {
    let copies = forward.mirrors.iter().map(|mirror| {
        let missing = if mirror.cluster.cluster.is_some() { "" } else { ", which does not exist" };
        format!("a copy of {} goes to {}{missing}", share(mirror.share), mirror.cluster.name)
    });
    step(context, route, "mirrors", copies.collect())
}

fn step(context: Context<'_>, route: &Route, name: &'static str, told: Vec<String>) -> Option<Step> {
    if told.is_empty() {
        return None;
    }
    let mut step = Step::new(name, told.join("; "));
    step.by.extend(route.source.as_ref().map(|source| context.place_of_source(source)));
    Some(step)
}

fn fault(fault: &Fault) -> Vec<String> {
    let delay =
        fault.delay.map(|(delay, of)| format!("{} waits {delay:?}, outside of the timeout", share(of)));
    let abort = fault.abort.map(|(status, of)| {
        let status = match status {
            AbortStatus::Http(status) => status.to_string(),
            AbortStatus::Grpc(status) => format!("grpc-status {status}"),
        };
        format!("{} is answered {status} instead of sent on", share(of))
    });
    delay.into_iter().chain(abort).collect()
}

fn cors(policy: &Cors) -> String {
    let unmatched = if policy.forward_unmatched_preflights { "are sent on" } else { "are answered, too" };
    format!("preflights of {} allowed origins are answered, others {unmatched}", policy.allow_origins.len())
}

/// Of all requests.
fn share(share: Share) -> String {
    if share.is_everything() {
        return "every request".into();
    }
    format!("{} % of the requests", f64::from(share.0) / 10_000.0)
}
