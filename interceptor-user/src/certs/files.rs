//! Writes certificates and keys: each file whole or not at all, keys for their owner's eyes only, and nothing that is
//! there replaced unless that was asked for.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::Target;

pub(super) struct File {
    pub(super) name: &'static str,
    pub(super) text: String,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Public,
    Private,
}

impl Kind {
    fn mode(self) -> u32 {
        match self {
            Self::Public => 0o644,
            Self::Private => 0o600,
        }
    }
}

/// Writes all of them, in their order, and tells where they are.
pub(super) fn write(target: &Target, files: &[File]) -> anyhow::Result<Vec<PathBuf>> {
    let Target { directory, force } = target;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("can't make the directory {}", directory.display()))?;
    let paths: Vec<PathBuf> = files.iter().map(|file| directory.join(file.name)).collect();
    if let Some(there) = paths.iter().find(|path| !force && path.symlink_metadata().is_ok()) {
        bail!("{} is there already: give --force to replace it, or another --out", there.display());
    }
    for (file, path) in files.iter().zip(&paths) {
        write_whole(file, path).with_context(|| format!("can't write {}", path.display()))?;
    }
    Ok(paths)
}

fn write_whole(file: &File, path: &Path) -> std::io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(file.name);
    name.push(format!(".{}", std::process::id()));
    let fresh = path.with_file_name(name);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(file.kind.mode())
        .open(&fresh)
        .and_then(|mut open| open.write_all(file.text.as_bytes()).and_then(|()| open.sync_all()))
        .and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        // It is ours, and half done.
        drop(fs::remove_file(&fresh));
    }
    written
}
