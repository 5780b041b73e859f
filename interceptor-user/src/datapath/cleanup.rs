//! Everything that agents of any version have pinned, taken away.

use std::{fs, io, os::fd::AsFd, path::Path};

use super::{
    DatapathError,
    pins::{self, entries},
    programs, sys,
};

/// What was there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// The directories, one for each schema.
    pub versions: Vec<String>,
    pub cgroups: usize,
    pub programs: usize,
    pub maps: usize,
}

/// Detaches and unpins everything below `root`, whatever version pinned it, and removes the directory. If nothing is
/// there, nothing is done.
pub fn cleanup(root: &Path) -> Result<Cleaned, DatapathError> {
    super::preflight()?;
    let mut cleaned = Cleaned::default();
    if !root.exists() {
        return Ok(cleaned);
    }
    pins::require_bpf_fs(root)?;
    for version in pins::versions(root)? {
        remove(&root.join(&version), &mut cleaned)?;
        cleaned.versions.push(version);
    }
    match fs::remove_dir(root) {
        // Somebody else's pins, or a mount: not ours to remove.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTEMPTY | libc::EBUSY)) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed.map_err(pins::failed(root))?,
    }
    Ok(cleaned)
}

/// Everything of one version, or of a part of it.
pub(super) fn remove(directory: &Path, cleaned: &mut Cleaned) -> Result<(), DatapathError> {
    let mut names = entries(directory)?;
    names.sort_by_key(|name| order(name));
    let mut has_programs = false;
    for name in names {
        let path = directory.join(name);
        if path.is_dir() {
            remove(&path, cleaned)?;
            continue;
        }
        let Some(object) = pins::get(&path)? else { continue };
        // What is no link is a map.
        if sys::link_info(object.as_fd()).is_ok() {
            sys::link_detach(object.as_fd()).map_err(pins::failed(&path))?;
            cleaned.programs += 1;
            has_programs = true;
        } else {
            cleaned.maps += 1;
        }
        pins::remove(&path)?;
    }
    cleaned.cgroups += usize::from(has_programs);
    pins::remove_directory(directory)
}

/// The gate goes first, so that nobody is held; then pods, each from the hooks that redirect to those that serve what
/// was redirected; then everything that only served.
fn order(name: &str) -> (usize, usize) {
    let place = ["gate", "pods", "listeners"].iter().position(|place| *place == name).unwrap_or(3);
    let program = programs::pinned_programs().iter().rev().position(|program| *program == name);
    (place, program.unwrap_or(0))
}
