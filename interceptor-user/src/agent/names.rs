//! Names learned from a pod's own DNS answers: its queries come to sockets of ours on its loopback, and a relay hands them
//! on from inside the pod, so that name servers and NetworkPolicies see the pod.

use std::sync::Arc;

use anyhow::Context;

use crate::datapath::{NameServerReader, QuerySockets};
use crate::dns::{LearnedNames, Relay, RelayOptions, Resolver};
use crate::enroll::PodNetns;

/// Sockets of one pod that ask name servers at one time.
const FLOWS_MAX: usize = 256;

/// A pod's relay, for as long as this is held, and what it has learned.
#[derive(Debug)]
pub(super) struct PodNames {
    relay: Relay,
    pub(super) learned: Arc<LearnedNames>,
}

impl PodNames {
    pub(super) fn learn(
        queries: QuerySockets,
        netns: &PodNetns,
        reader: NameServerReader,
        resolver: &Resolver,
    ) -> anyhow::Result<Self> {
        let learned = Arc::<LearnedNames>::default();
        let (cookie, sockets_v4) = (netns.cookie, queries.v4.len());
        let relay = Relay::start(RelayOptions {
            sockets: queries.v4.into_iter().chain(queries.v6).collect(),
            server_of: Arc::new(move |index| reader.of_socket(cookie, sockets_v4, index)),
            resolver: resolver.clone(),
            learned: Arc::clone(&learned),
            netns: Some(Arc::clone(&netns.file)),
            flows_max: FLOWS_MAX,
        });
        Ok(Self { relay: relay.context("can't start the relay of its DNS queries")?, learned })
    }

    pub(super) fn failed(&self) -> bool {
        self.relay.failed()
    }
}
