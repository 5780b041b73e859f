//! One program on one cgroup, held by a link: closing the last descriptor of the link detaches it.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use aya::{Ebpf, programs::ProgramError};

use super::{DatapathError, sys};

/// `enum bpf_attach_type`.
fn attach_type(program: &str) -> Option<u32> {
    Some(match program {
        "sock_ops" => 3,
        "bind4" => 8,
        "bind6" => 9,
        "connect4" => 10,
        "connect6" => 11,
        "original_dst" => 21,
        "getpeername4" => 29,
        "getpeername6" => 30,
        "getsockname4" => 31,
        "getsockname6" => 32,
        _ => return None,
    })
}

pub(super) fn attach(
    ebpf: &Ebpf,
    name: &'static str,
    cgroup: BorrowedFd<'_>,
) -> Result<OwnedFd, DatapathError> {
    let missing = || DatapathError::Missing { name: name.to_owned() };
    let program = ebpf.program(name).ok_or_else(missing)?;
    let attach_type = attach_type(name).ok_or_else(missing)?;
    let fd = program.fd().map_err(|error: ProgramError| DatapathError::Program {
        program: name.to_owned(),
        release: super::preflight::kernel_release(),
        source: Box::new(error),
    })?;
    sys::link_create(fd.as_fd(), cgroup, attach_type).map_err(|source| DatapathError::Attach {
        program: name,
        hint: hint(&source),
        source,
    })
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        // A cgroup link always allows others beside it; an old-style attachment without BPF_F_ALLOW_MULTI doesn't.
        Some(libc::EPERM) => {
            ": another program holds it, or one above it, exclusively; `bpftool cgroup tree` names it"
        }
        Some(libc::EBADF | libc::EINVAL) => ": it is not a directory of a cgroup2 mount",
        Some(libc::ENODEV) => ": the cgroup is gone",
        Some(libc::E2BIG) => ": it has 64 programs of this kind already",
        _ => "",
    }
}
