//! What the control loop shows of itself: see [`super::view`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;

use interceptor_common::verdict::Effect;

use super::control::Control;
use super::network::with_ranges;
use super::pod::{Carried, Pod};
use super::view::{Check, Compiled, PodState, PodView, SharedView, View};
use crate::admin::{Family, Heartbeat};
use crate::datapath::Counter;
use crate::enroll::{Selection, Wanted};
use crate::workload::RedirectPolicy;

/// Where the loop puts it, for everybody who reads.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) view: SharedView,
    pub(super) heartbeat: Heartbeat,
    pub(super) workers_alive: Arc<AtomicBool>,
    /// As the kernel has counted, a second ago at most.
    pub(super) counters: Arc<ArcSwap<Vec<Counter>>>,
}

impl Shown {
    pub(super) fn new() -> Self {
        Self {
            view: View::shared(),
            heartbeat: Heartbeat::new(),
            workers_alive: Arc::new(AtomicBool::new(true)),
            counters: Arc::default(),
        }
    }

    /// What the kernel has counted, as metrics.
    pub(super) fn append_counters(&self, out: &mut String) {
        let view = self.view.load();
        let mut family = Family::counter(
            out,
            "interceptor_connections_total",
            "Connections by what the kernel decided about them, and why.",
        );
        for counter in self.counters.load().iter() {
            let pod = view.pods.iter().find(|pod| pod.netns_cookie == Some(counter.cookie));
            let (namespace, name) = pod.map_or(("", ""), |pod| (&*pod.namespace, &*pod.name));
            let effect = match counter.reason.effect() {
                Effect::Redirected => "redirected",
                Effect::Bypassed => "bypassed",
                Effect::Refused => "refused",
                Effect::Undecided => "passed_undecided",
                Effect::EventDropped => "event_dropped",
            };
            let labels = [
                ("namespace", namespace),
                ("pod", name),
                ("effect", effect),
                ("reason", counter.reason.name()),
            ];
            family.sample(&labels, counter.count);
        }
    }
}

impl Control {
    pub(super) fn show(&self) {
        self.shown.heartbeat.beat();
        self.shown.workers_alive.store(!self.proxy.failed(), Ordering::Relaxed);
        self.shown.view.store(Arc::new(self.view()));
    }

    /// Everything as it is now.
    fn view(&self) -> View {
        let mut pods: Vec<Arc<PodView>> =
            self.pods.iter().map(|(uid, pod)| Arc::new(self.shown_pod(uid, pod))).collect();
        pods.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
        View {
            world: Arc::clone(&self.world),
            diagnostics: Arc::clone(&self.diagnostics),
            pods,
            checks: self.checks(),
            sources: self.source.status(),
        }
    }

    fn shown_pod(&self, uid: &Arc<str>, pod: &Pod) -> PodView {
        let carried = pod.carried.as_ref();
        let compiled = carried.and_then(|carried| self.configured.get(&carried.client));
        PodView {
            namespace: pod.source.namespace.as_str().into(),
            name: pod.source.pod.as_str().into(),
            uid: Arc::clone(uid),
            state: state(pod),
            netns_cookie: carried.map(|carried| carried.netns.cookie),
            listener_port: carried.map(|carried| carried.listener.port),
            redirect: pod.wanted().map(|wanted| shown_redirect(wanted, carried)).unwrap_or_default(),
            redirect_by: pod.redirect_by.clone(),
            annotation_mistakes: pod
                .wanted()
                .map(|wanted| wanted.mistakes.iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
            not_enforced: pod.not_enforced(),
            compiled: compiled.map(|configured| {
                let snapshot = Arc::clone(&configured.active().snapshot);
                let client = carried.map(|carried| carried.client.clone()).unwrap_or_default();
                let settings = self.compile_settings(client);
                Arc::new(Compiled { settings, snapshot, configured: Some(configured.clone()) })
            }),
        }
    }

    fn checks(&self) -> Vec<Check> {
        let late: Vec<String> = self.pods.values().filter(|pod| is_late(pod)).map(Pod::name).collect();
        let pods = match (late.as_slice(), self.nobody_but_strangers()) {
            ([], None) => Check::holds("pods"),
            ([], Some(why)) => Check::fails("pods", why),
            (late, _) => Check::fails("pods", format!("should be enrolled and are not: {}", late.join(", "))),
        };
        let hooks = match &self.hooks {
            None => Check::holds("hooks"),
            Some(error) => Check::fails("hooks", error.clone()),
        };
        let proxy = match self.proxy.failed() {
            false => Check::holds("proxy"),
            true => Check::fails("proxy", "a worker thread has ended: restart the agent"),
        };
        let successor = match self.is_retired() {
            false => Check::holds("successor"),
            true => Check::fails("successor", "another agent takes over"),
        };
        let start = match self.is_started() {
            true => Check::holds("start"),
            false => Check::fails("start", "what was there at the start is not known, or not served, yet"),
        };
        vec![start, hooks, pods, proxy, successor]
    }
}

fn shown_redirect(wanted: &Wanted, carried: Option<&Carried>) -> RedirectPolicy {
    match carried {
        Some(carried) => with_ranges(&wanted.redirect, &carried.routes.ranges),
        None => wanted.redirect.clone(),
    }
}

fn is_late(pod: &Pod) -> bool {
    pod.wanted().is_some() && pod.carried.is_none() && pod.is_past_patience()
}

fn state(pod: &Pod) -> PodState {
    match (&pod.selection, &pod.carried, pod.problem()) {
        (Selection::LeaveAlone(why), _, _) => PodState::LeftAlone(why.sentence().to_owned()),
        (Selection::OutOfReach(why), _, _) => PodState::OutOfReach(why.sentence().to_owned()),
        (Selection::Enroll(_), _, Some(problem)) => PodState::Failed(problem.to_owned()),
        (Selection::Enroll(_), Some(_), None) => PodState::Enrolled,
        (Selection::Enroll(_), None, None) => PodState::Waiting(
            match (&pod.cgroup, pod.attached) {
                (None, _) => "the kubelet has not made its cgroup",
                (Some(_), None) => "its cgroup has just been made",
                (Some(_), Some(_)) => {
                    "none of its processes runs in a network namespace of its own yet, or its configuration is being \
                     compiled; its connections are refused until then"
                }
            }
            .to_owned(),
        ),
    }
}
