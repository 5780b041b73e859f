//! The endpoints of a cluster, wherever they come from, and the choice of one for a request.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::balance::Choice;
use super::clock::Moment;
use super::error::UpstreamError;
use super::host::{ActiveRequest, Host};
use super::host_set::{HostSet, Terms};
use super::names::Names;
use super::outlier::{Detector, Outcome};
use super::status::{EndpointStatus, EndpointsNow};
use crate::dns::{Asker, Resolver};
use crate::snapshot::{
    Cluster, Discovery, DnsTarget, Endpoint, EndpointAddress, LoadBalancer, OffLimits, Placement, Warmup,
};

/// Why nobody can be chosen where outlier detection has left everybody out.
const ALL_EJECTED: &str = "every endpoint is ejected by outlier detection";

/// The endpoint for one request.
#[derive(Debug)]
pub(crate) struct Pick {
    pub(crate) address: EndpointAddress,
    /// An address of the other family, tried when this one cannot be reached.
    pub(super) alternate: Option<SocketAddr>,
    pub(super) active: Option<ActiveRequest>,
    /// Whose health depends on what comes of the request.
    pub(crate) watched: Watched,
}

/// The host whose health depends on a request; none where nobody is ever ejected.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watched(Option<Arc<Host>>);

impl Pick {
    pub(super) fn of(address: SocketAddr, alternate: Option<SocketAddr>) -> Self {
        Self { address: address.into(), alternate, active: None, watched: Watched::default() }
    }
}

/// What a request is about, as far as endpoints depend on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Selection<'a> {
    pub(crate) original_dst: SocketAddr,
    /// Host header or SNI, without port.
    pub(crate) name: Option<&'a str>,
    /// Addresses that failed this request before.
    pub(crate) avoid: &'a [EndpointAddress],
    /// What the cluster hashes of it.
    pub(crate) hash: Option<u64>,
    /// Who asks for a name that the client brought.
    pub(crate) asker: Asker,
    /// See [`crate::snapshot::TcpRoute::client_chose`].
    pub(crate) client_chose: bool,
}

/// Where the endpoints come from.
#[derive(Debug)]
enum Source {
    OriginalDst {
        port: Option<u16>,
    },
    Static(HostSet),
    /// Names that the configuration names.
    Names(Names),
    /// The name that the request brings.
    Dynamic {
        resolver: Resolver,
        port: Option<u16>,
    },
}

#[derive(Debug)]
pub(super) struct Endpoints {
    source: Source,
    /// Of a gateway's cluster.
    off_limits: Option<Arc<OffLimits>>,
    load_balancer: LoadBalancer,
    warmup: Option<Warmup>,
    detector: Option<Detector>,
    /// How long a name's first answer is waited for.
    patience: Duration,
    cursor: AtomicUsize,
    /// IPv4 could not be reached when IPv6 could.
    prefer_v6: AtomicBool,
}

impl Endpoints {
    /// With the hosts of `previous` that it still has.
    pub(super) fn new(cluster: &Cluster, resolver: &Resolver, previous: Option<&Self>) -> Self {
        let now = Moment::now();
        let known = previous.map(Self::hosts).unwrap_or_default();
        let detector = cluster.outlier_detection.map(|settings| Detector::new(settings, now));
        if let Some(detector) = &detector {
            detector.take_over(known.iter().map(|host| &host.health));
        }
        let names = |targets: &[DnsTarget], logical| {
            let placed = targets.iter().cloned().zip(placements(cluster)).collect();
            Source::Names(Names::new(placed, logical, resolver.clone(), previous.map(|_| &*known)))
        };
        let source = match &cluster.discovery {
            Discovery::OriginalDst { port } => Source::OriginalDst { port: *port },
            Discovery::Static(endpoints) => {
                let hosts = endpoints.iter().map(|Endpoint { address, weight }| {
                    let kept = known.iter().find(|host| host.is(address, *weight));
                    kept.map_or_else(|| Host::new(address.clone(), *weight, now), Arc::clone)
                });
                Source::Static(HostSet::new(hosts.zip(placements(cluster))))
            }
            Discovery::StrictDns(targets) => names(targets, false),
            Discovery::LogicalDns(target) => names(std::slice::from_ref(target), true),
            Discovery::DynamicDns { port } => Source::Dynamic { resolver: resolver.clone(), port: *port },
        };
        Self {
            source,
            off_limits: cluster.off_limits.clone(),
            load_balancer: cluster.load_balancer,
            warmup: cluster.warmup,
            detector,
            patience: cluster.connect_timeout,
            cursor: AtomicUsize::new(0),
            prefer_v6: AtomicBool::new(false),
        }
    }

    pub(super) async fn choose(&self, selection: Selection<'_>) -> Result<Pick, UpstreamError> {
        let off_limits = match (selection.client_chose, &self.off_limits) {
            (false, _) => None,
            (true, Some(off_limits)) => Some(&**off_limits),
            // Only a gateway lets clients choose.
            (true, None) => return Err(UpstreamError::NoHealthyUpstream(None)),
        };
        match &self.source {
            Source::OriginalDst { port } => {
                let mut address = selection.original_dst;
                if let Some(port) = port {
                    address.set_port(*port);
                }
                let refused = off_limits.and_then(|off_limits| off_limits.refusal(&address.into()));
                match refused {
                    Some(why) => Err(UpstreamError::NoHealthyUpstream(Some(why.into()))),
                    None => Ok(Pick::of(address, None)),
                }
            }
            Source::Static(hosts) => {
                let within = hosts.within(off_limits);
                let host = self
                    .choose_of(&within, selection)
                    .ok_or_else(|| nobody(hosts.iter(), off_limits, self.all_ejected(&within)))?;
                Ok(self.pick(host, None))
            }
            Source::Names(names) => {
                // Not held over an await: a guard belongs to its thread.
                let hosts = match names.known() {
                    Some(hosts) => hosts,
                    None => names.first_answer(self.patience).await,
                };
                let (preferred, other) = hosts.by_family(self.prefer_v6.load(Ordering::Relaxed), off_limits);
                let host = self.choose_of(&preferred, selection).ok_or_else(|| {
                    let why = names.failure(&hosts).or_else(|| self.all_ejected(&preferred));
                    nobody(hosts.iter(), off_limits, why)
                })?;
                Ok(self.pick(host, other.iter().next().and_then(|host| host.address.as_ip())))
            }
            Source::Dynamic { resolver, port } => {
                let name = selection.name.ok_or(UpstreamError::NoHealthyUpstream(None))?;
                let port = port.unwrap_or(selection.original_dst.port());
                let answer = tokio::time::timeout(self.patience, resolver.resolve(name, selection.asker))
                    .await
                    .map_err(|_elapsed| UpstreamError::DnsResolution(format!("{name}: no answer").into()))?
                    .map_err(|error| UpstreamError::DnsResolution(error.to_string().into()))?;
                if let Some(off_limits) = &self.off_limits {
                    // Where the connection came in is ours, too, whatever is known of our addresses.
                    let leads_back = |address: &IpAddr| {
                        off_limits.has(*address) || *address == selection.original_dst.ip()
                    };
                    if let Some(address) = answer.addresses.iter().find(|address| leads_back(address)) {
                        let why = format!("{name} is {address}, where this gateway sends nothing");
                        return Err(UpstreamError::DnsResolution(why.into()));
                    }
                }
                let first_of = |v6: bool| answer.addresses.iter().find(|address| address.is_ipv6() == v6);
                let v6 = self.prefer_v6.load(Ordering::Relaxed);
                let (preferred, other) = (first_of(v6), first_of(!v6));
                let address = preferred
                    .or(other)
                    .ok_or_else(|| UpstreamError::DnsResolution(format!("{name} has no address").into()))?;
                let alternate = preferred.and(other).map(|address| SocketAddr::new(*address, port));
                Ok(Pick::of(SocketAddr::new(*address, port), alternate))
            }
        }
    }

    fn choose_of<'a>(&self, hosts: &'a HostSet, selection: Selection<'_>) -> Option<&'a Arc<Host>> {
        let now = self.now();
        if let Some(detector) = self.detector.as_ref().filter(|detector| detector.is_due(now)) {
            self.sweep(detector, now);
        }
        hosts.choose(Terms {
            load_balancer: self.load_balancer,
            detector: self.detector.as_ref().filter(|detector| detector.has_ejected()),
            hash: selection.hash,
            choice: Choice {
                everybody: true,
                avoid: selection.avoid,
                warmup: self.warmup.as_ref(),
                cursor: &self.cursor,
                now,
            },
        })
    }

    /// Not looked at where nothing depends on it.
    fn now(&self) -> Moment {
        if self.detector.is_some() || self.warmup.is_some() { Moment::now() } else { Moment::FIRST }
    }

    fn pick(&self, host: &Arc<Host>, alternate: Option<SocketAddr>) -> Pick {
        Pick {
            address: host.address.clone(),
            alternate,
            active: Some(ActiveRequest::new(Arc::clone(host))),
            watched: Watched(self.detector.is_some().then(|| Arc::clone(host))),
        }
    }

    /// Those that are known now.
    fn hosts(&self) -> Vec<Arc<Host>> {
        match &self.source {
            Source::Static(hosts) => hosts.iter().cloned().collect(),
            Source::Names(names) => names.seen().iter().cloned().collect(),
            Source::OriginalDst { .. } | Source::Dynamic { .. } => Vec::new(),
        }
    }

    fn sweep(&self, detector: &Detector, now: Moment) {
        match &self.source {
            Source::Static(hosts) => detector.sweep(hosts.iter().map(|host| &host.health), now),
            Source::Names(names) => {
                let seen = names.seen();
                detector.sweep(seen.iter().map(|host| &host.health), now);
            }
            Source::OriginalDst { .. } | Source::Dynamic { .. } => {}
        }
    }

    /// Takes into account what came of a request; how long its host is ejected for, if it is now.
    pub(super) fn report(&self, watched: &Watched, outcome: Outcome) -> Option<(EndpointAddress, Duration)> {
        let (Some(detector), Some(host)) = (&self.detector, &watched.0) else { return None };
        if !detector.count(&host.health, outcome) {
            return None;
        }
        let now = Moment::now();
        let lasting = match &self.source {
            Source::Static(hosts) => detector.eject(&host.health, hosts.iter().map(|host| &host.health), now),
            Source::Names(names) => {
                let seen = names.seen();
                let family = seen.family(host.address.is_ipv6());
                detector.eject(&host.health, family.iter().map(|host| &host.health), now)
            }
            Source::OriginalDst { .. } | Source::Dynamic { .. } => None,
        };
        Some((host.address.clone(), lasting?))
    }

    /// Every endpoint that is known now.
    pub(super) fn statuses(&self) -> Vec<EndpointStatus> {
        self.hosts().iter().map(|host| EndpointStatus::of(host)).collect()
    }

    /// As the next request would find them; nobody is asked for that.
    pub(super) fn as_they_are(&self) -> EndpointsNow {
        if let Some(detector) = self.detector.as_ref().filter(|detector| detector.is_due(Moment::now())) {
            self.sweep(detector, Moment::now());
        }
        let (without_address, nobody) = match &self.source {
            Source::Static(hosts) => (Vec::new(), self.all_ejected(hosts)),
            Source::Names(names) => {
                let seen = names.asked();
                let (preferred, _) = seen.by_family(self.prefer_v6.load(Ordering::Relaxed), None);
                (names.without_address(&seen), names.failure(&seen).or_else(|| self.all_ejected(&preferred)))
            }
            Source::OriginalDst { .. } | Source::Dynamic { .. } => (Vec::new(), None),
        };
        EndpointsNow { endpoints: self.statuses(), without_address, nobody }
    }

    /// Said of hosts that are all left out; `None` when one can be chosen, or there is none at all.
    fn all_ejected(&self, hosts: &HostSet) -> Option<Arc<str>> {
        let detector = self.detector.as_ref()?;
        let total = hosts.iter().count();
        let are_out = total > 0 && hosts.iter().all(|host| host.health.is_ejected());
        (are_out && !detector.is_panicking(0, total)).then(|| ALL_EJECTED.into())
    }

    /// Whether `address` is one of the endpoints; `None` when they are not known.
    pub(super) fn has(&self, address: IpAddr) -> Option<bool> {
        let is_it = |host: &Arc<Host>| host.address.ip() == Some(address);
        match &self.source {
            Source::Static(hosts) => Some(hosts.iter().any(is_it)),
            Source::Names(names) => {
                let hosts = names.seen();
                let mut hosts = hosts.iter().peekable();
                hosts.peek().is_some().then(|| hosts.any(is_it))
            }
            Source::OriginalDst { .. } | Source::Dynamic { .. } => None,
        }
    }

    /// Remembers which family could be reached, after both were tried.
    pub(super) fn reached(&self, peer: &EndpointAddress) {
        if self.prefer_v6.load(Ordering::Relaxed) != peer.is_ipv6() {
            self.prefer_v6.store(peer.is_ipv6(), Ordering::Relaxed);
        }
    }
}

/// None of the hosts can be chosen: because of what is off limits, or for another reason.
fn nobody<'a>(
    mut hosts: impl Iterator<Item = &'a Arc<Host>>,
    off_limits: Option<&OffLimits>,
    why: Option<Arc<str>>,
) -> UpstreamError {
    let refusal = off_limits.and_then(|off_limits| hosts.find_map(|host| off_limits.refusal(&host.address)));
    UpstreamError::NoHealthyUpstream(refusal.map(Into::into).or(why))
}

/// One for each endpoint, in their order.
fn placements(cluster: &Cluster) -> impl Iterator<Item = Placement> {
    cluster.placements.iter().copied().chain(std::iter::repeat(Placement::default()))
}
