//! What the control loop shows to everybody else. The loop makes a new one whenever something has changed and stores it
//! with one pointer; readers take what is there without waiting. Nothing here changes once it is stored, and nothing is
//! decided here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use serde::{Serialize, Serializer};

use crate::compile::CompileSettings;
use crate::explain::{Client, Place};
use crate::proxy::Configured;
use crate::proxy::upstream::InUse;
use crate::resource::{Diagnostic, World};
use crate::snapshot::Snapshot;
use crate::workload::RedirectPolicy;

/// The view of this moment: one writer, the control loop.
pub type SharedView = Arc<ArcSwap<View>>;

/// The agent at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// What is in force: every snapshot below was compiled from it.
    pub world: Arc<World>,
    /// About resources, once each, whoever the client.
    pub diagnostics: Arc<[Diagnostic]>,
    /// Every pod of the node, in order of namespace and name.
    pub pods: Vec<Arc<PodView>>,
    /// What must hold before the node may be given work. Without any the agent has not started yet, and is not ready.
    pub checks: Vec<Check>,
    /// In order of their names.
    pub sources: Vec<SourceStatus>,
}

/// A pod, and what becomes of its connections.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodView {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
    #[serde(flatten)]
    pub state: PodState,
    /// `None` while its network namespace is not known.
    pub netns_cookie: Option<u64>,
    /// `None` while it has no listener.
    pub listener_port: Option<u16>,
    pub redirect: RedirectPolicy,
    /// The annotations that `redirect` is from; see [`crate::explain::redirect_places`].
    #[serde(skip)]
    pub redirect_by: Vec<Place>,
    /// One sentence for each annotation that can't be used.
    pub annotation_mistakes: Vec<String>,
    /// What an enforced pod can send around the guard, and how to mend that.
    pub not_enforced: Option<&'static str>,
    /// What it gets; shared by pods that are the same client. `None` unless enrolled.
    #[serde(rename = "client", serialize_with = "client")]
    pub compiled: Option<Arc<Compiled>>,
}

/// Whether a pod is intercepted; if not, a sentence says why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "state", content = "why")]
pub enum PodState {
    Enrolled,
    /// Wanted, and not enrolled yet.
    Waiting(String),
    /// Nobody asked for it.
    LeftAlone(String),
    /// Asked for, and can't be had: hostNetwork, sandboxed runtimes.
    OutOfReach(String),
    /// Wanted, and enrolling it went wrong; it is tried again.
    Failed(String),
}

impl PodState {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::Waiting(_) => "waiting",
            Self::LeftAlone(_) => "left alone",
            Self::OutOfReach(_) => "out of reach",
            Self::Failed(_) => "failed",
        }
    }

    /// Nothing for an enrolled pod.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Enrolled => None,
            Self::Waiting(why) | Self::LeftAlone(why) | Self::OutOfReach(why) | Self::Failed(why) => {
                Some(why)
            }
        }
    }
}

/// The configuration of one client.
#[derive(Clone, Debug)]
pub struct Compiled {
    pub settings: CompileSettings,
    pub snapshot: Arc<Snapshot>,
    /// What carries its connections; `None` where nothing does.
    pub configured: Option<Configured>,
}

impl Compiled {
    /// What is known of endpoints now.
    pub fn in_use(&self) -> InUse {
        self.configured.as_ref().map(|configured| configured.active().in_use()).unwrap_or_default()
    }
}

/// One condition of readiness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// A word or two: `hooks`, `pods`.
    pub name: &'static str,
    /// Why it does not hold, and how to mend that; `None`: it holds.
    pub failure: Option<String>,
}

impl Check {
    pub const fn holds(name: &'static str) -> Self {
        Self { name, failure: None }
    }

    pub fn fails(name: &'static str, why: impl Into<String>) -> Self {
        Self { name, failure: Some(why.into()) }
    }
}

/// One thing that is followed: a kind at the API server, or files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceStatus {
    pub name: Arc<str>,
    #[serde(flatten)]
    pub state: SourceState,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum SourceState {
    /// Not read for the first time yet.
    Starting,
    /// Up to date as far as anybody can tell.
    Following,
    /// The API server does not know the kind; it is taken up when it does.
    Missing,
    /// What was read last goes on acting.
    Failing {
        #[serde(serialize_with = "timestamp")]
        since: SystemTime,
        error: String,
    },
}

impl View {
    /// To be stored into by the control loop, and read by everybody.
    pub fn shared() -> SharedView {
        Arc::new(ArcSwap::from_pointee(Self::default()))
    }

    /// Of several (the one before is still being taken down) the enrolled one.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Arc<PodView>> {
        let mut named = self.pods.iter().filter(|pod| *pod.namespace == *namespace && *pod.name == *name);
        let first = named.next()?;
        Some(std::iter::once(first).chain(named).find(|pod| pod.state == PodState::Enrolled).unwrap_or(first))
    }

    pub fn is_ready(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.failure.is_none())
    }

    /// One sentence for each condition that does not hold; none when ready.
    pub fn reasons(&self) -> Vec<String> {
        if self.checks.is_empty() {
            return vec!["the agent is starting".to_owned()];
        }
        let failure = |check: &Check| Some(format!("{}: {}", check.name, check.failure.as_ref()?));
        self.checks.iter().filter_map(failure).collect()
    }

    /// How many pods are in each state.
    pub fn pods_by_state(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for pod in &self.pods {
            *counts.entry(pod.state.name()).or_default() += 1;
        }
        counts
    }
}

fn client<S: Serializer>(compiled: &Option<Arc<Compiled>>, serializer: S) -> Result<S::Ok, S::Error> {
    compiled.as_ref().map(|compiled| Client::from(&compiled.settings.client)).serialize(serializer)
}

fn timestamp<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    match jiff::Timestamp::try_from(*time) {
        Ok(time) => serializer.collect_str(&format_args!("{time:.0}")),
        Err(error) => Err(serde::ser::Error::custom(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, uid: &str, state: PodState) -> Arc<PodView> {
        Arc::new(PodView {
            namespace: "shop".into(),
            name: name.into(),
            uid: uid.into(),
            state,
            netns_cookie: None,
            listener_port: None,
            redirect: RedirectPolicy::default(),
            redirect_by: Vec::new(),
            annotation_mistakes: Vec::new(),
            not_enforced: None,
            compiled: None,
        })
    }

    #[test]
    fn an_agent_that_has_checked_nothing_is_not_ready() {
        let mut view = View::default();
        assert!(!view.is_ready());
        assert_eq!(view.reasons(), ["the agent is starting"]);
        view.checks.push(Check::holds("hooks"));
        assert!(view.is_ready() && view.reasons().is_empty());
        view.checks.push(Check::fails("pods", "shop/cart is not enrolled"));
        assert!(!view.is_ready());
        assert_eq!(view.reasons(), ["pods: shop/cart is not enrolled"]);
    }

    #[test]
    fn of_two_pods_of_one_name_the_enrolled_one_is_meant() {
        let waiting = PodState::Waiting("no cgroup yet".to_owned());
        let pods =
            vec![pod("a", "1", waiting.clone()), pod("b", "2", waiting), pod("b", "3", PodState::Enrolled)];
        let view = View { pods, ..View::default() };
        assert_eq!(view.pod("shop", "b").map(|pod| &*pod.uid), Some("3"));
        assert_eq!(view.pod("shop", "a").map(|pod| &*pod.uid), Some("1"));
        assert!(view.pod("shop", "c").is_none() && view.pod("a", "shop").is_none());
        assert_eq!(view.pods_by_state(), BTreeMap::from([("enrolled", 1), ("waiting", 2)]));
    }

    #[test]
    fn what_is_shown_as_data() {
        let shown = serde_json::to_value(&*pod("a", "1", PodState::Failed("no room".to_owned()))).unwrap();
        let expected = serde_json::json!({
            "namespace": "shop", "name": "a", "uid": "1", "state": "failed", "why": "no room",
            "netnsCookie": null, "listenerPort": null, "annotationMistakes": [], "notEnforced": null, "client": null,
            "redirect": {
                "excludeIpRanges": [], "includeIpRanges": "*", "excludePorts": [], "includePorts": [],
                "excludeInterfaces": [], "interfaceRanges": [],
            },
        });
        assert_eq!(shown, expected);
        let since = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_500);
        let state = SourceState::Failing { since, error: "refused".to_owned() };
        let shown = serde_json::to_value(SourceStatus { name: "Sidecar".into(), state }).unwrap();
        let expected = serde_json::json!({
            "name": "Sidecar", "state": "failing", "since": "1970-01-01T00:00:01Z", "error": "refused",
        });
        assert_eq!(shown, expected);
    }
}
