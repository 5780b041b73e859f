//! Which VirtualServices apply to a service: those bound to `mesh` that the client sees. For a gateway, those bound to
//! gateways.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::sync::{Arc, OnceLock};

use foldhash::fast::FixedState;

use super::Role;
use super::changed::{Replaced, Turned};
use super::delegates::{self, Delegates};
use super::findings::Findings;
use super::registry::{backwards, by_backwards};
use super::scope::Scope;
use crate::hash::{HashMap, HashSet};
use crate::resource::{Diagnostic, ResourceKey, VirtualService, World, host};

/// VirtualServices by age; indices into `all` are in that order.
#[derive(Clone, Debug, Default)]
pub(super) struct VirtualServices {
    pub(super) all: Vec<Arc<VirtualService>>,
    by_host: Arc<ByHost>,
    /// Those with routes of TLS or TCP.
    with_l4: Arc<[usize]>,
    /// The hashes of hosts that http routes lead to, in order, and who leads there. Made when somebody asks.
    destinations: OnceLock<Vec<(u64, usize)>>,
    /// What somebody delegates to, whether it is there or not.
    delegated_to: Arc<BTreeSet<ResourceKey>>,
    /// What was wrong with delegates.
    findings: Arc<[Diagnostic]>,
}

/// Which of them are about a host.
#[derive(Clone, Debug, Default)]
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
        let delegated_to = delegates::used(world);
        delegates::report_unused(world, &delegated_to, &findings);
        let has_l4 = |service: &VirtualService| !service.tls.is_empty() || !service.tcp.is_empty();
        let with_l4 = all.iter().enumerate().filter(|(_, service)| has_l4(service));
        let with_l4 = with_l4.map(|(position, _)| position).collect();
        Self {
            all,
            by_host: Arc::new(index),
            with_l4,
            destinations: OnceLock::new(),
            delegated_to: delegated_to.into(),
            findings: findings.into_sorted().into(),
        }
    }

    /// With those that are otherwise now.
    pub(super) fn replace(&mut self, changes: &[Replaced]) {
        for Replaced { old, new } in changes {
            let place = self.all.binary_search_by(|known| known.meta.age_order().cmp(&old.meta.age_order()));
            // Those that are not seen or not bound are not among them.
            let Ok(place) = place else { continue };
            if let Some(destinations) = self.destinations.get_mut() {
                destinations.retain(|(_, known)| *known != place);
                for destination in destinations_of(place, new) {
                    destinations
                        .insert(destinations.partition_point(|known| *known < destination), destination);
                }
            }
            if let Some(known) = self.all.get_mut(place) {
                *known = Arc::clone(new);
            }
        }
    }

    /// Without those that have gone, and with those that came; each has http routes for one host without wildcard.
    /// `None` where somebody delegates to one of them, and when somebody else reads this.
    pub(super) fn turn(&mut self, changes: &[Turned<VirtualService>], scope: &Scope<'_>) -> Option<()> {
        let mut all = changes.iter().flat_map(|(old, new)| old.iter().chain(new));
        if all.any(|service| self.delegated_to.contains(&service.meta.key)) {
            return None;
        }
        let place_of = |all: &[Arc<VirtualService>], service: &VirtualService| {
            all.binary_search_by(|known| known.meta.age_order().cmp(&service.meta.age_order()))
        };
        for old in changes.iter().filter_map(|(old, _)| old.as_ref()) {
            // Those that are not seen or not bound are not among them.
            let Ok(place) = place_of(&self.all, old) else { continue };
            self.all.remove(place);
            self.renumber(|number| match number.cmp(&place) {
                Ordering::Less => Some(number),
                Ordering::Equal => None,
                Ordering::Greater => Some(number - 1),
            })?;
        }
        for new in changes.iter().filter_map(|(_, new)| new.as_ref()) {
            if !new.binds_mesh() || !scope.sees_virtual_service(new) {
                continue;
            }
            let (Ok(place) | Err(place)) = place_of(&self.all, new);
            self.renumber(|number| Some(if number < place { number } else { number + 1 }))?;
            self.all.insert(place, Arc::clone(new));
            let by_host = Arc::get_mut(&mut self.by_host)?;
            for host in &new.hosts {
                let of_host = by_host.exact.entry(Arc::clone(&host.value)).or_default();
                of_host.insert(of_host.partition_point(|known| *known < place), place);
            }
            if let Some(destinations) = self.destinations.get_mut() {
                for destination in destinations_of(place, new) {
                    destinations
                        .insert(destinations.partition_point(|known| *known < destination), destination);
                }
            }
        }
        Some(())
    }

    /// Gives places other numbers, or none.
    fn renumber(&mut self, other: impl Fn(usize) -> Option<usize>) -> Option<()> {
        let by_host = Arc::get_mut(&mut self.by_host)?;
        by_host.backwards = OnceLock::new();
        let renumber = |places: &mut Vec<usize>| {
            places.retain_mut(|place| other(*place).map(|number| *place = number).is_some());
        };
        by_host.wildcards.values_mut().for_each(renumber);
        by_host.exact.retain(|_, places| {
            renumber(places);
            !places.is_empty()
        });
        self.with_l4 = self.with_l4.iter().filter_map(|place| other(*place)).collect();
        if let Some(destinations) = self.destinations.get_mut() {
            destinations.retain_mut(|(_, place)| other(*place).map(|number| *place = number).is_some());
        }
        Some(())
    }

    /// Those whose http routes lead to one of these hosts.
    pub(super) fn leading_to(&self, hosts: &HashSet<Arc<str>>) -> Vec<&Arc<VirtualService>> {
        if hosts.is_empty() {
            return Vec::new();
        }
        let all = self.destinations.get_or_init(|| {
            let each = self.all.iter().enumerate();
            let mut all: Vec<_> = each.flat_map(|(place, service)| destinations_of(place, service)).collect();
            all.sort_unstable();
            all
        });
        let mut places = Vec::new();
        for host in hosts {
            let hash = HOSTS.hash_one(host);
            let from = all.partition_point(|(known, _)| *known < hash);
            let same = all.iter().skip(from).take_while(|(known, _)| *known == hash);
            places.extend(same.map(|(_, place)| *place));
        }
        places.sort_unstable();
        places.dedup();
        let found = places.into_iter().filter_map(|place| self.all.get(place));
        found.filter(|service| service.destination_hosts().any(|host| hosts.contains(host))).collect()
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

    /// Whether routes of TLS or TCP have to do with a host without wildcard: they are the host's, lead to it, or take its name.
    pub(super) fn concern_l4(&self, host: &str) -> bool {
        let is_host = |name: &Arc<str>| **name == *host;
        self.with_l4.iter().filter_map(|position| self.all.get(*position)).any(|service| {
            let tls = service.tls.iter().map(|route| &route.destinations);
            let mut destinations = tls.chain(service.tcp.iter().map(|route| &route.destinations)).flatten();
            let mut names = service.tls.iter().flat_map(|route| &route.matches);
            service.hosts.iter().any(|own| host::matches(&own.value, host))
                || destinations.any(|destination| is_host(&destination.host))
                || names.any(|condition| condition.sni_hosts.iter().any(is_host))
        })
    }

    /// The one that is about a host without wildcard, when it is about no other host and none with a wildcard covers it;
    /// `Err` when it is more complicated.
    pub(super) fn alone_with(&self, host: &str) -> Result<Option<&Arc<VirtualService>>, ()> {
        if self.by_host.matching_wildcards(host).next().is_some() {
            return Err(());
        }
        match self.by_host.exact.get(host).map(|services| &services[..]) {
            None => Ok(None),
            Some([only]) => match self.all.get(*only).filter(|service| service.hosts.len() == 1) {
                Some(service) => Ok(Some(service)),
                None => Err(()),
            },
            Some(_) => Err(()),
        }
    }

    fn ending_with(&self, suffix: &str) -> impl Iterator<Item = &usize> {
        let end = backwards(suffix);
        let hosts = || self.all.iter().map(|service| service.hosts.iter().map(|host| &*host.value));
        let from = self.by_host.backwards.get_or_init(|| by_backwards(hosts())).range(end.clone()..);
        from.take_while(move |(host, _)| host.starts_with(&*end)).flat_map(|(_, services)| services)
    }
}

const HOSTS: FixedState = FixedState::with_seed(0);

fn destinations_of(place: usize, service: &VirtualService) -> impl Iterator<Item = (u64, usize)> {
    service.destination_hosts().map(move |host| (HOSTS.hash_one(host), place))
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
