//! Which series a worker's requests and connections are counted in. What is found once is remembered, so that a
//! request takes no lock.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::copy::Transferred;
use super::outcome::ResponseFlags;
use super::upstream::{ClusterRuntime, RuntimeId};
use crate::hash::HashMap;
use crate::snapshot::{ClusterName, Snapshot};
use crate::telemetry::metrics::{
    Destination, NAME_MAX, Outcome, RequestProtocol, Series, SourceLabels, WorkerSeries, cut,
};

/// Whom a request is for.
#[derive(Clone, Debug, Default)]
pub(crate) enum To {
    /// Not known yet, or not to be known: its head could not be read.
    #[default]
    Unknown,
    Cluster(Rc<Known>),
    /// A host that nobody declared, as the client calls it.
    Undeclared(Taker, HeaderValue),
}

/// Who takes requests to hosts that nobody declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taker {
    PassthroughCluster,
    BlackHoleCluster,
    /// Some route without a cluster.
    Nobody,
}

/// A destination, and those of its series that were used.
#[derive(Debug)]
pub(crate) struct Known {
    destination: Destination,
    series: RefCell<Used>,
    /// Of a gateway's clients.
    by_client: RefCell<HashMap<Arc<SourceLabels>, Used>>,
}

type Used = Vec<(Outcome, Arc<Series>)>;

impl Known {
    fn new(destination: Destination) -> Rc<Self> {
        Rc::new(Self { destination, series: RefCell::default(), by_client: RefCell::default() })
    }

    /// Counts in the series of `outcome`; false when there is none.
    fn count(
        &self,
        series: &WorkerSeries,
        client: Option<&Arc<SourceLabels>>,
        outcome: Outcome,
        count: impl FnOnce(&Series),
    ) -> bool {
        let (mut own, mut of_clients);
        let used = match client {
            None => {
                own = self.series.borrow_mut();
                &mut *own
            }
            Some(client) => {
                of_clients = self.by_client.borrow_mut();
                // Those without a series are not remembered.
                if !of_clients.contains_key(client) {
                    let Some(found) = series.find(Some(client), &self.destination, outcome) else {
                        return false;
                    };
                    of_clients.insert(Arc::clone(client), vec![(outcome, found)]);
                }
                let Some(used) = of_clients.get_mut(client) else { return false };
                used
            }
        };
        if let Some((_, known)) = used.iter().find(|(known, _)| *known == outcome) {
            count(known);
            return true;
        }
        let Some(found) = series.find(client, &self.destination, outcome) else { return false };
        count(&found);
        used.push((outcome, found));
        true
    }
}

/// What a worker knows of its series. Bounded by how many a source may have, and by the clusters that are alive.
#[derive(Debug)]
pub(crate) struct Counting {
    series: WorkerSeries,
    by_cluster: RefCell<HashMap<RuntimeId, Rc<Known>>>,
    /// Of each [`Taker`].
    undeclared: [RefCell<HashMap<Box<str>, Rc<Known>>>; 3],
    /// Connections of opaque bytes that are open.
    connections: RefCell<HashMap<u64, Rc<Counts>>>,
    next_connection: Cell<u64>,
}

impl Counting {
    pub(super) fn new(series: WorkerSeries) -> Self {
        Self {
            series,
            by_cluster: RefCell::default(),
            undeclared: Default::default(),
            connections: RefCell::default(),
            next_connection: Cell::default(),
        }
    }

    /// Whom requests to this cluster are for; `host` is what the client calls it.
    pub(crate) fn to(&self, runtime: &ClusterRuntime, host: &HeaderValue) -> To {
        let cluster = runtime.cluster();
        if &*cluster.name.0 == ClusterName::PASSTHROUGH {
            return To::Undeclared(Taker::PassthroughCluster, host.clone());
        }
        if &*cluster.name.0 == ClusterName::ALLOW_ANY_DYNAMIC_DNS {
            return To::Undeclared(Taker::Nobody, host.clone());
        }
        let mut by_cluster = self.by_cluster.borrow_mut();
        let known = by_cluster.entry(runtime.id()).or_insert_with(|| Known::new(Destination::of(cluster)));
        To::Cluster(Rc::clone(known))
    }

    /// Counts a request that has ended. Sizes are those of bodies.
    pub(crate) fn request(
        &self,
        (client, to): (Option<&Arc<SourceLabels>>, &To),
        outcome: Outcome,
        duration: Duration,
        request_bytes: u64,
        response_bytes: u64,
    ) {
        let count = |series: &Series| series.request(duration, request_bytes, response_bytes);
        let is_counted = match to {
            To::Cluster(known) => known.count(&self.series, client, outcome, count),
            To::Unknown => self.undeclared((client, Taker::Nobody), None, outcome, count),
            To::Undeclared(taker, host) => self.undeclared(
                (client, *taker),
                Some(&String::from_utf8_lossy(host.as_bytes())),
                outcome,
                count,
            ),
        };
        if !is_counted {
            count(&self.series.overflow(outcome.protocol));
        }
    }

    fn undeclared(
        &self,
        (client, taker): (Option<&Arc<SourceLabels>>, Taker),
        host: Option<&str>,
        outcome: Outcome,
        count: impl FnOnce(&Series),
    ) -> bool {
        let mut hosts = self.undeclared[taker as usize].borrow_mut();
        let key = host.map(|host| cut(host, NAME_MAX)).unwrap_or_default();
        if let Some(known) = hosts.get(key) {
            return known.count(&self.series, client, outcome, count);
        }
        let name = match taker {
            Taker::PassthroughCluster => Some(ClusterName::PASSTHROUGH),
            Taker::BlackHoleCluster => Some(ClusterName::BLACK_HOLE),
            Taker::Nobody => None,
        };
        let known = Known::new(Destination::undeclared(host, name));
        let is_counted = known.count(&self.series, client, outcome, count);
        if is_counted {
            // No more than there are series.
            hosts.insert(key.into(), known);
        }
        is_counted
    }

    /// Begins to count a connection of opaque bytes.
    pub(super) fn connection(self: &Rc<Self>, client: Option<Arc<SourceLabels>>) -> CountedConnection {
        let number = self.next_connection.get();
        self.next_connection.set(number.wrapping_add(1));
        let counts = Rc::new(Counts { client, ..Counts::default() });
        self.connections.borrow_mut().insert(number, Rc::clone(&counts));
        CountedConnection { counting: Rc::clone(self), number, counts }
    }

    /// Counts what open connections have carried by now.
    pub(super) fn count_open(&self) {
        for counts in self.connections.borrow().values() {
            if let Some(destination) = &*counts.destination.borrow() {
                counts.report(&self.series, destination, ResponseFlags::NONE);
            }
        }
    }

    /// Forgets clusters that are gone.
    pub(super) fn sweep(&self, is_live: impl Fn(RuntimeId) -> bool) {
        self.by_cluster.borrow_mut().retain(|runtime, _| is_live(*runtime));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_cluster.borrow().is_empty()
    }
}

/// What a connection of opaque bytes has carried, and how much of it is counted.
#[derive(Debug, Default)]
struct Counts {
    client: Option<Arc<SourceLabels>>,
    transferred: Transferred,
    received_counted: Cell<u64>,
    sent_counted: Cell<u64>,
    /// Known when it is connected.
    destination: RefCell<Option<Destination>>,
    /// As Istio does it, that of the moment when it is first counted: with the flags of then.
    series: OnceCell<Arc<Series>>,
}

impl Counts {
    fn report(&self, series: &WorkerSeries, destination: &Destination, flags: ResponseFlags) -> &Series {
        let outcome = Outcome { protocol: RequestProtocol::Tcp, response_code: 0, flags };
        let series = self.series.get_or_init(|| {
            let found = series.find(self.client.as_ref(), destination, outcome);
            let series = found.unwrap_or_else(|| series.overflow(RequestProtocol::Tcp));
            series.connection_opened();
            series
        });
        let Transferred { received, sent } = &self.transferred;
        series.connection_carried(
            received.get() - self.received_counted.replace(received.get()),
            sent.get() - self.sent_counted.replace(sent.get()),
        );
        series
    }
}

/// A connection of opaque bytes while it is open.
#[derive(Debug)]
pub(super) struct CountedConnection {
    counting: Rc<Counting>,
    number: u64,
    counts: Rc<Counts>,
}

impl CountedConnection {
    pub(super) fn transferred(&self) -> &Transferred {
        &self.counts.transferred
    }

    /// It goes to this cluster of `snapshot`; `name` is what the client calls it.
    pub(super) fn connected(&self, snapshot: &Snapshot, cluster: &ClusterName, name: Option<&str>) {
        self.counts.destination.replace(Some(destination(snapshot, cluster, name)));
    }

    /// It has ended.
    pub(super) fn closed(
        &self,
        snapshot: &Snapshot,
        cluster: Option<&ClusterName>,
        name: Option<&str>,
        flags: ResponseFlags,
    ) {
        let known = self.counts.destination.borrow_mut().take();
        let destination = known.unwrap_or_else(|| match cluster {
            Some(cluster) => destination(snapshot, cluster, name),
            None => Destination::undeclared(name, None),
        });
        self.counts.report(&self.counting.series, &destination, flags).connection_closed();
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.counting.connections.borrow_mut().remove(&self.number);
    }
}

fn destination(snapshot: &Snapshot, cluster: &ClusterName, name: Option<&str>) -> Destination {
    if let Some(cluster) = snapshot.clusters.get(cluster) {
        return Destination::of(cluster);
    }
    match &*cluster.0 {
        of_all @ (ClusterName::PASSTHROUGH | ClusterName::BLACK_HOLE) => {
            Destination::undeclared(name, Some(of_all))
        }
        "-" | ClusterName::ALLOW_ANY_DYNAMIC_DNS => Destination::undeclared(name, None),
        _ => Destination::of_name(cluster),
    }
}
