//! One pod of this node: what it should have, and what it has.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::names::PodNames;
use super::network::Following;
use crate::compile::Client;
use interceptor_common::pod::PodState;

use crate::datapath::{Besides, CgroupId, InterfaceRoutes, Listener, PodRecord};
use crate::enroll::{LeftAlone, OutOfReach, PodNetns, Selection, Wanted, source_workload};
use crate::explain::{Place, redirect_places};
use crate::proxy::WorkloadId;
use crate::resource::Pod as ApiPod;
use crate::workload::{RedirectPolicy, SourceWorkload};

/// A pod that has a cgroup and is not carried after this is a reason not to be ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// How soon a pod is looked at again that has no process of its own yet.
const RETRY_MIN: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_millis(200);

/// How soon what went wrong is tried again at the latest: it may take long, and others wait meanwhile.
const FAILED_RETRY_MAX: Duration = Duration::from_secs(5);

pub(super) struct Pod {
    /// As the API tells; `None`: it is gone from there.
    pub(super) api: Option<Arc<ApiPod>>,
    pub(super) source: Arc<SourceWorkload>,
    pub(super) selection: Selection,
    /// The annotations that say what is redirected.
    pub(super) redirect_by: Vec<Place>,
    /// Its directory, once the kubelet has made it.
    pub(super) cgroup: Option<PodDirectory>,
    /// The cgroup that our programs sit on, and which of them.
    pub(super) attached: Option<(CgroupId, Besides)>,
    /// Its network namespace, as the CNI plugin tells before any process is in it.
    pub(super) announced: Option<PodNetns>,
    pub(super) carried: Option<Carried>,
    /// Why it is not carried although it should be.
    pub(super) problem: Option<String>,
    /// The problem that was logged last.
    pub(super) told: Option<String>,
    /// As the maps have it.
    pub(super) described: Option<PodRecord>,
    /// When its cgroup was first seen.
    pub(super) since: Option<Instant>,
    /// Something of it runs in a network namespace of its own.
    pub(super) has_netns: bool,
    /// Why its addresses and routes were not taken up when they changed.
    pub(super) old_network: Option<String>,
    pub(super) retry: Retry,
}

/// Where a pod's processes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodDirectory {
    pub(super) directory: PathBuf,
    pub(super) id: CgroupId,
}

impl PodDirectory {
    /// `None`: it is gone.
    pub(super) fn find(directory: &Path) -> io::Result<Option<Self>> {
        match CgroupId::at(directory) {
            Ok(id) => Ok(Some(Self { directory: directory.to_owned(), id })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A pod whose connections are served.
pub(super) struct Carried {
    pub(super) netns: PodNetns,
    pub(super) workload: WorkloadId,
    pub(super) listener: Listener,
    /// What connections show as their source; kept up to date.
    pub(super) addresses: Arc<ArcSwap<Vec<IpAddr>>>,
    /// As the kernel has it, but for what the routes say.
    pub(super) redirect: RedirectPolicy,
    pub(super) routes: InterfaceRoutes,
    /// Whose snapshot it gets.
    pub(super) client: Client,
    /// If its DNS is captured.
    pub(super) names: Option<PodNames>,
    /// Since when the kernel sends nothing here any more.
    pub(super) left: Option<Instant>,
    pub(super) following: Following,
}

impl Pod {
    pub(super) fn new(api: &Arc<ApiPod>, selection: Selection) -> Self {
        let mut pod = Self {
            api: None,
            source: Arc::default(),
            selection: Selection::LeaveAlone(LeftAlone::Namespace),
            redirect_by: Vec::new(),
            cgroup: None,
            attached: None,
            announced: None,
            carried: None,
            problem: None,
            told: None,
            described: None,
            since: None,
            has_netns: false,
            old_network: None,
            retry: Retry::default(),
        };
        pod.decide(api, selection);
        pod
    }

    /// It is to be looked at with this in mind.
    pub(super) fn decide(&mut self, api: &Arc<ApiPod>, selection: Selection) {
        self.api = Some(Arc::clone(api));
        self.source = Arc::new(source_workload(api));
        self.redirect_by = redirect_places(&api.meta, &api.meta.annotations);
        self.selection = selection;
        self.retry.now();
    }

    pub(super) fn wanted(&self) -> Option<&Wanted> {
        match &self.selection {
            Selection::Enroll(wanted) => Some(wanted),
            Selection::LeaveAlone(_) | Selection::OutOfReach(_) => None,
        }
    }

    /// Carried, left alone, or held: whatever its processes do is as it should be.
    pub(super) fn is_dealt_with(&self) -> bool {
        self.attached.is_some() || (self.wanted().is_none() && self.described.is_some())
    }

    /// For whoever looks at the maps.
    pub(super) fn record(&self) -> PodRecord {
        let mistake = self.wanted().and_then(|wanted| wanted.mistakes.first()).map(ToString::to_string);
        let (state, note) = match &self.selection {
            Selection::LeaveAlone(LeftAlone::OptedOut) => (PodState::OptedOut, None),
            Selection::LeaveAlone(LeftAlone::OwnSidecar) => (PodState::OwnSidecar, None),
            Selection::LeaveAlone(LeftAlone::Namespace | LeftAlone::Over) => (PodState::NotSelected, None),
            Selection::OutOfReach(OutOfReach::HostNetwork) => (PodState::HostNetwork, None),
            Selection::OutOfReach(OutOfReach::Sandboxed) => (PodState::Sandboxed, None),
            Selection::Enroll(_) if self.carried.is_none() => (PodState::Pending, self.problem.clone()),
            Selection::Enroll(_) if mistake.is_some() => (PodState::EnrolledWithMistake, mistake),
            Selection::Enroll(_) => {
                let note = self.problem().or_else(|| self.not_enforced()).map(str::to_owned);
                (PodState::Enrolled, note.or_else(|| self.interface_note()))
            }
        };
        PodRecord {
            uid: self.source.uid.clone(),
            namespace: self.source.namespace.clone(),
            name: self.source.pod.clone(),
            netns_cookie: self.carried.as_ref().map(|carried| carried.netns.cookie).unwrap_or_default(),
            state,
            note: note.unwrap_or_default(),
        }
    }

    /// Why it is not as it should be.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref().or(self.old_network.as_deref())
    }

    fn interface_note(&self) -> Option<String> {
        self.carried.as_ref()?.routes.note.as_ref().map(ToString::to_string)
    }

    /// What of an enforced pod the guard can't see.
    pub(super) fn not_enforced(&self) -> Option<&'static str> {
        let is_enforced = self.wanted()?.redirect.enforced.is_some();
        let has_net_raw = |api: &Arc<ApiPod>| api.spec.containers.iter().any(|one| one.may_have_net_raw);
        (is_enforced && self.api.as_ref().is_some_and(has_net_raw))
            .then_some("enforced, but can send by AF_PACKET: drop NET_RAW in every container's securityContext.capabilities")
    }

    /// Nothing is left to be done for what runs of it.
    pub(super) fn is_settled(&self) -> bool {
        let is_looked_at = self.attached.is_some() || self.problem.is_some();
        self.cgroup.is_none()
            || self.wanted().is_none()
            || self.carried.is_some()
            || (is_looked_at && !self.has_netns)
    }

    /// There is something of it since longer than it may take to serve it.
    pub(super) fn is_past_patience(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() > PATIENCE)
    }

    /// A problem that is no passing one.
    pub(super) fn lasting_problem(&self) -> Option<&str> {
        self.problem().filter(|_| self.is_past_patience())
    }

    /// Whether the API means this pod by that name.
    pub(super) fn is_called(&self, api: &ApiPod) -> bool {
        *self.source.namespace == **api.meta.namespace() && *self.source.pod == **api.meta.name()
    }

    /// `namespace/name`, for people.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.source.namespace, self.source.pod)
    }
}

/// When a pod that is not carried yet is looked at again.
#[derive(Debug, Default)]
pub(super) struct Retry {
    at: Option<Instant>,
    pause: Duration,
}

impl Retry {
    /// At once.
    pub(super) fn now(&mut self) {
        *self = Self { at: Some(Instant::now()), pause: Duration::ZERO };
    }

    /// After a pause, longer each time.
    pub(super) fn later(&mut self) {
        self.after(RETRY_MAX);
    }

    /// After a pause, longer each time.
    pub(super) fn later_for_failure(&mut self) {
        self.after(FAILED_RETRY_MAX);
    }

    fn after(&mut self, pause_max: Duration) {
        self.pause = (self.pause * 2).clamp(RETRY_MIN, pause_max);
        self.at = Some(Instant::now() + self.pause);
    }

    /// It is looked at now. How long was waited stays known: there may be a next time.
    pub(super) fn begin(&mut self) {
        self.at = None;
    }

    /// Nothing is left to be tried again.
    pub(super) fn end(&mut self) {
        if self.at.is_none() {
            self.pause = Duration::ZERO;
        }
    }

    pub(super) fn at(&self) -> Option<Instant> {
        self.at
    }

    pub(super) fn is_due(&self) -> bool {
        self.at.is_some_and(|at| at <= Instant::now())
    }
}
