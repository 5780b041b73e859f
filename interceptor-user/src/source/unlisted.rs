//! Paths of which nobody can tell now what they hold: a directory that was renamed away, unmounted or may not be listed, a
//! link that leads nowhere. What they held goes on acting. A file that is missing in a directory that can be listed is gone.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::files::FileSource;
use super::read::{self, Listing, ReadError};

/// On which file system each directory was when it was listed.
#[derive(Debug, Default)]
pub(super) struct Devices(HashMap<PathBuf, u64>);

/// Since when something can't be read, and why. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Unreadable(Arc<Mutex<Option<(SystemTime, String)>>>);

impl Unreadable {
    pub fn get(&self) -> Option<(SystemTime, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, why: Option<String>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = held.take().map_or_else(SystemTime::now, |(since, _)| since);
        *held = why.map(|why| (since, why));
    }
}

impl FileSource {
    /// Takes what can't be told out of what was listed, with the reason.
    pub(super) fn take_unlisted(&mut self, listing: &mut Listing) -> Vec<(PathBuf, ReadError)> {
        let mut unlisted = std::mem::take(&mut listing.failed);
        unlisted.extend(listing.unknown.drain(..).filter(|(path, _)| self.held_below(path)));
        for path in &self.paths {
            let shown = || path.display().to_string();
            let is_listed = |directory: &read::Directory| directory.path == *path;
            let is_file = |(file, facts): &read::Found| file == path && facts.is_some();
            if listing.directories.iter().any(is_listed) {
                if self.held_resources(&read::name_of(path)) {
                    unlisted.push((path.clone(), ReadError::NoFile { path: shown() }));
                }
            } else if !self.texts.0.contains_key(&read::name_of(path))
                && listing.files.iter().any(is_file)
                && self.held_below(path)
            {
                unlisted.push((path.clone(), ReadError::NoDirectory { path: shown() }));
            }
        }
        let is_elsewhere = |directory: &&read::Directory| {
            self.devices.0.get(&directory.path).is_some_and(|before| *before != directory.device)
        };
        let unmounted = listing.directories.iter().filter(|directory| directory.is_empty);
        let unmounted = unmounted.filter(is_elsewhere).filter(|directory| self.held_below(&directory.path));
        unlisted.extend(unmounted.map(|directory| {
            let path = directory.path.display().to_string();
            (directory.path.clone(), ReadError::Unmounted { path })
        }));
        listing.files.retain(|(file, _)| !is_below(file, &unlisted));
        self.devices.take_up(listing, |path| is_below(path, &unlisted));
        unlisted
    }

    /// Whether resources that act stood in files below a path.
    fn held_below(&self, path: &Path) -> bool {
        let is_below = |file: &str| Path::new(file).starts_with(path) && Path::new(file) != path;
        self.world.resources.values().any(|resource| is_below(&resource.meta().origin.file))
    }
}

impl Devices {
    fn take_up(&mut self, listing: &Listing, is_unlisted: impl Fn(&Path) -> bool) {
        // A directory that is away may come back empty before it is mounted again.
        let roots: Vec<_> = listing.files.iter().filter(|(_, facts)| facts.is_none()).collect();
        self.0.retain(|path, _| is_unlisted(path) || roots.iter().any(|(root, _)| path.starts_with(root)));
        for directory in listing.directories.iter().filter(|directory| !is_unlisted(&directory.path)) {
            self.0.insert(directory.path.clone(), directory.device);
        }
    }
}

fn is_below(path: &Path, unlisted: &[(PathBuf, ReadError)]) -> bool {
    unlisted.iter().any(|(unlisted, _)| path.starts_with(unlisted))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::source::files::Touched;

    const ENTRY: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec: {hosts: [a.test], \
                         ports: [{number: 80, name: http, protocol: HTTP}], resolution: NONE}\n";

    /// The mount point is there, and empty, and says nothing of what was mounted on it.
    #[test]
    fn what_is_empty_on_another_file_system_was_unmounted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        fs::write(path.join("a.yaml"), ENTRY).unwrap();
        let mut source = FileSource::open(vec![path.clone()], None).unwrap().0;
        // As if it had been another one.
        *source.devices.0.get_mut(&path).unwrap() += 1;
        fs::remove_file(path.join("a.yaml")).unwrap();
        // However often it is looked at, and though the mount point is away in between.
        let away = path.with_extension("away");
        for step in ["unmounted", "away", "back"] {
            match step {
                "away" => fs::rename(&path, &away).unwrap(),
                "back" => fs::rename(&away, &path).unwrap(),
                _ => {}
            }
            source.reload(&Touched::All);
            assert_eq!(source.world.resources.len(), 1, "{step}");
            assert_eq!(source.diagnostics.len(), 1, "{step}: {:?}", source.diagnostics);
            let said = source.diagnostics[0].to_string();
            assert!(source.unreadable().get().is_some_and(|(_, why)| said.contains(&why)), "{said}");
            assert_eq!(said.contains("another file system than before"), step != "away", "{said}");
        }
        fs::write(path.join("note"), "").unwrap();
        source.reload(&Touched::All);
        assert_eq!(source.world.resources.len(), 0);
        assert_eq!(source.unreadable().get(), None);
    }
}
