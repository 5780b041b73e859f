//! Gives a node what an agent needs and a node may lack: a bpf file system, mounted where everybody looks for it.

use std::os::fd::AsFd;
use std::path::Path;

use anyhow::Context;
use rustix::fs::statfs;
use rustix::mount::{MountFlags, mount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::cgroups::is_bpf_fs;
use crate::enroll::node_namespace;

/// Where bpf file systems are by convention; the kernel makes the directory.
const DIRECTORY: &str = "/sys/fs/bpf";

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepared {
    WasThere,
    Mounted,
}

/// Mounts a bpf file system in the node's mount namespace, where every container that is started later sees it. The
/// process must have no other threads, and is in that namespace afterwards.
///
/// # Errors
/// When the namespace can't be entered, which needs SYS_ADMIN, SYS_CHROOT, SYS_PTRACE and the node's pid namespace; or
/// nothing can be mounted there.
pub fn prepare(proc: &Path) -> anyhow::Result<Prepared> {
    let namespace = node_namespace(proc, "mnt").context(
        "can't find the node's mount namespace: CAP_SYS_PTRACE is needed, and hostPID in a container",
    )?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount)).context(
        "can't enter the node's mount namespace: CAP_SYS_ADMIN and CAP_SYS_CHROOT are needed for that",
    )?;
    let found = statfs(DIRECTORY).with_context(|| {
        format!("the node has no {DIRECTORY}: its kernel is built without CONFIG_BPF_SYSCALL")
    })?;
    if is_bpf_fs(&found) {
        return Ok(Prepared::WasThere);
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("bpf", DIRECTORY, "bpf", flags, Some(c"mode=0700"))
        .with_context(|| format!("can't mount a bpf file system on {DIRECTORY} of the node"))?;
    Ok(Prepared::Mounted)
}
