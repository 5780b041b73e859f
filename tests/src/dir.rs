//! A directory of its own for a server or a run, removed on drop.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

#[derive(Debug)]
pub struct Dir(PathBuf);

impl Dir {
    /// Readable by everybody: commands under test may run as another user.
    pub fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(crate::unique());
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&path, mode).with_context(|| format!("cannot open up {}", path.display()))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> anyhow::Result<PathBuf> {
        let path = self.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}
