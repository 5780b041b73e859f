//! The second step: which listener takes a redirected connection.

use super::address::Chosen;
use super::considered;
use super::explanation::{PassedOver, Step};
use super::{Context, words};
use crate::resource::ResourceKey;
use crate::snapshot::Listener;

/// More services than this are counted, not named.
const NAMED_MAX: usize = 3;

pub(super) fn step(context: Context<'_>, to: &Chosen, listener: &Listener) -> Step {
    let port = context.question.target.port;
    let is_own = context.snapshot.by_address.contains_key(&(to.address, port));
    let is_shared = !is_own && context.snapshot.by_port.contains_key(&port);
    let why = if is_own {
        "a service has this address".to_owned()
    } else if is_shared {
        format!("services on port {port} share it, whatever the address")
    } else {
        format!("no service that is seen from here has port {port}")
    };
    let mut step = Step::new("listener", format!("{}: {why}", listener.name));
    if is_own || is_shared {
        name_services(context, to, is_own, &mut step);
    }
    if !to.is_known {
        step.notes.extend(where_the_address_matters(context));
    }
    step.passed_over = not_here(context);
    step
}

/// Those with the target's host first.
fn name_services(context: Context<'_>, to: &Chosen, is_own: bool, step: &mut Step) {
    let (port, name) = (context.question.target.port, &context.question.target.host);
    let mut services: Vec<&ResourceKey> = context.services_on(port).into_iter().collect();
    services.retain(|key| {
        !is_own || context.declared(key).is_none_or(|service| service.addresses.contains(&to.address))
    });
    let is_meant = |key: &ResourceKey| context.declared(key).is_some_and(|service| service.has(name));
    services.sort_by_key(|key| !is_meant(key));
    let meant = services.iter().filter(|key| is_meant(key)).count();
    let named = services.len().min(if meant > 0 { meant.min(NAMED_MAX) } else { NAMED_MAX });
    step.by.extend(services.iter().take(named).map(|key| context.place_of_port(key, port)));
    match services.len() - named {
        0 => {}
        1 => step.notes.push("one more service has the port".into()),
        more => step.notes.push(format!("{more} more services have the port")),
    }
}

/// Addresses and ranges that have listeners or chains of their own on this port.
fn where_the_address_matters(context: Context<'_>) -> Option<String> {
    let port = context.question.target.port;
    let own = context.snapshot.by_address.keys().filter(|(_, of)| *of == port);
    let mut special: Vec<String> = own.map(|(address, _)| address.to_string()).collect();
    let listener = context.snapshot.by_port.get(&port);
    let chains = listener.into_iter().flat_map(|listener| &listener.cidrs);
    special.extend(chains.map(|chain| format!("{}/{}", chain.network, chain.prefix_len)));
    special.sort();
    let last = special.len() > 1;
    (!special.is_empty()).then(|| {
        format!(
            "the address matters: {} {} a service of {} own on this port; give --address to see",
            words::few(special),
            if last { "have" } else { "has" },
            if last { "their" } else { "its" },
        )
    })
}

/// Services with the target's host that are not seen from here, or not on this port.
fn not_here(context: Context<'_>) -> Vec<PassedOver> {
    let (port, name) = (context.question.target.port, &context.question.target.host);
    considered::service_entries(context, name, port)
}
