//! A throw-away cgroup v2, wherever this machine has that hierarchy mounted.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on hybrid hosts.
pub fn root() -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .and_then(|fields| fields.get(1).map(PathBuf::from))
        .context("no cgroup2 is mounted; mount it with: mount -t cgroup2 none /sys/fs/cgroup")
}

/// A cgroup that lives as long as this guard; dropping it kills what is still inside.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    pub fn new() -> anyhow::Result<Self> {
        let path = root()?.join(crate::unique());
        fs::create_dir(&path)
            .with_context(|| format!("cannot make {} (the tests run as root)", path.display()))?;
        Ok(Self { path })
    }

    /// A cgroup inside this one.
    pub fn child(&self, name: &str) -> anyhow::Result<Self> {
        let path = self.path.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For attaching programs.
    pub fn open(&self) -> anyhow::Result<OwnedFd> {
        let file =
            fs::File::open(&self.path).with_context(|| format!("cannot open {}", self.path.display()))?;
        Ok(file.into())
    }

    /// Moves a process in, with all its threads.
    pub fn add(&self, pid: u32) -> anyhow::Result<()> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())
            .with_context(|| format!("cannot move process {pid} into {}", self.path.display()))
    }

    /// The processes inside.
    pub fn pids(&self) -> anyhow::Result<Vec<u32>> {
        let text = fs::read_to_string(self.path.join("cgroup.procs"))
            .with_context(|| format!("cannot list {}", self.path.display()))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// A command that enters this cgroup before it becomes `program`.
    pub fn command(&self, program: &str) -> std::process::Command {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "echo 0 >\"$1/cgroup.procs\" && shift && exec \"$@\"", "sh"]);
        command.arg(&self.path).arg(program);
        command
    }

    fn remove(&self) -> anyhow::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1").context("cannot kill what is inside")?;
        crate::eventually("the cgroup to be empty", || remove_tree(&self.path).is_ok())
    }
}

/// Cgroups inside cgroups go first; their files go with them.
fn remove_tree(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("cannot remove {}: {error:#}", self.path.display());
        }
    }
}

/// Fails unless this process may make namespaces and cgroups and load programs.
pub(crate) fn require_root() -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!("these tests make network namespaces and load BPF programs: run them as root (cargo xtask test)")
}
