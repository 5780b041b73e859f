//! getsockopt(SO_ORIGINAL_DST) as netfilter would answer it, for proxies that know nothing of us.
//!
//! Sits only on such a proxy's cgroup: every getsockopt(2) below it pays for it.

use aya_ebpf::{bindings::bpf_sockopt, programs::SockoptContext};
use interceptor_common::addr::Port;

use crate::{maps::ACCEPTED, sock_addr::stored};

const SOL_IP: i32 = 0;
const SOL_IPV6: i32 = 41;
/// SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST; at other levels 80 means something else.
const SO_ORIGINAL_DST: i32 = 80;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

#[repr(C)]
struct SockaddrIn {
    family: u16,
    port_be: u16,
    address: u32,
    zero: [u32; 2],
}

#[repr(C)]
struct SockaddrIn6 {
    family: u16,
    port_be: u16,
    flow: u32,
    address: [u32; 4],
    scope: u32,
}

/// Always 1: what is not ours passes as the kernel answered it.
pub fn getsockopt(ctx: &SockoptContext) -> i32 {
    let raw = ctx.sockopt;
    // SAFETY: the kernel passes a valid context.
    let (level, name) =
        unsafe { ((&raw const (*raw).level).read_volatile(), (&raw const (*raw).optname).read_volatile()) };
    if name == SO_ORIGINAL_DST && (level == SOL_IP || level == SOL_IPV6) {
        answer(raw, level);
    }
    1
}

#[inline(always)]
fn answer(raw: *mut bpf_sockopt, level: i32) {
    // SAFETY: the kernel passes a valid context with its socket.
    let sk = unsafe { (*raw).__bindgen_anon_1.sk };
    if sk.is_null() {
        return;
    }
    let Some(original) = stored(&ACCEPTED, sk) else { return };
    let port_be = be(original.port);
    if level == SOL_IPV6 {
        let address = original.address.kernel_v6();
        let value = SockaddrIn6 { family: AF_INET6, port_be, flow: 0, address, scope: 0 };
        reply(raw, value);
    } else if original.address.is_v4() {
        let address = original.address.kernel_v4();
        reply(raw, SockaddrIn { family: AF_INET, port_be, address, zero: [0; 2] });
    }
}

/// Copies `value` out; a buffer that is too small leaves the kernel's own answer.
#[inline(always)]
fn reply<T>(raw: *mut bpf_sockopt, value: T) {
    // SAFETY: the verifier has `optval` point at `optval_end - optval` writable bytes, which the comparison checks.
    unsafe {
        let start = (&raw const (*raw).__bindgen_anon_2.optval).read_volatile().cast::<T>();
        let end = (&raw const (*raw).__bindgen_anon_3.optval_end).read_volatile().cast::<T>();
        if start.add(1) > end {
            return;
        }
        start.write_unaligned(value);
        (&raw mut (*raw).optlen).write_volatile(size_of::<T>() as i32);
        (&raw mut (*raw).retval).write_volatile(0);
    }
}

fn be(port: Port) -> u16 {
    port.0.to_be()
}
