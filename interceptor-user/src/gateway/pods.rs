//! The pods that may be a gateway's clients, kept as they are told; what follows for addresses goes into [`Peers`]. Pods on the
//! node's own network share its address, and are left out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::admin::Family;
use crate::proxy::Peers;
use crate::resource::{Kind, Pod, ResourceKey, World};
use crate::source::kubernetes::NodeChange;

/// More than Kubernetes' largest clusters have.
const PODS_MAX: usize = 200_000;
/// Kubernetes gives one for each family.
const ADDRESSES_MAX: usize = 8;

/// Namespace and name.
type Name = (Arc<str>, Arc<str>);

#[derive(Debug)]
pub(super) struct Pods {
    /// With an address of their own.
    pods: BTreeMap<Name, Arc<Pod>>,
    /// Who claims an address, the youngest last: it is that one's.
    claims: HashMap<IpAddr, Vec<Arc<Pod>>>,
    peers: Arc<Peers>,
    numbers: Arc<Numbers>,
    max: usize,
}

/// What metrics tell.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    pods: AtomicU64,
    left_out: AtomicU64,
}

impl Default for Pods {
    fn default() -> Self {
        Self {
            pods: BTreeMap::new(),
            claims: HashMap::new(),
            peers: Arc::default(),
            numbers: Arc::default(),
            max: PODS_MAX,
        }
    }
}

impl Pods {
    pub(super) fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    pub(super) fn numbers(&self) -> &Arc<Numbers> {
        &self.numbers
    }

    pub(super) fn take_change(&mut self, change: &NodeChange) {
        match change {
            NodeChange::Pod(pod) => self.take(pod),
            NodeChange::PodGone(pod) => self.put(name(pod), None),
            NodeChange::PodsListed
            | NodeChange::Namespace(_)
            | NodeChange::NamespaceGone(_)
            | NodeChange::NamespacesListed => {}
        }
    }

    /// Those of files: there are no others.
    pub(super) fn take_world(&mut self, world: &World) {
        let key = |(namespace, name): &Name| ResourceKey {
            kind: Kind::Pod,
            namespace: Arc::clone(namespace),
            name: Arc::clone(name),
        };
        let is_gone = |name: &&Name| !world.resources.contains_key(&key(name));
        let gone: Vec<Name> = self.pods.keys().filter(is_gone).cloned().collect();
        gone.into_iter().for_each(|name| self.put(name, None));
        world.pods().for_each(|pod| self.take(pod));
    }

    fn take(&mut self, pod: &Arc<Pod>) {
        let name = name(pod);
        let known = self.pods.get(&name);
        if known.is_some_and(|known| known == pod) {
            return;
        }
        let is_of_interest = !pod.spec.host_network && !pod.addresses.is_empty();
        let has_room = known.is_some() || self.pods.len() < self.max;
        if is_of_interest && !has_room {
            self.numbers.left_out.fetch_add(1, Ordering::Relaxed);
        }
        self.put(name, Some(pod).filter(|_| is_of_interest && has_room));
    }

    /// What a pod is from now on; `None` when it is gone. Each address goes from one to the next in one step.
    fn put(&mut self, name: Name, pod: Option<&Arc<Pod>>) {
        let before = match pod {
            Some(pod) => self.pods.insert(name, Arc::clone(pod)),
            None => self.pods.remove(&name),
        };
        let new: BTreeSet<IpAddr> = pod.into_iter().flat_map(|pod| addresses(pod)).collect();
        let touched: BTreeSet<IpAddr> =
            before.iter().flat_map(|pod| addresses(pod)).chain(new.iter().copied()).collect();
        for address in touched {
            let claims = self.claims.entry(address).or_default();
            claims.retain(|other| !before.as_ref().is_some_and(|before| Arc::ptr_eq(other, before)));
            claims.extend(pod.filter(|_| new.contains(&address)).cloned());
            claims.sort_by(|a, b| a.meta.age_order().cmp(&b.meta.age_order()));
            self.peers.set(address, claims.last());
            if claims.is_empty() {
                self.claims.remove(&address);
            }
        }
        self.numbers.pods.store(self.pods.len() as u64, Ordering::Relaxed);
    }
}

fn name(pod: &Pod) -> Name {
    (Arc::clone(pod.meta.namespace()), Arc::clone(pod.meta.name()))
}

fn addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    pod.addresses.iter().take(ADDRESSES_MAX).map(IpAddr::to_canonical)
}

impl Numbers {
    pub(super) fn append(&self, out: &mut String) {
        Family::gauge(out, "interceptor_gateway_pods", "Pods whose addresses are known.")
            .sample(&[], self.pods.load(Ordering::Relaxed));
        let text = "Pods, or changes of them, that found no room among those whose addresses are known.";
        Family::counter(out, "interceptor_gateway_pods_left_out_total", text)
            .sample(&[], self.left_out.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{Resource, parse};

    fn pod(name: &str, day: u8, rest: &str) -> Arc<Pod> {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, creationTimestamp: '2026-11-{day:02}T00:00:00Z'}}\n{rest}\n"
        );
        let parsed = parse(&"pod.yaml".into(), &text, &"shop".into());
        let Some(Resource::Pod(pod)) = parsed.resources.into_iter().next() else {
            panic!("no pod in {text}")
        };
        pod
    }

    fn at(name: &str, day: u8, address: &str) -> Arc<Pod> {
        pod(name, day, &format!("spec: {{}}\nstatus: {{podIP: '{address}'}}"))
    }

    fn has(pods: &Pods, address: &str) -> Option<String> {
        pods.peers().look_up(address.parse().unwrap(), |pod| pod.meta.name().to_string())
    }

    #[test]
    fn an_address_is_the_youngest_pods_in_whatever_order_they_are_told() {
        let (old, young) = (at("old", 1, "10.0.0.1"), at("young", 2, "10.0.0.1"));
        for told in [[&old, &young], [&young, &old]] {
            let mut pods = Pods::default();
            told.into_iter().for_each(|pod| pods.take_change(&NodeChange::Pod(Arc::clone(pod))));
            assert_eq!(has(&pods, "10.0.0.1").as_deref(), Some("young"));
            assert_eq!(has(&pods, "::ffff:10.0.0.1").as_deref(), Some("young"));
            let mut without_old = Pods::default();
            told.into_iter().for_each(|pod| without_old.take_change(&NodeChange::Pod(Arc::clone(pod))));
            without_old.take_change(&NodeChange::PodGone(Arc::clone(&old)));
            assert_eq!(has(&without_old, "10.0.0.1").as_deref(), Some("young"));
            pods.take_change(&NodeChange::PodGone(Arc::clone(&young)));
            assert_eq!(has(&pods, "10.0.0.1").as_deref(), Some("old"));
            pods.take_change(&NodeChange::PodGone(Arc::clone(&old)));
            assert_eq!((has(&pods, "10.0.0.1"), pods.claims.len(), pods.pods.len()), (None, 0, 0));
        }
    }

    #[test]
    fn what_shares_an_address_or_has_none_is_left_out() {
        let mut pods = Pods::default();
        pods.take(&at("moves", 1, "10.0.0.1"));
        pods.take(&pod("both", 1, "spec: {}\nstatus: {podIPs: [{ip: 10.0.0.2}, {ip: 'fd00::2'}]}"));
        pods.take(&pod("node", 1, "spec: {hostNetwork: true}\nstatus: {podIP: 10.0.0.3}"));
        pods.take(&pod("over", 1, "spec: {}\nstatus: {phase: Failed, podIP: 10.0.0.4}"));
        pods.take(&pod("early", 1, "spec: {}"));
        for (address, expected) in [
            ("10.0.0.1", Some("moves")),
            ("10.0.0.2", Some("both")),
            ("fd00::2", Some("both")),
            ("10.0.0.3", None),
            ("10.0.0.4", None),
        ] {
            assert_eq!(has(&pods, address).as_deref(), expected, "{address}");
        }
        pods.take(&at("moves", 1, "10.0.0.5"));
        assert_eq!((has(&pods, "10.0.0.1"), has(&pods, "10.0.0.5")), (None, Some("moves".into())));
        pods.take(&pod("moves", 1, "spec: {}\nstatus: {phase: Succeeded, podIP: 10.0.0.5}"));
        assert_eq!((has(&pods, "10.0.0.5"), pods.pods.len(), pods.claims.len()), (None, 1, 2));
    }

    #[test]
    fn there_is_a_bound_and_what_is_left_out_is_counted() {
        let mut pods = Pods { max: 2, ..Pods::default() };
        for number in 1..=4 {
            pods.take(&at(&format!("p{number}"), 1, &format!("10.0.0.{number}")));
        }
        assert_eq!((has(&pods, "10.0.0.2").as_deref(), has(&pods, "10.0.0.3")), (Some("p2"), None));
        // One that is known may change.
        pods.take(&at("p2", 1, "10.0.0.9"));
        assert_eq!(has(&pods, "10.0.0.9").as_deref(), Some("p2"));
        let mut out = String::new();
        pods.numbers.append(&mut out);
        assert!(out.contains("\ninterceptor_gateway_pods 2\n"), "{out}");
        assert!(out.contains("\ninterceptor_gateway_pods_left_out_total 2\n"), "{out}");
    }

    #[test]
    fn files_say_all_that_there_are() {
        let world = |pods: &[Arc<Pod>]| World {
            resources: pods.iter().map(|pod| Resource::Pod(Arc::clone(pod))).collect(),
            ..World::default()
        };
        let mut pods = Pods::default();
        pods.take_world(&world(&[at("a", 1, "10.0.0.1"), at("b", 1, "10.0.0.2")]));
        pods.take_world(&world(&[at("b", 1, "10.0.0.3")]));
        let all = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|address| has(&pods, address));
        assert_eq!(all, [None, None, Some("b".into())]);
    }
}
