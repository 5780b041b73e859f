//! Which pods there are, and what each is to get: by what the API server or files tell of pods and namespaces.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::control::Control;
use super::pod::Pod;
use crate::analysis;
use crate::enroll::{LeftAlone, Mistake, Selection, service_account};
use crate::resource::{Diagnostic, Level, Meta, Pod as ApiPod, Position, World};
use crate::source::kubernetes::NodeChange;

impl Control {
    /// A pod or a namespace, as the API server tells it.
    pub(super) fn take_change(&mut self, change: NodeChange) {
        match change {
            NodeChange::Pod(pod) => self.select(&pod),
            NodeChange::PodGone(pod) => {
                if let Some(uid) = &pod.uid {
                    self.pod_gone(uid);
                }
            }
            NodeChange::Namespace(namespace) => {
                self.namespaces.insert(Arc::clone(namespace.meta.name()), Arc::clone(&namespace));
                self.select_all_of(namespace.meta.name());
                self.select_waiting();
            }
            // Its pods go before it does: what is still there stays what it was.
            NodeChange::NamespaceGone(name) => drop(self.namespaces.remove(&name)),
            NodeChange::PodsListed => self.pods_listed = true,
            NodeChange::NamespacesListed => {
                self.namespaces_listed = true;
                self.select_waiting();
            }
        }
    }

    fn wait_for_namespace(&mut self, pod: &Arc<ApiPod>) {
        self.waiting_for_namespaces.retain(|other| other.uid != pod.uid);
        self.waiting_for_namespaces.push(Arc::clone(pod));
    }

    /// Pods that came before their namespaces could not be decided about.
    fn select_waiting(&mut self) {
        for pod in std::mem::take(&mut self.waiting_for_namespaces) {
            self.select(&pod);
        }
    }

    fn select_all_of(&mut self, namespace: &str) {
        let pods: Vec<Arc<ApiPod>> = self.pods.values().filter_map(|pod| pod.api.clone()).collect();
        for pod in pods.iter().filter(|pod| **pod.meta.namespace() == *namespace) {
            self.select(pod);
        }
    }

    /// Takes pods and namespaces from the world, where nobody tells them one by one.
    pub(super) fn take_node_of(&mut self, world: &World) {
        let namespaces = world.namespaces();
        self.namespaces =
            namespaces.map(|namespace| (Arc::clone(namespace.meta.name()), Arc::clone(namespace))).collect();
        let there: BTreeMap<Arc<str>, Arc<ApiPod>> =
            world.pods().filter_map(|pod| Some((Arc::clone(pod.uid.as_ref()?), Arc::clone(pod)))).collect();
        let known: Vec<Arc<str>> = self.pods.keys().cloned().collect();
        for uid in known.iter().filter(|uid| !there.contains_key(*uid)) {
            self.pod_gone(uid);
        }
        there.values().for_each(|pod| self.select(pod));
    }

    /// Decides about a pod, for the first time or anew.
    fn select(&mut self, api: &Arc<ApiPod>) {
        if !self.namespaces_listed && self.source.tells_nodes() {
            self.waiting_for_namespaces.push(Arc::clone(api));
            return;
        }
        let node = &self.settings.node_name;
        if node.is_some() && api.node_name.is_some() && *node != api.node_name {
            return;
        }
        let Some(uid) = &api.uid else { return };
        let is_known_namespace = self.namespaces.contains_key(api.meta.namespace());
        if self.source.tells_nodes() && !is_known_namespace {
            // A pod and its namespace are told by two watches: until the other comes, the pod stays what it was, and a new
            // one is undecided, which the gate holds.
            self.wait_for_namespace(api);
            return;
        }
        let known = self.pods.get_mut(uid);
        if let Some(known) = known.as_ref().filter(|known| !known.is_called(api)) {
            tracing::error!("{} says that it has the uid of {}: it is left out", api.meta.key, known.name());
            return;
        }
        let namespace = self.namespaces.get(api.meta.namespace()).map(|namespace| &**namespace);
        let before = known.as_ref().and_then(|known| known.wanted());
        let mut selection = self.settings.selectors.select(api, namespace, before);
        if let Some(known) = &known
            && selection == Selection::LeaveAlone(LeftAlone::Over)
            && known.attached.is_some()
        {
            // Whoever says that it has ended may be mistaken: its cgroup tells.
            selection = known.selection.clone();
        }
        if let Selection::Enroll(wanted) = &mut selection {
            let (settings, namespace) = (&self.settings, api.meta.namespace());
            let of_namespace = |directory: &PathBuf| directory.join(&**namespace);
            wanted.client.credentials_dir = settings.credentials_dir.as_ref().map(of_namespace);
            wanted.client.identity_dir = settings.identity_of(namespace, service_account(api));
            // Of pods in files the analysis tells.
            if self.source.tells_nodes() {
                wanted.mistakes.extend(misnamed(&api.meta));
            }
        }
        tell_mistakes(known.as_deref(), &selection, &api.meta.key.to_string());
        match known {
            Some(known) if known.selection == selection => known.api = Some(Arc::clone(api)),
            Some(known) => known.decide(api, selection),
            None => {
                self.pods.insert(Arc::clone(uid), Pod::new(api, selection));
                self.look_at_cgroup(uid);
            }
        }
    }

    /// Of a pod that is gone from the API the processes may run on: its cgroup tells when it has ended.
    fn pod_gone(&mut self, uid: &str) {
        self.waiting_for_namespaces.retain(|pod| pod.uid.as_deref() != Some(uid));
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.api = None;
            pod.retry.now();
        }
    }

    /// Has Events written about annotations that can't be used, and about what keeps a pod from having what it should.
    pub(super) fn report_mistakes(&mut self) {
        let Some(reporter) = self.source.reporter() else { return };
        let of_pod = |pod: &Pod| {
            let meta = pod.api.as_ref().map(|api| api.meta.clone())?;
            let mistakes = pod.wanted()?.mistakes.iter();
            let finding = |mistake: &Mistake| {
                let message = format!("{mistake}; {}", mistake.effect());
                meta.finding(Level::Error, Position::default(), "metadata.annotations", message)
            };
            let problem = pod.lasting_problem().map(|problem| {
                let message = match &pod.carried {
                    None => format!("its connections are refused: {problem}"),
                    Some(_) => format!("it is not intercepted as it should be now: {problem}"),
                };
                meta.finding(Level::Error, Position::default(), "spec", message)
            });
            Some(mistakes.map(finding).chain(problem).collect::<Vec<_>>())
        };
        let mistakes: Vec<Diagnostic> = self.pods.values().filter_map(of_pod).flatten().collect();
        if self.reported != mistakes {
            reporter.pods(&mistakes);
            self.reported = mistakes;
        }
    }
}

/// Names that look as if they should have been one of those that are read here; more are Istio's own affair.
fn misnamed(meta: &Meta) -> impl Iterator<Item = Mistake> {
    let is_meant_for_us = |finding: &Diagnostic| {
        finding.level == Level::Error || finding.field.contains("[traffic.sidecar.istio.io/")
    };
    let findings =
        analysis::misnamed(meta, &meta.annotations, &meta.labels).into_iter().filter(is_meant_for_us);
    findings.map(|finding| Mistake::Misnamed(format!("{}: {}", finding.message, finding.mend)))
}

/// An annotation that can't be used is told once, when it comes.
fn tell_mistakes(known: Option<&Pod>, selection: &Selection, name: &str) {
    let Selection::Enroll(wanted) = selection else { return };
    let told = known.and_then(Pod::wanted).map(|wanted| &*wanted.mistakes).unwrap_or_default();
    for mistake in wanted.mistakes.iter().filter(|mistake| !told.contains(mistake)) {
        tracing::error!("{name}: {mistake}; {}", mistake.effect());
    }
}
