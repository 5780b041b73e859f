//! Keeps the plugin on a node for as long as we run: networks write their configuration anew when they are updated, and
//! some take out whatever they did not write themselves.

use std::convert::Infallible;
use std::fs::File;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecursiveMode, Watcher};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::install::{Configured, Installation};

/// Looked at again even if nothing wakes us.
const RESCAN: Duration = Duration::from_secs(30);
/// After a change of ours: a network that takes the plugin out each time can't keep us busy.
const PAUSE: Duration = Duration::from_secs(1);

impl Installation {
    /// Installs, and goes on until the process ends; waits for a network where there is none yet.
    ///
    /// # Errors
    /// When the directories can't be used at all.
    pub fn keep(&self) -> anyhow::Result<Infallible> {
        let _lock = lock(&self.conf_dir)?;
        self.copy_executable()?;
        tracing::info!("{} is there", self.executable().display());
        let (wake, woken) = mpsc::sync_channel(1);
        let _watcher = self.watch(wake);
        let mut told = None;
        let mut is_first = true;
        loop {
            if !self.executable().exists() {
                tracing::warn!("{} was removed; it is there again", self.executable().display());
                self.copy_executable()?;
            }
            let configured = self.configure();
            // Each state is told once.
            let state = format!("{configured:?}");
            let is_news = told.as_ref() != Some(&state);
            match &configured {
                Ok(Configured::Changed(file)) if is_first => {
                    tracing::info!("the plugin is in {}", file.display());
                }
                Ok(Configured::Changed(file)) => tracing::warn!(
                    "{} was without the plugin; it is there again (where Cilium keeps taking it out, install Cilium \
                     with cni.exclusive=false)",
                    file.display()
                ),
                Ok(Configured::Already) => {}
                Ok(Configured::NoNetwork(unusable)) if is_news => tracing::warn!(
                    "no network is configured in {} yet; waiting for one{}",
                    self.conf_dir.display(),
                    unusable.iter().map(|why| format!("; not usable is {why}")).collect::<String>()
                ),
                Err(error) if is_news => tracing::error!("{error:#}"),
                Ok(Configured::NoNetwork(_)) | Err(_) => {}
            }
            if matches!(configured, Ok(Configured::Changed(_))) {
                is_first = false;
                thread::sleep(PAUSE);
            }
            told = Some(state);
            wait(&woken);
        }
    }

    /// `None`: there will be no wake-ups, and the rescan must do.
    fn watch(&self, wake: SyncSender<()>) -> Option<impl Watcher> {
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error: events were lost. One wake-up that waits is enough for all.
            if event.map_or(true, |event| is_change(event.kind))
                && let Err(TrySendError::Disconnected(())) = wake.try_send(())
            {
                tracing::debug!("nobody waits for changes any more");
            }
        });
        let watched = watcher.and_then(|mut watcher| {
            for directory in [&self.conf_dir, &self.bin_dir] {
                watcher.watch(directory, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        watched.map_err(|error| tracing::warn!("no file events, looking at files instead: {error}")).ok()
    }
}

/// Reading a file is an event, too, and we read.
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

/// Until something changes, or it is time to look.
fn wait(woken: &Receiver<()>) {
    match woken.recv_timeout(RESCAN) {
        Ok(()) => while woken.try_recv().is_ok() {},
        Err(RecvTimeoutError::Timeout) => {}
        Err(RecvTimeoutError::Disconnected) => thread::sleep(RESCAN),
    }
}

/// One at a time looks after a node: during an upgrade the old one and the new one would undo each other's work. The lock
/// is on the directory itself, and ends with the process.
pub fn lock(conf_dir: &Path) -> anyhow::Result<File> {
    let shown = conf_dir.display();
    let directory = File::open(conf_dir).with_context(|| format!("can't open {shown}"))?;
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            tracing::info!("another installer looks after {shown}; waiting until it ends");
            loop {
                match flock(&directory, FlockOperation::LockExclusive) {
                    Err(Errno::INTR) => {}
                    locked => break locked,
                }
            }
        }
        locked => locked,
    }
    .with_context(|| format!("can't lock {shown}"))?;
    Ok(directory)
}
