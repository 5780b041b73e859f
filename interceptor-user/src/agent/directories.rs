//! Tells what directories are made and removed in others. Nothing else wakes it: not even that somebody reads them, as
//! the agent itself does every second.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use crate::datapath::readable;

/// Some fifty events at a time.
const BUFFER_BYTES: usize = 4096;

#[derive(Debug)]
pub(super) struct DirectoryWatch {
    inotify: AsyncFd<OwnedFd>,
    watched: HashMap<Arc<Path>, i32>,
    by_descriptor: HashMap<i32, Arc<Path>>,
}

/// What was told since it was last asked for.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) paths: Vec<PathBuf>,
    /// Some were not told.
    pub(super) is_incomplete: bool,
}

impl DirectoryWatch {
    /// Needs a runtime.
    pub(super) fn start() -> io::Result<Self> {
        let inotify = readable(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?)?;
        Ok(Self { inotify, watched: HashMap::new(), by_descriptor: HashMap::new() })
    }

    pub(super) fn watch(&mut self, directory: &Path) -> io::Result<()> {
        if self.watched.contains_key(directory) {
            return Ok(());
        }
        // Nothing can be renamed in a cgroup2 hierarchy.
        let flags = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
        let descriptor = inotify::add_watch(&self.inotify, directory, flags)?;
        let directory: Arc<Path> = directory.into();
        self.by_descriptor.insert(descriptor, Arc::clone(&directory));
        self.watched.insert(directory, descriptor);
        Ok(())
    }

    /// Until there is something to take.
    pub(super) async fn changed(&self) {
        match self.inotify.readable().await {
            // Before it is read, so that what comes meanwhile wakes again.
            Ok(mut ready) => ready.clear_ready(),
            // The runtime ends.
            Err(_) => std::future::pending().await,
        }
    }

    /// Directories that are gone are not watched any more: one that is made in the place of another is to be watched anew.
    pub(super) fn take(&mut self) -> Changes {
        let mut changes = Changes::default();
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            match events.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                    changes.is_incomplete = true;
                }
                Ok(event) if event.events().contains(ReadFlags::IGNORED) => {
                    if let Some(directory) = self.by_descriptor.remove(&event.wd()) {
                        self.watched.remove(&directory);
                    }
                }
                Ok(event) => {
                    let of_watched = self.by_descriptor.get(&event.wd()).zip(event.file_name());
                    changes.paths.extend(
                        of_watched
                            .map(|(directory, name)| directory.join(OsStr::from_bytes(name.to_bytes()))),
                    );
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return changes,
                Err(_) => {
                    changes.is_incomplete = true;
                    return changes;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_is_made_and_removed_is_told_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let child = parent.path().join("child");
        let mut watch = DirectoryWatch::start().unwrap();
        watch.watch(parent.path()).unwrap();
        fs::create_dir(&child).unwrap();
        watch.changed().await;
        assert_eq!(watch.take().paths, [child.as_path()]);
        watch.watch(&child).unwrap();
        // What the agent does with them.
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        assert_eq!(fs::read_dir(&child).unwrap().count(), 0);
        drop(fs::File::open(&child).unwrap());
        let told = tokio::time::timeout(Duration::from_millis(50), watch.changed()).await;
        assert!(told.is_err(), "{:?}", watch.take());
        // Another in its place is watched when asked for.
        fs::remove_dir(&child).unwrap();
        fs::create_dir(&child).unwrap();
        watch.changed().await;
        assert_eq!(watch.take().paths, [child.as_path(), child.as_path()]);
        watch.watch(&child).unwrap();
        fs::create_dir(child.join("container")).unwrap();
        watch.changed().await;
        let changes = watch.take();
        assert_eq!((changes.paths, changes.is_incomplete), (vec![child.join("container")], false));
    }
}
