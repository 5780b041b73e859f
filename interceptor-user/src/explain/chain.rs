//! The third step: which chain of the listener takes the connection, by its first bytes.

use std::sync::Arc;

use super::explanation::Step;
use super::places::place;
use super::{Context, considered};
use crate::compile::scope::Scope;
use crate::resource::{ClientPolicy, POLICY, Position};
use crate::snapshot::{Decision, Fallthrough, FirstBytes, Listener, TcpRoute, Then, decision};

pub(super) fn step(
    context: Context<'_>,
    listener: &Listener,
    asked: decision::Destination<'_>,
    first: FirstBytes<'_>,
    decision: Decision<'_>,
) -> Step {
    let (spoken, address) = (described(first), asked.address);
    let mut step = match decision {
        Decision::Http(..) if !super::is_http(first) => {
            Step::new("chain", format!("{spoken}: the port is HTTP's alone"))
        }
        Decision::Http(_, table) => Step::new(
            "chain",
            format!("{spoken}: requests are routed by Host, in route table {}", table.name),
        ),
        Decision::Route(route) if !is_fallthrough(listener, decision) => {
            by_route(context, listener, asked, first, route)
        }
        Decision::Terminate(chain) => Step::new(
            "chain",
            format!(
                "{spoken}: its TLS ends here (mode {}), and {}",
                chain.tls.mode.name(),
                inside(&chain.then)
            ),
        ),
        Decision::NoFilterChain => {
            Step::new("chain", format!("{spoken}: no chain of the gateway takes it: closed"))
        }
        Decision::Route(_) | Decision::Passthrough | Decision::Refuse => {
            let policy = context.snapshot.outbound_traffic_policy.name();
            let what = match decision {
                Decision::Refuse => "closed",
                Decision::Route(_) => "to the egress proxy, whatever the address",
                Decision::Passthrough
                | Decision::Http(..)
                | Decision::Terminate(_)
                | Decision::NoFilterChain => "passed on as it is",
            };
            let mut step = Step::new(
                "chain",
                format!("{spoken}: no chain takes it, so that the policy decides ({policy}): {what}"),
            );
            if listener.needs_name(address) {
                step.notes.push(
                    "names tell the services of this port apart, the policy is strict, and none fits".into(),
                );
            }
            context.tell_policy_source(&mut step);
            step
        }
    };
    if let Some(range) = listener.cidrs.iter().find(|chain| chain.contains(address)) {
        let range = format!("{}/{}", range.network, range.prefix_len);
        step.notes.push(format!("{address} lies in {range}, which is asked before server names and Host"));
    }
    if listener.server_first {
        step.notes.push("the port's protocol lets the server speak first: nothing is looked at".into());
    } else if matches!(
        (first, decision),
        (FirstBytes::Http1 { .. }, Decision::Route(_) | Decision::Passthrough | Decision::Refuse)
    ) {
        step.notes.push("HTTP is opaque bytes here: no route, timeout or retry applies".into());
    }
    if let FirstBytes::Tls { sni: Some(name) } = first
        && is_fallthrough(listener, decision)
    {
        let names = listener.tls.iter().count();
        if names > 0 {
            step.notes.push(format!("server names of this listener: {names}, none fits {name}"));
        }
    }
    step
}

/// Whether no chain of the listener decided.
fn is_fallthrough(listener: &Listener, decision: Decision<'_>) -> bool {
    match (decision, &listener.fallthrough) {
        (Decision::Passthrough | Decision::Refuse | Decision::NoFilterChain, _) => true,
        (Decision::Route(route), Fallthrough::EgressProxy(proxy)) => Arc::ptr_eq(route, proxy),
        (Decision::Route(_) | Decision::Http(..) | Decision::Terminate(_), _) => false,
    }
}

fn inside(then: &Then) -> String {
    match then {
        Then::Http(table) => format!("the requests in it are routed by Host, in route table {}", table.name),
        Then::Tcp(_) => "what is in it is carried as it is".into(),
    }
}

fn described(first: FirstBytes<'_>) -> String {
    match first {
        FirstBytes::Http1 { .. } | FirstBytes::Http2 => "HTTP".into(),
        FirstBytes::Tls { sni: Some(name) } => format!("TLS for {name}"),
        FirstBytes::Tls { sni: None } => "TLS without a server name".into(),
        FirstBytes::Opaque => "opaque bytes".into(),
    }
}

fn by_route(
    context: Context<'_>,
    listener: &Listener,
    asked: decision::Destination<'_>,
    first: FirstBytes<'_>,
    route: &Arc<TcpRoute>,
) -> Step {
    let by_address = listener.tcp_route(asked).is_some_and(|tcp| Arc::ptr_eq(tcp, route));
    let unnamed = decision::Destination { names: &[], ..asked };
    let by_name = by_address && !listener.tcp_route(unnamed).is_some_and(|tcp| Arc::ptr_eq(tcp, route));
    let spoken = described(first);
    let how = match first {
        FirstBytes::Tls { sni: Some(_) } if !by_address => "its server name has a chain",
        FirstBytes::Tls { .. } | FirstBytes::Http1 { .. } | FirstBytes::Http2 | FirstBytes::Opaque => {
            if by_name {
                "the name that was looked up has a service"
            } else {
                "a service takes whatever comes"
            }
        }
    };
    let mut step = Step::new("chain", format!("{spoken}: {how}"));
    step.by.extend(route.source.as_ref().map(|source| context.place_of_source(source)));
    let rule = route.source.as_ref().filter(|source| source.rule.is_some()).map(|source| &source.resource);
    if let FirstBytes::Tls { sni: Some(name) } = first {
        step.passed_over = considered::virtual_services(context, name, rule.as_slice());
    }
    step
}

impl Context<'_> {
    /// Who says what becomes of unknown hosts: the order of `compile::policy`.
    pub(super) fn tell_policy_source(&self, step: &mut Step) {
        let client = &self.settings.client;
        let scope = Scope::of(self.world, self.settings);
        let annotated = self.world.namespaces().find_map(|namespace| {
            let annotation = namespace.meta.annotations.get(POLICY)?;
            let policy = ClientPolicy::parse(&annotation.value).unwrap_or_else(|error| error.instead());
            let says = policy.outbound_traffic_policy.is_some();
            let is_ours = *namespace.meta.name() == client.namespace && says;
            is_ours.then(|| place(&namespace.meta, Some(format!("annotation {POLICY}")), annotation.position))
        });
        let source = if self.snapshot.enforced {
            "the annotation egress.interceptor.io/enforce: what nobody declared leads around the gateway"
        } else if self.settings.outbound_traffic_policy.is_some() {
            "--outbound-traffic-policy"
        } else if client.policy.outbound_traffic_policy.is_some() {
            "the client's annotation egress.interceptor.io/policy"
        } else if let Some(place) = annotated {
            step.by.push(place);
            "its namespace's annotation"
        } else if let Some(sidecar) =
            scope.sidecar_of_policy().filter(|sidecar| sidecar.outbound_traffic_policy.is_some())
        {
            let field = Some("spec.outboundTrafficPolicy".into());
            step.by.push(place(&sidecar.meta, field, Position::default()));
            "the client's Sidecar"
        } else if self.world.mesh.outbound_traffic_policy.is_some() {
            "the mesh configuration"
        } else {
            "Istio's default"
        };
        step.notes.push(format!("the policy is that of {source}"));
    }
}
