//! One intercepted connection as it was accepted: who connected, and whom they meant.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::client_tls::ClientTls;
use super::netns::Netns;
use super::peers::{self, Peer, Peers};
use super::room::Part;
use super::upstream::WorkerUsages;
use super::worker::Open;
use super::workload::Workload;
use crate::dns::Asker;
use crate::resource::{Labels, Pod};
use crate::snapshot::{Cluster, Snapshot};
use crate::telemetry::AccessRecord;
use crate::workload::{SourceWorkload, SpiffeId};

/// Whose connections they are. A copy for each worker, so that threads have no count in common.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    pub(crate) source: Rc<SourceWorkload>,
    /// Where upstream connections are made.
    pub(crate) netns: Netns,
    /// Of the descriptors for them.
    pub(crate) part: Part,
    /// Whose addresses a gateway's clients have.
    pub(crate) peers: Option<Arc<Peers>>,
    /// What it uses of clusters that have bounds.
    pub(crate) usages: WorkerUsages,
    /// As whom the resolver knows it.
    asker: Asker,
}

impl Origin {
    pub(super) fn of(workload: &Workload) -> Self {
        Self {
            source: Rc::new((*workload.source).clone()),
            netns: workload.netns.clone(),
            part: workload.part.clone(),
            peers: workload.peers.clone(),
            usages: WorkerUsages::new(&workload.usages),
            asker: workload.asker(),
        }
    }
}

/// Facts of an accepted connection; they never change.
#[derive(Clone, Debug)]
pub(crate) struct Downstream {
    /// The application's end.
    pub(crate) remote_address: SocketAddr,
    /// What the application asked for, before the kernel redirected it.
    pub(crate) original_dst: SocketAddr,
    pub(crate) accepted_at: Instant,
    pub(crate) start_time: SystemTime,
    /// From the ClientHello, once inspected.
    pub(crate) requested_server_name: Option<Arc<str>>,
    /// Of a client whose TLS ended here.
    pub(crate) tls: Option<Rc<ClientTls>>,
    pub(crate) origin: Rc<Origin>,
    /// Who a gateway's client is, once that was asked for.
    peer: RefCell<Option<Rc<Peer>>>,
    /// Has it counted as open for as long as anything of it is under way, copies for mirrors among it.
    _open: Option<Rc<Open>>,
}

impl Downstream {
    pub(crate) fn new(
        remote_address: SocketAddr,
        original_dst: SocketAddr,
        origin: Rc<Origin>,
        open: Option<Open>,
    ) -> Self {
        Self {
            remote_address,
            original_dst,
            accepted_at: Instant::now(),
            start_time: SystemTime::now(),
            requested_server_name: None,
            tls: None,
            origin,
            peer: RefCell::default(),
            _open: open.map(Rc::new),
        }
    }

    /// As whom the resolver knows the client: where there are many, each is one of its own.
    pub(crate) fn asker(&self) -> Asker {
        let client = self.origin.peers.is_some().then(|| self.remote_address.ip());
        Asker { client, ..self.origin.asker }
    }

    /// Who the client is, if it showed that.
    pub(crate) fn identity(&self) -> Option<&Arc<SpiffeId>> {
        self.tls.as_ref()?.identity()
    }

    /// Who a gateway's client is, as far as log and metrics tell. Its pod is looked up once; until the pod is known, each time:
    /// one that has begun a moment ago may be here before it is told.
    pub(crate) fn peer(&self) -> Option<Rc<Peer>> {
        let (peers, identity) = (self.origin.peers.as_ref(), self.identity());
        if peers.is_none() && identity.is_none() {
            return None;
        }
        let mut known = self.peer.borrow_mut();
        if known.as_ref().is_some_and(|known| known.is_pod) {
            return known.clone();
        }
        let of_pod = |pod: &Pod| {
            let agrees = identity.is_none_or(|identity| peers::is_of(identity, pod));
            agrees.then(|| Peer::of_pod(pod, identity.map(|identity| &**identity)))
        };
        let found = peers.and_then(|peers| peers.look_up(self.remote_address.ip(), of_pod));
        if let Some(of_pod) = found.flatten() {
            *known = Some(Rc::new(of_pod));
        } else if known.is_none() {
            *known = identity.map(|identity| Rc::new(Peer::of_identity(identity)));
        }
        known.clone()
    }

    /// Whether the client may use a cluster, and through it the host that `name` (Host or SNI as it goes on, without
    /// port) is.
    pub(crate) fn may_use(&self, snapshot: &Snapshot, cluster: &Cluster, name: Option<&str>) -> bool {
        snapshot.rules(cluster, name).all(|allowed| {
            let workload = self
                .identity()
                .and_then(|identity| Some((identity.namespace()?, identity.service_account()?)));
            allowed.allows(workload, |labels| self.has_labels(labels))
        })
    }

    /// Whether the client is a running pod of its identity's service account, with these labels, now.
    fn has_labels(&self, wanted: &Labels) -> bool {
        let (Some(identity), Some(peers)) = (self.identity(), &self.origin.peers) else { return false };
        let has = |pod: &Pod| {
            let labels = &pod.meta.labels;
            peers::is_of(identity, pod) && wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
        };
        peers.look_up(self.remote_address.ip(), has).unwrap_or(false)
    }

    /// Whose connection it is; `None` when a gateway can't tell.
    fn client(&self) -> Option<Rc<SourceWorkload>> {
        let own = self.origin.peers.is_none().then(|| Rc::clone(&self.origin.source));
        self.peer().map(|peer| Rc::clone(&peer.source)).or(own)
    }

    /// A record of the connection as a whole, with nothing carried yet.
    pub(crate) fn record(&self) -> AccessRecord {
        AccessRecord {
            source: Rc::clone(&self.origin.source),
            client: self.client(),
            start_time: self.start_time,
            http: None,
            response_code: 0,
            response_flags: super::outcome::ResponseFlags::NONE,
            response_code_details: None,
            connection_termination_details: None,
            upstream_transport_failure_reason: None,
            downstream_transport_failure_reason: None,
            client_tls: self.tls.clone(),
            bytes_received: 0,
            bytes_sent: 0,
            duration: self.accepted_at.elapsed(),
            upstream_host: None,
            upstream_cluster: None,
            upstream_local_address: None,
            downstream_local_address: self.original_dst,
            downstream_remote_address: self.remote_address,
            requested_server_name: self.requested_server_name.clone(),
            route_name: None,
        }
    }
}
