//! What a route does to requests beside forwarding them: `fault`, `corsPolicy` (Istio's core/route/route.go).

use http::HeaderValue;

use crate::resource::cors::CorsPolicy;
use crate::resource::fault::{self, FaultAbort, FaultDelay};
use crate::resource::percentage::Percentage;
use crate::snapshot::{AbortStatus, Cors, Fault, Share};

/// `None` for a fault that no request meets.
pub(super) fn fault(fault: &fault::Fault) -> Option<Fault> {
    let delay = |delay: &FaultDelay| Some((delay.fixed, some(delay.percentage)?));
    let abort = |abort: &FaultAbort| Some((abort_status(abort.status), some(abort.percentage)?));
    let built =
        Fault { delay: fault.delay.as_ref().and_then(delay), abort: fault.abort.as_ref().and_then(abort) };
    (built.delay.is_some() || built.abort.is_some()).then_some(built)
}

pub(super) fn share(percentage: Percentage) -> Share {
    Share(percentage.per_million)
}

fn some(percentage: Percentage) -> Option<Share> {
    (percentage.per_million > 0).then(|| share(percentage))
}

fn abort_status(status: fault::AbortStatus) -> AbortStatus {
    match status {
        fault::AbortStatus::Http(status) => AbortStatus::Http(status),
        fault::AbortStatus::Grpc(status) => AbortStatus::Grpc(status),
    }
}

pub(super) fn cors(policy: &CorsPolicy) -> Cors {
    let list = |items: &[std::sync::Arc<str>]| {
        let joined = items.join(",");
        HeaderValue::from_str(&joined).ok().filter(|_| !items.is_empty())
    };
    Cors {
        allow_origins: policy.allow_origins.clone(),
        allow_methods: list(&policy.allow_methods),
        allow_headers: list(&policy.allow_headers),
        expose_headers: list(&policy.expose_headers),
        max_age: policy.max_age.map(|age| HeaderValue::from(age.as_secs())),
        allow_credentials: policy.allow_credentials,
        forward_unmatched_preflights: policy.forward_unmatched_preflights,
    }
}
