//! What is known of a cluster's endpoints at the moment of asking: what the proxy has found out, and what names are looked
//! up to. All else that is explained holds until a resource changes.

use std::net::IpAddr;

use super::off_limits::Way;
use super::{Context, words};
use crate::proxy::upstream::UpstreamError;
use crate::snapshot::{Cluster, Discovery};

#[derive(Debug, Default)]
pub(super) struct Now {
    pub(super) notes: Vec<String>,
    /// Why nobody can be chosen.
    pub(super) failure: Option<UpstreamError>,
}

pub(super) fn now(context: Context<'_>, way: Way<'_>) -> Now {
    let mut now = looked_up(context, way);
    let has_names = match &way.cluster.discovery {
        Discovery::Static(_) => false,
        Discovery::StrictDns(_) | Discovery::LogicalDns(_) => true,
        // Of those it keeps no endpoints.
        Discovery::DynamicDns { .. } | Discovery::OriginalDst { .. } => return now,
    };
    let Some(known) = context.question.in_use.get(&way.cluster.name) else { return now };
    if has_names && !known.endpoints.is_empty() {
        let each = known.endpoints.iter().map(|endpoint| endpoint.address.written());
        now.notes.push(format!("the proxy has {} now", words::few(each)));
    }
    let without = known.without_address.iter();
    now.notes.extend(without.map(|(name, why)| format!("the proxy has no address of {name} now: {why}")));
    now.notes.extend(known.endpoints.iter().filter_map(|endpoint| {
        Some(format!("{} is {}", endpoint.address.written(), endpoint.why_left_out()?))
    }));
    // What the proxy knows is what counts.
    now.failure = known.nobody.clone().map(|why| UpstreamError::NoHealthyUpstream(Some(why)));
    now
}

/// What `--resolve` says.
fn looked_up(context: Context<'_>, way: Way<'_>) -> Now {
    let Some(look_up) = context.question.look_up else { return Now::default() };
    let asked_for = way.name.unwrap_or(&context.question.target.host);
    let names = names(way.cluster, asked_for);
    let (mut notes, mut failures) = (Vec::new(), Vec::new());
    for name in names.iter().filter(|name| name.parse::<IpAddr>().is_err()) {
        match look_up(name) {
            Ok(addresses) => {
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                notes.push(format!("{name} is {} now", addresses.join(", ")));
            }
            Err(error) => failures.push(format!("{name} can't be looked up now: {error}")),
        }
    }
    let is_nobody_left = !names.is_empty() && failures.len() == names.len();
    let failure = is_nobody_left.then(|| {
        let why = failures.join("; ").into();
        match way.cluster.discovery {
            Discovery::DynamicDns { .. } => UpstreamError::DnsResolution(why),
            Discovery::StrictDns(_)
            | Discovery::LogicalDns(_)
            | Discovery::Static(_)
            | Discovery::OriginalDst { .. } => UpstreamError::NoHealthyUpstream(Some(why)),
        }
    });
    notes.extend(failures);
    Now { notes, failure }
}

/// What the endpoints are the addresses of; addresses may stand among them.
fn names<'a>(cluster: &'a Cluster, asked_for: &'a str) -> Vec<&'a str> {
    match &cluster.discovery {
        Discovery::StrictDns(targets) => targets.iter().map(|target| &*target.host).collect(),
        Discovery::LogicalDns(target) => vec![&*target.host],
        Discovery::DynamicDns { .. } => vec![asked_for],
        Discovery::Static(_) | Discovery::OriginalDst { .. } => Vec::new(),
    }
}
