//! Pods' cgroups as they come and go: inotify wakes, looking again finds what it could not see.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use crate::enroll::Kubepods;

pub(super) struct CgroupWatch {
    kubepods: Kubepods,
    watcher: Option<RecommendedWatcher>,
    watched: HashSet<PathBuf>,
}

impl CgroupWatch {
    /// `changed` is told of every directory that is made or removed.
    pub(super) fn start(kubepods: Kubepods, changed: Arc<Notify>) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let is_change = event.map_or(true, |event| {
                matches!(event.kind, EventKind::Create(_) | EventKind::Remove(_) | EventKind::Other)
            });
            if is_change {
                changed.notify_one();
            }
        });
        let watcher = watcher
            .map_err(|error| tracing::warn!("no events of cgroups, looking at them once a second: {error}"))
            .ok();
        Self { kubepods, watcher, watched: HashSet::new() }
    }

    pub(super) fn kubepods(&self) -> &Kubepods {
        &self.kubepods
    }

    /// The pods' directories of this moment, by uid. What is made later wakes.
    pub(super) fn look(&mut self) -> BTreeMap<Arc<str>, PathBuf> {
        self.watch_parents();
        let pods = self.kubepods.pods().unwrap_or_else(|error| {
            tracing::error!("can't list {}: {error}", self.kubepods.directory.display());
            Vec::new()
        });
        let pods: BTreeMap<_, _> = pods.into_iter().map(|pod| (pod.uid, pod.directory)).collect();
        // A container that comes may be a new sandbox, with another network namespace.
        self.watch(pods.values().cloned().collect());
        pods
    }

    /// Before pods are listed, so that none is missed.
    fn watch_parents(&mut self) {
        self.watch(self.kubepods.parents().unwrap_or_default());
    }

    fn watch(&mut self, directories: Vec<PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        self.watched.retain(|directory| directory.exists());
        for directory in directories {
            if !self.watched.contains(&directory)
                && watcher.watch(&directory, RecursiveMode::NonRecursive).is_ok()
            {
                self.watched.insert(directory);
            }
        }
    }
}
