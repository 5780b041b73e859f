//! One connection, decided step by step, nothing sent. What decides is what decides in the programs and the proxy:
//! `interceptor_common::decide`, `snapshot::decision`, the snapshot's lookups. Here it is asked, and told which resource said
//! so and which were passed over. Pure.

mod address;
mod asked;
mod chain;
mod considered;
mod destinations;
mod explanation;
mod filters;
mod intercepted;
mod kernel;
mod listener;
mod merged;
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

use http::{HeaderMap, Method};
use interceptor_common::verdict::Verdict;

use crate::compile::CompileSettings;
use crate::plan::KernelPolicy;
use crate::resource::World;
use crate::snapshot::cluster::is_ip_literal;
use crate::snapshot::{
    ClusterName, Decision, FirstBytes, RequestFacts, Snapshot, TcpRoute, Then, TlsOrigination, decision,
};
use crate::workload::RedirectPolicy;

pub use asked::{Asked, Header, Outside, Subject};
pub use explanation::{Client, Destination, Explanation, Logged, Lookup, Outcome, PassedOver, Place, Step};
pub use places::redirect_places;
pub use target::{Spoken, Target, TargetError};

/// One connection, as a person asks for it.
#[derive(Clone, Debug)]
pub struct Question {
    pub target: Target,
    /// Instead of what the target's scheme or the registry says.
    pub spoken: Option<Spoken>,
    /// Where the connection goes, and how that is known; `None` when it is not.
    pub address: Option<(IpAddr, String)>,
    /// What the target's host is looked up to; `None` when it was not.
    pub resolved: Option<Vec<IpAddr>>,
    pub method: Method,
    /// Those given; Host among them only when it is another than the target's.
    pub headers: HeaderMap,
    /// Instead of the target's host.
    pub sni: Option<String>,
    pub redirect: RedirectPolicy,
    /// What `redirect` was read from.
    pub redirect_by: Vec<Place>,
    /// Looks at the files that TLS is made of: the same with those of its credential, or why they can't be used.
    pub look_at_files: fn(&TlsOrigination) -> Result<TlsOrigination, String>,
}

/// All that an explanation is about.
#[derive(Clone, Copy)]
struct Context<'a> {
    world: &'a World,
    snapshot: &'a Snapshot,
    settings: &'a CompileSettings,
    question: &'a Question,
}

/// Explains what becomes of a connection of `settings.client`, for whom `snapshot` was compiled from `world`.
pub fn explain(
    world: &World,
    snapshot: &Snapshot,
    settings: &CompileSettings,
    question: &Question,
) -> Explanation {
    let context = Context { world, snapshot, settings, question };
    let (spoken, spoken_because) = context.spoken();
    let to = address::choose(context);
    let destination = SocketAddr::new(to.address, question.target.port);
    let mut explanation = Explanation {
        target: question.target.text.clone(),
        client: Client::from(&settings.client),
        destination: Destination {
            address: to.is_known.then_some(to.address),
            port: question.target.port,
            because: to.because.clone(),
        },
        protocol: spoken,
        protocol_because: spoken_because,
        steps: Vec::new(),
        outcomes: Vec::new(),
        lookups: Vec::new(),
    };

    let verdict = KernelPolicy::new(&question.redirect, &[]).verdict(destination);
    explanation.steps.push(kernel::step(context, &to, verdict));
    match verdict {
        Verdict::Redirect(_) => {}
        Verdict::Bypass(reason) => {
            explanation.outcomes.push(outcome::bypassed(reason));
            return explanation;
        }
        Verdict::Deny(reason) => {
            explanation.outcomes.push(outcome::denied(reason));
            return explanation;
        }
    }

    let listener = snapshot.listener(destination.ip(), destination.port());
    explanation.steps.push(listener::step(context, &to, listener));
    let sni = context.server_name();
    let first = match spoken {
        Spoken::Http => FirstBytes::Http1 { minor: 1 },
        Spoken::Tls => FirstBytes::Tls { sni: sni.as_deref() },
        Spoken::Tcp => FirstBytes::Opaque,
    };
    let names = context.learned_names();
    let asked = decision::Destination { address: destination.ip(), names: &names };
    let decision = decision::decide(listener, asked, first);
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
        Decision::Passthrough => destinations::passthrough(context, destination, None, &mut explanation),
        Decision::Route(route) => destinations::opaque(context, destination, route, &mut explanation),
        Decision::Http(_, table) => request::tell(context, destination, table, &mut explanation),
        Decision::Terminate(chain) => match &chain.then {
            Then::Http(table) => request::tell(context, destination, table, &mut explanation),
            Then::Tcp(route) => destinations::opaque(context, destination, route, &mut explanation),
        },
    }
    explanation
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

    /// Sent as SNI: not for addresses.
    fn server_name(&self) -> Option<String> {
        let host = || Some(self.question.target.host.clone()).filter(|host| !is_ip_literal(host));
        self.question.sni.clone().or_else(host).map(|name| name.to_ascii_lowercase())
    }
}
