//! Whether the name that a client gives (SNI, Host) fits the address that it asked for: by the workload's own DNS answers,
//! by ours, or by what the service declares. Where the policy is strict, a connection that uses its original address
//! goes nowhere unless it fits.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::active::Active;
use super::stats::WorkerStats;
use super::upstream::ClusterRuntime;
use crate::dns::{Asker, LearnedNames, Names, Resolver};
use crate::snapshot::{Listener, Refusal, TcpRoute};

/// In logs, of what is refused because name and address do not fit.
pub(crate) const MISMATCH_DETAILS: &str = Refusal::NameMismatch.details();

/// What a worker knows of names.
#[derive(Debug)]
pub(crate) struct NameKnowledge {
    /// `None`: the workload's DNS is not captured.
    pub(crate) learned: Option<Arc<LearnedNames>>,
    pub(crate) resolver: Resolver,
    /// As whom the resolver knows the workload.
    pub(crate) asker: Asker,
    pub(crate) stats: Arc<WorkerStats>,
}

/// A name and the address that it was given with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim<'a> {
    /// SNI or Host, without port.
    pub(crate) name: &'a str,
    pub(crate) original_dst: SocketAddr,
    /// Where the connection goes, if that is known by now.
    pub(crate) runtime: Option<&'a ClusterRuntime>,
    /// The original address is where it goes.
    pub(crate) uses_original_dst: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    Fits,
    DoesNot,
    /// Nothing is known of the name or of the address.
    Unknown,
}

impl NameKnowledge {
    /// What the workload's DNS answers call `address`, the last learned first. Where the policy is strict, only servers that
    /// we would ask ourselves are believed: a workload can run its own.
    pub(crate) fn names_of(&self, active: &Active, listener: &Listener, address: IpAddr) -> Vec<Arc<str>> {
        let Some(learned) = self.learned.as_ref().filter(|_| listener.depends_on_names()) else {
            return Vec::new();
        };
        let Some(names) = learned.names(address) else { return Vec::new() };
        let held: Vec<Arc<str>> = learned.held(&names, active.snapshot.strict).cloned().collect();
        // Use keeps names, and does not bring them back.
        if !held.is_empty() {
            learned.used(&names);
        }
        held
    }

    /// Counts whether a claim fits, and says whether it may go on. Waits for nothing unless the policy is strict.
    pub(crate) async fn admits(&self, active: &Active, claim: Claim<'_>) -> bool {
        let is_strict = active.snapshot.strict;
        if self.learned.is_none() && !is_strict {
            return true;
        }
        let mut fit = self.known(active, claim);
        let must_fit = is_strict && claim.uses_original_dst;
        if must_fit && fit != Fit::Fits {
            fit = self.asked(claim).await;
        }
        match fit {
            Fit::Fits => self.stats.name_matched(),
            Fit::DoesNot => self.stats.name_mismatched(),
            Fit::Unknown => self.stats.name_unknown(),
        }
        if must_fit && fit != Fit::Fits {
            self.stats.name_refused();
            return false;
        }
        true
    }

    fn known(&self, active: &Active, claim: Claim<'_>) -> Fit {
        let address = claim.original_dst.ip();
        if let Some(literal) = literal(claim.name) {
            return if literal == address { Fit::Fits } else { Fit::DoesNot };
        }
        let names = self.learned.as_ref().and_then(|learned| Some((learned, learned.names(address)?)));
        // As in `names_of`.
        let is_given = |(learned, names): &(&Arc<LearnedNames>, Arc<Names>)| {
            learned.has(names, claim.name, active.snapshot.strict)
        };
        if names.as_ref().is_some_and(is_given) || is_declared(active, claim) {
            return Fit::Fits;
        }
        let endpoints = claim.runtime.and_then(|runtime| runtime.has_endpoint(address));
        let remembered = self.resolver.remembered(claim.name);
        let remembered = remembered.map(|answer| answer.addresses.contains(&address));
        if endpoints == Some(true) || remembered == Some(true) {
            return Fit::Fits;
        }
        if names.is_some() || endpoints.is_some() || remembered.is_some() {
            Fit::DoesNot
        } else {
            Fit::Unknown
        }
    }

    /// What our own name servers say.
    async fn asked(&self, claim: Claim<'_>) -> Fit {
        let address = claim.original_dst.ip();
        match self.resolver.resolve(claim.name, self.asker).await {
            // An address is a name for itself alone, which was looked at before.
            Ok(answer) if literal(claim.name).is_none() && answer.addresses.contains(&address) => Fit::Fits,
            Ok(_) => Fit::DoesNot,
            Err(error) => {
                tracing::debug!(name = claim.name, %address, %error, "a name can't be compared with its address");
                Fit::Unknown
            }
        }
    }
}

/// Whether the address is one that the service of this name declares for itself.
fn is_declared(active: &Active, claim: Claim<'_>) -> bool {
    let (address, port) = (claim.original_dst.ip(), claim.original_dst.port());
    let Some(own) = active.snapshot.by_address.get(&(address, port)) else { return false };
    let is_host = |runtime: &ClusterRuntime| runtime.cluster().host.eq_ignore_ascii_case(claim.name);
    own.tls.get(claim.name).is_some() || claim.runtime.is_some_and(is_host)
}

/// An address written as a host.
fn literal(name: &str) -> Option<IpAddr> {
    name.trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
        .map(|address: IpAddr| address.to_canonical())
}

/// Whether a route leads to the original address.
pub(crate) fn uses_original_dst(route: &TcpRoute) -> bool {
    let mut clusters = route.clusters.iter().filter_map(|weighted| weighted.cluster.cluster.as_ref());
    clusters.any(|cluster| cluster.is_original_dst())
}
