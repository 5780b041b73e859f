//! How a cluster's endpoints are chosen, from a DestinationRule (Istio's cluster_traffic_policy.go).

use std::fmt::Write;
use std::sync::Arc;

use crate::resource::load_balancer::{
    HashCookie, HashKey, HashTable, LoadBalancerSettings, SimpleLoadBalancer, Warmup,
};
use crate::resource::outlier_detection::OutlierDetection;
use crate::snapshot::{self, LoadBalancer};

/// The consistent hash goes before `simple`.
pub(super) fn policy(settings: &LoadBalancerSettings) -> LoadBalancer {
    match (&settings.consistent_hash, settings.simple) {
        (Some(hash), _) => match hash.table {
            HashTable::Ring { minimum_size } => LoadBalancer::RingHash { minimum_size },
            HashTable::Maglev { size } => LoadBalancer::Maglev { table_size: size },
        },
        (None, SimpleLoadBalancer::RoundRobin) => LoadBalancer::RoundRobin,
        (None, SimpleLoadBalancer::Random) => LoadBalancer::Random,
        (None, SimpleLoadBalancer::LeastRequest | SimpleLoadBalancer::Passthrough) => {
            LoadBalancer::LeastRequest
        }
    }
}

pub(super) fn hash_key(settings: &LoadBalancerSettings) -> Option<snapshot::HashKey> {
    Some(match settings.consistent_hash.as_ref()?.key.as_ref()? {
        HashKey::Header(name) => snapshot::HashKey::Header(name.clone()),
        HashKey::Cookie(cookie) => snapshot::HashKey::Cookie(snapshot::HashCookie {
            name: Arc::clone(&cookie.name),
            made_with: made_with(cookie),
        }),
        HashKey::SourceIp => snapshot::HashKey::SourceIp,
        HashKey::QueryParameter(name) => snapshot::HashKey::QueryParameter(Arc::clone(name)),
    })
}

/// What follows the value of a cookie that is made (Envoy's `makeSetCookieValue`).
fn made_with(cookie: &HashCookie) -> Option<Arc<str>> {
    let ttl = cookie.ttl?;
    let mut text = String::new();
    let mut append = |part: std::fmt::Arguments<'_>| text.write_fmt(part).expect("a String takes everything");
    if ttl.as_secs() > 0 {
        append(format_args!("; Max-Age={}", ttl.as_secs()));
    }
    if let Some(path) = &cookie.path {
        append(format_args!("; Path={path}"));
    }
    for (name, value) in &cookie.attributes {
        match value {
            Some(value) => append(format_args!("; {name}={value}")),
            None => append(format_args!("; {name}")),
        }
    }
    append(format_args!("; HttpOnly"));
    Some(text.into())
}

/// Only where Envoy has slow start.
pub(super) fn warmup(settings: &LoadBalancerSettings) -> Option<snapshot::Warmup> {
    if !matches!(policy(settings), LoadBalancer::LeastRequest | LoadBalancer::RoundRobin) {
        return None;
    }
    let Warmup { duration, minimum_share_thousandths, aggression_thousandths } = settings.warmup?;
    Some(snapshot::Warmup { duration, minimum_share_thousandths, aggression_thousandths })
}

pub(super) fn outlier_detection(written: &OutlierDetection) -> snapshot::OutlierDetection {
    /// Envoy's, once failures to connect are counted apart.
    const CONSECUTIVE_LOCAL_ORIGIN_FAILURES: u32 = 5;
    let default = snapshot::OutlierDetection::default();
    // Zero is as good as nothing here, but not for the two counts above.
    let local = written.consecutive_local_origin_failures.filter(|count| *count > 0);
    snapshot::OutlierDetection {
        consecutive_5xx: written.consecutive_5xx_errors.unwrap_or(default.consecutive_5xx),
        consecutive_gateway_errors: written
            .consecutive_gateway_errors
            .unwrap_or(default.consecutive_gateway_errors),
        consecutive_local_origin_failures: written
            .split_local_origin_errors
            .then(|| local.unwrap_or(CONSECUTIVE_LOCAL_ORIGIN_FAILURES)),
        interval: written.interval.unwrap_or(default.interval),
        base_ejection_time: written.base_ejection_time.unwrap_or(default.base_ejection_time),
        max_ejection_percent: written
            .max_ejection_percent
            .filter(|percent| *percent > 0)
            .unwrap_or(default.max_ejection_percent),
        min_health_percent: written.min_health_percent.unwrap_or(default.min_health_percent),
    }
}
