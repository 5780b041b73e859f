//! One connection, decided step by step, nothing sent. What decides is what decides in the programs and the proxy:
//! `interceptor_common::decide`, `snapshot::decision`, the snapshot's lookups. Here it is asked, and told which resource said
//! so and which were passed over. Pure.

mod access;
mod address;
mod asked;
mod chain;
mod client_tls;
mod considered;
mod destinations;
mod endpoints;
mod explanation;
mod filters;
mod gateway;
mod intercepted;
mod kernel;
mod listener;
mod merged;
mod now;
mod off_limits;
mod outcome;
mod places;
mod request;
mod settings;
mod strict;
mod target;
mod text;
mod tls;
mod words;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::HOST;
use http::{HeaderMap, Method};
use interceptor_common::verdict::Verdict;

use crate::compile::CompileSettings;
use crate::plan::KernelPolicy;
use crate::proxy::upstream::InUse;
use crate::resource::World;
use crate::snapshot::cluster::is_ip_literal;
use crate::snapshot::route::host_of;
use crate::snapshot::{
    ClusterName, Decision, FirstBytes, Listener, RequestFacts, Snapshot, TcpRoute, Terminated, Then,
    TlsOrigination, TlsTermination, decision,
};
use crate::workload::{RedirectPolicy, SpiffeId};

use address::Chosen;
use client_tls::Peer;
use gateway::Entrance;

pub use asked::{Asked, Header, Outside, Subject, parse_peer};
pub use client_tls::ServerFiles;
pub use explanation::{Client, Destination, Explanation, Logged, Outcome, PassedOver, Place, Step};
pub use places::redirect_places;
pub use target::{Spoken, Target, TargetError};

/// A name's addresses, or why there are none.
pub type LookUp = fn(&str) -> Result<Vec<IpAddr>, String>;

/// One connection, as a person asks for it.
#[derive(Clone, Debug)]
pub struct Question {
    pub target: Target,
    /// At a gateway: the port of its Service, if not the target's.
    pub port: Option<u16>,
    /// Instead of what the target's scheme or the registry says.
    pub spoken: Option<Spoken>,
    /// Where the connection goes, and how that is known; `None` when it is not.
    pub address: Option<(IpAddr, String)>,
    /// What the target's host is looked up to; `None` when it was not.
    pub resolved: Option<Vec<IpAddr>>,
    /// Looks up the names of endpoints; `None`: they are left as they are.
    pub look_up: Option<LookUp>,
    /// What the proxy knows of endpoints now, where it is asked about a connection of its own.
    pub in_use: InUse,
    pub method: Method,
    /// Those given; Host among them only when it is another than the target's.
    pub headers: HeaderMap,
    /// Instead of the target's host.
    pub sni: Option<String>,
    pub redirect: RedirectPolicy,
    /// What `redirect` was read from.
    pub redirect_by: Vec<Place>,
    /// At a gateway: who the client's certificate says that it is.
    pub peer: Option<SpiffeId>,
    /// At a gateway: looks at the files with which TLS is ended.
    pub look_at_server: fn(&TlsTermination) -> ServerFiles,
    /// Looks at the files that TLS is made of: the same with those of its credential, or why they can't be used.
    pub look_at_files: fn(&TlsOrigination) -> Result<TlsOrigination, String>,
    /// Whether the proxy has the files that are here for certain: where it may run elsewhere, that is said.
    pub is_proxy_here: bool,
}

/// All that an explanation is about.
#[derive(Clone, Copy)]
struct Context<'a> {
    world: &'a World,
    snapshot: &'a Snapshot,
    settings: &'a CompileSettings,
    question: &'a Question,
    /// At a gateway.
    entrance: Option<&'a Entrance<'a>>,
    peer: Peer<'a>,
}

/// Explains what becomes of a connection of `settings.client`, for whom `snapshot` was compiled from `world`; or, where that
/// is a gateway, of one that comes to it.
pub fn explain(
    world: &World,
    snapshot: &Snapshot,
    settings: &CompileSettings,
    question: &Question,
) -> Explanation {
    let entrance = Entrance::of(world, snapshot, settings, question);
    let (entrance_of, peer) = (entrance.as_ref(), Peer::Nobody);
    let context = Context { world, snapshot, settings, question, entrance: entrance_of, peer };
    let (spoken, spoken_because) = context.spoken();
    let to = match &entrance {
        Some(entrance) => entrance.address(question),
        None => address::choose(context),
    };
    let whose = Client::from(&settings.client);
    let (client, gateway) = if entrance.is_some() { (None, Some(whose)) } else { (Some(whose), None) };
    let mut explanation = Explanation {
        target: question.target.text.clone(),
        client,
        gateway,
        destination: Destination {
            address: to.is_known.then_some(to.address),
            port: question.port(),
            because: to.because.clone(),
        },
        protocol: spoken,
        protocol_because: spoken_because,
        steps: Vec::new(),
        outcomes: Vec::new(),
    };
    let not_taken = match &entrance {
        Some(entrance) => {
            explanation.steps.push(gateway::listener_step(context, entrance));
            (!entrance.is_open()).then(outcome::nobody_listens)
        }
        None => intercept(context, &to, &mut explanation),
    };
    match not_taken {
        Some(outcome) => explanation.outcomes.push(outcome),
        None => tell_connection(context, to.address, &mut explanation),
    }
    explanation
}

/// The steps of the kernel and of the listener; what becomes of the connection where the proxy does not get it.
fn intercept(context: Context<'_>, to: &Chosen, explanation: &mut Explanation) -> Option<Outcome> {
    let Question { target, redirect, .. } = context.question;
    let destination = SocketAddr::new(to.address, target.port);
    let verdict = KernelPolicy::new(redirect, &[]).verdict(destination);
    explanation.steps.push(kernel::step(context, to, verdict));
    match verdict {
        Verdict::Redirect(_) => {
            let listener = context.snapshot.listener(destination.ip(), destination.port());
            explanation.steps.push(listener::step(context, to, listener));
            None
        }
        Verdict::Bypass(reason) => Some(outcome::bypassed(reason)),
        Verdict::Deny(reason) => Some(outcome::denied(reason)),
    }
}

/// What the proxy does with a connection that it gets.
fn tell_connection(context: Context<'_>, address: IpAddr, explanation: &mut Explanation) {
    let Context { snapshot, question, entrance, .. } = context;
    let port = entrance.map_or(question.target.port, |entrance| entrance.destination.port());
    let destination = SocketAddr::new(address, port);
    let listener = snapshot.listener(destination.ip(), destination.port());
    let spoken = explanation.protocol;
    let sni = context.server_name();
    let in_tls = context.comes_in_tls(listener);
    if let Some(why) = in_tls {
        explanation.protocol_because = format!("{}; in TLS: {why}", explanation.protocol_because);
    } else if question.sni.is_some() && spoken != Spoken::Tls {
        explanation.protocol_because += "; the server name given with --sni is not sent, as this is no TLS";
    }
    let first = match spoken {
        _ if in_tls.is_some() => FirstBytes::Tls { sni: sni.as_deref() },
        Spoken::Http => FirstBytes::Http1 { minor: 1 },
        Spoken::Tls => FirstBytes::Tls { sni: sni.as_deref() },
        Spoken::Tcp => FirstBytes::Opaque,
    };
    let names = context.learned_names();
    let asked = decision::Destination { address: destination.ip(), names: &names };
    let decision = decision::decide(listener, asked, first);
    if let Some(entrance) = entrance {
        explanation.steps.push(gateway::server_step(context, entrance, first, decision));
    }
    explanation.steps.push(chain::step(context, listener, asked, first, decision));
    match decision {
        Decision::Refuse if snapshot.enforced => {
            explanation.outcomes.push(outcome::around_gateway(ClusterName::BLACK_HOLE));
        }
        Decision::Refuse => {
            let lacks_name = listener.needs_name(destination.ip());
            explanation.outcomes.push(outcome::black_hole(spoken, lacks_name));
        }
        Decision::NoFilterChain => explanation.outcomes.push(outcome::no_filter_chain(spoken)),
        Decision::Passthrough => destinations::passthrough(context, destination, None, explanation),
        Decision::Route(route) => destinations::opaque(context, destination, route, explanation),
        Decision::Http(..) if !is_http(first) => explanation.outcomes.push(outcome::no_http()),
        Decision::Http(_, table) => request::tell(context, destination, table, false, explanation),
        Decision::Terminate(chain) => tell_terminated(context, destination, chain, explanation),
    }
}

/// What becomes of what was inside TLS.
fn tell_terminated(
    context: Context<'_>,
    destination: SocketAddr,
    chain: &Terminated,
    explanation: &mut Explanation,
) {
    let (step, peer) = client_tls::step(context, &chain.tls);
    explanation.steps.push(step);
    match peer {
        Err(outcome) => explanation.outcomes.push(outcome),
        Ok(peer) => {
            let context = Context { peer, ..context };
            match &chain.then {
                Then::Http(_) if explanation.protocol == Spoken::Tcp => {
                    explanation.outcomes.push(outcome::no_http());
                }
                Then::Http(table) => request::tell(context, destination, table, true, explanation),
                Then::Tcp(route) => destinations::opaque(context, destination, route, explanation),
            }
        }
    }
}

fn is_http(first: FirstBytes<'_>) -> bool {
    matches!(first, FirstBytes::Http1 { .. } | FirstBytes::Http2)
}

impl Question {
    /// Where the connection comes to.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(self.target.port)
    }
}

impl Context<'_> {
    /// What the client speaks, and why that is assumed.
    fn spoken(&self) -> (Spoken, String) {
        let Question { target, spoken, .. } = self.question;
        if let Some(spoken) = spoken {
            return (*spoken, "as asked".into());
        }
        if let Some(spoken) = target.spoken {
            return (spoken, "by the target's scheme".into());
        }
        places::declared_protocol(*self, &target.host, target.port)
            .unwrap_or_else(|| target::usual_on(target.port))
    }

    /// What the client's DNS answers call the address, where names are learned: the target's host, which it looked up.
    fn learned_names(&self) -> Vec<Arc<str>> {
        let host = &self.question.target.host;
        let is_looked_up = self.settings.client.learned_names && !is_ip_literal(host);
        is_looked_up.then(|| host.as_str().into()).into_iter().collect()
    }

    fn is_gateway(&self) -> bool {
        self.entrance.is_some()
    }

    /// Why what is spoken, which is no TLS itself, comes to a gateway in TLS; `None` when it does not.
    fn comes_in_tls(&self, listener: &Listener) -> Option<&'static str> {
        if !self.is_gateway() || self.spoken().0 == Spoken::Tls {
            return None;
        }
        if self.question.sni.is_some() {
            return Some("a server name is given");
        }
        if self.question.peer.is_some() {
            return Some("the client is said to show a certificate");
        }
        let takes_tls_alone =
            !listener.terminated.is_empty() && listener.http.is_none() && listener.tcp.is_none();
        (takes_tls_alone && self.question.spoken.is_none()).then_some("the port takes nothing else")
    }

    /// On which routes' `port` is.
    fn server_port(&self) -> u16 {
        let of_server = self.entrance.and_then(Entrance::server_port);
        of_server.unwrap_or(self.question.target.port)
    }

    /// The host that a request is for, in lower case.
    fn request_host(&self) -> String {
        let given = self.question.headers.get(HOST).and_then(|host| host.to_str().ok());
        given.map_or(&*self.question.target.host, host_of).to_ascii_lowercase()
    }

    /// Sent as SNI: not for addresses.
    fn server_name(&self) -> Option<String> {
        let host = || Some(self.question.target.host.clone()).filter(|host| !is_ip_literal(host));
        self.question.sni.clone().or_else(host).map(|name| name.to_ascii_lowercase())
    }
}
