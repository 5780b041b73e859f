//! bpf(2) for links, which aya has no part for: create, update in place, pin, and ask about.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use super::check;

const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;

/// One bpf(2) call.
///
/// # Safety
/// `A` is laid out as the part of `union bpf_attr` that `command` uses, and what it points at lives and is as large as
/// it says.
unsafe fn bpf<A>(command: libc::c_int, attr: &mut A) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes `size_of::<A>()` bytes of `attr`, all initialised; the rest by the caller.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) })
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: only called with a new descriptor that bpf(2) returned and nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a program to a cgroup until the returned link is closed and no pin of it is left.
pub(in crate::datapath) fn link_create(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct LinkCreate {
        program: RawFd,
        target: RawFd,
        attach_type: u32,
        flags: u32,
        rest: [u64; 4],
    }
    let mut attr = LinkCreate {
        program: program.as_raw_fd(),
        target: cgroup.as_raw_fd(),
        attach_type,
        flags: 0,
        rest: [0; 4],
    };
    // SAFETY: laid out as for BPF_LINK_CREATE; it points at nothing.
    owned(unsafe { bpf(BPF_LINK_CREATE, &mut attr) }?)
}

/// Puts another program in the place of the link's, in one step. ENOLINK: the cgroup is gone.
pub(in crate::datapath) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct LinkUpdate {
        link: RawFd,
        program: RawFd,
        flags: u32,
        old_program: RawFd,
    }
    let mut attr =
        LinkUpdate { link: link.as_raw_fd(), program: program.as_raw_fd(), flags: 0, old_program: 0 };
    // SAFETY: laid out as for BPF_LINK_UPDATE; it points at nothing.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// Detaches at once, whoever else holds the link: closing its last descriptor would detach it a moment later.
pub(in crate::datapath) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: BPF_LINK_DETACH takes one descriptor.
    unsafe { bpf(BPF_LINK_DETACH, &mut link.as_raw_fd()) }.map(drop)
}

/// What a link joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::datapath) struct LinkInfo {
    pub(in crate::datapath) program_id: u32,
    /// 0: the cgroup is gone, or the link was detached.
    pub(in crate::datapath) cgroup_id: u64,
}

/// What the link joins; an error of kind `InvalidInput` if it is no link of a cgroup.
pub(in crate::datapath) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    const BPF_LINK_TYPE_CGROUP: u32 = 3;

    /// The part of `struct bpf_link_info` that cgroup links use, with room for what newer kernels add.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program_id: u32,
        padding: u32,
        cgroup_id: u64,
        attach_type: u32,
        rest: [u32; 13],
    }
    #[repr(C)]
    struct GetInfo {
        fd: RawFd,
        length: u32,
        info: *mut Info,
    }
    let mut info = Info::default();
    let length = u32::try_from(size_of::<Info>()).map_err(io::Error::other)?;
    let mut attr = GetInfo { fd: link.as_raw_fd(), length, info: &raw mut info };
    // SAFETY: laid out as for BPF_OBJ_GET_INFO_BY_FD; `info` has `length` bytes, of which every pattern is a value.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    if info.kind != BPF_LINK_TYPE_CGROUP {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no link of a cgroup"));
    }
    Ok(LinkInfo { program_id: info.program_id, cgroup_id: info.cgroup_id })
}

/// The part of `union bpf_attr` that pins use.
#[repr(C)]
struct Object {
    path: *const libc::c_char,
    fd: RawFd,
    flags: u32,
}

/// Keeps an object alive under a name on a bpf file system.
pub(in crate::datapath) fn object_pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Object { path: path.as_ptr(), fd: object.as_raw_fd(), flags: 0 };
    // SAFETY: laid out as for BPF_OBJ_PIN; `path` is a string that lives.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// What is pinned there.
pub(in crate::datapath) fn object_get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Object { path: path.as_ptr(), fd: 0, flags: 0 };
    // SAFETY: laid out as for BPF_OBJ_GET; `path` is a string that lives.
    owned(unsafe { bpf(BPF_OBJ_GET, &mut attr) }?)
}

/// Removes every entry of a hash map, whatever its keys are, that nobody writes any more.
pub(in crate::datapath) fn map_clear(map: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Element {
        map: RawFd,
        padding: u32,
        key: *const u8,
        next_key: *mut u8,
        flags: u64,
    }
    let mut key = vec![0_u8; map_key_size(map)?];
    loop {
        let mut attr = Element {
            map: map.as_raw_fd(),
            padding: 0,
            key: std::ptr::null(),
            next_key: key.as_mut_ptr(),
            flags: 0,
        };
        // SAFETY: laid out as for BPF_MAP_GET_NEXT_KEY, which without a key writes the first one to `next_key`; that is
        // as large as the map's keys.
        match unsafe { bpf(BPF_MAP_GET_NEXT_KEY, &mut attr) } {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
            first => first?,
        };
        attr.key = key.as_ptr();
        attr.next_key = std::ptr::null_mut();
        // SAFETY: laid out as for BPF_MAP_DELETE_ELEM; `key` is as large as the map's keys.
        unsafe { bpf(BPF_MAP_DELETE_ELEM, &mut attr) }?;
    }
}

fn map_key_size(map: BorrowedFd<'_>) -> io::Result<usize> {
    /// The beginning of `struct bpf_map_info`.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        key_size: u32,
        value_size: u32,
    }
    #[repr(C)]
    struct GetInfo {
        fd: RawFd,
        length: u32,
        info: *mut Info,
    }
    let mut info = Info::default();
    let length = u32::try_from(size_of::<Info>()).map_err(io::Error::other)?;
    let mut attr = GetInfo { fd: map.as_raw_fd(), length, info: &raw mut info };
    // SAFETY: laid out as for BPF_OBJ_GET_INFO_BY_FD; `info` has `length` bytes, and the kernel writes no more.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    usize::try_from(info.key_size).map_err(io::Error::other)
}

/// What is attached to a cgroup itself, not to those above it: the flags of its attachments, and program ids.
pub(in crate::datapath) fn programs_on(
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<(u32, Vec<u32>)> {
    /// The part of `union bpf_attr` that cgroup queries use.
    #[repr(C)]
    struct ProgQuery {
        target: RawFd,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: *mut u32,
        count: u32,
        rest: u32,
    }
    let mut ids = [0_u32; 64];
    let mut attr = ProgQuery {
        target: cgroup.as_raw_fd(),
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr(),
        count: 64,
        rest: 0,
    };
    // SAFETY: laid out as for BPF_PROG_QUERY; `ids` has `count` words.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr) }?;
    let count = usize::try_from(attr.count).map_err(io::Error::other)?;
    Ok((attr.attach_flags, ids.into_iter().take(count).collect()))
}
