//! Where a gateway sends nothing, as far as that is known without asking anybody: back to itself, and where a name that a
//! client brings must not lead. The rules are the snapshot's; `proxy::upstream` keeps to them.

use std::net::{IpAddr, SocketAddr};

use super::Context;
use crate::proxy::upstream::UpstreamError;
use crate::snapshot::{Cluster, Discovery, DnsTarget};

/// Why nothing is sent to a cluster. `name`: the Host or server name as it goes on, without port.
pub(super) fn refusal(
    context: Context<'_>,
    cluster: &Cluster,
    destination: SocketAddr,
    name: Option<&str>,
) -> Option<UpstreamError> {
    if let Some(why) = misleading(context, cluster, destination, name) {
        return Some(UpstreamError::DnsResolution(why.into()));
    }
    let (known, back) = known(context, cluster)?;
    // Where one endpoint does not lead back, requests go there sooner or later.
    let first = back.first().filter(|_| back.len() == known)?;
    Some(UpstreamError::NoHealthyUpstream(Some(leads_back(*first).into())))
}

/// What of the endpoints nothing is sent to.
pub(super) fn notes(
    context: Context<'_>,
    cluster: &Cluster,
    destination: SocketAddr,
    name: Option<&str>,
) -> Vec<String> {
    let back = known(context, cluster).map(|(_, back)| back).unwrap_or_default();
    let back = back.into_iter().map(|address| format!("nothing is sent there: {}", leads_back(address)));
    misleading(context, cluster, destination, name).into_iter().chain(back).collect()
}

fn leads_back(address: SocketAddr) -> String {
    format!("{address} leads back to this gateway")
}

/// Why a name that the client brings is not gone by.
fn misleading(
    context: Context<'_>,
    cluster: &Cluster,
    destination: SocketAddr,
    name: Option<&str>,
) -> Option<String> {
    let (Discovery::DynamicDns { .. }, Some(off_limits)) = (&cluster.discovery, &cluster.off_limits) else {
        return None;
    };
    let name = name?;
    let addresses = addresses(context, name)?;
    let address =
        addresses.iter().find(|address| off_limits.has(**address) || **address == destination.ip())?;
    Some(format!("{name} is {address}, where this gateway sends nothing"))
}

/// How many endpoints there are, and which of them lead back; `None` where they are not known.
fn known(context: Context<'_>, cluster: &Cluster) -> Option<(usize, Vec<SocketAddr>)> {
    let off_limits = cluster.off_limits.as_ref()?;
    let of_target = |target: &DnsTarget| -> Option<Vec<SocketAddr>> {
        let addresses = addresses(context, &target.host)?;
        Some(addresses.into_iter().map(|address| SocketAddr::new(address, target.port)).collect())
    };
    let known: Vec<SocketAddr> = match &cluster.discovery {
        Discovery::Static(endpoints) => {
            endpoints.iter().map(|endpoint| endpoint.address.as_ip()).collect::<Option<_>>()?
        }
        Discovery::StrictDns(targets) => targets.iter().map(of_target).collect::<Option<Vec<_>>>()?.concat(),
        Discovery::LogicalDns(target) => of_target(target)?,
        Discovery::DynamicDns { .. } | Discovery::OriginalDst { .. } => return None,
    };
    let back = known.iter().copied().filter(|address| off_limits.leads_back(*address)).collect();
    Some((known.len(), back))
}

/// What a name is, where that is known: an address itself, or what was looked up.
fn addresses(context: Context<'_>, name: &str) -> Option<Vec<IpAddr>> {
    let literal = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let looked_up = || context.question.resolved.clone().filter(|_| name == context.question.target.host);
    literal.ok().map(|address| vec![address]).or_else(looked_up)
}
