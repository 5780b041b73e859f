//! The control loop: the one owner of the kernel's state and of the list of pods. It compares what there should be with
//! what there is, and changes the difference; whatever fails is tried again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::cgroups::CgroupWatch;
use super::configurations::{self, Compiled, Configurations};
use super::pod::{Pod, PodDirectory};
use super::requests::Waiting;
use super::shown::Shown;
use super::source::{self, Source};
use super::strangers::Strangers;
use super::takeover::Retired;
use crate::admin::AdminRequest;
use crate::compile::{Client, ClientLabels, CompileSettings};
use crate::datapath::Datapath;
use crate::dns::Resolver;
use crate::enroll::HostNetns;
use crate::proxy::{Configured, Proxy, Room};
use crate::resource::{Diagnostic, Namespace, Pod as ApiPod, World};
use crate::settings::AgentSettings;

/// How often everything is looked at again, whatever events came.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long an agent that was told to end waits for its successor to take over the last pods.
const TAKEOVER_WAIT_MAX: Duration = Duration::from_secs(10);

pub(super) struct Control {
    pub(super) settings: AgentSettings,
    pub(super) datapath: Datapath,
    pub(super) proxy: Proxy,
    /// For the connections of all pods.
    pub(super) room: Arc<Room>,
    pub(super) resolver: Resolver,
    pub(super) configurations: Configurations,
    pub(super) source: Source,
    pub(super) cgroups: CgroupWatch,
    pub(super) host: HostNetns,
    pub(super) world: Arc<World>,
    pub(super) diagnostics: Arc<[Diagnostic]>,
    pub(super) labels: ClientLabels,
    /// What each client gets, labels that nothing looks at left out.
    pub(super) configured: HashMap<Client, Configured>,
    /// By uid.
    pub(super) pods: BTreeMap<Arc<str>, Pod>,
    pub(super) namespaces: HashMap<Arc<str>, Arc<Namespace>>,
    /// What is wrong with programs that should be attached.
    pub(super) hooks: Option<String>,
    /// Every pod, and every namespace, that was there at the start has been told.
    pub(super) pods_listed: bool,
    pub(super) namespaces_listed: bool,
    pub(super) waiting_for_namespaces: Vec<Arc<ApiPod>>,
    pub(super) has_world: bool,
    /// Every pod that was there at the start is carried.
    pub(super) is_settled: bool,
    /// The code that only starting takes is let go of.
    pub(super) is_at_rest: bool,
    /// A pod waits for what its client gets.
    pub(super) lacks_configurations: bool,
    /// Mistakes of pods that Events tell of.
    pub(super) reported: Vec<Diagnostic>,
    /// Pods that are not decided yet are held.
    pub(super) gated: bool,
    pub(super) strangers: Strangers,
    pub(super) waiting: Vec<Waiting>,
    pub(super) retired: Option<Retired>,
    pub(super) shown: Shown,
    /// Uids of pods whose addresses or routes changed.
    pub(super) network_changes: (UnboundedSender<Arc<str>>, UnboundedReceiver<Arc<str>>),
}

/// What the loop waits for.
pub(super) struct Inputs {
    pub(super) told: source::Told,
    pub(super) snapshots: UnboundedReceiver<configurations::Told>,
    pub(super) requests: Receiver<AdminRequest>,
}

/// What is made once, at the start.
pub(super) struct Parts {
    pub(super) settings: AgentSettings,
    pub(super) datapath: Datapath,
    pub(super) proxy: Proxy,
    pub(super) resolver: Resolver,
    pub(super) configurations: Configurations,
    pub(super) source: Source,
    pub(super) cgroups: CgroupWatch,
    pub(super) host: HostNetns,
    pub(super) shown: Shown,
}

impl Control {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { settings, datapath, proxy, resolver, configurations, source, cgroups, host, shown } =
            parts;
        Self {
            settings,
            datapath,
            proxy,
            room: Arc::new(Room::of_process()),
            resolver,
            configurations,
            source,
            cgroups,
            host,
            world: Arc::default(),
            diagnostics: Arc::default(),
            labels: ClientLabels::default(),
            configured: HashMap::new(),
            pods: BTreeMap::new(),
            namespaces: HashMap::new(),
            hooks: None,
            pods_listed: false,
            namespaces_listed: false,
            waiting_for_namespaces: Vec::new(),
            has_world: false,
            is_settled: false,
            is_at_rest: false,
            lacks_configurations: false,
            reported: Vec::new(),
            gated: false,
            strangers: Strangers::default(),
            waiting: Vec::new(),
            retired: None,
            shown,
            network_changes: unbounded_channel(),
        }
    }

    /// Until a signal asks for the end, or a successor has taken over.
    pub(super) async fn run(mut self, mut inputs: Inputs) -> anyhow::Result<()> {
        let mut terminated = signal(SignalKind::terminate()).context("can't handle signals")?;
        let mut interrupted = signal(SignalKind::interrupt()).context("can't handle signals")?;
        let mut hung_up = signal(SignalKind::hangup()).context("can't handle signals")?;
        let mut again = tokio::time::interval(LOOK_AGAIN);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // What is there at the start counts as a change.
        inputs.told.worlds.mark_changed();
        while self.retired.is_none() {
            let retry = self.pods.values().filter_map(|pod| pod.retry.at()).min();
            let retry = retry.unwrap_or_else(|| Instant::now() + LOOK_AGAIN);
            tokio::select! {
                _ = terminated.recv() => return self.end(),
                _ = interrupted.recv() => return self.end(),
                _ = hung_up.recv() => self.proxy.reopen_access_log(),
                Ok(()) = inputs.told.worlds.changed() => {
                    let world = inputs.told.worlds.borrow_and_update().clone();
                    if let Some(world) = world {
                        self.take_world(world);
                    }
                }
                change = inputs.told.nodes.recv(), if self.source.tells_nodes() => match change {
                    Some(change) => {
                        let waiting = std::iter::from_fn(|| inputs.told.nodes.try_recv().ok());
                        std::iter::once(change).chain(waiting).for_each(|change| self.take_change(change));
                    }
                    None => bail!("nobody follows the API server any more: a thread has ended by a panic"),
                },
                told = inputs.snapshots.recv() => match told {
                    Some(configurations::Told::Compiled(compiled)) => self.take_snapshot(*compiled),
                    Some(configurations::Told::Findings(findings)) => self.diagnostics = findings,
                    None => bail!("nobody compiles any more: a thread has ended by a panic"),
                },
                () = self.cgroups.changed() => self.take_cgroup_changes(),
                Some(uid) = self.network_changes.1.recv() => self.refresh_network(&uid),
                Some(request) = inputs.requests.recv() => self.take_request(request),
                _ = again.tick() => {
                    let old = self.pods.iter().filter(|(_, pod)| pod.old_network.is_some());
                    let old: Vec<_> = old.map(|(uid, _)| Arc::clone(uid)).collect();
                    old.iter().for_each(|uid| self.refresh_network(uid));
                    self.look_at_cgroups();
                    self.keep_kernel()?;
                    if self.is_started() {
                        self.look_for_strangers();
                    }
                }
                () = tokio::time::sleep_until(retry.into()) => {}
            }
            if self.retired.is_none() {
                self.reconcile();
                self.answer_waiting();
                self.report_mistakes();
            }
            self.show();
        }
        let mut look = tokio::time::interval(LOOK_AGAIN / 10);
        let mut end_by: Option<Instant> = None;
        while !self.leave_pods()? {
            tokio::select! {
                // Whoever replaces us ends us as soon as the successor says that it is ready: it has a moment left.
                _ = terminated.recv() => drop(end_by.get_or_insert_with(|| Instant::now() + TAKEOVER_WAIT_MAX)),
                _ = interrupted.recv() => break,
                Some(request) = inputs.requests.recv() => self.take_request(request),
                _ = look.tick() => {}
            }
            self.show();
            if end_by.is_some_and(|end_by| end_by <= Instant::now()) {
                break;
            }
        }
        tracing::info!("another agent serves all pods");
        self.proxy.stop(self.settings.drain);
        if self.settings.is_in_pod {
            // Started again we would take over again.
            tracing::info!("waiting to be told to end");
            tokio::select! {
                _ = terminated.recv() => {}
                _ = interrupted.recv() => {}
            }
        }
        Ok(())
    }

    pub(super) fn compile_settings(&self, client: Client) -> CompileSettings {
        self.settings.compile_settings(client)
    }

    /// Pins stay: connections are refused until the next agent serves them.
    fn end(self) -> anyhow::Result<()> {
        tracing::info!(
            "ending; the kernel refuses new connections of enrolled pods until an agent serves them again"
        );
        self.proxy.stop(self.settings.drain);
        Ok(())
    }

    fn take_world(&mut self, world: Arc<World>) {
        self.labels = ClientLabels::of(&world);
        self.world = world;
        self.configurations.world(Arc::clone(&self.world));
        if !self.source.tells_nodes() {
            self.take_node_of(&Arc::clone(&self.world));
            (self.pods_listed, self.namespaces_listed) = (true, true);
        }
        self.has_world = true;
        self.ask_for_configurations();
        self.look_at_cgroups();
        self.pods.values_mut().for_each(|pod| pod.retry.now());
    }

    pub(super) fn ask_for_configurations(&mut self) {
        // What is compiled of nothing would let everything through.
        if !self.has_world {
            return;
        }
        let wanted: HashMap<Client, ()> = self
            .pods
            .values()
            .filter_map(|pod| Some((self.labels.reduce(&pod.wanted()?.client), ())))
            .chain(self.pods.values().filter_map(|pod| Some((pod.carried.as_ref()?.client.clone(), ()))))
            .collect();
        self.configured.retain(|client, _| wanted.contains_key(client));
        self.configurations.clients(wanted);
    }

    fn take_snapshot(&mut self, compiled: Compiled) {
        let Compiled { client, snapshot } = compiled;
        match self.configured.get(&client) {
            Some(configured) => configured.publish(snapshot),
            None => {
                self.configured.insert(client.clone(), Configured::new(snapshot, &self.resolver));
                // Somebody waits for it.
                for pod in self.pods.values_mut() {
                    if pod.wanted().is_some_and(|wanted| self.labels.reduce(&wanted.client) == client) {
                        pod.retry.now();
                    }
                }
            }
        }
    }

    /// Looks at the pods whose cgroups have changed.
    fn take_cgroup_changes(&mut self) {
        match self.cgroups.take_changes() {
            Some(changed) => {
                for uid in &changed {
                    self.look_at_cgroup(uid);
                    // A container has come or gone: another sandbox may have been made.
                    if let Some(pod) = self.pods.get_mut(uid).filter(|pod| pod.wanted().is_some()) {
                        pod.retry.now();
                    }
                }
            }
            None => self.look_at_known_cgroups(),
        }
    }

    /// Looks at all pods.
    fn look_at_cgroups(&mut self) {
        self.cgroups.look();
        self.look_at_known_cgroups();
    }

    fn look_at_known_cgroups(&mut self) {
        let uids: Vec<Arc<str>> = self.pods.keys().cloned().collect();
        uids.iter().for_each(|uid| self.look_at_cgroup(uid));
    }

    /// Takes up where a pod's processes are, as it was found last.
    pub(super) fn look_at_cgroup(&mut self, uid: &str) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        // Gone again already is as good as not there. What can't be looked at is not gone: its programs stay.
        let directory = self.cgroups.there().get(uid);
        let Ok(found) = directory.map_or(Ok(None), |directory| PodDirectory::find(directory)) else { return };
        // By its id: a directory that was removed and made again is another cgroup, without programs.
        let is_new = found != pod.cgroup;
        if is_new {
            pod.cgroup = found;
            pod.described = None;
            pod.since = pod.cgroup.is_some().then(Instant::now);
        }
        // What waits to be tried again goes on waiting.
        if is_new || (pod.wanted().is_some() && pod.retry.at().is_none()) {
            pod.retry.now();
        }
    }
}
