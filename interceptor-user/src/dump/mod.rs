//! What is in the kernel, as tables: pods, policies, live connections and counters, from the pinned maps alone, whether an
//! agent runs or not. Each file makes one table of what was read; reading it is `datapath`'s.

mod pods;
mod policies;
mod redirects;
mod stats;

use std::collections::BTreeMap;

pub use pods::PodRow;
pub use policies::PolicyRow;
pub use redirects::RedirectRow;
pub use stats::StatRow;

use crate::datapath::{CgroupId, DatapathError, Inspection, PodRecord};

/// Pods, by name; then workloads that nobody has described.
pub fn pods(inspection: &Inspection) -> Result<Vec<PodRow>, DatapathError> {
    Ok(pods::rows(
        inspection.pods()?,
        inspection.workloads()?,
        (&inspection.attached()?, &inspection.guarded()?),
    ))
}

/// Policies, by id, with the pods that have them.
pub fn policies(inspection: &Inspection) -> Result<Vec<PolicyRow>, DatapathError> {
    let names = Names::of(&inspection.pods()?);
    Ok(policies::rows(&inspection.policies()?, &inspection.workloads()?, &names))
}

/// Connections that are redirected now, by pod.
pub fn redirects(inspection: &Inspection) -> Result<Vec<RedirectRow>, DatapathError> {
    let names = Names::of(&inspection.pods()?);
    Ok(redirects::rows(&inspection.redirected()?, &inspection.workloads()?, &names))
}

/// Counters, by pod; those of namespaces that are not enrolled first.
pub fn stats(inspection: &Inspection) -> Result<Vec<StatRow>, DatapathError> {
    let names = Names::of(&inspection.pods()?);
    Ok(stats::rows(&inspection.counters()?, &names))
}

/// Which pod has which network namespace.
struct Names(BTreeMap<u64, String>);

impl Names {
    fn of(pods: &BTreeMap<CgroupId, PodRecord>) -> Self {
        let own = pods.values().filter(|record| record.netns_cookie != 0);
        Self(own.map(|record| (record.netns_cookie, name(record))).collect())
    }

    fn get(&self, cookie: u64) -> Option<String> {
        self.0.get(&cookie).cloned()
    }
}

fn name(record: &PodRecord) -> String {
    format!("{}/{}", record.namespace, record.name)
}

fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

fn yes_or_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

/// The first few, for a cell; as data all of them are there.
fn few<T: ToString>(all: &[T]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<String> = all.iter().take(SHOWN).map(ToString::to_string).collect();
    match all.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("{}, + {more} more", shown.join(", ")),
        _ => or_dash(Some(&shown.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut_in_cells() {
        for (count, expected) in
            [(0, "-"), (1, "0"), (4, "0, 1, 2, 3"), (5, "0, 1, 2, 3, + 1 more"), (9, "0, 1, 2, 3, + 5 more")]
        {
            assert_eq!(few(&(0..count).collect::<Vec<u32>>()), expected);
        }
    }
}
