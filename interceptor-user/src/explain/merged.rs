//! DestinationRules that are one for a cluster: which of them say something of it, and which are hidden by an older one.

use super::Context;
use super::explanation::{PassedOver, Place};
use super::places::{place, whole};
use crate::resource::destination_rule::{DestinationRule, Subset, TrafficPolicy};
use crate::resource::{Resource, ResourceKey};

#[derive(Debug, Default)]
pub(super) struct Merged {
    pub(super) by: Vec<ResourceKey>,
    pub(super) passed_over: Vec<PassedOver>,
}

/// As rules are merged: the first policy holds, and the first subset of a name. `acting`: the oldest first.
pub(super) fn rules(context: Context<'_>, acting: &[ResourceKey], subset_name: &str) -> Merged {
    let rules = || acting.iter().filter_map(|key| context.rule(key));
    let holds = rules().find(|rule| *rule.policy != TrafficPolicy::default());
    let chosen = rules().find(|rule| subset_of(rule, subset_name).is_some());
    let is = |first: Option<&DestinationRule>, key: &ResourceKey| {
        first.is_some_and(|first| first.meta.key == *key)
    };
    let mut merged = Merged::default();
    for rule in rules() {
        let key = &rule.meta.key;
        let mut lost = Vec::new();
        if let Some(first) = holds.filter(|first| first.meta.key != *key)
            && *rule.policy != TrafficPolicy::default()
        {
            let place = Place { field: Some("spec.trafficPolicy".into()), ..whole(&rule.meta) };
            lost.push((place, first, "trafficPolicy".to_owned()));
        }
        if let Some(first) = chosen.filter(|first| first.meta.key != *key)
            && let Some((index, subset)) = subset_of(rule, subset_name)
        {
            let place = place(&rule.meta, Some(format!("spec.subsets[{index}]")), subset.position);
            lost.push((place, first, format!("subset {subset_name}")));
        }
        if lost.is_empty() || is(holds, key) || is(chosen, key) {
            merged.by.push(key.clone());
        }
        merged.passed_over.extend(lost.into_iter().map(|(place, first, what)| PassedOver {
            place,
            why: format!("{} comes first by age and name: its {what} holds", first.meta.key),
        }));
    }
    merged
}

/// The subset of a name that the merged rules have, and where it is written.
pub(super) fn subset<'a>(
    context: Context<'a>,
    acting: &[ResourceKey],
    name: &str,
) -> Option<(&'a Subset, Place)> {
    acting.iter().find_map(|key| {
        let rule = context.rule(key)?;
        let (index, subset) = subset_of(rule, name)?;
        Some((subset, place(&rule.meta, Some(format!("spec.subsets[{index}]")), subset.position)))
    })
}

fn subset_of<'a>(rule: &'a DestinationRule, name: &str) -> Option<(usize, &'a Subset)> {
    let subsets = rule.subsets.iter().enumerate();
    subsets.map(|(index, subset)| (index, &**subset)).find(|(_, subset)| *subset.name == *name)
}

impl<'a> Context<'a> {
    pub(super) fn rule(&self, key: &ResourceKey) -> Option<&'a DestinationRule> {
        match self.world.resources.get(key) {
            Some(Resource::DestinationRule(rule)) => Some(rule),
            Some(_) | None => None,
        }
    }
}
