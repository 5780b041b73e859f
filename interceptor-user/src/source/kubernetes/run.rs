//! The loop around everything: starts and ends watches, takes up what they tell, and hands a World over when it is time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::core::ApiResource;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::Audience;
use super::credentials::CredentialFiles;
use super::discovery::{self, Found};
use super::events::{self, Report};
use super::failure::FailureClass;
use super::follow::{self, Update, Updates};
use super::known::{About, Changes, Known, NodeChange};
use super::reporter::Findings;
use super::running::Running;
use super::status::{Status, Trouble, WatchState, WatchStatus};
use super::watches::Watch;
use super::{Clients, KubernetesSettings};
use crate::resource::{Diagnostic, Kind, World};

/// Changes that follow each other within this are one World.
const GATHER: Duration = Duration::from_millis(40);
/// Updates that wait to be taken up; a watch that has more waits itself.
const UPDATES_MAX: usize = 64;
/// Secrets and Pods that the first World asks for are not waited for longer.
const WANTED_PATIENCE: Duration = Duration::from_secs(5);
/// More Events than this at a time help nobody.
const REPORTS_MAX: usize = 500;
/// A kind must be missing for this long before what is known of it goes: a server that starts may not know it yet.
const MISSING_PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Run<W, N> {
    settings: KubernetesSettings,
    clients: Clients,
    credentials: Option<CredentialFiles>,
    status: Arc<ArcSwap<Status>>,
    /// `None` while it is at work.
    on_world: Option<W>,
    on_node: N,
    known: Known,
    running: BTreeMap<Watch, Running>,
    tasks: JoinSet<()>,
    updates: (Updates, mpsc::Receiver<(Watch, Update)>),
    server_is_back: watch::Sender<u64>,
    found: watch::Receiver<Found>,
    look_now: Arc<Notify>,
    /// Since when something has waited to be handed over.
    changed: Option<Instant>,
    is_synced: bool,
    /// Since when only Pods and Secrets that others ask for are missing.
    nearly_synced: Option<Instant>,
}

impl<W, N> Run<W, N>
where
    W: FnMut(&Arc<World>, Vec<Diagnostic>) + Send + 'static,
    N: FnMut(NodeChange) + Send + 'static,
{
    pub(super) fn new(
        settings: KubernetesSettings,
        clients: Clients,
        credentials: Option<CredentialFiles>,
        status: Arc<ArcSwap<Status>>,
        on_world: W,
        on_node: N,
    ) -> Self {
        Self {
            known: Known::new(Arc::clone(&settings.mesh_config_map.key)),
            settings,
            clients,
            credentials,
            status,
            on_world: Some(on_world),
            on_node,
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
            updates: mpsc::channel(UPDATES_MAX),
            server_is_back: watch::Sender::new(0),
            found: watch::channel(Found::default()).1,
            look_now: Arc::default(),
            changed: None,
            is_synced: false,
            nearly_synced: None,
        }
    }

    pub(super) async fn run(mut self, mut findings: Findings, mut stopped: oneshot::Receiver<()>) {
        self.start_discovery();
        let reports = self.start_events();
        for watch in self.always() {
            self.start(watch, "v1");
        }
        self.tell_status();
        let mut at_work: Option<JoinHandle<W>> = None;
        loop {
            let due = self.due();
            tokio::select! {
                _ = &mut stopped => return,
                Some((watch, update)) = self.updates.1.recv() => self.update(&watch, update),
                Ok(()) = self.found.changed() => self.look_at_found(),
                Some(ended) = self.tasks.join_next() => end_with_panic(ended.err()),
                Ok(()) = findings.changed() => {
                    reports.send_replace(self.reports(&findings.latest()));
                }
                ended = async { at_work.as_mut().expect("only then").await }, if at_work.is_some() => {
                    at_work = None;
                    match ended {
                        Ok(on_world) => self.on_world = Some(on_world),
                        Err(error) => end_with_panic(Some(error)),
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    at_work = self.hand_over().or(at_work);
                }
            }
        }
    }

    /// When something is to be handed over, or looked at whether it can be.
    fn due(&self) -> Option<Instant> {
        self.on_world.as_ref()?;
        match self.is_synced {
            true => self.changed.map(|changed| changed + GATHER),
            false => Some(self.changed.unwrap_or_else(Instant::now) + GATHER),
        }
    }

    /// Followed from the start, whatever there is.
    fn always(&self) -> Vec<Watch> {
        let mesh = &self.settings.mesh_config_map;
        let mesh = Watch::MeshConfig { namespace: Arc::clone(&mesh.namespace), name: Arc::clone(&mesh.name) };
        match &self.settings.audience {
            Audience::Node(node) => vec![
                Watch::PodsOfNode(Arc::clone(node)),
                Watch::Namespaces,
                mesh,
                Watch::Services,
                Watch::HeadlessSlices,
                Watch::HandMadeSlices,
            ],
            Audience::Gateway { namespace, follows_pods, .. } => {
                let own = [mesh, Watch::Services, Watch::SlicesOfNamespace(Arc::clone(namespace))];
                own.into_iter().chain(follows_pods.then_some(Watch::PodsOfCluster)).collect()
            }
        }
    }

    fn start_discovery(&mut self) {
        let (found, receiver) = watch::channel(Found::default());
        self.found = receiver;
        let (client, look_now) = (self.clients.discovery.clone(), Arc::clone(&self.look_now));
        let server_is_back = self.server_is_back.clone();
        self.tasks.spawn(async move {
            discovery::discover(client, &look_now, &found, &server_is_back).await;
        });
    }

    fn start_events(&mut self) -> watch::Sender<Vec<Report>> {
        let (reports, receiver) = watch::channel(Vec::new());
        if let Audience::Node(node) = &self.settings.audience {
            let (client, node) = (self.clients.common.clone(), Arc::clone(node));
            self.tasks.spawn(async move { events::write(client, node, receiver).await });
        }
        reports
    }

    fn start(&mut self, watch: Watch, version: &'static str) {
        let request = (watch.clone(), watch.request(version));
        let server_is_back = self.server_is_back.subscribe();
        let updates = self.updates.0.clone();
        let following = follow::follow(self.clients.common.clone(), server_is_back, request, updates);
        let task = self.tasks.spawn(following);
        self.known.add(watch.clone());
        self.running.insert(watch, Running::new(task, version));
    }

    fn stop(&mut self, watch: &Watch) {
        if let Some(task) = self.running.remove(watch).and_then(|running| running.task) {
            task.abort();
        }
        let changes = self.known.remove(watch);
        self.take_up(changes);
    }

    fn update(&mut self, watch: &Watch, update: Update) {
        // What comes after it was stopped is of no interest.
        let Some(running) = self.running.get_mut(watch) else { return };
        let tells_status = match &update {
            Update::Failed(failure) => {
                running.fail(watch, failure);
                if matches!(failure.class, FailureClass::NotServed | FailureClass::NoAnswer) {
                    self.look_now.notify_one();
                }
                true
            }
            Update::Opened | Update::ListEnds => {
                running.succeed(watch, matches!(update, Update::ListEnds) || self.known.is_listed(watch));
                true
            }
            Update::ListBegins | Update::Listed(_) | Update::Applied(_) | Update::Deleted(_) => false,
        };
        let changes = self.known.apply(watch, update);
        self.take_up(changes);
        if tells_status {
            self.tell_status();
        }
    }

    fn take_up(&mut self, changes: Changes) {
        changes.node.into_iter().for_each(&mut self.on_node);
        for credential in &changes.credentials {
            let Some(files) = &mut self.credentials else { continue };
            if let Err(error) = files.put(credential) {
                tracing::error!(?credential, %error, "can't write a credential: what used it before goes on");
            }
        }
        if changes.world {
            self.changed.get_or_insert_with(Instant::now);
        }
    }

    /// Follows the kinds that there are.
    fn look_at_found(&mut self) {
        let found = self.found.borrow_and_update().clone();
        for kind in Kind::ISTIO {
            let Some(served) = &found.served else { break };
            let watch = Watch::Istio(kind);
            let is_run = self.running.get(&watch).is_some_and(|running| running.task.is_some());
            match served.get(&kind) {
                Some(version) if !is_run => self.start(watch, version),
                None if !is_run => self.miss(watch),
                // It goes on as it is until its watch says that it is not served.
                Some(_) | None => {}
            }
        }
        // Others that were not served, which can't be for long.
        let unserved = |(watch, running): (&Watch, &Running)| {
            (running.task.is_none() && !matches!(watch, Watch::Istio(_))).then(|| watch.clone())
        };
        let again: Vec<Watch> = self.running.iter().filter_map(unserved).collect();
        again.into_iter().for_each(|watch| self.start(watch, "v1"));
        self.tell_status();
    }

    fn miss(&mut self, watch: Watch) {
        let now = Instant::now();
        let running = self.running.entry(watch.clone()).or_insert_with(Running::missing);
        let missing_since = *running.missing_since.get_or_insert(now);
        running.state = WatchState::Missing;
        if now - missing_since >= MISSING_PATIENCE {
            let changes = self.known.clear(&watch);
            self.take_up(changes);
        }
    }

    /// Hands everything over, when it is time.
    fn hand_over(&mut self) -> Option<JoinHandle<W>> {
        self.follow_wanted();
        if !self.is_synced {
            self.is_synced = self.can_begin();
            self.tell_status();
            if !self.is_synced {
                // Looked at again soon.
                self.changed = None;
                return None;
            }
            tracing::info!(
                resources = self.known.world().resources.len(),
                "the API server's resources are known"
            );
        }
        let mut on_world = self.on_world.take()?;
        self.changed = None;
        self.collect_credentials();
        self.tell_status();
        let (world, diagnostics) = (self.known.world(), self.known.diagnostics());
        Some(tokio::task::spawn_blocking(move || {
            on_world(&world, diagnostics);
            on_world
        }))
    }

    /// Removes what an earlier agent wrote and nobody names any more.
    fn collect_credentials(&mut self) {
        let (running, known) = (&self.running, &self.known);
        let is_unknown = |namespace: &str, name: &str| {
            let watch = Watch::Secret { namespace: namespace.into(), name: name.into() };
            running.contains_key(&watch) && !known.is_listed(&watch)
        };
        let collected = self.credentials.as_mut().map(|files| files.collect(is_unknown));
        if let Some(Err(error)) = collected {
            tracing::warn!(%error, "can't remove credentials that an earlier agent wrote");
        }
    }

    /// Follows what others ask for, and that alone.
    fn follow_wanted(&mut self) {
        let secrets_of = self.credentials.is_some().then_some(&self.settings.audience);
        let wanted = self.known.wanted(secrets_of);
        let is_asked_for = |watch: &&Watch| matches!(watch, Watch::PodsOfNamespace(_) | Watch::Secret { .. });
        let have: BTreeSet<Watch> = self.running.keys().filter(is_asked_for).cloned().collect();
        for watch in have.difference(&wanted) {
            self.stop(watch);
        }
        for watch in wanted.difference(&have) {
            self.start(watch.clone(), "v1");
        }
    }

    /// Whether all is known that can be known.
    fn can_begin(&mut self) -> bool {
        let now = Instant::now();
        let found = self.found.borrow();
        let is_found = found.served.is_some()
            || found.failure.as_ref().is_some_and(|failure| failure.class == FailureClass::Forbidden);
        drop(found);
        let is_settled =
            |(watch, running): (&Watch, &Running)| self.known.is_listed(watch) || running.is_given_up(now);
        let is_asked_for = |watch: &Watch| matches!(watch, Watch::PodsOfNamespace(_) | Watch::Secret { .. });
        let (asked_for, own): (Vec<_>, Vec<_>) =
            self.running.iter().partition(|(watch, _)| is_asked_for(watch));
        if !is_found || !own.into_iter().all(is_settled) || self.known.unusable().is_some() {
            return false;
        }
        let since = *self.nearly_synced.get_or_insert(now);
        asked_for.into_iter().all(is_settled) || now - since >= WANTED_PATIENCE
    }

    /// What Events are to say.
    fn reports(&self, findings: &[Diagnostic]) -> Vec<Report> {
        let reports = findings.iter().filter_map(|finding| {
            let About { watch, namespace, name, uid } = self.known.about(finding)?;
            let version = self.running.get(watch).map_or("v1", |running| running.version);
            let ApiResource { api_version, kind, .. } = watch.request(version).resource;
            let object = ObjectReference {
                api_version: Some(api_version),
                kind: Some(kind),
                namespace: Some(namespace.to_owned()).filter(|namespace| !namespace.is_empty()),
                name: Some(name.to_owned()),
                uid: Some(uid.to_owned()),
                ..ObjectReference::default()
            };
            Some(Report::new(finding, object))
        });
        reports.take(REPORTS_MAX).collect()
    }

    fn tell_status(&self) {
        let before = self.status.load();
        let trouble = |why: &str, before: Option<&Trouble>| Trouble::new(why, before);
        let found = self.found.borrow();
        let status = Status {
            is_synced: self.is_synced,
            unusable: self.known.unusable().map(|why| trouble(why, before.unusable.as_ref())),
            api_server: found.failure.as_ref().map(|f| trouble(&f.why, before.api_server.as_ref())),
            watches: self
                .running
                .iter()
                .map(|(watch, running)| WatchStatus {
                    what: watch.to_string().into(),
                    version: if matches!(watch, Watch::Istio(_)) { running.version } else { "" },
                    state: running.state.clone(),
                    objects: self.known.objects(watch),
                })
                .collect(),
        };
        if status != **before {
            if let (Some(trouble), None) = (&status.api_server, &before.api_server) {
                tracing::warn!(
                    why = &*trouble.why,
                    "asking the API server fails: what is known goes on holding"
                );
            } else if before.api_server.is_some() && status.api_server.is_none() {
                tracing::info!("the API server answers");
            }
            self.status.store(Arc::new(status));
        }
    }
}

/// A task that ends by a panic ends everything.
fn end_with_panic(error: Option<tokio::task::JoinError>) {
    if let Some(panic) = error.and_then(|error| error.try_into_panic().ok()) {
        std::panic::resume_unwind(panic);
    }
}
