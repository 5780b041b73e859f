//! bpf(2) as others use it: what they pin and attach, and what is to be seen from outside.
#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr,
};

use anyhow::Context;

/// One bpf(2) call.
///
/// # Safety
/// `A` is laid out as the part of `union bpf_attr` that `command` uses, and what it points at lives.
unsafe fn bpf<A>(command: libc::c_int, attr: &mut A) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes `size_of::<A>()` bytes of `attr`; the rest by the caller.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(attr), size_of::<A>()) };
    i32::try_from(result).ok().filter(|result| *result >= 0).ok_or_else(io::Error::last_os_error)
}

#[repr(C)]
struct Pin {
    path: *const libc::c_char,
    fd: i32,
    flags: u32,
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Pins a hash map of another's making.
pub(crate) fn pin_hash(path: &Path, key: u32, value: u32, entries: u32) -> io::Result<()> {
    const BPF_MAP_CREATE: libc::c_int = 0;
    const BPF_OBJ_PIN: libc::c_int = 6;
    const HASH: u32 = 1;
    const BPF_F_NO_PREALLOC: u32 = 1;

    let mut attr: [u32; 5] = [HASH, key, value, entries, BPF_F_NO_PREALLOC];
    // SAFETY: the beginning of what BPF_MAP_CREATE takes.
    let fd = unsafe { bpf(BPF_MAP_CREATE, &mut attr) }?;
    // SAFETY: a new descriptor that nobody else owns.
    let map = unsafe { OwnedFd::from_raw_fd(fd) };
    let path = c_path(path)?;
    let mut attr = Pin { path: path.as_ptr(), fd: map.as_raw_fd(), flags: 0 };
    // SAFETY: laid out as for BPF_OBJ_PIN.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// A pinned map, its entries as bytes.
pub(crate) struct PinnedMap {
    fd: OwnedFd,
    key_size: usize,
}

#[repr(C)]
struct Element {
    map: i32,
    padding: u32,
    key: *const u8,
    next_key: *mut u8,
    flags: u64,
}

impl PinnedMap {
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        const BPF_OBJ_GET: libc::c_int = 7;
        let name = c_path(path)?;
        let mut attr = Pin { path: name.as_ptr(), fd: 0, flags: 0 };
        // SAFETY: laid out as for BPF_OBJ_GET.
        let fd = unsafe { bpf(BPF_OBJ_GET, &mut attr) }.with_context(|| path.display().to_string())?;
        // SAFETY: a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let about = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
        let key_size = about.lines().find_map(|line| line.strip_prefix("key_size:"));
        Ok(Self { fd, key_size: key_size.context("no key_size in fdinfo")?.trim().parse()? })
    }

    pub(crate) fn keys(&self) -> io::Result<Vec<Vec<u8>>> {
        const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut next_key = vec![0; self.key_size];
            let key = keys.last().map_or(ptr::null(), |key| key.as_ptr());
            let mut attr = self.element(key, next_key.as_mut_ptr());
            // SAFETY: laid out as for BPF_MAP_GET_NEXT_KEY; both keys are as large as the map's.
            match unsafe { bpf(BPF_MAP_GET_NEXT_KEY, &mut attr) } {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(keys),
                found => found?,
            };
            keys.push(next_key);
        }
    }

    pub(crate) fn delete(&self, key: &[u8]) -> io::Result<()> {
        const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
        assert_eq!(key.len(), self.key_size);
        let mut attr = self.element(key.as_ptr(), ptr::null_mut());
        // SAFETY: laid out as for BPF_MAP_DELETE_ELEM; the key is as large as the map's.
        unsafe { bpf(BPF_MAP_DELETE_ELEM, &mut attr) }.map(drop)
    }

    fn element(&self, key: *const u8, next_key: *mut u8) -> Element {
        Element { map: self.fd.as_raw_fd(), padding: 0, key, next_key, flags: 0 }
    }
}

/// How many connect4 programs sit on a cgroup itself.
pub(crate) fn connect4_programs(cgroup: &OwnedFd) -> io::Result<u32> {
    const BPF_PROG_QUERY: libc::c_int = 16;
    const CGROUP_INET4_CONNECT: u32 = 10;

    #[repr(C)]
    struct Query {
        target: i32,
        attach_type: u32,
        flags: [u32; 2],
        ids: *mut u32,
        count: u32,
        rest: u32,
    }
    let mut attr = Query {
        target: cgroup.as_raw_fd(),
        attach_type: CGROUP_INET4_CONNECT,
        flags: [0; 2],
        ids: ptr::null_mut(),
        count: 0,
        rest: 0,
    };
    // SAFETY: laid out as for BPF_PROG_QUERY, which without `ids` only counts.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr) }?;
    Ok(attr.count)
}

/// Attaches a connect4 program that allows everything, in the old way that allows none beside or below it.
pub(crate) fn attach_exclusively(cgroup: &OwnedFd) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_ATTACH: libc::c_int = 8;
    const CGROUP_SOCK_ADDR: u32 = 18;
    const CGROUP_INET4_CONNECT: u32 = 10;

    /// `union bpf_attr` up to the field after `prog_name` and `prog_ifindex`.
    #[repr(C)]
    struct Load {
        kind: u32,
        instructions_len: u32,
        instructions: *const u64,
        license: *const u8,
        log: [u64; 2],
        kernel_version_and_flags: [u32; 2],
        name: [u8; 16],
        ifindex: u32,
        attach_type: u32,
    }
    #[repr(C)]
    struct Attach {
        target: i32,
        program: i32,
        attach_type: u32,
        flags: u32,
    }
    // r0 = 1; exit
    let instructions: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];
    let mut load = Load {
        kind: CGROUP_SOCK_ADDR,
        instructions_len: 2,
        instructions: instructions.as_ptr(),
        license: c"MIT".as_ptr().cast(),
        log: [0; 2],
        kernel_version_and_flags: [0; 2],
        name: *b"selfish\0\0\0\0\0\0\0\0\0",
        ifindex: 0,
        attach_type: CGROUP_INET4_CONNECT,
    };
    // SAFETY: laid out as for BPF_PROG_LOAD.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut load) }?;
    // SAFETY: a new descriptor that nobody else owns.
    let program = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut attach = Attach {
        target: cgroup.as_raw_fd(),
        program: program.as_raw_fd(),
        attach_type: CGROUP_INET4_CONNECT,
        flags: 0,
    };
    // SAFETY: laid out as for BPF_PROG_ATTACH.
    unsafe { bpf(BPF_PROG_ATTACH, &mut attach) }.map(|_| program)
}
