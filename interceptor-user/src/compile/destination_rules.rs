//! Which DestinationRule a service gets, and what it says about one port of one subset (Istio's
//! push_context.go and MergeSubsetTrafficPolicy).

use std::sync::Arc;

use super::Client;
use crate::hash::HashMap;
use crate::resource::destination_rule::{Blocks, DestinationRule, Extras, Subset, TrafficPolicy};
use crate::resource::{ExportTo, World};
use crate::snapshot::HostMap;

/// Rules of one host and namespace with the same visibility, made one.
#[derive(Clone, Debug)]
pub(crate) struct MergedRule {
    /// The oldest first.
    pub(crate) rules: Vec<Arc<DestinationRule>>,
    export_to: ExportTo,
    /// For clients with certain labels, the client's among them: goes before those that are for all.
    is_selected: bool,
    pub(crate) policy: Arc<TrafficPolicy>,
    pub(crate) subsets: Vec<Arc<Subset>>,
}

impl MergedRule {
    pub(crate) fn new(rule: &Arc<DestinationRule>, export_to: &ExportTo) -> Self {
        Self {
            rules: vec![Arc::clone(rule)],
            export_to: export_to.clone(),
            is_selected: rule.workload_selector.is_some(),
            policy: Arc::clone(&rule.policy),
            subsets: rule.subsets.clone(),
        }
    }

    fn of_nobody(policy: &TrafficPolicy) -> Self {
        let (rules, subsets, policy) = (Vec::new(), Vec::new(), Arc::new(policy.clone()));
        Self { rules, export_to: ExportTo::All, is_selected: false, policy, subsets }
    }

    /// Subsets are united, the first of each name stays; the first policy stays.
    fn add(&mut self, rule: &Arc<DestinationRule>) {
        if *self.policy == TrafficPolicy::default() {
            self.policy = Arc::clone(&rule.policy);
        }
        for subset in &rule.subsets {
            if !self.subsets.iter().any(|known| known.name == subset.name) {
                self.subsets.push(Arc::clone(subset));
            }
        }
        self.rules.push(Arc::clone(rule));
    }

    /// One of the rules can't be used as written and asks for TLS.
    pub(crate) fn refused(&self) -> Option<&Arc<DestinationRule>> {
        self.rules.iter().find(|rule| rule.refused)
    }

    /// What holds for a port of a subset, or of the service itself.
    pub(crate) fn policy_of(&self, port: u16, subset: Option<&Subset>) -> Blocks {
        let mut blocks = self.policy.ports.get(&port).map_or(&self.policy.blocks, |blocks| blocks).clone();
        let Some(subset) = subset else { return blocks };
        if let Some(whole) = subset.policy.ports.get(&port) {
            return (**whole).clone();
        }
        let own = &subset.policy.blocks;
        blocks.load_balancer = own.load_balancer.clone().or(blocks.load_balancer);
        blocks.outlier_detection = own.outlier_detection.clone().or(blocks.outlier_detection);
        blocks.connection_pool = own.connection_pool.clone().or(blocks.connection_pool);
        blocks.tls = own.tls.clone().or(blocks.tls);
        blocks
    }
}

impl MergedRule {
    /// What holds for all ports of a subset, or of the service itself: a subset's own, else the service's.
    pub(super) fn extras_of(&self, subset: Option<&Subset>) -> Extras {
        let service = &self.policy.extras;
        let Some(Extras { tunnel, proxy_protocol, retry_budget }) =
            subset.map(|subset| &subset.policy.extras)
        else {
            return service.clone();
        };
        // One of the two goes first on a connection: a subset's own replaces either.
        let inherits = tunnel.is_none() && proxy_protocol.is_none();
        let (tunnel, proxy_protocol) =
            if inherits { (&service.tunnel, service.proxy_protocol) } else { (tunnel, *proxy_protocol) };
        let retry_budget = retry_budget.or(service.retry_budget);
        Extras { tunnel: tunnel.clone(), proxy_protocol, retry_budget }
    }
}

type ByPlace<'a> = HashMap<(&'a Arc<str>, &'a Arc<str>), Vec<MergedRule>>;

/// The rules of each namespace and host: those with the same visibility are one, the oldest first.
pub(crate) fn merge<'a>(
    world: &'a World,
    rules: impl Iterator<Item = &'a Arc<DestinationRule>>,
) -> ByPlace<'a> {
    let mut rules: Vec<&Arc<DestinationRule>> = rules.collect();
    rules.sort_by_key(|rule| rule.meta.age_order());
    let mut merged = ByPlace::with_capacity_and_hasher(rules.len(), Default::default());
    for rule in rules {
        let same_place =
            merged.entry((rule.meta.namespace(), &rule.host)).or_insert_with(|| Vec::with_capacity(1));
        if rule.workload_selector.is_some() {
            // Nobody outside its namespace gets it, whatever it says.
            same_place.push(MergedRule::new(rule, &ExportTo::own_only()));
            continue;
        }
        let export_to = rule.export_to.or(&world.mesh.default_destination_rule_export_to);
        let alike = |known: &&mut MergedRule| !known.is_selected && known.export_to == *export_to;
        match same_place.iter_mut().find(alike) {
            Some(known) => known.add(rule),
            None => same_place.push(MergedRule::new(rule, export_to)),
        }
    }
    merged
}

fn is_for_client(rule: &DestinationRule, client: &Client) -> bool {
    rule.workload_selector
        .as_ref()
        .is_none_or(|labels| client.has_labels(labels) && *rule.meta.namespace() == client.namespace)
}

/// Those of one place, on top of MeshConfig.defaultTrafficPolicy.
fn in_order_of_precedence(mut rules: Vec<MergedRule>, base: &TrafficPolicy) -> Vec<MergedRule> {
    // The sort is stable: within each the oldest stays first.
    rules.sort_by_key(|rule| !rule.is_selected);
    for rule in rules.iter_mut().filter(|_| *base != TrafficPolicy::default()) {
        rule.policy = Arc::new(rule.policy.over(base));
    }
    rules
}

type ByHost = HostMap<Vec<MergedRule>>;

#[derive(Debug)]
pub(crate) struct DestinationRules {
    by_namespace: HashMap<Arc<str>, ByHost>,
    client_namespace: Arc<str>,
    root_namespace: Arc<str>,
    /// MeshConfig.defaultTrafficPolicy, as a rule of nobody.
    default: Option<MergedRule>,
}

impl DestinationRules {
    pub(crate) fn new(world: &World, client: &Client) -> Self {
        let base = &world.mesh.default_traffic_policy;
        let mut by_namespace: HashMap<Arc<str>, ByHost> = HashMap::default();
        let of_client = world.destination_rules().filter(|rule| is_for_client(rule, client));
        for ((namespace, host), rules) in merge(world, of_client) {
            let rules = in_order_of_precedence(rules, base);
            by_namespace.entry(Arc::clone(namespace)).or_default().insert(Arc::clone(host), rules);
        }
        let root_namespace = Arc::clone(&world.mesh.root_namespace);
        let default = (*base != TrafficPolicy::default()).then(|| MergedRule::of_nobody(base));
        Self { by_namespace, client_namespace: Arc::clone(&client.namespace), root_namespace, default }
    }

    /// Takes out one rule and puts in another. The hosts of both have no wildcard.
    pub(super) fn replace(
        &mut self,
        (old, new): (Option<&Arc<DestinationRule>>, Option<&Arc<DestinationRule>>),
        world: &World,
        client: &Client,
    ) {
        let key = old.or(new).map(|rule| &rule.meta.key);
        let new = new.filter(|rule| is_for_client(rule, client));
        for place in [old, new].into_iter().flatten() {
            let rules = self.by_namespace.entry(Arc::clone(place.meta.namespace())).or_default();
            let known = rules.own(&place.host).into_iter().flatten().flat_map(|merged| &merged.rules);
            let kept: Vec<_> = known.filter(|rule| Some(&rule.meta.key) != key).cloned().collect();
            let now = kept.iter().chain(new.filter(|new| new.host == place.host));
            let merged = merge(world, now).into_values().next();
            let merged =
                merged.map(|rules| in_order_of_precedence(rules, &world.mesh.default_traffic_policy));
            rules.set_exact(&place.host, merged);
        }
    }

    /// What holds for a service that no rule is about.
    pub(super) fn default_rule(&self) -> Option<&MergedRule> {
        self.default.as_ref()
    }

    /// The rule of a service: the client's namespace is asked first, then the service's, then the
    /// root namespace. The most specific host of a namespace decides, even when it is not exported.
    pub(super) fn of(&self, host: &str, service_namespace: &str) -> Option<&MergedRule> {
        self.for_client(&self.client_namespace, host, service_namespace)
    }

    /// As [`Self::of`], for a client in any namespace.
    pub(crate) fn for_client(
        &self,
        client: &str,
        host: &str,
        service_namespace: &str,
    ) -> Option<&MergedRule> {
        let own_only_in_root = *client == *self.root_namespace;
        let local = self.in_namespace(client, host, |rule| {
            if own_only_in_root {
                rule.export_to.is_own_only()
            } else {
                rule.export_to.reaches(client, client)
            }
        });
        local
            .or_else(|| self.exported(client, service_namespace, host))
            .or_else(|| self.exported(client, &self.root_namespace, host))
    }

    fn exported(&self, client: &str, namespace: &str, host: &str) -> Option<&MergedRule> {
        self.in_namespace(namespace, host, |rule| rule.export_to.reaches(namespace, client))
    }

    fn in_namespace(
        &self,
        namespace: &str,
        host: &str,
        visible: impl Fn(&MergedRule) -> bool,
    ) -> Option<&MergedRule> {
        self.by_namespace.get(namespace)?.get(host)?.iter().find(|rule| visible(rule))
    }
}
