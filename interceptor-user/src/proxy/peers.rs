//! Whose addresses a gateway's clients come from: pods, by address. Written by whoever follows the pods, a shard at a time; read
//! without a lock. An address tells log and metrics who it was. Alone it grants nothing.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::enroll;
use crate::hash::HashMap;
use crate::resource::Pod;
use crate::telemetry::metrics::SourceLabels;
use crate::workload::{SourceWorkload, SpiffeId};

/// A change copies one shard.
const SHARDS: usize = 256;

/// The pods that addresses are of.
#[derive(Debug)]
pub struct Peers {
    shards: Box<[ArcSwap<Shard>]>,
    hasher: RandomState,
}

type Shard = HashMap<IpAddr, Arc<Pod>>;

impl Default for Peers {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| ArcSwap::default()).collect(), hasher: RandomState::new() }
    }
}

impl Peers {
    /// What `read` finds in the pod that has the address; takes no lock and shares no count.
    pub(crate) fn look_up<T>(&self, address: IpAddr, read: impl FnOnce(&Pod) -> T) -> Option<T> {
        let address = address.to_canonical();
        self.shard(address).load().get(&address).map(|pod| read(pod))
    }

    /// Whose the address is from now on.
    pub fn set(&self, address: IpAddr, pod: Option<&Arc<Pod>>) {
        let address = address.to_canonical();
        self.shard(address).rcu(|shard| {
            let mut shard = Shard::clone(shard);
            match pod {
                Some(pod) => drop(shard.insert(address, Arc::clone(pod))),
                None => drop(shard.remove(&address)),
            }
            shard
        });
    }

    fn shard(&self, address: IpAddr) -> &ArcSwap<Shard> {
        let index = usize::try_from(self.hasher.hash_one(address) % SHARDS as u64).unwrap_or_default();
        &self.shards[index]
    }
}

/// Who a client of a gateway is, as far as log and metrics tell. The certificate says whose it is; the address adds which pod,
/// where it is one of that service account.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) source: Rc<SourceWorkload>,
    pub(crate) labels: Arc<SourceLabels>,
    pub(crate) is_pod: bool,
}

impl Peer {
    pub(crate) fn of_pod(pod: &Pod, identity: Option<&SpiffeId>) -> Self {
        Self::new(enroll::source_workload(pod), identity, true)
    }

    pub(crate) fn of_identity(identity: &SpiffeId) -> Self {
        let source = SourceWorkload {
            namespace: identity.namespace().unwrap_or_default().to_owned(),
            service_account: identity.service_account().unwrap_or_default().to_owned(),
            ..SourceWorkload::default()
        };
        Self::new(source, Some(identity), false)
    }

    fn new(source: SourceWorkload, identity: Option<&SpiffeId>, is_pod: bool) -> Self {
        let principal = identity.map(SpiffeId::as_str).unwrap_or_default();
        let labels = Arc::new(SourceLabels::with_principal(&source, principal));
        Self { source: Rc::new(source), labels, is_pod }
    }
}

/// Whether a pod may be the one that an identity is of.
pub(crate) fn is_of(identity: &SpiffeId, pod: &Pod) -> bool {
    identity.namespace() == Some(&**pod.meta.namespace())
        && identity.service_account() == Some(enroll::service_account(pod))
}
