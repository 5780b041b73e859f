//! Which VirtualServices apply to a service: those bound to `mesh` that the client sees. For a gateway, those bound to
//! gateways.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::Role;
use super::changed::Replaced;
use super::delegates::{self, Delegates};
use super::findings::Findings;
use super::registry::{backwards, by_backwards};
use super::scope::Scope;
use crate::hash::HashMap;
use crate::resource::{Diagnostic, VirtualService, World};

/// VirtualServices by age; indices into `all` are in that order.
#[derive(Clone, Debug, Default)]
pub(super) struct VirtualServices {
    pub(super) all: Vec<Arc<VirtualService>>,
    by_host: Arc<ByHost>,
    /// What was wrong with delegates.
    findings: Arc<[Diagnostic]>,
}

/// Which of them are about a host.
#[derive(Debug, Default)]
struct ByHost {
    exact: HashMap<Arc<str>, Vec<usize>>,
    /// By suffix, without its `*`.
    wildcards: HashMap<Arc<str>, Vec<usize>>,
    /// Lengths of the suffixes, longest first.
    lengths: Vec<usize>,
    /// Hosts spelled backwards, so that those with a common end stand together. Made when a wildcard asks.
    backwards: OnceLock<BTreeMap<String, Vec<usize>>>,
}

impl VirtualServices {
    pub(super) fn new(world: &World, role: &Role, scope: &Scope<'_>) -> Self {
        let is_bound = |service: &VirtualService| match role {
            Role::Workload => service.binds_mesh(),
            Role::Gateway { .. } => service.binds_gateways(),
        };
        let findings = Findings::default();
        let delegates = Delegates { world, findings: &findings };
        let mut all: Vec<Arc<VirtualService>> = world
            .virtual_services()
            .filter(|service| is_bound(service) && !service.is_delegate())
            .filter(|service| scope.sees_virtual_service(service))
            .map(|service| delegates.resolve(service))
            .collect();
        all.sort_by(|a, b| a.meta.age_order().cmp(&b.meta.age_order()));
        let mut index = ByHost::default();
        for (position, service) in all.iter().enumerate() {
            for host in &service.hosts {
                match host.value.strip_prefix('*') {
                    Some(suffix) => {
                        index.wildcards.entry(suffix.into()).or_default().push(position);
                        index.lengths.push(suffix.len());
                    }
                    None => {
                        let of_host = index.exact.entry(Arc::clone(&host.value));
                        of_host.or_insert_with(|| Vec::with_capacity(1)).push(position);
                    }
                }
            }
        }
        index.lengths.sort_unstable_by(|a, b| b.cmp(a));
        index.lengths.dedup();
        delegates::report_unused(world, &findings);
        Self { all, by_host: Arc::new(index), findings: findings.into_sorted().into() }
    }

    /// With those that are otherwise now.
    pub(super) fn replace(&mut self, changes: &[Replaced]) {
        for Replaced { old, new } in changes {
            let place = self.all.binary_search_by(|known| known.meta.age_order().cmp(&old.meta.age_order()));
            // Those that are not seen or not bound are not among them.
            if let Some(known) = place.ok().and_then(|place| self.all.get_mut(place)) {
                *known = Arc::clone(new);
            }
        }
    }

    /// Tells what was found out when this was made.
    pub(super) fn report(&self, findings: &Findings) {
        self.findings.iter().for_each(|finding| findings.push(finding.clone()));
    }

    /// For HTTP: the oldest that names the host; else the oldest with the longest wildcard that matches it.
    pub(super) fn most_specific(&self, host: &str) -> Option<usize> {
        let services = self.by_host.exact.get(host).or_else(|| self.by_host.matching_wildcards(host).next());
        services?.first().copied()
    }

    /// For TLS and TCP: all with a host that covers this one, and when this one is a wildcard, all with a
    /// host that it covers (Istio's Name.Matches asks both ways). The oldest first.
    pub(super) fn matching(&self, host: &str) -> Vec<usize> {
        let exact = self.by_host.exact.get(host).into_iter().flatten();
        let covering = self.by_host.matching_wildcards(host).flatten();
        let covered = host.strip_prefix('*').map(|suffix| self.ending_with(suffix));
        let mut matching: Vec<usize> =
            exact.chain(covering).chain(covered.into_iter().flatten()).copied().collect();
        matching.sort_unstable();
        matching.dedup();
        matching
    }

    fn ending_with(&self, suffix: &str) -> impl Iterator<Item = &usize> {
        let end = backwards(suffix);
        let hosts = || self.all.iter().map(|service| service.hosts.iter().map(|host| &*host.value));
        let from = self.by_host.backwards.get_or_init(|| by_backwards(hosts())).range(end.clone()..);
        from.take_while(move |(host, _)| host.starts_with(&*end)).flat_map(|(_, services)| services)
    }
}

impl ByHost {
    fn matching_wildcards<'a, 'b>(
        &'a self,
        host: &'b str,
    ) -> impl Iterator<Item = &'a Vec<usize>> + use<'a, 'b> {
        let name = host.strip_prefix('*');
        self.lengths
            .iter()
            // `*.a.b` matches `*.a.b` itself, but not `.a.b`.
            .filter(move |length| name.map_or(**length < host.len(), |name| **length <= name.len()))
            .filter_map(move |length| self.wildcards.get(host.get(host.len() - length..)?))
    }
}
