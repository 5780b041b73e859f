//! A bpf file system of a test's own: what is pinned there goes with it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::dir::Dir;

/// Mounted as long as this guard lives.
#[derive(Debug)]
pub struct BpfFs {
    at: Dir,
}

impl BpfFs {
    pub fn new() -> anyhow::Result<Self> {
        crate::cgroup::require_root()?;
        let at = Dir::new()?;
        mount("bpf", at.path(), "bpf", MountFlags::empty(), None)
            .with_context(|| format!("cannot mount a bpf file system on {}", at.path().display()))?;
        Ok(Self { at })
    }

    pub fn path(&self) -> &Path {
        self.at.path()
    }

    /// A directory for one agent's pins, which does not exist yet.
    pub fn pins(&self) -> PathBuf {
        self.at.join("interceptor")
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        if let Err(error) = unmount(self.at.path(), UnmountFlags::DETACH) {
            eprintln!("cannot unmount {}: {error}", self.at.path().display());
        }
    }
}
