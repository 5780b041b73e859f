//! `localityLbSetting`: which endpoints are nearer, and how much each place gets.

use std::sync::Arc;

use super::decode::Field;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalitySetting {
    pub enabled: bool,
    pub distribute: Vec<Distribute>,
    pub failover: Vec<Failover>,
    /// Labels, or `label=value`: the more of the first an endpoint shares with the client, the nearer.
    pub failover_priority: Vec<Arc<str>>,
}

impl Default for LocalitySetting {
    /// As Istio's mesh has it.
    fn default() -> Self {
        Self { enabled: true, distribute: Vec::new(), failover: Vec::new(), failover_priority: Vec::new() }
    }
}

/// Clients of one place, and the per cent that other places get of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribute {
    pub from: Arc<str>,
    pub to: Vec<(Arc<str>, u32)>,
}

/// Where clients of a region go when it has not enough healthy endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failover {
    pub from: Arc<str>,
    pub to: Arc<str>,
}

/// Labels that say where a workload is.
pub const REGION_LABEL: &str = "topology.kubernetes.io/region";
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
pub const SUBZONE_LABEL: &str = "topology.istio.io/subzone";

/// Region, zone and subzone of `region/zone/subzone`, empty where they are not given.
pub fn split(locality: &str) -> [&str; 3] {
    let mut parts = locality.splitn(3, '/');
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

pub(super) fn read(field: &Field<'_>, has_outlier_detection: bool) -> Option<LocalitySetting> {
    let setting = field.object()?;
    let distribute = setting.list("distribute", |item| read_distribute(&item));
    let failover = setting.list("failover", |item| read_failover(&item));
    let failover_priority = setting.texts("failoverPriority");
    if !distribute.is_empty() && !failover.is_empty() {
        field.error("can not simultaneously specify 'distribute' and 'failover'");
    }
    let topology = [REGION_LABEL, ZONE_LABEL, SUBZONE_LABEL];
    if let Some(label) = failover_priority.iter().find(|label| topology.contains(&&***label))
        && !failover.is_empty()
    {
        field.error(format!(
            "can not simultaneously set 'failover' and topology label '{label}' in 'failover_priority'"
        ));
    }
    if let Some(problem) = overlap(distribute.iter().map(|distribute| &*distribute.from)) {
        field.error(problem);
    }
    if (!failover.is_empty() || !failover_priority.is_empty()) && !has_outlier_detection {
        field.warning(
            "outlier detection policy must be provided for failover: without it no endpoint is ever unhealthy, and all \
             are used alike",
        );
    }
    let enabled = setting.boolean("enabled").unwrap_or(true);
    Some(LocalitySetting { enabled, distribute, failover, failover_priority })
}

fn read_distribute(item: &Field<'_>) -> Option<Distribute> {
    let distribute = item.object()?;
    let from = distribute.text("from").unwrap_or_default();
    let to = distribute.get("to")?;
    let entries = to.entries().into_iter();
    let weights: Vec<(Arc<str>, u32)> =
        entries.filter_map(|(place, weight)| Some((place.value.into(), weight.unsigned()?))).collect();
    let total: u64 = weights.iter().map(|(_, weight)| u64::from(*weight)).sum();
    if weights.iter().any(|(_, weight)| !(1..=100).contains(weight)) {
        to.error("locality weight must be in range [1, 100]");
    } else if total != 100 {
        to.error(format!("total locality weight {total} != 100"));
    }
    if let Some(problem) = overlap(weights.iter().map(|(place, _)| &**place)) {
        to.error(problem);
    }
    Some(Distribute { from, to: weights })
}

fn read_failover(item: &Field<'_>) -> Option<Failover> {
    let failover = item.object()?;
    let [from, to] = ["from", "to"].map(|name| failover.text(name).unwrap_or_default());
    if from == to {
        item.error("locality lb failover settings must specify different regions");
    }
    if from.contains('/') || to.contains('/') {
        item.error("locality lb failover only specify region");
    }
    if from.contains('*') || to.contains('*') {
        item.error("locality lb failover region should not contain '*' wildcard");
    }
    Some(Failover { from, to })
}

/// What is wrong with places that must not have anything in common (Istio's `validateLocalities`).
fn overlap<'a>(places: impl Iterator<Item = &'a str> + Clone) -> Option<String> {
    let covers = |outer: &str, inner: &str| {
        let parts = |place: &str| place.split('/').map(str::to_owned).collect::<Vec<_>>();
        let (outer, inner) = (parts(outer.trim_end_matches("/*")), parts(inner.trim_end_matches("/*")));
        inner.starts_with(&outer)
    };
    for (index, place) in places.clone().enumerate() {
        if place.matches('*').count() > usize::from(place.ends_with('*')) {
            return Some(format!(
                "locality {place} wildcard '*' number can not exceed 1 and must be in the end"
            ));
        }
        if place.splitn(3, '/').any(str::is_empty) {
            return Some(format!("locality {place} must not contain empty region/zone/subzone info"));
        }
        let overlaps = |other: &str| other == "*" || covers(other, place) || covers(place, other);
        if places.clone().take(index).any(overlaps) {
            return Some(format!("locality {place} overlap with previous specified ones"));
        }
    }
    None
}
