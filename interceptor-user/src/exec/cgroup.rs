//! The cgroups of one `exec`: `interceptor-<pid>` below the cgroup we were started in, with a child for the command
//! and one for ourselves. The watcher process makes them, so that somebody is there to remove them from the first
//! moment on; when all goes well, dropping [`Tree`] in the main process has done so before.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::cgroup_path;

/// How long killed processes may take to go before we leave the rest to the watcher. Only a process stuck in the
/// kernel takes longer than an instant.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// What our directories' names begin with; the process id follows.
const PREFIX: &str = "interceptor-";

/// Names tried when a directory of ours is there already: another pid namespace may have a process with our id.
const NAMES_MAX: u32 = 100;

/// Left behind by somebody who was killed together with his watcher, when it is as old as that.
const ABANDONED_AGE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Tree {
    top: PathBuf,
}

impl Tree {
    /// Makes the directories for the process `owner`; moves nobody.
    pub(super) fn make(owner: u32) -> anyhow::Result<Self> {
        let home = own_directory()?;
        remove_abandoned(&home);
        let tree = Self { top: make_unique(&home, owner)? };
        for directory in [tree.command(), tree.proxy()] {
            fs::create_dir(&directory).map_err(|error| cannot_make(&directory, &error))?;
        }
        Ok(tree)
    }

    /// Directories that exist.
    pub(super) fn at(top: PathBuf) -> Self {
        Self { top }
    }

    pub(super) fn top(&self) -> &Path {
        &self.top
    }

    /// Where the command runs: the hooks sit here.
    pub(super) fn command(&self) -> PathBuf {
        self.top.join("cmd")
    }

    /// Where our listeners are made: a listener's sockets run the programs of the cgroup it was made in.
    pub(super) fn proxy(&self) -> PathBuf {
        self.top.join("proxy")
    }

    /// Moves this process, with its threads, to the proxy's cgroup.
    pub(super) fn enter_proxy(&self) -> anyhow::Result<()> {
        join(&self.proxy())
    }

    /// Kills what still runs in the command's cgroup, goes home and removes the directories.
    pub(super) fn remove(self) -> anyhow::Result<()> {
        self.take_down()
    }

    fn take_down(&self) -> anyhow::Result<()> {
        kill_all(&self.command(), Some(KILL_TIMEOUT))?;
        if let Some(home) = self.top.parent() {
            join(home)?;
        }
        remove(&self.top).with_context(|| format!("can't remove {}", self.top.display()))
    }

    /// Kills everything inside, whoever it is, and removes the directories: for the watcher, which is outside. Takes as
    /// long as it takes.
    pub(super) fn remove_from_outside(self) -> anyhow::Result<()> {
        kill_all(&self.command(), None)?;
        // A process on its way into the command's cgroup may still arrive: it is killed on the next round.
        loop {
            kill_all(&self.top, None)?;
            match remove(&self.top) {
                Err(error) if error.kind() == ErrorKind::ResourceBusy => {}
                removed => return removed.with_context(|| format!("can't remove {}", self.top.display())),
            }
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if self.top.exists()
            && let Err(error) = self.take_down()
        {
            tracing::warn!("{error:#}");
        }
    }
}

/// The cgroup2 directory of this process.
pub(crate) fn own_directory() -> anyhow::Result<PathBuf> {
    let read = |path: &str| -> anyhow::Result<String> {
        let bytes = fs::read(path).with_context(|| format!("can't read {path}"))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok(cgroup_path::own_directory(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)?)
}

fn make_unique(home: &Path, owner: u32) -> anyhow::Result<PathBuf> {
    let base = format!("{PREFIX}{owner}");
    for attempt in 1..=NAMES_MAX {
        let name = if attempt == 1 { base.clone() } else { format!("{base}-{attempt}") };
        let path = home.join(name);
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(cannot_make(&path, &error)),
        }
    }
    Err(anyhow!("{NAMES_MAX} directories named {base} exist in {}: remove the empty ones", home.display()))
}

/// Somebody who is killed together with his watcher leaves empty directories: whoever comes next removes them. Never
/// those of the living, nor fresh ones, whose owner may be in a pid namespace that we don't see.
fn remove_abandoned(home: &Path) {
    let Ok(siblings) = fs::read_dir(home) else { return };
    for sibling in siblings.filter_map(Result::ok) {
        let name = sibling.file_name();
        let owner =
            name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        let is_dead = owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists());
        let age =
            sibling.metadata().and_then(|metadata| metadata.modified()).map(|modified| modified.elapsed());
        let is_old = age.is_ok_and(|age| age.is_ok_and(|age| age >= ABANDONED_AGE));
        if is_dead
            && is_old
            && let Err(error) = remove(&sibling.path())
        {
            tracing::debug!("{} stays: {error}", sibling.path().display());
        }
    }
}

fn cannot_make(directory: &Path, error: &io::Error) -> anyhow::Error {
    let directory = directory.display();
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            anyhow!("no permission to make the cgroup {directory}: run as root (sudo interceptor exec …)")
        }
        Some(libc::EROFS) => anyhow!(
            "can't make the cgroup {directory}: cgroup2 is mounted read-only; in a container run it privileged, \
             or remount it with `mount -o remount,rw`"
        ),
        Some(libc::ENOENT) => anyhow!(
            "can't make the cgroup {directory}: another mount hides cgroup2, as `ip netns exec` does; there use \
             `nsenter --net=/run/netns/NAME`"
        ),
        _ => anyhow!("can't make the cgroup {directory}: {error}"),
    }
}

/// Moves the calling process to the cgroup.
pub(super) fn join(directory: &Path) -> anyhow::Result<()> {
    fs::write(directory.join("cgroup.procs"), "0").map_err(|error| match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => anyhow!(
            "can't enter the cgroup {}: its parent is threaded; start from another cgroup, for example with \
             `systemd-run --scope`",
            directory.display()
        ),
        _ => anyhow!("can't enter the cgroup {}: {error}", directory.display()),
    })
}

/// Kills every process in the cgroup and below, and waits until they are gone. A cgroup that is gone has none.
pub(super) fn kill_all(directory: &Path, timeout: Option<Duration>) -> anyhow::Result<()> {
    match fs::write(directory.join("cgroup.kill"), "1") {
        Ok(()) => wait_until_empty(directory, timeout),
        Err(error) if gone(&error) => Ok(()),
        Err(error) => Err(anyhow!("can't kill what runs in {}: {error}", directory.display())),
    }
}

fn wait_until_empty(directory: &Path, timeout: Option<Duration>) -> anyhow::Result<()> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let path = directory.join("cgroup.events");
    let events = match fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if gone(&error) => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("can't read {}", path.display())),
    };
    loop {
        let mut text = [0; 256];
        let length = match events.read_at(&mut text, 0) {
            Ok(length) => length,
            Err(error) if gone(&error) => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("can't read {}", path.display())),
        };
        if !populated(&text[..length]) {
            return Ok(());
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Err(anyhow!("processes in {} survive SIGKILL: stuck in the kernel", directory.display()));
        }
        let left = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        match poll(&mut [PollFd::new(&events, PollFlags::PRI)], left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).with_context(|| format!("can't wait for {}", path.display())),
        }
    }
}

/// What cgroup.events says of the cgroup and all below it.
fn populated(events: &[u8]) -> bool {
    events.split(|byte| *byte == b'\n').any(|line| line == b"populated 1")
}

/// The file or its cgroup went away.
fn gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// Removes a cgroup and those below it, which the command may have made.
pub(super) fn remove(directory: &Path) -> io::Result<()> {
    let children = match fs::read_dir(directory) {
        Ok(children) => children,
        Err(error) if gone(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    for child in children {
        let child = child?;
        if child.file_type()?.is_dir() {
            remove(&child.path())?;
        }
    }
    match fs::remove_dir(directory) {
        Err(error) if !gone(&error) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn populated_is_one_line_among_others() {
        assert!(populated(b"populated 1\nfrozen 0\n"));
        assert!(!populated(b"populated 0\nfrozen 1\n"));
        assert!(!populated(b""));
    }
}
