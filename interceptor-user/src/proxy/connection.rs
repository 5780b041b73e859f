//! The story of one connection: what it speaks decides which chain of its listener takes it, and the
//! chain where it goes. Deciding gives a plain [`Way`]; [`serve`] acts on it.
//!
//! The first bytes are looked at without being taken, so whoever carries the connection sees all of
//! them. A server that speaks first is reached even where the client's protocol would decide: when
//! the client stays silent, the connection that opaque bytes would take is opened ahead.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use super::active::Active;
use super::downstream::Downstream;
use super::http;
use super::inspect::{self, Protocol};
use super::maybe_tls::ClientIo;
use super::names::{Claim, uses_original_dst};
use super::tcp::{self, OpaqueTarget, Refused};
use super::terminated;
use super::worker::Worker;
use crate::snapshot::{self, Decision, Destination, Listener, Terminated};

/// How long a client may stay silent before the connection that opaque bytes would take is opened.
/// Clients that speak first do so within microseconds of connecting.
const CLIENT_FIRST: Duration = Duration::from_millis(20);

/// How long nothing may happen on a connection at all (Istio's idle timeout of HTTP connections).
const SILENCE_MAX: Duration = Duration::from_secs(3600);

/// How long a client may be silent, or be about to say what it speaks, where opaque bytes are refused.
const REFUSED_SILENCE_MAX: Duration = Duration::from_secs(60);

/// How long a client may take for its ClientHello where a port has nothing but TLS and many clients share what there is.
const SHARED_HELLO_MAX: Duration = Duration::from_secs(10);

/// How long a connection that is to be refused may take to show whom it means, for the log.
const REFUSED_INSPECTION_MAX: Duration = Duration::from_secs(1);

/// What is done with a connection.
#[derive(Clone, Debug)]
enum Way {
    Http(http::Version),
    Opaque(OpaqueTarget),
    /// Its TLS ends here.
    Terminate(Arc<Terminated>),
    Refuse(Refused),
}

/// The way of a connection that speaks `protocol`.
fn decide(worker: &Worker, active: &Active, downstream: &Downstream, protocol: &Protocol) -> Way {
    let first = match protocol {
        Protocol::Tls(hello) => snapshot::FirstBytes::Tls { sni: hello.sni.as_deref() },
        Protocol::Http1 { minor } => snapshot::FirstBytes::Http1 { minor: *minor },
        Protocol::Http2 => snapshot::FirstBytes::Http2,
        Protocol::Opaque => snapshot::FirstBytes::Opaque,
    };
    let listener = listener(active, downstream);
    let address = downstream.original_dst.ip();
    let destination = Destination { address, names: &worker.names.names_of(active, listener, address) };
    match snapshot::decision::decide(listener, destination, first) {
        Decision::Http(version, _) => Way::Http(version),
        Decision::Route(route) => Way::Opaque(OpaqueTarget::Route(Arc::clone(route))),
        Decision::Passthrough => Way::Opaque(OpaqueTarget::OriginalDst),
        Decision::Terminate(chain) => Way::Terminate(Arc::clone(chain)),
        Decision::Refuse if listener.needs_name(address) => Way::Refuse(Refused::NoName),
        Decision::Refuse if active.snapshot.enforced => Way::Refuse(Refused::AroundGateway),
        Decision::Refuse => Way::Refuse(Refused::Policy),
        Decision::NoFilterChain => Way::Refuse(Refused::NoFilterChain),
    }
}

fn listener<'a>(active: &'a Active, downstream: &Downstream) -> &'a Listener {
    active.snapshot.listener(downstream.original_dst.ip(), downstream.original_dst.port())
}

/// Whether the first bytes can change where the connection goes, or whether it goes at all.
fn depends_on_bytes(active: &Active, listener: &Listener, opaque: &Way) -> bool {
    let is_checked = match opaque {
        Way::Opaque(target) => active.snapshot.strict && !listener.server_first && is_original_dst(target),
        Way::Http(_) | Way::Terminate(_) | Way::Refuse(_) => false,
    };
    is_checked || listener.depends_on_bytes()
}

fn is_original_dst(target: &OpaqueTarget) -> bool {
    match target {
        OpaqueTarget::OriginalDst => true,
        OpaqueTarget::Route(route) => uses_original_dst(route),
    }
}

/// Where the policy is strict, HTTP is read for its Host also on ports that nobody declared.
fn checked(way: Way, active: &Active, protocol: &Protocol) -> Way {
    match (way, protocol) {
        (Way::Opaque(OpaqueTarget::OriginalDst), Protocol::Http1 { minor: 1.. })
            if active.snapshot.strict =>
        {
            Way::Http(http::Version::Http1)
        }
        (Way::Opaque(OpaqueTarget::OriginalDst), Protocol::Http2) if active.snapshot.strict => {
            Way::Http(http::Version::Http2)
        }
        (way, _) => way,
    }
}

/// Whether the server name fits the address that was asked for, or need not.
async fn names_fit(worker: &Worker, active: &Active, downstream: &Downstream, target: &OpaqueTarget) -> bool {
    let Some(name) = downstream.requested_server_name.as_deref() else { return true };
    let claim = Claim {
        name,
        original_dst: downstream.original_dst,
        runtime: tcp::runtime(active, target),
        uses_original_dst: is_original_dst(target),
    };
    worker.names.admits(active, claim).await
}

/// Carries one accepted connection to its end. Never fails: whatever happens is in its record. Each way that it can take is
/// boxed: what is not taken, and what is over, takes no room.
pub(super) async fn serve(worker: Rc<Worker>, stream: TcpStream, mut downstream: Downstream) {
    let active = worker.active();
    let listener = listener(&active, &downstream);
    let opaque = decide(&worker, &active, &downstream, &Protocol::Opaque);

    if !depends_on_bytes(&active, listener, &opaque) {
        return match opaque {
            Way::Opaque(target) => {
                Box::pin(tcp::carry(&worker, active, ClientIo::Plain(stream), downstream, target, None))
                    .await;
            }
            Way::Refuse(why) => refuse_unread(&worker, stream, downstream, why).await,
            Way::Http(_) | Way::Terminate(_) => {
                refuse_unread(&worker, stream, downstream, Refused::Policy).await;
            }
        };
    }

    let (protocol, ahead) = match first_bytes(&worker, active, &stream, &downstream, opaque).await {
        FirstBytes::Spoke(protocol, ahead) => (protocol, ahead),
        FirstBytes::ServerSpoke(target, upstream) => {
            // It was opened by the configuration of then.
            let active = worker.active();
            return match decide(&worker, &active, &downstream, &Protocol::Opaque) {
                Way::Refuse(why) => tcp::refuse(&worker, stream, &downstream, why),
                Way::Opaque(_) | Way::Http(_) | Way::Terminate(_) => {
                    let stream = ClientIo::Plain(stream);
                    Box::pin(tcp::carry(&worker, active, stream, downstream, target, Some(upstream))).await;
                }
            };
        }
        FirstBytes::Gone => return tcp::gone(&worker, &downstream),
    };
    // The client may have waited for hours: what it says is routed by the configuration of now.
    let active = worker.active();
    if let Protocol::Tls(hello) = &protocol {
        downstream.requested_server_name.clone_from(&hello.sni);
    }
    let way = decide(&worker, &active, &downstream, &protocol);
    match checked(way, &active, &protocol) {
        Way::Http(version) => {
            drop((ahead, active));
            Box::pin(http::serve(&worker, ClientIo::Plain(stream), downstream, version)).await;
        }
        Way::Terminate(chain) => {
            drop(ahead);
            Box::pin(terminated::serve(&worker, active, stream, downstream, chain)).await;
        }
        Way::Opaque(target) => {
            if !names_fit(&worker, &active, &downstream, &target).await {
                return tcp::refuse_name(&worker, stream, &downstream, &target);
            }
            let upstream =
                ahead.filter(|(opened_for, _)| *opened_for == target).map(|(_, upstream)| upstream);
            let stream = ClientIo::Plain(stream);
            Box::pin(tcp::carry(&worker, active, stream, downstream, target, upstream)).await;
        }
        Way::Refuse(why) => tcp::refuse(&worker, stream, &downstream, why),
    }
}

/// What came first.
enum FirstBytes {
    /// The client; with the connection that was opened ahead for opaque bytes, if there is one still.
    Spoke(Protocol, Option<(OpaqueTarget, tcp::Upstream)>),
    /// The server, on the connection opened ahead.
    ServerSpoke(OpaqueTarget, tcp::Upstream),
    /// Nobody: the client closed, broke off, or was silent for too long.
    Gone,
}

/// Waits for whoever speaks first. Time alone never makes a connection opaque, unless
/// MeshConfig.protocolDetectionTimeout says so, as with Envoy: what a late client says may be HTTP that
/// has to leave in TLS.
async fn first_bytes(
    worker: &Worker,
    active: Arc<Active>,
    stream: &TcpStream,
    downstream: &Downstream,
    opaque: Way,
) -> FirstBytes {
    let detection_timeout = active.snapshot.mesh.protocol_detection_timeout;
    let is_shared_tls = worker.workload().shares.is_some() && listener(&active, downstream).http.is_none();
    let limit = match &opaque {
        _ if !detection_timeout.is_zero() => detection_timeout,
        Way::Refuse(_) if is_shared_tls => SHARED_HELLO_MAX,
        // Nothing can be opened ahead: a client that waits for its server learns by this that it won't come.
        Way::Refuse(_) | Way::Http(_) | Way::Terminate(_) => REFUSED_SILENCE_MAX,
        Way::Opaque(_) => SILENCE_MAX,
    };
    let is_refused = matches!(opaque, Way::Refuse(_));
    let inspection = tokio::time::timeout(limit, inspect::inspect(stream));
    tokio::pin!(inspection);

    let client = |result: Result<io::Result<Option<Protocol>>, _>, ahead| match result {
        Ok(Ok(Some(protocol))) => FirstBytes::Spoke(protocol, ahead),
        Ok(Ok(None) | Err(_)) => FirstBytes::Gone,
        Err(_) if !detection_timeout.is_zero() || is_refused => FirstBytes::Spoke(Protocol::Opaque, ahead),
        Err(_) => FirstBytes::Gone,
    };

    let Way::Opaque(target) = opaque else {
        drop(active);
        return client(inspection.await, None);
    };
    tokio::select! {
        biased;
        result = &mut inspection => return client(result, None),
        () = tokio::time::sleep(CLIENT_FIRST) => {}
    }
    let connected = tokio::select! {
        biased;
        result = &mut inspection => return client(result, None),
        connected = Box::pin(tcp::connect(&active, downstream, &target, false)) => connected,
    };
    drop(active);
    let Ok(mut upstream) = connected else {
        // Whether that matters depends on what the client says; the error comes again if it does.
        return client(inspection.await, None);
    };
    let spoke = tokio::select! {
        biased;
        result = &mut inspection => return client(result, Some((target, upstream))),
        spoke = upstream.spoke_first() => spoke,
    };
    if spoke {
        return FirstBytes::ServerSpoke(target, upstream);
    }
    // It closed, or it is an HTTP server that lost patience: no reason to take the client for opaque.
    drop(upstream);
    client(inspection.await, None)
}

/// Refuses a connection without chains, but tells the log the name that it asked for.
async fn refuse_unread(worker: &Rc<Worker>, stream: TcpStream, mut downstream: Downstream, why: Refused) {
    if let Ok(Ok(Some(Protocol::Tls(hello)))) =
        tokio::time::timeout(REFUSED_INSPECTION_MAX, inspect::inspect(&stream)).await
    {
        downstream.requested_server_name = hello.sni;
    }
    tcp::refuse(worker, stream, &downstream, why);
}
