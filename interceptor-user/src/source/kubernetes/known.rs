//! All that the watches have told, and the World that it makes. Pure: updates come in, what they change goes out.
//!
//! A list takes the place of what was known when it ends, not before. A resource that is written wrongly keeps its last
//! good form. What changes in an object and means nothing here (its status, who wrote which field) changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Audience;
use super::credentials::Credential;
use super::follow::Update;
use super::held::Held;
use super::mesh::MeshSettings;
use super::named_secrets;
use super::object::Object;
use super::watches::Watch;
use crate::resource::{Diagnostic, Level, Namespace, Pod, Resource, ResourceKey, World};

/// What enrolment needs to know at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeChange {
    /// A pod of the node came, or changed; for a gateway, of the cluster.
    Pod(Arc<Pod>),
    /// It is gone, as it was last.
    PodGone(Arc<Pod>),
    /// All pods that were there at the start have been told.
    PodsListed,
    /// A namespace came, or changed.
    Namespace(Arc<Namespace>),
    NamespaceGone(Arc<str>),
    /// All namespaces that were there at the start have been told.
    NamespacesListed,
}

/// What an update changes.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    /// The World, or the findings.
    pub(super) world: bool,
    pub(super) node: Vec<NodeChange>,
    /// Secrets that came, changed (with what they hold) or went.
    pub(super) credentials: Vec<Credential>,
}

/// One object that is known.
#[derive(Debug)]
pub(super) struct About<'a> {
    pub(super) watch: &'a Watch,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) uid: &'a str,
}

/// Namespace and name.
type Name = (Arc<str>, Arc<str>);
type Objects = BTreeMap<Name, Arc<Held>>;

/// What one watch has told.
#[derive(Debug, Default)]
struct Watched {
    objects: Objects,
    /// A list that has not ended.
    listing: Option<Objects>,
    is_listed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Known {
    watched: BTreeMap<Watch, Watched>,
    world: Arc<World>,
    mesh: MeshSettings,
}

impl Known {
    /// `mesh_key`: under which the ConfigMap has the MeshConfig.
    pub(super) fn new(mesh_key: Arc<str>) -> Self {
        Self { mesh: MeshSettings::new(mesh_key), ..Self::default() }
    }

    pub(super) fn add(&mut self, watch: Watch) {
        self.watched.entry(watch).or_default();
    }

    /// Forgets a watch, and what only it has told.
    pub(super) fn remove(&mut self, watch: &Watch) -> Changes {
        let mut changes = self.clear(watch);
        self.watched.remove(watch);
        if let Watch::Secret { namespace, name } = watch {
            changes.credentials.push(Credential::gone(namespace, name));
        }
        changes
    }

    /// What a watch has told does not exist any more.
    pub(super) fn clear(&mut self, watch: &Watch) -> Changes {
        let mut changes = self.apply(watch, Update::ListBegins);
        let after = self.apply(watch, Update::ListEnds);
        changes.world |= after.world;
        changes.node.extend(after.node);
        changes.credentials.extend(after.credentials);
        changes
    }

    pub(super) fn is_listed(&self, watch: &Watch) -> bool {
        self.watched.get(watch).is_some_and(|watched| watched.is_listed)
    }

    pub(super) fn objects(&self, watch: &Watch) -> usize {
        self.watched.get(watch).map_or(0, |watched| watched.objects.len())
    }

    pub(super) fn world(&self) -> Arc<World> {
        Arc::clone(&self.world)
    }

    /// Why the mesh's settings are not known, though they are there.
    pub(super) fn unusable(&self) -> Option<&str> {
        self.mesh.unusable()
    }

    /// Every finding about what is there, by kind and name.
    pub(super) fn diagnostics(&self) -> Vec<Diagnostic> {
        let mut diagnostics = self.mesh.findings().to_vec();
        let of_world = self.watched.iter().filter(|(watch, _)| is_of_world(watch));
        for held in of_world.flat_map(|(_, watched)| watched.objects.values()) {
            diagnostics.extend(held.findings.iter().cloned());
            if held.good.is_none()
                && let Some(resource) = held.instead.as_ref().filter(|resource| !resource.is_guard())
            {
                let meta = resource.meta();
                let message = "keeps acting in its last good form until the mistake is mended".to_owned();
                let finding = meta.finding(Level::Warning, meta.origin.position, "", message);
                diagnostics.push(finding);
            }
        }
        diagnostics
    }

    /// The object that a finding is about.
    pub(super) fn about(&self, finding: &Diagnostic) -> Option<About<'_>> {
        let (kind, name) = finding.resource.split_once(' ').unwrap_or((&finding.resource, ""));
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        let (namespace, name): Name = (namespace.into(), name.into());
        let found = self.watched.iter().filter_map(|(watch, watched)| {
            let ((namespace, name), held) = match watch.kind() {
                Some(of) if of.name() == kind => {
                    watched.objects.get_key_value(&(Arc::clone(&namespace), Arc::clone(&name)))
                }
                // The only ConfigMap.
                None if kind == "MeshConfig" => watched.objects.first_key_value(),
                Some(_) | None => None,
            }?;
            Some(About { watch, namespace, name, uid: &held.uid })
        });
        { found }.next()
    }

    /// The watches that what is known asks for; Secrets that somebody needs, if any are kept.
    pub(super) fn wanted(&self, secrets_of: Option<&Audience>) -> BTreeSet<Watch> {
        let selecting = self.world.service_entries().filter(|entry| entry.workload_selector.is_some());
        let pods = selecting.map(|entry| Watch::PodsOfNamespace(Arc::clone(entry.meta.namespace())));
        let mut wanted: BTreeSet<Watch> = pods.collect();
        if let Some(audience) = secrets_of {
            wanted.extend(named_secrets::of(&self.world, audience));
        }
        wanted
    }

    pub(super) fn apply(&mut self, watch: &Watch, update: Update) -> Changes {
        let mut changes = Changes::default();
        let Some(watched) = self.watched.get_mut(watch) else { return changes };
        match update {
            Update::ListBegins => watched.listing = Some(Objects::new()),
            Update::Listed(object) => {
                let (name, held) = self.read(watch, &object, &mut changes);
                self.set(watch, &name, Some(&held), &mut changes);
                let listing = self.watched.get_mut(watch).and_then(|watched| watched.listing.as_mut());
                if let Some(listing) = listing {
                    listing.insert(name, held);
                }
            }
            Update::ListEnds => self.list_ends(watch, &mut changes),
            Update::Applied(object) => {
                let (name, held) = self.read(watch, &object, &mut changes);
                self.set(watch, &name, Some(&held), &mut changes);
            }
            Update::Deleted(object) => {
                let name = (object.namespace().into(), object.name().into());
                self.set(watch, &name, None, &mut changes);
            }
            Update::Opened | Update::Failed(_) => {}
        }
        changes
    }

    fn list_ends(&mut self, watch: &Watch, changes: &mut Changes) {
        let Some(watched) = self.watched.get_mut(watch) else { return };
        let listed = watched.listing.take().unwrap_or_default();
        let gone: Vec<Name> =
            watched.objects.keys().filter(|name| !listed.contains_key(*name)).cloned().collect();
        let is_first = !std::mem::replace(&mut watched.is_listed, true);
        for name in gone {
            self.set(watch, &name, None, changes);
        }
        if !is_first {
            return;
        }
        match watch {
            Watch::PodsOfNode(_) | Watch::PodsOfCluster => changes.node.push(NodeChange::PodsListed),
            Watch::Namespaces => changes.node.push(NodeChange::NamespacesListed),
            Watch::MeshConfig { .. } if listed.is_empty() => self.mesh.is_absent(),
            Watch::MeshConfig { .. }
            | Watch::Services
            | Watch::HeadlessSlices
            | Watch::HandMadeSlices
            | Watch::SlicesOfNamespace(_)
            | Watch::Istio(_)
            | Watch::PodsOfNamespace(_)
            | Watch::Secret { .. } => {}
        }
    }
}

impl Known {
    /// An object as it is held. One that means what it meant before is the same.
    fn read(&mut self, watch: &Watch, object: &Object, changes: &mut Changes) -> (Name, Arc<Held>) {
        let before = self.watched.get(watch).and_then(|watched| {
            let name: Name = (object.namespace().into(), object.name().into());
            watched.objects.get_key_value(&name)
        });
        let (name, before) = match before {
            Some((name, held)) => (name.clone(), Some(Arc::clone(held))),
            None => ((object.namespace().into(), object.name().into()), None),
        };
        let held = match watch {
            Watch::MeshConfig { .. } => {
                changes.world |= self.mesh.read(object);
                Arc::new(Held::outside(object))
            }
            Watch::Secret { .. } => {
                changes.credentials.push(Credential::of(object));
                Arc::new(Held::outside(object))
            }
            Watch::PodsOfNode(_)
            | Watch::PodsOfCluster
            | Watch::Namespaces
            | Watch::Services
            | Watch::HeadlessSlices
            | Watch::HandMadeSlices
            | Watch::SlicesOfNamespace(_)
            | Watch::Istio(_)
            | Watch::PodsOfNamespace(_) => Held::read(object, before.as_ref()),
        };
        // The texts of its own key are there already.
        let key = held.acting().map(|resource| resource.meta().key.clone());
        let name = key.map_or(name, |key| (key.namespace, key.name));
        (name, held)
    }

    /// What an object is from now on; `None` when it is gone.
    fn set(&mut self, watch: &Watch, name: &Name, held: Option<&Arc<Held>>, changes: &mut Changes) {
        let Some(watched) = self.watched.get_mut(watch) else { return };
        let before = match held {
            Some(held) => watched.objects.insert(name.clone(), Arc::clone(held)),
            None => watched.objects.remove(name),
        };
        match (watch, &before, held) {
            (Watch::MeshConfig { .. }, before, held) => {
                if let (Some(before), None) = (before, held) {
                    self.mesh.is_gone(&before.origin);
                    changes.world = true;
                }
                let mesh = self.mesh.acting();
                if self.world.mesh != *mesh {
                    Arc::make_mut(&mut self.world).mesh.clone_from(mesh);
                }
            }
            (Watch::Secret { namespace, name }, Some(_), None) => {
                changes.credentials.push(Credential::gone(namespace, name));
            }
            (Watch::Secret { .. }, _, _) | (_, None, None) => {}
            (_, Some(before), Some(held)) if Arc::ptr_eq(before, held) => {}
            (Watch::PodsOfNode(_) | Watch::PodsOfCluster, before, held) => {
                pod_changes(before.as_deref(), held, &mut changes.node);
            }
            (_, before, held) => {
                if let Watch::Namespaces = watch {
                    changes.node.extend(namespace_change(before.as_deref(), held.map(|held| &**held)));
                }
                changes.world = true;
                self.set_in_world(watch, name, held.and_then(|held| held.acting()).cloned());
            }
        }
    }

    fn set_in_world(&mut self, watch: &Watch, name: &Name, resource: Option<Resource>) {
        let Some(kind) = watch.kind() else { return };
        let key = ResourceKey { kind, namespace: Arc::clone(&name.0), name: Arc::clone(&name.1) };
        // Two watches may see one object, and stop seeing it one after the other.
        let elsewhere = || {
            let others = self
                .watched
                .iter()
                .filter(|(other, _)| *other != watch && other.kind() == Some(kind) && is_of_world(other));
            others.filter_map(|(_, watched)| watched.objects.get(name)?.acting().cloned()).next()
        };
        let resource = resource.or_else(elsewhere);
        let world = Arc::make_mut(&mut self.world);
        match resource {
            Some(resource) => world.resources.insert(resource),
            None => world.resources.remove(&key),
        };
    }
}

fn pod(held: &Held) -> Option<&Arc<Pod>> {
    if let Some(Resource::Pod(pod)) = &held.good { Some(pod) } else { None }
}

fn pod_changes(before: Option<&Held>, now: Option<&Arc<Held>>, changes: &mut Vec<NodeChange>) {
    // One of the same name is another pod.
    let gone = before.filter(|before| now.is_none_or(|now| now.uid != before.uid)).and_then(pod);
    changes.extend(gone.map(|pod| NodeChange::PodGone(Arc::clone(pod))));
    changes.extend(now.and_then(|now| pod(now)).map(|pod| NodeChange::Pod(Arc::clone(pod))));
}

fn namespace_change(before: Option<&Held>, now: Option<&Held>) -> Option<NodeChange> {
    let Resource::Namespace(namespace) = now.or(before)?.acting()? else { return None };
    Some(match now {
        Some(_) => NodeChange::Namespace(Arc::clone(namespace)),
        None => NodeChange::NamespaceGone(Arc::clone(namespace.meta.name())),
    })
}

fn is_of_world(watch: &Watch) -> bool {
    match watch {
        Watch::Namespaces
        | Watch::Services
        | Watch::HeadlessSlices
        | Watch::HandMadeSlices
        | Watch::SlicesOfNamespace(_)
        | Watch::Istio(_)
        | Watch::PodsOfNamespace(_) => true,
        // The others' pods would be missing: who asks who selects whom must not be misled.
        Watch::PodsOfNode(_) | Watch::PodsOfCluster | Watch::MeshConfig { .. } | Watch::Secret { .. } => {
            false
        }
    }
}
