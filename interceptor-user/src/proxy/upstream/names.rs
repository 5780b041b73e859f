//! Hosts that are known by name: the addresses of this moment, with the load of those that stay.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};

use super::clock::Moment;
use super::host::Host;
use super::host_set::HostSet;
use crate::dns::{Answer, AnswerState, NameWatch, Resolver};
use crate::snapshot::{DnsTarget, EndpointAddress, OffLimits, Placement};

/// The names of a cluster. Asked for from the first request on, so that names which nobody uses cost
/// no lookups; after a reload of a cluster in use at once.
#[derive(Debug)]
pub(super) struct Names {
    targets: Vec<(DnsTarget, Placement)>,
    /// Of each family the first address only.
    logical: bool,
    resolver: Resolver,
    watches: OnceLock<Vec<NameWatch>>,
    hosts: ArcSwap<Hosts>,
}

/// The addresses of all names at one time.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    answers: Vec<Arc<Answer>>,
    v4: HostSet,
    v6: HostSet,
}

impl Names {
    /// Addresses that `known` hosts have stay theirs. Those are of the cluster before a reload, `None` of
    /// one that is new. It must be alive still: names that both have are watched on, with their answers.
    pub(super) fn new(
        targets: Vec<(DnsTarget, Placement)>,
        logical: bool,
        resolver: Resolver,
        known: Option<&[Arc<Host>]>,
    ) -> Self {
        let kept = known.filter(|_| !targets.is_empty());
        let of_family = |v6| {
            let family = kept.into_iter().flatten().filter(move |host| host.address.is_ipv6() == v6);
            HostSet::new(family.map(|host| (Arc::clone(host), Placement::default())))
        };
        // Of no answer: they are looked through when the first is there.
        let hosts = Hosts { answers: Vec::new(), v4: of_family(false), v6: of_family(true) };
        let hosts = ArcSwap::from_pointee(hosts);
        let names = Self { targets, logical, resolver, watches: OnceLock::new(), hosts };
        if known.is_some() {
            names.hosts();
        }
        names
    }

    /// The hosts as they were when they were last asked for.
    pub(super) fn seen(&self) -> Guard<Arc<Hosts>> {
        self.hosts.load()
    }

    fn watches(&self) -> &[NameWatch] {
        self.watches.get_or_init(|| {
            self.targets.iter().map(|(target, _)| self.resolver.watch(&target.host)).collect()
        })
    }

    /// The hosts of now, if they were asked for before: looking must not make a name one that is in use.
    pub(super) fn asked(&self) -> Guard<Arc<Hosts>> {
        match self.watches.get() {
            Some(_) => self.hosts(),
            None => self.seen(),
        }
    }

    /// Names of `hosts` without an address, and why they have none.
    pub(super) fn without_address(&self, hosts: &Hosts) -> Vec<(Arc<str>, Arc<str>)> {
        let targets = self.targets.iter().zip(&hosts.answers);
        targets
            .filter_map(|((target, _), answer)| Some((Arc::clone(&target.host), why_none(answer)?)))
            .collect()
    }

    /// Why `hosts` are none; `None` when there is one.
    pub(super) fn failure(&self, hosts: &Hosts) -> Option<Arc<str>> {
        let why = || self.without_address(hosts).into_iter().next();
        let (name, why) = hosts.is_empty().then(why)??;
        Some(format!("{name}: {why}").into())
    }

    /// The hosts of now; `None` when nothing is known yet and an answer may come.
    pub(super) fn known(&self) -> Option<Guard<Arc<Hosts>>> {
        let hosts = self.hosts();
        (!hosts.is_pending()).then_some(hosts)
    }

    /// The hosts once the names are answered for, or `patience` is over.
    pub(super) async fn first_answer(&self, patience: Duration) -> Guard<Arc<Hosts>> {
        let answered = async {
            for watch in self.watches() {
                watch.ready().await;
            }
        };
        // No answer in time leaves the hosts as they are: none.
        let _in_time = tokio::time::timeout(patience, answered).await.is_ok();
        self.hosts()
    }

    fn hosts(&self) -> Guard<Arc<Hosts>> {
        let watches = self.watches();
        let hosts = self.hosts.load();
        let unchanged = hosts.answers.len() == watches.len()
            && hosts.answers.iter().zip(watches).all(|(seen, watch)| Arc::ptr_eq(seen, &watch.current()));
        if unchanged {
            return hosts;
        }
        let answers = watches.iter().map(|watch| Arc::clone(&watch.current())).collect();
        let now = Arc::new(Hosts::new(&self.targets, self.logical, answers, &hosts));
        // Those before a reload may be of other names: not to be used, but to be found by the first answer.
        if now.is_pending() && !hosts.is_empty() {
            return Guard::from_inner(now);
        }
        self.hosts.store(now);
        self.hosts.load()
    }
}

impl Hosts {
    fn new(
        targets: &[(DnsTarget, Placement)],
        logical: bool,
        answers: Vec<Arc<Answer>>,
        previous: &Self,
    ) -> Self {
        let now = Moment::now();
        let (mut v4, mut v6): (Vec<(Arc<Host>, Placement)>, Vec<_>) = Default::default();
        for ((target, placement), answer) in targets.iter().zip(&answers) {
            for address in answer.addresses.iter() {
                let address = EndpointAddress::Ip(SocketAddr::new(*address, target.port));
                let hosts = if address.is_ipv6() { &mut v6 } else { &mut v4 };
                if (logical && !hosts.is_empty()) || hosts.iter().any(|(host, _)| host.address == address) {
                    continue;
                }
                let kept = previous.family(address.is_ipv6()).find(&address, target.weight);
                let host = kept.map_or_else(|| Host::new(address.clone(), target.weight, now), Arc::clone);
                hosts.push((host, *placement));
            }
        }
        let (mut v4, mut v6) = (HostSet::new(v4), HostSet::new(v6));
        v4.keep_tables(&previous.v4);
        v6.keep_tables(&previous.v6);
        Self { answers, v4, v6 }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.v4.iter().chain(self.v6.iter())
    }

    pub(super) fn family(&self, v6: bool) -> &HostSet {
        if v6 { &self.v6 } else { &self.v4 }
    }

    fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    fn is_pending(&self) -> bool {
        self.is_empty() && self.answers.iter().any(|answer| answer.state == AnswerState::Pending)
    }

    /// The family to choose from, and the other one, without what is off limits.
    pub(super) fn by_family(
        &self,
        prefer_v6: bool,
        off_limits: Option<&OffLimits>,
    ) -> (Cow<'_, HostSet>, Cow<'_, HostSet>) {
        let within = |v6| self.family(v6).within(off_limits);
        let (first, second) = (within(prefer_v6), within(!prefer_v6));
        if first.is_empty() { (second, first) } else { (first, second) }
    }
}

/// Why a name has no address; `None` when it has.
fn why_none(answer: &Answer) -> Option<Arc<str>> {
    match &answer.state {
        AnswerState::Failed(reason) => Some(Arc::clone(reason)),
        AnswerState::Pending => Some("the name server has not answered yet".into()),
        AnswerState::Fresh | AnswerState::Stale => {
            answer.addresses.is_empty().then(|| "the name server knows no address".into())
        }
    }
}

#[cfg(test)]
mod tests;
