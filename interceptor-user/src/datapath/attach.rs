//! One program on one cgroup, held by a link: closing the last descriptor of the link detaches it.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use aya::{
    Ebpf,
    programs::{ProgramError, ProgramFd, loaded_programs},
};

use super::{DatapathError, sys};

/// `enum bpf_attach_type`.
fn attach_type(program: &str) -> Option<u32> {
    Some(match program {
        "astray_egress" | "guard_egress" => 1,
        "guard_sock_create" => 2,
        "sock_ops" => 3,
        "bind4" => 8,
        "bind6" => 9,
        "connect4" | "dns_connect4" | "gate_connect4" | "guard_connect4" => 10,
        "connect6" | "dns_connect6" | "gate_connect6" | "guard_connect6" => 11,
        "dns_sendmsg4" | "guard_sendmsg4" => 14,
        "dns_sendmsg6" | "guard_sendmsg6" => 15,
        "dns_recvmsg4" => 19,
        "dns_recvmsg6" => 20,
        "original_dst" => 21,
        "getpeername4" | "dns_getpeername4" => 29,
        "getpeername6" | "dns_getpeername6" => 30,
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
    let (_, program) = program(ebpf, name)?;
    let attach_type = attach_type(name).ok_or_else(|| DatapathError::Missing { name: name.to_owned() })?;
    sys::link_create(program.as_fd(), cgroup, attach_type).map_err(|source| {
        let hint = hint(&source, cgroup, attach_type);
        DatapathError::Attach { program: name, hint, source }
    })
}

/// A loaded program, and its id.
pub(super) fn program<'a>(ebpf: &'a Ebpf, name: &str) -> Result<(u32, &'a ProgramFd), DatapathError> {
    let program = ebpf.program(name).ok_or_else(|| DatapathError::Missing { name: name.to_owned() })?;
    let loaded = || Ok((program.info()?.id(), program.fd()?));
    loaded().map_err(|error: ProgramError| DatapathError::Program {
        program: name.to_owned(),
        release: super::preflight::kernel_release(),
        source: Box::new(error),
    })
}

fn hint(error: &io::Error, cgroup: BorrowedFd<'_>, attach_type: u32) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => match exclusive(cgroup, attach_type) {
            Some(holder) => {
                format!(": {holder} is attached so that nothing may be attached beside or below it")
            }
            None => ": the kernel forbids it".to_owned(),
        },
        Some(libc::EBADF | libc::EINVAL) => ": it is not a directory of a cgroup2 mount".to_owned(),
        Some(libc::ENOENT | libc::ENODEV) => ": the cgroup is gone".to_owned(),
        Some(libc::E2BIG) => ": it has 64 programs of this kind already".to_owned(),
        _ => String::new(),
    }
}

/// Who shuts us out: a link like ours always allows others, but an attachment of the old kind, without
/// BPF_F_ALLOW_MULTI, does not.
fn exclusive(cgroup: BorrowedFd<'_>, attach_type: u32) -> Option<String> {
    const BPF_F_ALLOW_MULTI: u32 = 2;
    let path = fs::read_link(format!("/proc/self/fd/{}", cgroup.as_raw_fd())).ok()?;
    // The mount's root has no cgroup.type file, but cgroup.procs is everywhere.
    for directory in path.ancestors().take_while(|directory| directory.join("cgroup.procs").exists()) {
        let opened = fs::File::open(directory).ok()?;
        let (flags, ids) = sys::programs_on(opened.as_fd(), attach_type).ok()?;
        if let Some(&id) = ids.first()
            && flags & BPF_F_ALLOW_MULTI == 0
        {
            return Some(format!("program {} (id {id}) on {}", name_of(id), directory.display()));
        }
    }
    None
}

fn name_of(id: u32) -> String {
    let mut programs = loaded_programs().filter_map(Result::ok);
    let found = programs.find(|program| program.id() == id);
    found.and_then(|program| program.name_as_str().map(str::to_owned)).unwrap_or_default()
}
