//! Reading and writing `bpf_sock_addr`, and socket storage of any context's socket.
//!
//! Every field is read with a volatile load before anything is decided: LLVM otherwise merges loads of different
//! fields into one at a computed offset, which the verifier refuses ("dereference of modified ctx ptr").

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_addr},
    btf_maps::SkStorage,
    helpers::generated::{bpf_get_netns_cookie, bpf_sk_storage_delete, bpf_sk_storage_get},
    programs::SockAddrContext,
};
use interceptor_common::addr::{Ip16, Port};

/// What connect, bind and name hooks read.
pub struct Address {
    pub ip: Ip16,
    pub port: Port,
    pub protocol: u32,
}

pub fn read_v4(ctx: &SockAddrContext) -> Address {
    let raw = ctx.sock_addr;
    // SAFETY: the kernel passes a valid context, and AF_INET hooks may read these fields.
    unsafe {
        let ip = (&raw const (*raw).user_ip4).read_volatile();
        let port = (&raw const (*raw).user_port).read_volatile();
        let protocol = (&raw const (*raw).protocol).read_volatile();
        Address { ip: Ip16::from_kernel_v4(ip), port: Port::from_kernel(port), protocol }
    }
}

pub fn read_v6(ctx: &SockAddrContext) -> Address {
    let raw = ctx.sock_addr;
    // SAFETY: as above, for AF_INET6 hooks.
    unsafe {
        let a = (&raw const (*raw).user_ip6[0]).read_volatile();
        let b = (&raw const (*raw).user_ip6[1]).read_volatile();
        let c = (&raw const (*raw).user_ip6[2]).read_volatile();
        let d = (&raw const (*raw).user_ip6[3]).read_volatile();
        let port = (&raw const (*raw).user_port).read_volatile();
        let protocol = (&raw const (*raw).protocol).read_volatile();
        Address { ip: Ip16::from_kernel_v6([a, b, c, d]), port: Port::from_kernel(port), protocol }
    }
}

pub fn write_v4(ctx: &SockAddrContext, ip: Ip16, port: Option<Port>) {
    let raw = ctx.sock_addr;
    // SAFETY: AF_INET hooks may write these fields, four bytes at a time.
    unsafe {
        (&raw mut (*raw).user_ip4).write_volatile(ip.kernel_v4());
    }
    write_port(raw, port);
}

pub fn write_v6(ctx: &SockAddrContext, ip: Ip16, port: Option<Port>) {
    let raw = ctx.sock_addr;
    let [a, b, c, d] = ip.kernel_v6();
    // SAFETY: as above, for AF_INET6 hooks.
    unsafe {
        (&raw mut (*raw).user_ip6[0]).write_volatile(a);
        (&raw mut (*raw).user_ip6[1]).write_volatile(b);
        (&raw mut (*raw).user_ip6[2]).write_volatile(c);
        (&raw mut (*raw).user_ip6[3]).write_volatile(d);
    }
    write_port(raw, port);
}

fn write_port(raw: *mut bpf_sock_addr, port: Option<Port>) {
    if let Some(port) = port {
        // SAFETY: `user_port` is writable in every sock_addr hook we attach to.
        unsafe { (&raw mut (*raw).user_port).write_volatile(port.kernel()) }
    }
}

pub fn netns_cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper takes the context itself.
    unsafe { bpf_get_netns_cookie(ctx.sock_addr.cast()) }
}

/// The socket of the context; never null in sock_addr hooks.
pub fn sock(ctx: &SockAddrContext) -> *mut bpf_sock {
    // SAFETY: the kernel passes a valid context.
    unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk }
}

/// The device the socket is bound to; 0: none.
pub fn bound_ifindex(sk: *mut bpf_sock) -> u32 {
    // SAFETY: `sk` came from a context and its UAPI fields may be read.
    unsafe { (&raw const (*sk).bound_dev_if).read_volatile() }
}

/// The value stored with `sk`, if there is one.
pub fn stored<T>(map: &'static SkStorage<T>, sk: *mut bpf_sock) -> Option<&'static mut T> {
    // SAFETY: `sk` is a full socket from a context; what the helper returns lives as long as the program runs, and
    // is written only under the socket's lock or, for accepted sockets, once before anybody can read it.
    unsafe { bpf_sk_storage_get(address(map), sk.cast(), core::ptr::null_mut(), 0).cast::<T>().as_mut() }
}

/// The value stored with `sk`; all zero if there was none before. None: no memory.
pub fn stored_or_zeroed<T>(map: &'static SkStorage<T>, sk: *mut bpf_sock) -> Option<&'static mut T> {
    let create = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
    // SAFETY: as in `stored`; all zero is a value of every T that our maps hold.
    unsafe { bpf_sk_storage_get(address(map), sk.cast(), core::ptr::null_mut(), create).cast::<T>().as_mut() }
}

pub fn forget<T>(map: &'static SkStorage<T>, sk: *mut bpf_sock) {
    // SAFETY: as in `stored`. That there was nothing to delete is as good.
    unsafe { bpf_sk_storage_delete(address(map), sk.cast()) };
}

/// What the loader replaces by the map.
fn address<T>(map: &'static SkStorage<T>) -> *mut core::ffi::c_void {
    core::ptr::from_ref(map).cast_mut().cast()
}
