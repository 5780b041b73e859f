//! Pods' cgroups as they come and go: inotify tells which, listing all of them finds what it could not tell.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::Flag;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use crate::enroll::{Kubepods, PodCgroup};

/// More paths than this at a time are not remembered: then all is listed again.
const CHANGES_MAX: usize = 1024;

pub(super) struct CgroupWatch {
    kubepods: Kubepods,
    watcher: Option<RecommendedWatcher>,
    watched: HashSet<PathBuf>,
    changes: Arc<Mutex<Changes>>,
    /// The pods' directories, by uid.
    there: BTreeMap<Arc<str>, PathBuf>,
}

/// What was told since it was last asked for.
#[derive(Debug, Default)]
struct Changes {
    paths: BTreeSet<PathBuf>,
    /// Some were not told.
    lost: bool,
}

impl Changes {
    fn take_up(&mut self, event: notify::Result<Event>) {
        match event {
            Ok(event) if event.flag() == Some(Flag::Rescan) => self.lost = true,
            Ok(event) => self.paths.extend(event.paths),
            Err(_) => self.lost = true,
        }
        if self.lost || self.paths.len() > CHANGES_MAX {
            *self = Self { paths: BTreeSet::new(), lost: true };
        }
    }
}

impl CgroupWatch {
    /// `changed` is told of every directory that is made or removed.
    pub(super) fn start(kubepods: Kubepods, changed: Arc<Notify>) -> Self {
        let changes = Arc::new(Mutex::new(Changes::default()));
        let telling = Arc::clone(&changes);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let is_change = event.as_ref().map_or(true, |event| {
                matches!(event.kind, EventKind::Create(_) | EventKind::Remove(_) | EventKind::Other)
            });
            if is_change {
                telling.lock().unwrap_or_else(PoisonError::into_inner).take_up(event);
                changed.notify_one();
            }
        });
        let watcher = watcher
            .map_err(|error| tracing::warn!("no events of cgroups, looking at them once a second: {error}"))
            .ok();
        Self { kubepods, watcher, watched: HashSet::new(), changes, there: BTreeMap::new() }
    }

    pub(super) fn kubepods(&self) -> &Kubepods {
        &self.kubepods
    }

    /// The pods' directories as they were found last, by uid.
    pub(super) fn there(&self) -> &BTreeMap<Arc<str>, PathBuf> {
        &self.there
    }

    /// Lists all of them. What is made later is told.
    pub(super) fn look(&mut self) {
        // Before pods are listed, so that none is missed.
        let parents = self.kubepods.parents().unwrap_or_default();
        self.watched.retain(|directory| directory.exists());
        parents.into_iter().for_each(|parent| self.watch(parent));
        let pods = self.kubepods.pods().unwrap_or_else(|error| {
            tracing::error!("can't list {}: {error}", self.kubepods.directory.display());
            Vec::new()
        });
        self.there = pods.into_iter().map(|pod| (pod.uid, pod.directory)).collect();
        // A container that comes may be a new sandbox, with another network namespace.
        for directory in self.there.values().cloned().collect::<Vec<_>>() {
            self.watch(directory);
        }
    }

    /// Takes up what was told, and returns the uids of the pods that it is about; `None`: all.
    pub(super) fn take_changes(&mut self) -> Option<BTreeSet<Arc<str>>> {
        let changes = std::mem::take(&mut *self.changes.lock().unwrap_or_else(PoisonError::into_inner));
        let pods = changes.paths.iter().map(|path| self.kubepods.pod_of(path));
        let (false, Some(pods)) = (changes.lost, pods.collect::<Option<Vec<_>>>()) else {
            // A class of service came or went, and pods with it.
            self.look();
            return None;
        };
        Some(pods.into_iter().map(|pod| self.look_at(pod)).collect())
    }

    fn look_at(&mut self, pod: PodCgroup) -> Arc<str> {
        let PodCgroup { uid, directory } = pod;
        if directory.exists() {
            self.watch(directory.clone());
            self.there.insert(Arc::clone(&uid), directory);
        } else {
            self.watched.remove(&directory);
            self.there.remove(&uid);
        }
        uid
    }

    fn watch(&mut self, directory: PathBuf) {
        let Some(watcher) = &mut self.watcher else { return };
        if !self.watched.contains(&directory)
            && watcher.watch(Path::new(&directory), RecursiveMode::NonRecursive).is_ok()
        {
            self.watched.insert(directory);
        }
    }
}
