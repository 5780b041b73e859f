//! What is attached to a cgroup, by whoever: asked of the kernel, for people to read.

use std::collections::HashMap;
use std::{io, os::fd::AsFd};

use aya::programs::loaded_programs;

use super::{programs, sys};

/// `enum bpf_attach_type`, of the hooks that connections, listeners and datagrams meet.
const HOOKS: &[(u32, &str)] = &[
    (1, "egress"),
    (2, "sock_create"),
    (3, "sock_ops"),
    (8, "bind4"),
    (9, "bind6"),
    (10, "connect4"),
    (11, "connect6"),
    (14, "sendmsg4"),
    (15, "sendmsg6"),
    (19, "recvmsg4"),
    (20, "recvmsg6"),
    (21, "getsockopt"),
    (29, "getpeername4"),
    (30, "getpeername6"),
    (31, "getsockname4"),
    (32, "getsockname6"),
];

/// One program on one hook of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    pub hook: &'static str,
    pub id: u32,
    /// At most 15 bytes of it; empty where the kernel doesn't tell us.
    pub name: String,
    /// It has the name of a program of ours.
    pub is_ours: bool,
    pub sharing: Sharing,
}

/// What an attachment leaves to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Programs beside and below it run as well.
    Multi,
    /// Where a cgroup below has a program, this one does not run.
    Override,
    /// Nothing may be attached beside or below it.
    Exclusive,
}

/// Names of loaded programs by their ids.
#[derive(Debug)]
pub struct ProgramNames(HashMap<u32, String>);

impl ProgramNames {
    /// Of what is loaded now; empty without CAP_SYS_ADMIN.
    pub fn read() -> Self {
        let loaded = loaded_programs().filter_map(Result::ok);
        let names = loaded.filter_map(|program| Some((program.id(), program.name_as_str()?.to_owned())));
        Self(names.collect())
    }
}

/// Everything on the hooks of `cgroup` itself, not of those above it.
///
/// # Errors
/// Without CAP_NET_ADMIN, or when it is no directory of a cgroup2 mount.
pub fn attached(cgroup: impl AsFd, names: &ProgramNames) -> io::Result<Vec<Attached>> {
    let mut all = Vec::new();
    for &(attach_type, hook) in HOOKS {
        let (flags, ids) = match sys::programs_on(cgroup.as_fd(), attach_type) {
            // The kernel is older than the hook.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => continue,
            queried => queried?,
        };
        all.extend(ids.into_iter().map(|id| {
            let name = names.0.get(&id).cloned().unwrap_or_default();
            Attached { hook, id, is_ours: is_ours(&name), name, sharing: Sharing::of(flags) }
        }));
    }
    Ok(all)
}

impl Sharing {
    const fn of(flags: u32) -> Self {
        const BPF_F_ALLOW_OVERRIDE: u32 = 1;
        const BPF_F_ALLOW_MULTI: u32 = 2;
        if flags & BPF_F_ALLOW_MULTI != 0 {
            Self::Multi
        } else if flags & BPF_F_ALLOW_OVERRIDE != 0 {
            Self::Override
        } else {
            Self::Exclusive
        }
    }
}

/// The kernel keeps 15 bytes of a name.
fn is_ours(name: &str) -> bool {
    let lists = [
        programs::WORKLOAD,
        programs::GUARD,
        programs::DNS,
        programs::GATE,
        programs::LISTENER,
        programs::ORIGINAL_DST,
    ];
    lists.iter().copied().flatten().any(|ours| ours[..ours.len().min(15)] == *name)
}
