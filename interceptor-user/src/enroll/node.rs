//! Namespaces of the node that we run on, seen from inside a container.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::process::getppid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A namespace of the node's first process; or where that one may not be looked at, of the one that started us: for a
/// container's first process that is the runtime's, which runs on the node. `kind` is a name in /proc/PID/ns.
pub fn node_namespace(proc: &Path, kind: &str) -> io::Result<File> {
    let open = |pid: &str| File::open(proc.join(pid).join("ns").join(kind));
    open("1").or_else(|error| match getppid() {
        Some(parent) => open(&parent.to_string()),
        None => Err(error),
    })
}

/// From here on this thread, and those that it starts, see cgroups under the names that they have on the node. On
/// hosts with cgroup2 alone, runtimes give containers a view of their own, in which we could not find ourselves.
///
/// # Errors
/// When it may not be entered, which needs SYS_ADMIN.
pub fn enter_cgroup_namespace(proc: &Path) -> io::Result<()> {
    let namespace = node_namespace(proc, "cgroup")?;
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::ControlGroup))?)
}
