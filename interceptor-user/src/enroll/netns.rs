//! The network namespace of a pod, by the processes in its cgroup.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::datapath;

/// The node's own network namespace, which is never enrolled; and ours, which is the same unless the agent was given one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostNetns {
    inodes: Vec<u64>,
    pub cookie: u64,
}

impl HostNetns {
    /// That of the node's first process; where we may not look at it, ours.
    pub fn read(proc: &Path) -> io::Result<Self> {
        let own = File::open("/proc/thread-self/ns/net")?;
        let first = File::open(proc.join("1/ns/net")).ok();
        let inode = |file: &File| file.metadata().map(|metadata| metadata.ino());
        let inodes = first.iter().chain([&own]).map(inode).collect::<io::Result<_>>()?;
        let cookie = within(first.as_ref().unwrap_or(&own), datapath::netns_cookie)??;
        Ok(Self { inodes, cookie })
    }

    fn is(&self, inode: u64) -> bool {
        self.inodes.contains(&inode)
    }
}

/// The network namespace that a pod's processes are in. Holding it keeps it alive.
#[derive(Clone, Debug)]
pub struct PodNetns {
    pub file: Arc<OwnedFd>,
    inode: u64,
    /// As kernel programs know it; never used again until reboot.
    pub cookie: u64,
}

impl PodNetns {
    /// That of the oldest process below `cgroup` which is not in the node's own; `None` while there is none. A runtime's
    /// helper may be passing through in the node's. What is `known` is not opened again.
    ///
    /// # Errors
    /// When a process may not be looked at, which needs CAP_SYS_PTRACE; when its namespace can't be opened or entered.
    pub fn of_cgroup(
        proc: &Path,
        cgroup: &Path,
        host: &HostNetns,
        known: Option<&Self>,
    ) -> io::Result<Option<Self>> {
        let mut oldest: Option<(u64, u64, PathBuf)> = None;
        let mut some = Vec::new();
        some_processes(cgroup, &mut some);
        for pid in some {
            let process = proc.join(pid.to_string());
            let namespace = process.join("ns/net");
            let metadata = match fs::metadata(&namespace) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(may_not_look(&namespace, &error));
                }
                metadata => metadata,
            };
            // It may have ended by now.
            let (Ok(metadata), Some(started)) = (metadata, start_time(&process)) else { continue };
            if !host.is(metadata.ino()) && oldest.as_ref().is_none_or(|(before, ..)| started < *before) {
                oldest = Some((started, metadata.ino(), namespace));
            }
        }
        match oldest {
            None => Ok(None),
            // It is held open, so its number is nobody else's.
            Some((_, inode, _)) if known.is_some_and(|known| known.inode == inode) => Ok(known.cloned()),
            Some((_, _, path)) => match Self::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                opened => opened.map(Some),
            },
        }
    }

    /// That which a file such as `/run/netns/NAME` or `/proc/PID/ns/net` stands for.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        let cookie = within(&file, datapath::netns_cookie)??;
        Ok(Self { file: Arc::new(file.into()), inode, cookie })
    }

    /// Whether it is the node's own.
    pub fn is_of(&self, host: &HostNetns) -> bool {
        host.is(self.inode)
    }
}

impl PartialEq for PodNetns {
    fn eq(&self, other: &Self) -> bool {
        self.cookie == other.cookie
    }
}

fn may_not_look(namespace: &Path, error: &io::Error) -> io::Error {
    let message = format!(
        "can't look at {}: {error}; it needs CAP_SYS_PTRACE: give the agent that capability",
        namespace.display()
    );
    io::Error::new(io::ErrorKind::PermissionDenied, message)
}

/// Runs `work` on a thread of its own inside a network namespace: sockets made there belong to it.
///
/// # Errors
/// When the namespace can't be entered, which needs CAP_SYS_ADMIN.
pub fn within<T: Send>(namespace: impl AsFd, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let namespace = namespace.as_fd();
    thread::scope(|scope| {
        let inside = thread::Builder::new().name("netns".into()).spawn_scoped(scope, move || {
            move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
            Ok(work())
        })?;
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Every process below a cgroup, those of its containers included. 0 stands for one that our pid namespace does not show.
pub fn processes(cgroup: &Path) -> Vec<u32> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    let entries = fs::read_dir(cgroup).into_iter().flatten().filter_map(Result::ok);
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        pids.extend(processes(&entry.path()));
    }
    pids
}

/// As [`processes`], but of each cgroup those alone that the kernel tells first, which are the oldest: looking at a pod costs no more
/// for having many. Without those that our pid namespace does not show.
fn some_processes(cgroup: &Path, found: &mut Vec<u32>) {
    const EACH_MAX: usize = 64;
    const ALL_MAX: usize = 1024;
    if found.len() >= ALL_MAX {
        return;
    }
    if let Ok(file) = File::open(cgroup.join("cgroup.procs")) {
        let lines = BufReader::with_capacity(1024, file).lines().map_while(Result::ok);
        let pids = lines.filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0);
        found.extend(pids.take(EACH_MAX));
    }
    let entries = fs::read_dir(cgroup).into_iter().flatten().filter_map(Result::ok);
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        some_processes(&entry.path(), found);
    }
}

/// In clock ticks since the machine started (field 22 of proc_pid_stat(5)).
fn start_time(process: &Path) -> Option<u64> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    // The second field is a name in brackets, which may hold blanks and brackets.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_with_many_processes_is_looked_at_like_any_other() {
        let root = tempfile::tempdir().unwrap();
        let procs = |first: u32, count: u32| -> String {
            (first..first + count).map(|pid| format!("{pid}\n")).collect()
        };
        for (directory, first, count) in [("", 0, 3), ("pause", 10, 1), ("container", 100, 100_000)] {
            let directory = root.path().join(directory);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("cgroup.procs"), procs(first, count)).unwrap();
        }
        let mut found = Vec::new();
        some_processes(root.path(), &mut found);
        found.sort_unstable();
        let expected: Vec<u32> = [1, 2, 10].into_iter().chain(100..164).collect();
        assert_eq!(found, expected);
        assert_eq!(processes(root.path()).len(), 100_004);
        // However many cgroups it makes.
        for number in 0..100 {
            let directory = root.path().join(format!("container/{number}"));
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("cgroup.procs"), procs(1000, 64)).unwrap();
        }
        found.clear();
        some_processes(root.path(), &mut found);
        assert!(found.len() < 1024 + 64, "{}", found.len());
    }
}
