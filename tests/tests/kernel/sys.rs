//! System calls that no safe library offers: socket options by number, and one connect(2) through io_uring.
#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

use std::{
    ffi::c_void,
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::{
    io_uring::{
        IORING_OFF_CQ_RING, IORING_OFF_SQ_RING, IORING_OFF_SQES, IoringEnterFlags, IoringOp,
        addr_or_splice_off_in_union, io_uring_cqe, io_uring_enter, io_uring_params, io_uring_ptr,
        io_uring_setup, io_uring_sqe, io_uring_user_data, off_or_addr2_union,
    },
    mm::{MapFlags, ProtFlags, mmap, munmap},
};
use socket2::{SockAddr, Socket};

/// setsockopt(2) with an int.
pub(crate) fn set_option(socket: &Socket, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<i32>()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `length` bytes of `value`.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast::<c_void>(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// setsockopt(2) with bytes.
pub(crate) fn set_bytes(socket: &Socket, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `length` bytes of `value`.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast::<c_void>(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// sendto(2) with MSG_FASTOPEN: connects and sends in one call.
pub(crate) fn fast_open(socket: &Socket, to: SocketAddr, bytes: &[u8]) -> io::Result<usize> {
    socket.send_to_with_flags(bytes, &to.into(), libc::MSG_FASTOPEN)
}

/// A ring of one entry, for one connect.
struct Ring {
    fd: OwnedFd,
    params: io_uring_params,
    submissions: Mapping,
    completions: Mapping,
    entries: Mapping,
}

struct Mapping {
    start: *mut c_void,
    length: usize,
}

impl Mapping {
    fn new(fd: &OwnedFd, length: usize, offset: u64) -> io::Result<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe { mmap(ptr::null_mut(), length, prot, MapFlags::SHARED, fd.as_fd(), offset) }?;
        Ok(Self { start, length })
    }

    /// A pointer to a `T` at `offset` bytes, which the kernel's offsets keep inside and aligned.
    fn at<T>(&self, offset: u32) -> *mut T {
        assert!(offset as usize + size_of::<T>() <= self.length);
        self.start.wrapping_byte_add(offset as usize).cast()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by mmap with this length, unmapped once, and nothing points into it any more.
        if let Err(error) = unsafe { munmap(self.start, self.length) } {
            eprintln!("munmap: {error}");
        }
    }
}

impl Ring {
    fn new() -> io::Result<Self> {
        let mut params = io_uring_params::default();
        // SAFETY: `params` asks for nothing special; the kernel fills it in.
        let fd = unsafe { io_uring_setup(1, &mut params) }?;
        let submissions = params.sq_off.array as usize + params.sq_entries as usize * size_of::<u32>();
        let completions =
            params.cq_off.cqes as usize + params.cq_entries as usize * size_of::<io_uring_cqe>();
        let entries = params.sq_entries as usize * size_of::<io_uring_sqe>();
        Ok(Self {
            submissions: Mapping::new(&fd, submissions, IORING_OFF_SQ_RING)?,
            completions: Mapping::new(&fd, completions, IORING_OFF_CQ_RING)?,
            entries: Mapping::new(&fd, entries, IORING_OFF_SQES)?,
            fd,
            params,
        })
    }

    /// Submits one entry, waits for it, and returns its result.
    fn run(&self, entry: io_uring_sqe) -> io::Result<i32> {
        // SAFETY: the pointers are inside the mappings and aligned; nobody else uses this ring; what `entry` points
        // at outlives the call, which waits for the completion.
        unsafe {
            self.entries.at::<io_uring_sqe>(0).write(entry);
            self.submissions.at::<u32>(self.params.sq_off.array).write(0);
            AtomicU32::from_ptr(self.submissions.at(self.params.sq_off.tail)).store(1, Ordering::Release);
            io_uring_enter(&self.fd, 1, 1, IoringEnterFlags::GETEVENTS)?;
            let tail =
                AtomicU32::from_ptr(self.completions.at(self.params.cq_off.tail)).load(Ordering::Acquire);
            assert_eq!(tail, 1, "one completion");
            Ok((*self.completions.at::<io_uring_cqe>(self.params.cq_off.cqes)).res)
        }
    }
}

/// connect(2) as IORING_OP_CONNECT.
pub(crate) fn io_uring_connect(socket: &Socket, to: SocketAddr) -> io::Result<()> {
    let to = SockAddr::from(to);
    let address = io_uring_ptr::from(to.as_ptr().cast_mut().cast::<c_void>());
    let mut entry =
        io_uring_sqe { opcode: IoringOp::Connect, fd: socket.as_raw_fd(), ..io_uring_sqe::default() };
    entry.addr_or_splice_off_in = addr_or_splice_off_in_union { addr: address };
    entry.off_or_addr2 = off_or_addr2_union { off: u64::from(to.len()) };
    entry.user_data = io_uring_user_data::from_u64(1);
    match Ring::new()?.run(entry)? {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}
