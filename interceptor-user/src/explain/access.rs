//! The step about who may use a host at a gateway: ServiceEntries' annotation `egress.interceptor.io/allow-from`.

use super::client_tls::Peer;
use super::explanation::{Place, Step};
use super::{Context, places};
use crate::compile::scope::Scope;
use crate::resource::{ALLOW_FROM, Resource, ServiceEntry, host};
use crate::snapshot::Cluster;

/// Whether the client is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Open,
    Allowed,
    Refused,
    /// It depends on who the client is, which nobody said, or on the labels of its pod.
    Depends,
}

/// `name`: the Host or server name as it goes on, without port.
pub(super) fn access(context: Context<'_>, cluster: &Cluster, name: Option<&str>) -> Access {
    let mut rules = context.snapshot.rules(cluster, name).peekable();
    if rules.peek().is_none() {
        return Access::Open;
    }
    let allows = |workload, has_labels: bool| {
        context.snapshot.rules(cluster, name).all(|rule| rule.allows(workload, |_| has_labels))
    };
    match context.peer {
        Peer::Somebody => Access::Depends,
        Peer::Nobody => {
            if allows(None, false) {
                Access::Allowed
            } else {
                Access::Refused
            }
        }
        Peer::Known(peer) => {
            let workload = peer.namespace().zip(peer.service_account());
            match (allows(workload, false), allows(workload, true)) {
                (true, _) => Access::Allowed,
                (false, true) => Access::Depends,
                (false, false) => Access::Refused,
            }
        }
    }
}

pub(super) fn step(context: Context<'_>, cluster: &Cluster, name: Option<&str>) -> Option<Step> {
    let access = access(context, cluster, name);
    let decided = match (access, context.peer) {
        (Access::Open, _) => return None,
        (Access::Depends, Peer::Known(peer)) => {
            format!("{peer} may use the host from those of its pods that have the labels of the rule")
        }
        (Access::Depends, Peer::Nobody | Peer::Somebody) => {
            "for those whom the rule names, others are refused; --peer says who the client is".to_owned()
        }
        (Access::Allowed, Peer::Known(peer)) => format!("{peer} may use the host"),
        (Access::Refused, Peer::Known(peer)) => format!("{peer} may not use the host"),
        (Access::Allowed | Access::Refused, Peer::Nobody | Peer::Somebody) => {
            "the client may not use the host: only what tls.mode ISTIO_MUTUAL has verified says who it is"
                .to_owned()
        }
    };
    let mut step = Step::new("access", decided);
    for (entry, place) in entries(context, cluster, name) {
        let rule = entry.meta.annotations.get(ALLOW_FROM).map(|annotation| &*annotation.value);
        step.notes
            .push(format!("{ALLOW_FROM}: {}", rule.unwrap_or("the entry can't be used, so that nobody may")));
        step.by.push(place);
    }
    Some(step)
}

/// Those whose rules count.
fn entries<'a>(
    context: Context<'a>,
    cluster: &Cluster,
    name: Option<&str>,
) -> Vec<(&'a ServiceEntry, Place)> {
    let placed = |entry: &'a ServiceEntry| {
        let annotation = entry.meta.annotations.get(ALLOW_FROM);
        let position = annotation.map(|annotation| annotation.position).unwrap_or_default();
        (entry, places::place(&entry.meta, Some(format!("annotation {ALLOW_FROM}")), position))
    };
    let own = cluster.source.as_ref().and_then(|source| match context.world.resources.get(&source.service) {
        Some(Resource::ServiceEntry(entry)) => Some(&**entry),
        Some(_) | None => None,
    });
    let scope = Scope::of(context.world, context.settings);
    let named = name.filter(|_| cluster.leads_by_name()).map(str::to_ascii_lowercase);
    let others = context.world.all_service_entries().filter(|entry| scope.is_exported(entry));
    let best = |entry: &ServiceEntry| {
        let hosts = entry
            .hosts
            .iter()
            .filter(|own| named.as_ref().is_some_and(|name| host::matches(&own.value, name)));
        hosts.map(|own| (!own.value.starts_with('*'), own.value.len())).max()
    };
    // Of the most specific host alone, as the lookup has it.
    let ruled: Vec<&'a ServiceEntry> =
        others.map(|entry| &**entry).filter(|entry| entry.rule().is_some()).collect();
    let most = ruled.iter().filter_map(|entry| best(entry)).max();
    let mut counting: Vec<&'a ServiceEntry> =
        own.into_iter().filter(|entry| entry.rule().is_some()).collect();
    for entry in ruled.into_iter().filter(|entry| most.is_some() && best(entry) == most) {
        if !counting.iter().any(|own| own.meta.key == entry.meta.key) {
            counting.push(entry);
        }
    }
    counting.into_iter().map(placed).collect()
}
