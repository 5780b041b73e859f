//! Pods' cgroups as they come and go: inotify tells which, listing all of them finds what it could not tell.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::directories::DirectoryWatch;
use crate::enroll::{Kubepods, PodCgroup};

pub(super) struct CgroupWatch {
    kubepods: Kubepods,
    watch: Option<DirectoryWatch>,
    /// The pods' directories, by uid.
    there: BTreeMap<Arc<str>, PathBuf>,
}

impl CgroupWatch {
    /// Needs a runtime.
    pub(super) fn start(kubepods: Kubepods) -> Self {
        let watch = DirectoryWatch::start()
            .map_err(|error| tracing::warn!("no events of cgroups, looking at them once a second: {error}"))
            .ok();
        Self { kubepods, watch, there: BTreeMap::new() }
    }

    /// Until a directory is made or removed.
    pub(super) async fn changed(&self) {
        match &self.watch {
            Some(watch) => watch.changed().await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn kubepods(&self) -> &Kubepods {
        &self.kubepods
    }

    /// The pods' directories as they were found last, by uid.
    pub(super) fn there(&self) -> &BTreeMap<Arc<str>, PathBuf> {
        &self.there
    }

    /// Lists all of them. What is made later is told. While they can't be listed, those that were there still are: nobody's
    /// programs are taken away because we have no descriptor to look with.
    pub(super) fn look(&mut self) {
        // Before pods are listed, so that none is missed.
        let parents = self.kubepods.parents().unwrap_or_default();
        parents.iter().for_each(|parent| self.watch(parent));
        let pods = match self.kubepods.pods() {
            Ok(pods) => pods,
            Err(error) => {
                let directory = self.kubepods.directory.display();
                tracing::error!("can't list {directory}: {error}; pods stay as they were");
                return;
            }
        };
        // A container that comes may be a new sandbox, with another network namespace.
        pods.iter().for_each(|pod| self.watch(&pod.directory));
        self.there = pods.into_iter().map(|pod| (pod.uid, pod.directory)).collect();
    }

    /// Takes up what was told, and returns the uids of the pods that it is about; `None`: all.
    pub(super) fn take_changes(&mut self) -> Option<BTreeSet<Arc<str>>> {
        let changes = self.watch.as_mut().map(DirectoryWatch::take).unwrap_or_default();
        let pods = changes.paths.iter().map(|path| self.kubepods.pod_of(path));
        let (false, Some(pods)) = (changes.is_incomplete, pods.collect::<Option<BTreeSet<_>>>()) else {
            // A class of service came or went, and pods with it.
            self.look();
            return None;
        };
        Some(pods.into_iter().map(|pod| self.look_at(pod)).collect())
    }

    fn look_at(&mut self, pod: PodCgroup) -> Arc<str> {
        let PodCgroup { uid, directory } = pod;
        match directory.try_exists() {
            Ok(true) => {
                self.watch(&directory);
                self.there.insert(Arc::clone(&uid), directory);
            }
            Ok(false) => drop(self.there.remove(&uid)),
            Err(error) => {
                tracing::error!("can't look at {}: {error}; it stays as it was", directory.display())
            }
        }
        uid
    }

    fn watch(&mut self, directory: &Path) {
        if let Some(watch) = &mut self.watch
            && let Err(error) = watch.watch(directory)
        {
            // Gone again, or there are too many: looking once a second finds what is there.
            tracing::debug!("no events of {}: {error}", directory.display());
        }
    }
}
