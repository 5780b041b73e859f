//! How following the API server goes, for readiness, metrics and people.

use std::sync::Arc;
use std::time::SystemTime;

/// How it stands now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The first World was handed over: all that exists and may be read is known.
    pub is_synced: bool,
    /// Why there is no first World, when it is nothing that a watch says.
    pub unusable: Option<Trouble>,
    /// The server does not answer.
    pub api_server: Option<Trouble>,
    pub watches: Vec<WatchStatus>,
}

/// One list that is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchStatus {
    /// `services`, `serviceentries.networking.istio.io`, `secret shop/client-certificate` …
    pub what: Arc<str>,
    /// `v1`, `v1beta1` or `v1alpha3` of a kind of Istio's; else empty.
    pub version: &'static str,
    pub state: WatchState,
    /// Objects that are known.
    pub objects: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchState {
    /// Its list was asked for and is not there yet.
    Listing,
    Following,
    /// There is no such kind: its CRD is not installed.
    Missing,
    /// What is known goes on holding.
    Failing(Trouble),
}

/// What is wrong, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub since: SystemTime,
    pub why: Arc<str>,
}

impl Trouble {
    /// The same trouble goes on: since it began.
    pub(super) fn new(why: &str, before: Option<&Self>) -> Self {
        Self { since: before.map_or_else(SystemTime::now, |trouble| trouble.since), why: why.into() }
    }
}

impl Status {
    /// The watches that fail.
    pub fn failing(&self) -> impl Iterator<Item = (&WatchStatus, &Trouble)> {
        self.watches.iter().filter_map(|watch| match &watch.state {
            WatchState::Failing(trouble) => Some((watch, trouble)),
            WatchState::Listing | WatchState::Following | WatchState::Missing => None,
        })
    }
}
