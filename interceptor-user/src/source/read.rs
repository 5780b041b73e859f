//! Finds the files of the given paths and reads them, bounded.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

/// A file larger than this is not configuration.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Directories nested deeper are not looked into.
const DIRECTORY_DEPTH_MAX: usize = 32;

/// Why a path can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("can't read {path}: {source}")]
    Read { path: String, source: io::Error },
    #[error("{path} is larger than {} MiB: split it into several files", FILE_BYTES_MAX >> 20)]
    TooLarge { path: String },
    #[error("{path} is not UTF-8 text")]
    NotText { path: String },
    #[error("{path} is a pipe, a socket or a device now: expected a regular file")]
    NotAFile { path: String },
    #[error("{path} was a directory and is a file now")]
    NoDirectory { path: String },
    #[error("{path} was a file and is a directory now")]
    NoFile { path: String },
    #[error("{path} is empty and on another file system than before, as when it was unmounted")]
    Unmounted { path: String },
}

/// The name that a path has in findings.
pub(super) fn name_of(path: &Path) -> Arc<str> {
    path.to_string_lossy().into()
}

pub(super) fn is_standard_input(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// What changes when a file does, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Facts {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Those of a regular file; `None` for what can't be looked at or is no file.
pub(super) fn facts(path: &Path) -> Option<Facts> {
    fs::metadata(path).ok().filter(Metadata::is_file).map(|metadata| Facts::of(&metadata))
}

/// A file to read; without facts when it can't be looked at (or is standard input).
pub(super) type Found = (PathBuf, Option<Facts>);

/// The files to read, each once, in order: as given, and those of a directory sorted.
pub(super) fn list(paths: &[PathBuf]) -> Listing {
    let mut walk = Walk::default();
    let mut given = HashSet::new();
    for path in paths.iter().filter(|path| given.insert(*path)) {
        if is_standard_input(path) {
            walk.listing.files.push((path.clone(), None));
            continue;
        }
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => walk.directory(path, &metadata, 0),
            Ok(metadata) if metadata.is_file() => walk.file(path.clone(), &metadata),
            Ok(_) => walk.listing.files.push((path.clone(), None)),
            // Reading it says what is wrong.
            Err(_) => walk.listing.files.push((path.clone(), None)),
        }
    }
    walk.listing
}

/// What is there to read.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) files: Vec<Found>,
    pub(super) directories: Vec<Directory>,
    /// Directories that can't be listed.
    pub(super) failed: Vec<(PathBuf, ReadError)>,
    /// Found in directories, and nobody can tell whether they are directories.
    pub(super) unknown: Vec<(PathBuf, ReadError)>,
}

/// A directory that was listed.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    pub(super) device: u64,
    /// Not even a file that is no configuration is in it.
    pub(super) is_empty: bool,
}

/// The directories that hold the files, and those below.
pub(super) fn directories(paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut walk = Walk::default();
    let mut directories = Vec::new();
    for path in paths.iter().filter(|path| !is_standard_input(path)) {
        if let Some(metadata) = fs::metadata(path).ok().filter(Metadata::is_dir) {
            // What can't be listed now is reported when its files are read.
            walk.directory(path, &metadata, 0);
            continue;
        }
        let real = path.canonicalize().ok();
        for file in [Some(path), real.as_ref()].into_iter().flatten() {
            let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
            directories.push(parent.unwrap_or(Path::new(".")).to_owned());
        }
    }
    directories.extend(walk.met_directories);
    directories.sort_unstable();
    directories.dedup();
    directories
}

#[derive(Default)]
struct Walk {
    listing: Listing,
    /// Those that can't be listed, too.
    met_directories: Vec<PathBuf>,
    /// What was met already, by device and inode: links may lead in circles.
    met: HashSet<(u64, u64)>,
}

impl Walk {
    fn file(&mut self, path: PathBuf, metadata: &Metadata) {
        if self.met.insert((metadata.dev(), metadata.ino())) {
            self.listing.files.push((path, Some(Facts::of(metadata))));
        }
    }

    /// Every `.yaml`, `.yml` and `.json` below; hidden files and editors' backups not.
    fn directory(&mut self, directory: &Path, metadata: &Metadata, depth: usize) {
        if depth > DIRECTORY_DEPTH_MAX || !self.met.insert((metadata.dev(), metadata.ino())) {
            return;
        }
        self.met_directories.push(directory.to_owned());
        let entries =
            fs::read_dir(directory).and_then(|entries| entries.collect::<Result<Vec<fs::DirEntry>, _>>());
        let mut paths: Vec<PathBuf> = match entries {
            Ok(entries) => entries.iter().map(fs::DirEntry::path).collect(),
            Err(source) => {
                let path = directory.display().to_string();
                self.listing.failed.push((directory.to_owned(), ReadError::Read { path, source }));
                return;
            }
        };
        let (path, device, is_empty) = (directory.to_owned(), metadata.dev(), paths.is_empty());
        self.listing.directories.push(Directory { path, device, is_empty });
        paths.sort_unstable();
        for path in paths.into_iter().filter(|path| !is_hidden(path)) {
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => self.directory(&path, &metadata, depth + 1),
                Ok(metadata) if metadata.is_file() && is_configuration(&path) => self.file(path, &metadata),
                // A pipe or a device: reading it says so.
                Ok(_) if is_configuration(&path) => self.listing.files.push((path, None)),
                Ok(_) => {}
                // Reading it says what is wrong.
                Err(_) if is_configuration(&path) => self.listing.files.push((path, None)),
                // A link that leads nowhere may lead to a directory again; what is gone since it was listed is not that.
                Err(source) if fs::symlink_metadata(&path).is_ok() => {
                    let shown = path.display().to_string();
                    self.listing.unknown.push((path, ReadError::Read { path: shown, source }));
                }
                Err(_) => {}
            }
        }
    }
}

fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(['.', '#']) || name.ends_with('~')
}

fn is_configuration(path: &Path) -> bool {
    let known = |extension: &std::ffi::OsStr| {
        ["yaml", "yml", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known))
    };
    path.extension().is_some_and(known)
}

/// Whether a path that was named is read once: standard input, or a pipe of the shell's (`<(command)`).
pub(super) fn is_stream(path: &Path) -> bool {
    let is_pipe = || fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir());
    is_standard_input(path) || is_pipe()
}

/// The text of a stream, until its end.
pub(super) fn stream(path: &Path) -> Result<String, ReadError> {
    if is_standard_input(path) {
        return bounded(io::stdin().lock(), || "standard input".to_owned());
    }
    let shown = || path.display().to_string();
    let file = fs::File::open(path).map_err(|source| ReadError::Read { path: shown(), source })?;
    bounded(file, shown)
}

/// The text of a file.
pub(super) fn text(path: &Path) -> Result<String, ReadError> {
    let shown = || path.display().to_string();
    let error = |source| ReadError::Read { path: shown(), source };
    // What has become a pipe since it was looked at must not be waited for.
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path).map_err(error)?;
    if !file.metadata().map_err(error)?.is_file() {
        return Err(ReadError::NotAFile { path: shown() });
    }
    bounded(file, shown)
}

fn bounded(reader: impl Read, shown: impl Fn() -> String) -> Result<String, ReadError> {
    let mut bytes = Vec::new();
    let read = reader.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|source| ReadError::Read { path: shown(), source })?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(ReadError::TooLarge { path: shown() });
    }
    String::from_utf8(bytes).or(Err(ReadError::NotText { path: shown() }))
}
