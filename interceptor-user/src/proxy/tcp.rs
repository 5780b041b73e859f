//! Carries opaque bytes, TLS passthrough among them: connects, copies both ways, records the end.

mod record;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use interceptor_common::name_server::NAME_SERVER_PORT;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::active::Active;
use super::copy::{self, CopyEnd, Transferred};
use super::dns_tap::DnsTap;
use super::downstream::Downstream;
use super::inspect::{self, Heard, Protocol};
use super::maybe_tls::ClientIo;
use super::names::{Claim, MISMATCH_DETAILS, NameKnowledge};
use super::outcome::{ResponseFlag, SURPLUS_DETAILS};
use super::termination::HandshakeFailure;
use super::upstream::{ClusterRuntime, ConnectError, OpaqueIo, OpaqueUpstream};
use super::worker::Worker;
use crate::dns::LearnedNames;
use crate::snapshot::listener::{NO_FILTER_CHAIN_DETAILS, NO_NAME_DETAILS};
use crate::snapshot::{ClusterName, TcpRoute, Traffic};
use record::OpenRecord;

/// How long a partial ClientHello may hold up bytes whose way is known already.
const SERVER_NAME_WAIT_MAX: Duration = Duration::from_secs(1);

/// Where names are learned from what servers answer.
const DNS_PORT: u16 = NAME_SERVER_PORT.0;

/// Where opaque bytes go.
#[derive(Clone, Debug)]
pub(super) enum OpaqueTarget {
    /// To one of a route's clusters.
    Route(Arc<TcpRoute>),
    /// PassthroughCluster.
    OriginalDst,
}

impl PartialEq for OpaqueTarget {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Route(a), Self::Route(b)) => Arc::ptr_eq(a, b),
            (Self::OriginalDst, Self::OriginalDst) => true,
            (Self::Route(_) | Self::OriginalDst, _) => false,
        }
    }
}

/// Why a connection is closed at once.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refused {
    /// Nobody declared its destination.
    Policy,
    /// The policy is strict, and no learned name tells which service it is for.
    NoName,
    /// The egress gateway is enforced, and this leads around it.
    AroundGateway,
    /// No server of the gateway takes it.
    NoFilterChain,
}

/// A connection to the outside, and what it is in the log.
#[derive(Debug)]
pub(super) struct Upstream {
    opened: OpaqueUpstream,
    cluster: ClusterName,
    idle_timeout: Duration,
    /// Of the client's connection.
    max_duration: Option<Duration>,
}

impl Upstream {
    /// Waits for the server's first bytes, and tells whether its protocol is one whose server greets.
    pub(super) async fn spoke_first(&mut self) -> bool {
        self.opened.io.spoke_first().await
    }
}

/// What stands against an upstream connection.
#[derive(Debug)]
enum NotConnected {
    NoCluster,
    /// There is no such cluster because the egress gateway is enforced.
    AroundGateway,
    /// The client must not use it.
    NotAllowed,
    Failed(ConnectError),
}

/// Why there is no upstream connection.
#[derive(Debug)]
pub(super) struct ConnectFailure {
    error: NotConnected,
    cluster: ClusterName,
}

impl ConnectFailure {
    fn no_cluster(active: &Active, cluster: ClusterName) -> Self {
        let leads_around = active.snapshot.around_gateway.contains(&cluster);
        let error = if leads_around { NotConnected::AroundGateway } else { NotConnected::NoCluster };
        Self { error, cluster }
    }
}

/// Connects to what `target` names for this connection. `has_spoken`: bytes of the client wait for it.
pub(super) async fn connect(
    active: &Active,
    downstream: &Downstream,
    target: &OpaqueTarget,
    has_spoken: bool,
) -> Result<Upstream, ConnectFailure> {
    let client_chose = matches!(target, OpaqueTarget::Route(route) if route.client_chose);
    let (cluster, runtime) = match target {
        OpaqueTarget::OriginalDst => {
            (ClusterName(ClusterName::PASSTHROUGH.into()), Some(Arc::clone(&active.passthrough)))
        }
        OpaqueTarget::Route(route) => {
            let Some((chosen, runtime)) = active.choose(&route.clusters) else {
                let cluster = ClusterName("-".into());
                return Err(ConnectFailure::no_cluster(active, cluster));
            };
            (chosen.cluster.name.clone(), runtime.cloned())
        }
    };
    let Some(runtime) = runtime else {
        return Err(ConnectFailure::no_cluster(active, cluster));
    };
    let name = downstream.requested_server_name.as_deref();
    if !downstream.may_use(&active.snapshot, runtime.cluster(), name) {
        return Err(ConnectFailure { error: NotConnected::NotAllowed, cluster });
    }
    let connected = runtime.connect_opaque(downstream, client_chose, has_spoken).await;
    let Traffic { tcp_idle_timeout: idle_timeout, tcp_max_connection_duration: max_duration, .. } =
        *runtime.cluster().traffic;
    match connected {
        Ok(opened) => Ok(Upstream { opened, cluster, idle_timeout, max_duration }),
        Err(error) => Err(ConnectFailure { error: NotConnected::Failed(error), cluster }),
    }
}

/// Carries a connection to its end; over `opened` when it was opened ahead. The configuration that it was
/// routed by is let go of once it is connected: connections may live for days.
pub(super) async fn carry(
    worker: &Rc<Worker>,
    active: Arc<Active>,
    mut stream: ClientIo,
    mut downstream: Downstream,
    target: OpaqueTarget,
    opened: Option<Upstream>,
) {
    let mut record = OpenRecord::new(worker, &downstream);
    // Its name is not known before it is connected where it decides nothing, but whether there are bytes is.
    let heard = match &stream {
        ClientIo::Plain(client) if downstream.requested_server_name.is_none() => inspect::hear(client),
        ClientIo::Plain(_) => Heard::Something,
        ClientIo::Tls(_) => Heard::Nothing,
    };
    let connected = match opened {
        Some(upstream) => Ok(upstream),
        None => connect(&active, &downstream, &target, !matches!(heard, Heard::Nothing)).await,
    };
    drop((active, target));
    let mut upstream = match connected {
        Ok(upstream) => upstream,
        Err(failure) => {
            record.failed(failure);
            return reset(stream.socket());
        }
    };
    record.connected(&upstream);
    let mut ends = Ends { stream: &mut stream, upstream: &mut upstream, are_done: false };
    if let ClientIo::Plain(client) = &*ends.stream
        && downstream.requested_server_name.is_none()
    {
        downstream.requested_server_name = match heard {
            Heard::Enough(protocol) => protocol.server_name(),
            Heard::Something | Heard::Nothing => server_name(client, ends.upstream).await,
        };
        record.entry.requested_server_name.clone_from(&downstream.requested_server_name);
        count_name(worker, &downstream).await;
    }
    let lives_until = ends.upstream.max_duration.and_then(|max| downstream.accepted_at.checked_add(max));
    let is_dns = downstream.original_dst.port() == DNS_PORT;
    let learned = worker.names.learned.as_deref().filter(|_| is_dns).map(|learned| (learned, &worker.names));
    record.carries(ends.upstream);
    let carried = carry_bytes(&mut ends, learned, record.counted.transferred());
    let end = match lives_until {
        None => Some(carried.await),
        Some(lives_until) => tokio::time::timeout_at(lives_until.into(), carried).await.ok(),
    };
    ends.are_done = true;
    record.has_local(ends.upstream);
    match end {
        Some(end) => record.ended(&end),
        None => record.entry.response_flags.insert(ResponseFlag::DurationTimeout),
    }
}

/// Both ends of a connection. Broken off before they are done, they see a reset: an orderly end would say that all
/// bytes have been there.
struct Ends<'a> {
    stream: &'a mut ClientIo,
    upstream: &'a mut Upstream,
    are_done: bool,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        if !self.are_done {
            reset(self.stream.socket());
            if let Some(upstream) = self.upstream.opened.io.socket() {
                reset(upstream);
            }
        }
    }
}

/// `learned` for what a name server answers.
async fn carry_bytes(
    ends: &mut Ends<'_>,
    learned: Option<(&LearnedNames, &NameKnowledge)>,
    transferred: &Transferred,
) -> CopyEnd {
    let idle_timeout = ends.upstream.idle_timeout;
    let OpaqueUpstream { io, peer, .. } = &mut ends.upstream.opened;
    let stream = match &mut *ends.stream {
        ClientIo::Plain(stream) => stream,
        ClientIo::Tls(client) => return carry_out_of_tls(client, io, idle_timeout, transferred).await,
    };
    match (io, learned.zip(peer.as_ip())) {
        (OpaqueIo::Plain(upstream), Some(((learned, names), server))) => {
            let tap = DnsTap::new(upstream, server, names, learned);
            let end = copy::copy_bidirectional_io(&*stream, tap, idle_timeout, transferred).await;
            if matches!(end, CopyEnd::DownstreamReset | CopyEnd::DownstreamFailed(_)) {
                reset(upstream);
            }
            end
        }
        (OpaqueIo::Plain(upstream), None) => {
            copy::splice_bidirectional(stream, upstream, idle_timeout, transferred).await
        }
        (OpaqueIo::Tls(upstream), _) => {
            let end = copy::copy_bidirectional_io(&*stream, &mut **upstream, idle_timeout, transferred).await;
            if matches!(end, CopyEnd::DownstreamReset | CopyEnd::DownstreamFailed(_)) {
                reset(upstream.get_ref().get_ref().0);
            }
            end
        }
        // A request that breaks off is its reset.
        (OpaqueIo::Post(upstream), _) => {
            copy::copy_bidirectional_io(&*stream, &mut **upstream, idle_timeout, transferred).await
        }
    }
}

/// As [`carry_bytes`], of a client whose TLS ended here.
async fn carry_out_of_tls(
    client: &mut TlsStream<TcpStream>,
    io: &mut OpaqueIo,
    idle_timeout: Duration,
    transferred: &Transferred,
) -> CopyEnd {
    let end = match io {
        OpaqueIo::Plain(upstream) => {
            copy::copy_bidirectional_any(&mut *client, upstream, idle_timeout, transferred).await
        }
        OpaqueIo::Tls(upstream) => {
            copy::copy_bidirectional_any(&mut *client, &mut **upstream, idle_timeout, transferred).await
        }
        OpaqueIo::Post(upstream) => {
            copy::copy_bidirectional_any(&mut *client, &mut **upstream, idle_timeout, transferred).await
        }
    };
    match &end {
        CopyEnd::Closed | CopyEnd::IdleTimeout => {}
        CopyEnd::DownstreamReset | CopyEnd::DownstreamFailed(_) => {
            if let Some(upstream) = io.socket() {
                reset(upstream);
            }
        }
        CopyEnd::UpstreamReset | CopyEnd::UpstreamFailed(_) => reset(client.get_ref().0),
    }
    end
}

/// Counts whether the server name fits, where that decides nothing any more.
async fn count_name(worker: &Worker, downstream: &Downstream) {
    let Some(name) = downstream.requested_server_name.as_deref() else { return };
    let (original_dst, active) = (downstream.original_dst, worker.active());
    let claim = Claim { name, original_dst, runtime: None, uses_original_dst: false };
    let _counted_only = worker.names.admits(&active, claim).await;
}

/// The SNI of a connection whose way did not depend on it, for the log. Waits for whoever speaks first;
/// a ClientHello that stays incomplete holds the connection up for a second at most.
async fn server_name(stream: &TcpStream, upstream: &mut Upstream) -> Option<Arc<str>> {
    let inspection = async {
        // An error is as good as bytes: the copy meets it again.
        drop(stream.ready(Interest::READABLE).await);
        tokio::time::timeout(SERVER_NAME_WAIT_MAX, inspect::inspect(stream)).await
    };
    tokio::select! {
        biased;
        inspected = inspection => match inspected {
            Ok(Ok(protocol)) => protocol.and_then(Protocol::server_name),
            Ok(Err(_)) | Err(_) => None,
        },
        () = upstream.opened.io.spoke() => None,
    }
}

/// Ends a connection that goes nowhere, and says so in the log.
pub(super) fn refuse(worker: &Rc<Worker>, stream: TcpStream, downstream: &Downstream, why: Refused) {
    let mut record = OpenRecord::new(worker, downstream);
    let black_hole = Some(ClusterName(ClusterName::BLACK_HOLE.into()));
    let entry = &mut record.entry;
    match why {
        Refused::Policy => {
            entry.upstream_cluster = black_hole;
            entry.response_flags = ResponseFlag::NoHealthyUpstream.into();
        }
        Refused::NoName => {
            entry.upstream_cluster = black_hole;
            entry.response_flags = ResponseFlag::UnauthorizedExternalService.into();
            entry.connection_termination_details = Some(NO_NAME_DETAILS.into());
        }
        Refused::AroundGateway => {
            entry.upstream_cluster = black_hole;
            record.leads_around_gateway();
        }
        Refused::NoFilterChain => {
            entry.response_flags = ResponseFlag::NoRouteFound.into();
            entry.response_code_details = Some(NO_FILTER_CHAIN_DETAILS.into());
        }
    }
    reset(&stream);
}

/// Ends a connection whose server name does not fit the address it asked for, where the policy wants that.
pub(super) fn refuse_name(
    worker: &Rc<Worker>,
    stream: TcpStream,
    downstream: &Downstream,
    target: &OpaqueTarget,
) {
    let mut record = OpenRecord::new(worker, downstream);
    record.entry.upstream_cluster = Some(match target {
        OpaqueTarget::OriginalDst => ClusterName(ClusterName::PASSTHROUGH.into()),
        OpaqueTarget::Route(route) => match route.clusters.first() {
            Some(weighted) => weighted.cluster.name.clone(),
            None => ClusterName("-".into()),
        },
    });
    record.entry.response_flags = ResponseFlag::UnauthorizedExternalService.into();
    record.entry.connection_termination_details = Some(MISMATCH_DETAILS.into());
    reset(&stream);
}

/// Ends a connection that is one too many for its workload.
pub(super) fn refuse_surplus(worker: &Rc<Worker>, stream: TcpStream, downstream: &Downstream) {
    let mut record = OpenRecord::new(worker, downstream);
    record.entry.response_flags = ResponseFlag::OverloadManager.into();
    record.entry.connection_termination_details = Some(SURPLUS_DETAILS.into());
    reset(&stream);
}

/// Where a connection goes that has one way only.
pub(super) fn runtime<'a>(active: &'a Active, target: &OpaqueTarget) -> Option<&'a ClusterRuntime> {
    match target {
        OpaqueTarget::OriginalDst => Some(&active.passthrough),
        OpaqueTarget::Route(route) => match &route.clusters[..] {
            [only] => active.runtime(&only.cluster.name).map(|runtime| &**runtime),
            _ => None,
        },
    }
}

/// Records a client whose TLS could not be ended.
pub(super) fn refuse_handshake(worker: &Rc<Worker>, downstream: &Downstream, failure: &HandshakeFailure) {
    let HandshakeFailure { result, reason, .. } = failure;
    worker.stats().handshake(*result);
    let mut record = OpenRecord::new(worker, downstream);
    record.entry.response_flags = ResponseFlag::DownstreamProtocolError.into();
    record.entry.connection_termination_details = Some(format!("tls_handshake_{}", result.name()).into());
    record.entry.downstream_transport_failure_reason = Some(reason.clone().into());
}

/// Records a connection whose client left before it said anything.
pub(super) fn gone(worker: &Rc<Worker>, downstream: &Downstream) {
    let mut record = OpenRecord::new(worker, downstream);
    record.entry.response_flags = ResponseFlag::DownstreamConnectionTermination.into();
}

/// Has the socket's close be seen as a reset, as it would have been without us.
fn reset(stream: &TcpStream) {
    // Without the option it is an orderly close: still an end.
    drop(socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)));
}
