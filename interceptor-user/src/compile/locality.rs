//! How near endpoints are to the client, and how much each place gets of it (Istio's loadbalancer.go).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Client;
use crate::resource::Labels;
use crate::resource::locality::{
    Distribute, Failover, LocalitySetting, REGION_LABEL, SUBZONE_LABEL, ZONE_LABEL, split,
};
use crate::resource::service_entry::WorkloadEntry;
use crate::snapshot::Placement;

/// One for each endpoint; `None` for those that this client must not use.
pub(super) fn placements(
    setting: &LocalitySetting,
    has_outlier_detection: bool,
    client: &Client,
    endpoints: &[&WorkloadEntry],
) -> Vec<Option<Placement>> {
    if setting.enabled && !setting.distribute.is_empty() {
        let locality = client.locality();
        let here = split(&locality);
        let distribute = setting.distribute.iter().find(|distribute| matches(here, &distribute.from));
        return distribute.map_or_else(|| alike(endpoints), |distribute| distributed(distribute, endpoints));
    }
    // Without, no endpoint is ever unhealthy: those farther away would get nothing.
    if setting.enabled && has_outlier_detection {
        return by_priority(setting, client, endpoints);
    }
    alike(endpoints)
}

fn alike(endpoints: &[&WorkloadEntry]) -> Vec<Option<Placement>> {
    vec![Some(Placement::default()); endpoints.len()]
}

fn matches(place: [&str; 3], rule: &str) -> bool {
    let [region, zone, subzone] = split(rule);
    let part = |part: &str, rule: &str| rule.is_empty() || rule == "*" || part == rule;
    (region == "*" || place[0] == region) && part(place[1], zone) && part(place[2], subzone)
}

/// Each place's per cent, shared among its localities by the weights of their endpoints.
fn distributed(distribute: &Distribute, endpoints: &[&WorkloadEntry]) -> Vec<Option<Placement>> {
    let mut weights: BTreeMap<&str, u64> = BTreeMap::new();
    for endpoint in endpoints {
        *weights.entry(&endpoint.locality).or_default() += u64::from(endpoint.weight);
    }
    let mut shares: BTreeMap<&str, Placement> = BTreeMap::new();
    // The place for everything else comes last.
    let (rest, named): (Vec<_>, Vec<_>) = distribute.to.iter().partition(|(place, _)| &**place == "*");
    for (place, per_cent) in named.into_iter().chain(rest) {
        let here = |locality: &&str| matches(split(locality), place) && !shares.contains_key(locality);
        let localities: Vec<&str> = weights.keys().copied().filter(here).collect();
        let total: u64 = localities.iter().map(|locality| weights[locality]).sum();
        for locality in localities {
            let weight = (weights[locality] * u64::from(*per_cent)).div_ceil(total.max(1));
            let index = weights.keys().position(|known| *known == locality).unwrap_or_default();
            let placement = Placement {
                priority: 0,
                locality: u32::try_from(index).unwrap_or(u32::MAX),
                weight: u32::try_from(weight).unwrap_or(u32::MAX),
            };
            shares.insert(locality, placement);
        }
    }
    endpoints.iter().map(|endpoint| shares.get(&*endpoint.locality).copied()).collect()
}

fn by_priority(
    setting: &LocalitySetting,
    client: &Client,
    endpoints: &[&WorkloadEntry],
) -> Vec<Option<Placement>> {
    let locality = client.locality();
    let labels = labels(&client.labels, &locality);
    let by_label = !setting.failover_priority.is_empty();
    let by_place = !by_label || !setting.failover.is_empty();
    let distance = |endpoint: &&WorkloadEntry| {
        let label = if by_label && !labels.is_empty() {
            label_distance(&setting.failover_priority, &labels, endpoint)
        } else {
            0
        };
        let place = if by_place {
            place_distance(split(&locality), split(&endpoint.locality), &setting.failover)
        } else {
            0
        };
        (label, place)
    };
    let distances: Vec<_> = endpoints.iter().map(distance).collect();
    let levels: BTreeSet<_> = distances.iter().collect();
    let level = |distance| levels.iter().position(|level| *level == distance).unwrap_or_default();
    let placed = |distance| {
        let priority = u32::try_from(level(distance)).unwrap_or(u32::MAX);
        Some(Placement { priority, ..Placement::default() })
    };
    distances.iter().map(placed).collect()
}

/// 0 is the same subzone, 3 another region, 4 one that failover does not lead to.
fn place_distance(here: [&str; 3], there: [&str; 3], failover: &[Failover]) -> u32 {
    let shared = here.iter().zip(there).take_while(|(here, there)| **here == *there).count();
    let leads_elsewhere = || {
        failover
            .iter()
            .find(|failover| *failover.from == *here[0])
            .is_some_and(|failover| *failover.to != *there[0])
    };
    match shared {
        3 => 0,
        2 => 1,
        1 => 2,
        _ if leads_elsewhere() => 4,
        _ => 3,
    }
}

/// 0 when all labels are shared; else the more, the earlier one is not.
fn label_distance(wanted: &[Arc<str>], client: &Labels, endpoint: &WorkloadEntry) -> usize {
    let endpoint = labels(&endpoint.labels, &endpoint.locality);
    let differs = |wanted: &Arc<str>| {
        let (name, value) = match wanted.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (&**wanted, client.get(&**wanted).map(|value| &**value)),
        };
        value.unwrap_or_default() != endpoint.get(name).map(|value| &**value).unwrap_or_default()
    };
    wanted.iter().position(differs).map_or(0, |index| wanted.len() - index)
}

/// With those that the locality stands for.
fn labels(labels: &Labels, locality: &str) -> Labels {
    let mut labels = labels.clone();
    for (name, part) in [REGION_LABEL, ZONE_LABEL, SUBZONE_LABEL].into_iter().zip(split(locality)) {
        if !part.is_empty() {
            labels.insert(name.into(), part.into());
        }
    }
    labels
}
