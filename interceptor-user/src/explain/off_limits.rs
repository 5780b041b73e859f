//! Where a gateway sends nothing, as far as that is known without asking anybody: back to itself, and where a name that a
//! client brings must not lead. The rules are the snapshot's; `proxy::upstream` keeps to them.

use std::net::{IpAddr, SocketAddr};

use super::Context;
use crate::proxy::upstream::UpstreamError;
use crate::snapshot::{Cluster, Discovery, DnsTarget, EndpointAddress};

/// What is sent where.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) destination: SocketAddr,
    /// The Host or server name as it goes on, without port.
    pub(super) name: Option<&'a str>,
    /// See [`crate::snapshot::TcpRoute::client_chose`].
    pub(super) client_chose: bool,
}

/// Why nothing is sent.
pub(super) fn refusal(context: Context<'_>, way: Way<'_>) -> Option<UpstreamError> {
    if let Some(why) = misleading(context, way) {
        return Some(UpstreamError::DnsResolution(why.into()));
    }
    let (known, refused) = known(context, way)?;
    // Where one endpoint is not refused, connections go there: at once if the client chose, else sooner or later.
    let first = refused.first().filter(|_| refused.len() == known)?;
    Some(UpstreamError::NoHealthyUpstream(Some(first.as_str().into())))
}

/// What of the endpoints nothing is sent to.
pub(super) fn notes(context: Context<'_>, way: Way<'_>) -> Vec<String> {
    let refused = known(context, way).map(|(_, refused)| refused).unwrap_or_default();
    let refused = refused.into_iter().map(|why| format!("nothing is sent there: {why}"));
    misleading(context, way).into_iter().chain(refused).collect()
}

/// Why a name that the client brings is not gone by.
fn misleading(context: Context<'_>, way: Way<'_>) -> Option<String> {
    let (Discovery::DynamicDns { .. }, Some(off_limits)) = (&way.cluster.discovery, &way.cluster.off_limits)
    else {
        return None;
    };
    let name = way.name?;
    let addresses = addresses(context, name)?;
    let leads_back = |address: &&IpAddr| off_limits.has(**address) || **address == way.destination.ip();
    let address = addresses.iter().find(leads_back)?;
    Some(format!("{name} is {address}, where this gateway sends nothing"))
}

/// How many endpoints there are, and why nothing is sent to some; `None` where they are not known.
fn known(context: Context<'_>, way: Way<'_>) -> Option<(usize, Vec<String>)> {
    let off_limits = way.cluster.off_limits.as_ref()?;
    let of_target = |target: &DnsTarget| -> Option<Vec<SocketAddr>> {
        let addresses = addresses(context, &target.host)?;
        Some(addresses.into_iter().map(|address| SocketAddr::new(address, target.port)).collect())
    };
    let known: Vec<EndpointAddress> = match &way.cluster.discovery {
        Discovery::Static(endpoints) => endpoints.iter().map(|endpoint| endpoint.address.clone()).collect(),
        Discovery::StrictDns(targets) => {
            let known = targets.iter().map(of_target).collect::<Option<Vec<_>>>()?.concat();
            known.into_iter().map(Into::into).collect()
        }
        Discovery::LogicalDns(target) => {
            let known = of_target(target)?;
            // The proxy knows the first of each family.
            let first = |v6| known.iter().find(|address| address.is_ipv6() == v6).copied();
            [first(false), first(true)].into_iter().flatten().map(Into::into).collect()
        }
        Discovery::DynamicDns { .. } | Discovery::OriginalDst { .. } => return None,
    };
    let why = |endpoint: &EndpointAddress| {
        let chosen = way.client_chose.then(|| off_limits.refusal(endpoint)).flatten();
        let leads_back = |address: &SocketAddr| off_limits.leads_back(*address);
        let back = || endpoint.as_ip().filter(leads_back);
        chosen.or_else(|| Some(format!("{} leads back to this gateway", back()?)))
    };
    let refused: Vec<String> = known.iter().filter_map(why).collect();
    Some((known.len(), refused))
}

/// What a name is, where that is known: an address itself, or what was looked up.
fn addresses(context: Context<'_>, name: &str) -> Option<Vec<IpAddr>> {
    let literal = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let looked_up = || context.question.resolved.clone().filter(|_| name == context.question.target.host);
    literal.ok().map(|address| vec![address]).or_else(looked_up)
}
