//! What is lost when DestinationRules of one host, namespace and visibility are made one: the first trafficPolicy
//! and the first subset of each name stay, as a whole.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::findings::{Findings, at, named};
use super::mesh::Mesh;
use crate::compile::destination_rules::{MergedRule, merge};
use crate::resource::client_tls::TlsMode;
use crate::resource::destination_rule::{Blocks, DestinationRule, Subset, TrafficPolicy};
use crate::resource::{Diagnostic, Level, Position, code};

pub(super) fn check(mesh: &Mesh<'_>, findings: &mut Findings) {
    let shares_host = |rule: &&Arc<DestinationRule>| mesh.rules_of_host(&rule.host).nth(1).is_some();
    let merged = merge(mesh.world, mesh.world.destination_rules().filter(shares_host));
    for whole in merged.values().flatten().filter(|merged| merged.rules.len() > 1) {
        for rule in &whole.rules {
            check_rule(whole, rule, findings);
        }
    }
}

fn check_rule(whole: &MergedRule, rule: &Arc<DestinationRule>, findings: &mut Findings) {
    let report = |lost_tls: bool, part: &str, position, field: String, keeper: &DestinationRule| {
        let message = format!(
            "{part} of this rule is left out: {} is for the same host, namespace and exportTo, and comes first",
            named(&keeper.meta)
        );
        let finding = at(&code::EGR0122, &rule.meta, position, field, message);
        if !lost_tls {
            return finding;
        }
        let effect = format!("requests to {} go in clear where this rule asks for TLS", rule.host);
        Diagnostic { level: Level::Error, ..finding }.effect(effect)
    };
    if rule.policy != whole.policy && *rule.policy != TrafficPolicy::default() {
        let keeper = whole.rules.iter().find(|other| Arc::ptr_eq(&other.policy, &whole.policy));
        if let Some(keeper) = keeper.filter(|keeper| !same(&keeper.policy, &rule.policy)) {
            let kept = |subset: &&Arc<Subset>| whole.subsets.iter().any(|other| Arc::ptr_eq(other, subset));
            let lost_tls = loses_tls(whole, rule, None)
                || rule.subsets.iter().filter(kept).any(|subset| loses_tls(whole, rule, Some(subset)));
            let part = "trafficPolicy";
            let position = tls_position(&rule.policy);
            findings.push(report(lost_tls, part, position, format!("spec.{part}"), keeper));
        }
    }
    for (index, subset) in rule.subsets.iter().enumerate() {
        let Some(kept) = whole.subsets.iter().find(|kept| kept.name == subset.name) else { continue };
        if Arc::ptr_eq(kept, subset) || kept.labels == subset.labels && same(&kept.policy, &subset.policy) {
            continue;
        }
        let has_it = |other: &&Arc<DestinationRule>| other.subsets.iter().any(|own| Arc::ptr_eq(own, kept));
        let Some(keeper) = whole.rules.iter().find(has_it) else { continue };
        let lost_tls = loses_tls(whole, rule, Some(subset));
        let part = format!("subset {}", subset.name);
        findings.push(report(lost_tls, &part, subset.position, format!("spec.subsets[{index}]"), keeper));
    }
}

/// Whether the rule alone asks for TLS on a port where the merged one does not.
fn loses_tls(whole: &MergedRule, rule: &Arc<DestinationRule>, subset: Option<&Subset>) -> bool {
    // Then nothing is sent at all.
    if whole.refused().is_some() {
        return false;
    }
    let alone = MergedRule::new(rule, &rule.export_to);
    let kept = subset.and_then(|subset| whole.subsets.iter().find(|kept| kept.name == subset.name));
    let policies = [&*whole.policy, &rule.policy]
        .into_iter()
        .chain(kept.map(|kept| &kept.policy))
        .chain(subset.map(|subset| &subset.policy));
    let mut ports: BTreeSet<u16> = policies.flat_map(|policy| policy.ports.keys().copied()).collect();
    // No port has this number: what holds for those that nobody names.
    ports.insert(0);
    let asks = |blocks: &Blocks| blocks.tls.as_ref().is_some_and(|tls| tls.mode != TlsMode::Disable);
    ports.into_iter().any(|port| {
        asks(&alone.policy_of(port, subset)) && !asks(&whole.policy_of(port, kept.map(|kept| &**kept)))
    })
}

/// Whether they say the same, wherever it is written.
fn same(one: &TrafficPolicy, other: &TrafficPolicy) -> bool {
    let without_places = |policy: &TrafficPolicy| {
        let mut policy = policy.clone();
        let blocks = policy.ports.values_mut().map(|blocks| &mut **blocks).chain([&mut policy.blocks]);
        for tls in blocks.filter_map(|blocks| blocks.tls.as_mut()) {
            Arc::make_mut(tls).position = Position::default();
        }
        policy
    };
    without_places(one) == without_places(other)
}

fn tls_position(policy: &TrafficPolicy) -> Position {
    policy.blocks.tls.as_ref().map(|tls| tls.position).unwrap_or_default()
}
