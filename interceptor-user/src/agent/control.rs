//! The control loop: the one owner of the kernel's state and of the list of pods. It compares what there should be with
//! what there is, and changes the difference; whatever fails is tried again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::cgroups::CgroupWatch;
use super::configurations::{self, Compiled, Configurations};
use super::pod::{Carried, Pod, PodDirectory, follow_addresses};
use super::requests::Waiting;
use super::shown::Shown;
use super::source::{self, Source};
use super::takeover::Retired;
use crate::admin::AdminRequest;
use crate::compile::{Client, ClientLabels, CompileSettings};
use crate::datapath::{self, CgroupId, Datapath, Listeners};
use crate::dns::Resolver;
use crate::enroll::{HostNetns, LeftAlone, Mistake, PodNetns, Selection, Wanted, within};
use crate::proxy::{Configured, Intercepted, ProxiedWorkload, Proxy};
use crate::resource::{Diagnostic, Level, Namespace, Pod as ApiPod, Position, World};
use crate::settings::AgentSettings;
use crate::source::kubernetes::NodeChange;

/// A connection is a (source port, address) pair: eight addresses hold some 200,000 open ones of a pod.
const ADDRESSES_V4: u16 = 8;
const PORTS_V6: u16 = 4;

/// How often everything is looked at again, whatever events came.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long an agent that was told to end waits for its successor to take over the last pods.
const TAKEOVER_WAIT_MAX: Duration = Duration::from_secs(10);

/// Connections that a pod may have open, where there are descriptors enough.
const CONNECTIONS_MAX: usize = 32_768;

/// A connection takes four descriptors at most: no pod has more than half of those that there are.
fn connections_max() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    CONNECTIONS_MAX.min(files / 8)
}

pub(super) struct Control {
    pub(super) settings: AgentSettings,
    pub(super) datapath: Datapath,
    pub(super) proxy: Proxy,
    resolver: Resolver,
    configurations: Configurations,
    pub(super) source: Source,
    cgroups: CgroupWatch,
    pub(super) host: HostNetns,
    pub(super) world: Arc<World>,
    pub(super) diagnostics: Arc<[Diagnostic]>,
    labels: ClientLabels,
    /// What each client gets, labels that nothing looks at left out.
    pub(super) configured: HashMap<Client, Configured>,
    /// By uid.
    pub(super) pods: BTreeMap<Arc<str>, Pod>,
    namespaces: HashMap<Arc<str>, Arc<Namespace>>,
    /// What is wrong with programs that should be attached.
    pub(super) hooks: Option<String>,
    /// Every pod, and every namespace, that was there at the start has been told.
    pods_listed: bool,
    namespaces_listed: bool,
    waiting_for_namespaces: Vec<Arc<ApiPod>>,
    has_world: bool,
    /// Every pod that was there at the start is carried.
    is_settled: bool,
    /// A pod waits for what its client gets.
    lacks_configurations: bool,
    /// Mistakes of pods that Events tell of.
    reported: Vec<Diagnostic>,
    /// Pods that are not decided yet are held.
    gated: bool,
    pub(super) waiting: Vec<Waiting>,
    pub(super) retired: Option<Retired>,
    pub(super) shown: Shown,
    /// Uids of pods whose addresses changed.
    addresses: (UnboundedSender<Arc<str>>, UnboundedReceiver<Arc<str>>),
}

/// What the loop waits for.
pub(super) struct Inputs {
    pub(super) told: source::Told,
    pub(super) snapshots: UnboundedReceiver<configurations::Told>,
    pub(super) cgroups: Arc<Notify>,
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
            lacks_configurations: false,
            reported: Vec::new(),
            gated: false,
            waiting: Vec::new(),
            retired: None,
            shown,
            addresses: unbounded_channel(),
        }
    }

    /// Until a signal asks for the end, or a successor has taken over.
    pub(super) async fn run(mut self, mut inputs: Inputs) -> anyhow::Result<()> {
        let mut terminated = signal(SignalKind::terminate()).context("can't handle signals")?;
        let mut interrupted = signal(SignalKind::interrupt()).context("can't handle signals")?;
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
                Ok(()) = inputs.told.worlds.changed() => {
                    let world = inputs.told.worlds.borrow_and_update().clone();
                    if let Some(world) = world {
                        self.take_world(world);
                    }
                }
                change = inputs.told.nodes.recv(), if self.source.tells_nodes() => match change {
                    Some(change) => self.take_change(change),
                    None => bail!("nobody follows the API server any more: a thread has ended by a panic"),
                },
                told = inputs.snapshots.recv() => match told {
                    Some(configurations::Told::Compiled(compiled)) => self.take_snapshot(*compiled),
                    Some(configurations::Told::Findings(findings)) => self.diagnostics = findings,
                    None => bail!("nobody compiles any more: a thread has ended by a panic"),
                },
                () = inputs.cgroups.notified() => self.look_at_cgroups(),
                Some(uid) = self.addresses.1.recv() => self.refresh_addresses(&uid),
                Some(request) = inputs.requests.recv() => self.take_request(request),
                _ = again.tick() => {
                    let old = self.pods.iter().filter(|(_, pod)| pod.has_old_addresses);
                    let old: Vec<_> = old.map(|(uid, _)| Arc::clone(uid)).collect();
                    old.iter().for_each(|uid| self.refresh_addresses(uid));
                    self.look_at_cgroups();
                    self.keep_kernel();
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

    /// What has to be done from time to time: says that we live, holds what is undecided, and removes what nobody has any
    /// more.
    fn keep_kernel(&mut self) {
        let kept = self.datapath.beat().map_err(anyhow::Error::from).and_then(|()| self.gate_and_collect());
        let problem = kept.err().map(|error| format!("{error:#}"));
        if let Some(problem) = problem.as_ref().filter(|problem| self.hooks.as_ref() != Some(problem)) {
            tracing::error!("{problem}");
        }
        self.hooks = problem;
        match self.datapath.counters() {
            Ok(counters) => self.shown.counters.store(Arc::new(counters)),
            Err(error) => tracing::warn!("can't read the kernel's counters: {error}"),
        }
    }

    fn gate_and_collect(&mut self) -> anyhow::Result<()> {
        if !self.gated {
            if !self.is_synced() {
                return Ok(());
            }
            let kubepods = &self.cgroups.kubepods().directory;
            let kubepods =
                File::open(kubepods).with_context(|| format!("can't open {}", kubepods.display()))?;
            self.datapath.gate(kubepods).context("can't hold pods that are not decided yet")?;
            self.gated = true;
            tracing::info!("pods that are not decided yet are held");
        }
        for gone in self.datapath.collect_dead()? {
            self.datapath.decide_again(gone)?;
            self.pods
                .values_mut()
                .filter(|pod| pod.attached == Some(gone))
                .for_each(|pod| pod.attached = None);
        }
        // What an earlier agent has left of pods that went while nobody looked.
        let mut there: BTreeSet<CgroupId> = self.datapath.attached_pods()?.into_iter().collect();
        let directories = self.cgroups.look().into_values().map(PodDirectory::open);
        there.extend(directories.filter_map(|opened| Some(opened.ok()?.id)));
        for id in self.datapath.described()?.into_keys().filter(|id| !there.contains(id)) {
            self.datapath.decide_again(id)?;
            self.datapath.forget(id)?;
        }
        if self.pods.values().all(Pod::is_settled) {
            self.is_settled = true;
            let carried: BTreeSet<u64> =
                self.pods.values().filter_map(|pod| Some(pod.carried.as_ref()?.netns.cookie)).collect();
            for cookie in self.datapath.enrolled().difference(&carried) {
                self.datapath.unenroll(*cookie)?;
            }
        }
        Ok(())
    }

    /// Everything that was there at the start is served or held.
    pub(super) fn is_started(&self) -> bool {
        self.gated && self.is_settled
    }

    /// Whether everything that was there at the start is known, and dealt with.
    fn is_synced(&self) -> bool {
        self.has_world
            && self.pods_listed
            && self.namespaces_listed
            && self.pods.values().all(|pod| pod.cgroup.is_none() || pod.is_dealt_with())
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

    /// A pod or a namespace, as the API server tells it.
    fn take_change(&mut self, change: NodeChange) {
        match change {
            NodeChange::Pod(pod) => {
                self.select(&pod);
                self.look_at_cgroups();
            }
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
    fn take_node_of(&mut self, world: &World) {
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
        if let (Selection::Enroll(wanted), Some(directory)) = (&mut selection, &self.settings.credentials_dir)
        {
            wanted.client.credentials_dir = Some(directory.join(&**api.meta.namespace()));
        }
        tell_mistakes(known.as_deref(), &selection, &api.meta.key.to_string());
        match known {
            Some(known) if known.selection == selection => known.api = Some(Arc::clone(api)),
            Some(known) => known.decide(api, selection),
            None => {
                self.pods.insert(Arc::clone(uid), Pod::new(api, selection));
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

    /// Has Events written about annotations that can't be used.
    fn report_mistakes(&mut self) {
        let Some(reporter) = self.source.reporter() else { return };
        let of_pod = |pod: &Pod| {
            let meta = pod.api.as_ref().map(|api| api.meta.clone())?;
            let mistakes = pod.wanted()?.mistakes.iter();
            let finding = |mistake: &Mistake| {
                let message = format!("{mistake}; it changes nothing");
                meta.finding(Level::Error, Position::default(), "metadata.annotations", message)
            };
            Some(mistakes.map(finding).collect::<Vec<_>>())
        };
        let mistakes: Vec<Diagnostic> = self.pods.values().filter_map(of_pod).flatten().collect();
        if self.reported != mistakes {
            reporter.pods(&mistakes);
            self.reported = mistakes;
        }
    }

    fn ask_for_configurations(&mut self) {
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
        match self.configured.get(&compiled.client) {
            Some(configured) => configured.publish(compiled.snapshot),
            None => {
                let configured = Configured::new(compiled.snapshot, &self.resolver);
                self.configured.insert(compiled.client, configured);
                // Somebody waits for it.
                self.pods.values_mut().filter(|pod| pod.wanted().is_some()).for_each(|pod| pod.retry.now());
            }
        }
    }

    fn look_at_cgroups(&mut self) {
        let mut there = self.cgroups.look();
        for (uid, pod) in &mut self.pods {
            // Gone again already is as good as not there.
            let found = there.remove(uid).and_then(|directory| PodDirectory::open(directory).ok());
            // By its id: a directory that was removed and made again is another cgroup, without programs.
            let is_new = found != pod.cgroup;
            if is_new {
                pod.cgroup = found;
                pod.described = None;
                pod.since = pod.cgroup.is_some().then(Instant::now);
            }
            if is_new || pod.wanted().is_some() {
                pod.retry.now();
            }
        }
    }

    fn reconcile(&mut self) {
        let due: Vec<Arc<str>> =
            self.pods.iter().filter(|(_, pod)| pod.retry.is_due()).map(|(uid, _)| Arc::clone(uid)).collect();
        for uid in due {
            let Some(mut pod) = self.pods.remove(&uid) else { continue };
            pod.retry.never();
            if let Err(error) = self.reconcile_pod(&uid, &mut pod) {
                let problem = format!("{error:#}");
                if pod.told.as_ref() != Some(&problem) {
                    tracing::error!("pod {}: {problem}", pod.name());
                }
                pod.told = Some(problem.clone());
                pod.problem = Some(problem);
                pod.retry.later();
            }
            if pod.api.is_some() || pod.cgroup.is_some() {
                self.pods.insert(uid, pod);
            }
        }
        if std::mem::take(&mut self.lacks_configurations) {
            self.ask_for_configurations();
        }
    }

    fn reconcile_pod(&mut self, uid: &Arc<str>, pod: &mut Pod) -> anyhow::Result<()> {
        let Some(cgroup) = pod.cgroup.as_ref().map(|cgroup| cgroup.id) else {
            return self.release(pod);
        };
        match pod.wanted().cloned() {
            None => self.let_go(pod, cgroup)?,
            Some(wanted) => {
                let enrolled = self.enroll(uid, pod, cgroup, &wanted);
                pod.problem = enrolled.as_ref().err().map(|error| format!("{error:#}"));
                self.describe(pod, cgroup)?;
                return enrolled;
            }
        }
        pod.problem = None;
        self.describe(pod, cgroup)
    }

    /// Does what is to be done next for a pod of ours.
    fn enroll(
        &mut self,
        uid: &Arc<str>,
        pod: &mut Pod,
        cgroup: CgroupId,
        wanted: &Wanted,
    ) -> anyhow::Result<()> {
        let Some(directory) = pod.cgroup.as_ref().map(|cgroup| cgroup.directory.clone()) else {
            return Ok(());
        };
        if pod.attached != Some(cgroup) {
            // From here on its connections are refused until it is carried.
            let opened =
                File::open(&directory).with_context(|| format!("can't open {}", directory.display()))?;
            pod.attached = Some(self.datapath.attach_pod(opened, false)?);
            self.datapath.decide_again(cgroup)?;
        }
        if let Some(carried) = &pod.carried
            && let Some(failure) = self.proxy.failure(carried.workload)
        {
            tracing::error!("pod {}: its listeners failed ({failure}): they are made again", pod.name());
            self.stop_carrying(pod)?;
        }
        let known = pod.carried.as_ref().map(|carried| &carried.netns);
        let found = PodNetns::of_cgroup(&self.settings.proc, &directory, &self.host, known)
            .context("can't look at its network namespace")?;
        let Some(netns) = found.or_else(|| pod.announced.clone()) else {
            // Between sandboxes; or nothing of it runs yet.
            pod.has_netns = false;
            if pod.carried.is_none() {
                pod.retry.later();
            }
            return Ok(());
        };
        pod.has_netns = true;
        let client = self.labels.reduce(&wanted.client);
        let Some(configured) = self.configured.get(&client).cloned() else {
            // Asked for when this pod is back among the others.
            self.lacks_configurations = true;
            return Ok(());
        };
        if pod.carried.as_ref().is_some_and(|carried| carried.netns != netns) {
            self.stop_carrying(pod)?;
        }
        match &mut pod.carried {
            Some(carried) => {
                if carried.client != client {
                    self.proxy.reconfigure(carried.workload, &configured);
                    carried.client = client;
                }
                if carried.redirect != wanted.redirect {
                    let addresses = carried.addresses.load_full();
                    self.datapath.enroll(netns.cookie, &wanted.redirect, &addresses, carried.listener)?;
                    carried.redirect = wanted.redirect.clone();
                    tracing::info!("pod {}: the annotations' policy is in effect", pod.name());
                }
            }
            None => {
                let carried = self.carry(uid, pod, wanted, client, configured, netns)?;
                tracing::info!("pod {}: enrolled", pod.name());
                pod.carried = Some(carried);
            }
        }
        Ok(())
    }

    /// Tells whoever looks at the maps, if there is anything new.
    fn describe(&mut self, pod: &mut Pod, cgroup: CgroupId) -> anyhow::Result<()> {
        let record = pod.record();
        if pod.described.as_ref() != Some(&record) {
            self.datapath.describe(cgroup, &record)?;
            pod.described = Some(record);
        }
        Ok(())
    }

    /// Opens the pod's listeners, serves them, and then has the kernel send connections there.
    fn carry(
        &mut self,
        uid: &Arc<str>,
        pod: &Pod,
        wanted: &Wanted,
        client: Client,
        configured: Configured,
        netns: PodNetns,
    ) -> anyhow::Result<Carried> {
        let (changed, changed_uid) = (self.addresses.0.clone(), Arc::clone(uid));
        // Before addresses are read, so that no change is missed.
        let following = follow_addresses(&netns.file, move || drop(changed.send(Arc::clone(&changed_uid))))?;
        let opened = within(&netns.file, || {
            Ok::<_, std::io::Error>((Listeners::open(ADDRESSES_V4, PORTS_V6)?, datapath::own_addresses()?))
        });
        let (listeners, addresses) = opened?.context("can't open listeners in its network namespace")?;
        let addresses = Arc::new(ArcSwap::from_pointee(addresses));
        let (reader, own) = (self.datapath.original_dst_reader(), Arc::clone(&addresses));
        let workload = self.proxy.add(ProxiedWorkload {
            listeners: listeners.v6.into_iter().chain([listeners.v4]).collect(),
            intercepted: Arc::new(move |socket| {
                let original_dst = reader.get(socket)?.map(|original| original.addr);
                Ok(original_dst.map(|original_dst| Intercepted {
                    original_dst,
                    source: first_of_family(&own.load(), original_dst.is_ipv4()),
                }))
            }),
            netns: Some(Arc::clone(&netns.file)),
            configured,
            connections_max: connections_max(),
            learned: None,
            source: Arc::clone(&pod.source),
        })?;
        let own = addresses.load_full();
        let enrolled = self.datapath.enroll(netns.cookie, &wanted.redirect, &own, listeners.listener);
        if let Err(error) = enrolled {
            self.proxy.remove(workload, Duration::ZERO);
            following.abort();
            return Err(error.into());
        }
        let redirect = wanted.redirect.clone();
        Ok(Carried::new(netns, workload, listeners.listener, addresses, redirect, client, following))
    }

    fn refresh_addresses(&mut self, uid: &str) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        let Some(carried) = &pod.carried else { return };
        let refreshed = within(&carried.netns.file, datapath::own_addresses).and_then(|read| read);
        let refreshed = refreshed.map_err(anyhow::Error::from).and_then(|addresses| {
            self.datapath.update_own_addresses(carried.netns.cookie, &addresses)?;
            carried.addresses.store(Arc::new(addresses));
            Ok(())
        });
        if let Err(error) = refreshed {
            tracing::error!("pod {}: can't follow its addresses: {error:#}", pod.name());
            pod.has_old_addresses = true;
        } else {
            pod.has_old_addresses = false;
        }
    }

    /// Its cgroup is gone, and with it every process.
    fn release(&mut self, pod: &mut Pod) -> anyhow::Result<()> {
        self.stop_carrying(pod)?;
        if let Some(id) = pod.attached.take() {
            self.datapath.detach_pod(id)?;
            tracing::info!("pod {}: gone", pod.name());
        }
        pod.described = None;
        pod.problem = None;
        Ok(())
    }

    /// Not ours, or not any more: its connections go as if we were not there.
    fn let_go(&mut self, pod: &mut Pod, cgroup: CgroupId) -> anyhow::Result<()> {
        if pod.described.is_none() || pod.attached.is_some() {
            self.datapath.leave_alone(cgroup)?;
            // An earlier agent may have thought otherwise.
            self.datapath.detach_pod(cgroup)?;
            pod.attached = None;
        }
        self.stop_carrying(pod)
    }

    fn stop_carrying(&mut self, pod: &mut Pod) -> anyhow::Result<()> {
        if let Some(carried) = pod.carried.take() {
            let is_carried = |other: &Pod| {
                other.carried.as_ref().is_some_and(|other| other.netns.cookie == carried.netns.cookie)
            };
            if !self.pods.values().any(is_carried) {
                self.datapath.unenroll(carried.netns.cookie)?;
            }
            self.proxy.remove(carried.workload, self.settings.drain);
        }
        Ok(())
    }
}

fn first_of_family(addresses: &[IpAddr], is_v4: bool) -> Option<IpAddr> {
    addresses.iter().copied().find(|address| address.is_ipv4() == is_v4)
}

/// An annotation that can't be used is told once, when it comes.
fn tell_mistakes(known: Option<&Pod>, selection: &Selection, name: &str) {
    let Selection::Enroll(wanted) = selection else { return };
    let told = known.and_then(Pod::wanted).map(|wanted| &*wanted.mistakes).unwrap_or_default();
    for mistake in wanted.mistakes.iter().filter(|mistake| !told.contains(mistake)) {
        tracing::error!("{name}: {mistake}; it changes nothing");
    }
}
