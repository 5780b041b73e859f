//! Notices changes of files within a second: inotify wakes, a slow look at the files' metadata makes
//! up for what it can't see (network file systems, a watch that could not be set).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher, event::AccessKind, event::AccessMode,
    event::ModifyKind,
};

use super::files::{Error, FileSource, Touched};
use super::read;
use super::texts::Texts;
use crate::resource::{Diagnostic, World};

/// Writes that follow each other within this are one change.
const QUIET: Duration = Duration::from_millis(50);
/// The same after a file was moved into place, which its writer does last.
const QUIET_WHEN_COMPLETE: Duration = Duration::from_millis(5);
/// A change is taken up after this, however busy the directory is.
const QUIET_WAIT_MAX: Duration = Duration::from_millis(400);
const RESCAN: Duration = Duration::from_secs(5);
/// How often files are looked at when nothing wakes us.
const RESCAN_WITHOUT_EVENTS: Duration = Duration::from_millis(500);

/// Watching goes on until this is dropped.
#[derive(Debug)]
pub struct Watching {
    wake: Sender<Wake>,
}

enum Wake {
    /// One of these paths changed.
    Changed {
        paths: Vec<PathBuf>,
        is_complete: bool,
    },
    Stop,
}

impl Drop for Watching {
    fn drop(&mut self) {
        // The thread may have ended on its own.
        drop(self.wake.send(Wake::Stop));
    }
}

impl FileSource {
    /// Calls `on_change` on a thread of its own with everything that holds, and every finding, whenever
    /// either is different from before. What is configured when this is called is not reported again.
    pub fn watch(
        self,
        on_change: impl FnMut(&Arc<World>, Vec<Diagnostic>, &Texts) + Send + 'static,
    ) -> Result<Watching, Error> {
        let (wake, woken) = mpsc::channel();
        let events = wake.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let changed = match event {
                Ok(event) if is_change(event.kind) => {
                    Wake::Changed { is_complete: is_move(event.kind), paths: event.paths }
                }
                Ok(_) => return,
                // Events were lost: look at everything.
                Err(_) => Wake::Changed { paths: Vec::new(), is_complete: false },
            };
            drop(events.send(changed));
        });
        let mut watch = Watch {
            source: self,
            watched: HashMap::new(),
            unwatched: HashSet::new(),
            watcher: watcher
                .map_err(|error| tracing::warn!("no file events, looking at files instead: {error}"))
                .ok(),
        };
        // Before the thread starts, so that nothing that happens from here on is missed.
        watch.watch_directories();
        thread::Builder::new()
            .name("config-watch".into())
            .spawn(move || watch.run(&woken, on_change))
            .map_err(Error::Watch)?;
        Ok(Watching { wake })
    }
}

/// Reading is no change: we read ourselves.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}

/// Whether it is a file's coming under its name, or going, whole.
fn is_move(kind: EventKind) -> bool {
    matches!(kind, EventKind::Modify(ModifyKind::Name(_)))
}

struct Watch {
    source: FileSource,
    watcher: Option<RecommendedWatcher>,
    /// And which directory each path was: another one may be moved to its place.
    watched: HashMap<PathBuf, Identity>,
    /// Directories of which no events come.
    unwatched: HashSet<PathBuf>,
}

/// Device and inode.
type Identity = Option<(u64, u64)>;

fn identity(directory: &Path) -> Identity {
    directory.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Watch {
    fn run(
        mut self,
        woken: &Receiver<Wake>,
        mut on_change: impl FnMut(&Arc<World>, Vec<Diagnostic>, &Texts),
    ) {
        // Something may have changed between opening and watching.
        self.look(&Touched::Named(HashSet::new()), &mut on_change);
        loop {
            let has_events = self.watcher.is_some() && self.unwatched.is_empty();
            let rescan = if has_events { RESCAN } else { RESCAN_WITHOUT_EVENTS };
            let touched = match woken.recv_timeout(rescan) {
                Ok(Wake::Changed { paths, is_complete }) => match wait_for_quiet((paths, is_complete), woken)
                {
                    Some(touched) => touched,
                    None => return,
                },
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => Touched::Named(HashSet::new()),
            };
            self.watch_directories();
            self.look(&touched, &mut on_change);
        }
    }

    /// Reads the files that look different, and those that an event names.
    fn look(&mut self, touched: &Touched, on_change: &mut impl FnMut(&Arc<World>, Vec<Diagnostic>, &Texts)) {
        if self.source.reload(touched) {
            let (world, diagnostics) = self.source.latest();
            on_change(world, diagnostics.to_vec(), self.source.texts());
        }
    }

    /// Sets watches on directories that have none; those that went away are forgotten.
    fn watch_directories(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted: HashMap<PathBuf, Identity> = read::directories(&self.source.all_paths())
            .into_iter()
            .map(|directory| {
                let identity = identity(&directory);
                (directory, identity)
            })
            .collect();
        self.watched.retain(|directory, watched| {
            let stays = wanted.get(directory) == Some(watched);
            if !stays {
                // When it is gone its watch is, too.
                drop(watcher.unwatch(directory));
            }
            stays
        });
        let mut unwatched = HashSet::new();
        for (directory, identity) in wanted {
            if let Entry::Vacant(slot) = self.watched.entry(directory) {
                match watcher.watch(slot.key(), RecursiveMode::NonRecursive) {
                    Ok(()) => {
                        slot.insert(identity);
                    }
                    Err(error) => {
                        let directory = slot.into_key();
                        // That one is not there is among the findings.
                        if identity.is_some() && !self.unwatched.contains(&directory) {
                            tracing::warn!(
                                "can't watch {}, looking often instead: {error}",
                                directory.display()
                            );
                        }
                        unwatched.insert(directory);
                    }
                }
            }
        }
        self.unwatched = unwatched;
    }
}

/// Lets a burst of writes end, and tells which files it named; `None` when it is time to stop.
fn wait_for_quiet((first, mut is_complete): (Vec<PathBuf>, bool), woken: &Receiver<Wake>) -> Option<Touched> {
    let started = Instant::now();
    let mut named = HashSet::new();
    let mut lost = false;
    let mut take = |paths: Vec<PathBuf>| {
        // An event without paths stands for events that were lost.
        lost |= paths.is_empty();
        named.extend(paths.iter().filter_map(|path| path.file_name()).map(OsString::from));
    };
    take(first);
    while started.elapsed() < QUIET_WAIT_MAX {
        match woken.recv_timeout(if is_complete { QUIET_WHEN_COMPLETE } else { QUIET }) {
            Ok(Wake::Changed { paths, is_complete: last }) => {
                // What was moved was written before, under another name.
                is_complete = last;
                take(paths);
            }
            Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => break,
        }
    }
    Some(if lost { Touched::All } else { Touched::Named(named) })
}
