//! The directory on a bpf file system that keeps maps and links alive without us.
//!
//! ```text
//! <pins>/v<SCHEMA>/maps/<MAP>                          every map but the events' buffer
//!                 /pods/<cgroup id>/<program>          links on the cgroups of pods
//!                 /listeners/<cgroup id>/<program>     links on the cgroups in which agents made their listeners
//!                 /gate/<cgroup id>/<program>          links on the common ancestor of all pods
//! ```
//! Agents of one schema take over from each other; one of another schema has a directory of its own (see
//! [`super::other_schemas`]).

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use interceptor_common::policy::SCHEMA;

use super::{DatapathError, sys};

/// Where pins are unless the user says otherwise.
pub const DEFAULT_PINS: &str = "/sys/fs/bpf/interceptor";

/// A cgroup as programs and links know it; never used again until reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupId(pub u64);

impl CgroupId {
    /// Of an open directory of a cgroup2 mount.
    pub fn of(cgroup: impl AsFd) -> io::Result<Self> {
        let file = fs::File::from(cgroup.as_fd().try_clone_to_owned()?);
        Ok(Self(file.metadata()?.ino()))
    }

    /// Of a directory of a cgroup2 mount, which takes no descriptor.
    pub fn at(directory: &Path) -> io::Result<Self> {
        Ok(Self(fs::metadata(directory)?.ino()))
    }
}

/// What a pinned link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Pod,
    Listener,
    Gate,
}

impl Place {
    pub(super) const ALL: [Self; 3] = [Self::Pod, Self::Listener, Self::Gate];

    const fn directory(self) -> &'static str {
        match self {
            Self::Pod => "pods",
            Self::Listener => "listeners",
            Self::Gate => "gate",
        }
    }
}

/// The directory of this schema.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    directory: PathBuf,
}

impl Pins {
    /// Makes what is missing of the directories.
    pub(super) fn create(root: &Path) -> Result<Self, DatapathError> {
        require_bpf_fs(root)?;
        let pins = Self { directory: root.join(format!("v{SCHEMA}")) };
        make(&pins.maps())?;
        for place in Place::ALL {
            make(&pins.place(place))?;
        }
        Ok(pins)
    }

    /// What an agent has pinned there.
    pub(super) fn existing(root: &Path) -> Result<Self, DatapathError> {
        let expected = format!("v{SCHEMA}");
        let found = versions(root)?;
        if found.contains(&expected) {
            return Ok(Self { directory: root.join(expected) });
        }
        let path = root.to_owned();
        match found.into_iter().next() {
            Some(found) => Err(DatapathError::OtherSchema { path, found, expected }),
            None => Err(DatapathError::NothingPinned { path }),
        }
    }

    /// Those of agents of other schemas, beside ours.
    pub(super) fn of_other_schemas(&self) -> Result<Vec<Self>, DatapathError> {
        let Some(root) = self.directory.parent() else { return Ok(Vec::new()) };
        let others = versions(root)?.into_iter().map(|version| Self { directory: root.join(version) });
        Ok(others.filter(|other| other.directory != self.directory).collect())
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    fn maps(&self) -> PathBuf {
        self.directory.join("maps")
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    fn place(&self, place: Place) -> PathBuf {
        self.directory.join(place.directory())
    }

    /// The links of one cgroup.
    pub(super) fn links(&self, place: Place, cgroup: CgroupId) -> PathBuf {
        self.place(place).join(cgroup.0.to_string())
    }

    /// The cgroups that have links.
    pub(super) fn cgroups(&self, place: Place) -> Result<Vec<CgroupId>, DatapathError> {
        let names = entries(&self.place(place))?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).map(CgroupId).collect())
    }
}

/// The directories of all schemas below `root`, sorted by name.
pub(super) fn versions(root: &Path) -> Result<Vec<String>, DatapathError> {
    let mut versions = entries(root)?;
    versions.retain(|name| name.strip_prefix('v').is_some_and(|schema| schema.parse::<u32>().is_ok()));
    versions.sort();
    Ok(versions)
}

/// The names in a directory; none if it does not exist.
pub(super) fn entries(directory: &Path) -> Result<Vec<String>, DatapathError> {
    let read = || -> io::Result<Vec<String>> {
        let names =
            fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    };
    absent_is_fine(directory, read())
}

/// What is pinned there, if anything.
pub(super) fn get(path: &Path) -> Result<Option<OwnedFd>, DatapathError> {
    absent_is_fine(path, sys::object_get(path).map(Some))
}

pub(super) fn remove(path: &Path) -> Result<(), DatapathError> {
    absent_is_fine(path, fs::remove_file(path))
}

pub(super) fn remove_directory(path: &Path) -> Result<(), DatapathError> {
    absent_is_fine(path, fs::remove_dir(path))
}

pub(super) fn make(directory: &Path) -> Result<(), DatapathError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(failed(directory))
}

pub(super) fn failed(path: &Path) -> impl FnOnce(io::Error) -> DatapathError {
    move |source| DatapathError::Pin { path: path.to_owned(), source }
}

fn absent_is_fine<T: Default>(path: &Path, result: io::Result<T>) -> Result<T, DatapathError> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        result => result.map_err(failed(path)),
    }
}

/// Elsewhere nothing can be pinned. The directory itself need not exist yet.
pub(super) fn require_bpf_fs(root: &Path) -> Result<(), DatapathError> {
    const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(root);
    let found = rustix::fs::statfs(existing).map_err(|error| failed(existing)(error.into()))?;
    if u64::try_from(found.f_type).is_ok_and(|magic| magic == BPF_FS_MAGIC) {
        return Ok(());
    }
    Err(DatapathError::NoBpfFs { path: root.to_owned() })
}
