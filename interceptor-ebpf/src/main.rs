//! The kernel half. One line per program: extract, decide, apply happen in the file of its hook family.
//!
//! | program | sits on | does |
//! |---|---|---|
//! | connect4, connect6 | a workload's cgroup | verdict; rewrites the destination to the workload's listener |
//! | sock_ops | workload's and listener's cgroup | carries the original destination to the accepted socket |
//! | getpeername4/6, getsockname4/6 | workload's cgroup | the application sees what it asked for |
//! | bind4, bind6 | workload's cgroup | the listener's port can't be taken |
//! | astray_egress | workload's cgroup | no TCP connection leaves for elsewhere than its address says |
//! | dns_connect4/6, dns_sendmsg4/6 | workload's cgroup, when DNS is captured | a datagram for a name server goes to the relay |
//! | dns_recvmsg4/6, dns_getpeername4/6 | likewise | the application sees the name server |
//! | guard_connect4/6, guard_sendmsg4/6 | an enforced workload's cgroup | refuses datagrams that go around the proxy |
//! | guard_sock_create, guard_egress | likewise | refuses sockets of other kinds, and what leaves after all |
//! | gate_connect4/6 | the common ancestor of all pods | holds pods that are not decided yet |
//! | original_dst | an unmodified proxy's cgroup | answers SO_ORIGINAL_DST |
#![no_std]
#![no_main]
// The target has no compare-and-swap, so `AtomicU64` there has no `fetch_add`, though the instruction exists.
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "as above")]

mod astray;
mod bind;
mod connect;
mod dns;
mod down;
mod first_packet;
mod gate;
mod guard;
mod handover;
mod maps;
mod names;
mod original_dst;
mod outcome;
mod sock_addr;

use aya_ebpf::macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr, cgroup_sockopt, sock_ops};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext, SockContext, SockOpsContext, SockoptContext};

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    connect::connect4(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    connect::connect6(&ctx)
}

#[sock_ops]
pub fn sock_ops(ctx: SockOpsContext) -> u32 {
    handover::sock_ops(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    names::getpeername4(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    names::getpeername6(&ctx)
}

#[cgroup_sock_addr(getsockname4)]
pub fn getsockname4(ctx: SockAddrContext) -> i32 {
    names::getsockname4(&ctx)
}

#[cgroup_sock_addr(getsockname6)]
pub fn getsockname6(ctx: SockAddrContext) -> i32 {
    names::getsockname6(&ctx)
}

#[cgroup_sock_addr(bind4)]
pub fn bind4(ctx: SockAddrContext) -> i32 {
    bind::bind4(&ctx)
}

#[cgroup_sock_addr(bind6)]
pub fn bind6(ctx: SockAddrContext) -> i32 {
    bind::bind6(&ctx)
}

#[cgroup_skb(egress)]
pub fn astray_egress(ctx: SkBuffContext) -> i32 {
    astray::egress(&ctx)
}

#[cgroup_sock_addr(connect4)]
pub fn dns_connect4(ctx: SockAddrContext) -> i32 {
    dns::ask4(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn dns_connect6(ctx: SockAddrContext) -> i32 {
    dns::ask6(&ctx)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn dns_sendmsg4(ctx: SockAddrContext) -> i32 {
    dns::ask4(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn dns_sendmsg6(ctx: SockAddrContext) -> i32 {
    dns::ask6(&ctx)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn dns_recvmsg4(ctx: SockAddrContext) -> i32 {
    dns::show4(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn dns_recvmsg6(ctx: SockAddrContext) -> i32 {
    dns::show6(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
pub fn dns_getpeername4(ctx: SockAddrContext) -> i32 {
    dns::show4(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
pub fn dns_getpeername6(ctx: SockAddrContext) -> i32 {
    dns::show6(&ctx)
}

#[cgroup_sock(sock_create)]
pub fn guard_sock_create(ctx: SockContext) -> i32 {
    guard::sock_create(&ctx)
}

#[cgroup_sock_addr(connect4)]
pub fn guard_connect4(ctx: SockAddrContext) -> i32 {
    guard::send4(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn guard_connect6(ctx: SockAddrContext) -> i32 {
    guard::send6(&ctx)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn guard_sendmsg4(ctx: SockAddrContext) -> i32 {
    guard::send4(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn guard_sendmsg6(ctx: SockAddrContext) -> i32 {
    guard::send6(&ctx)
}

#[cgroup_skb(egress)]
pub fn guard_egress(ctx: SkBuffContext) -> i32 {
    guard::egress(&ctx)
}

#[cgroup_sock_addr(connect4)]
pub fn gate_connect4(ctx: SockAddrContext) -> i32 {
    gate::connect4(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn gate_connect6(ctx: SockAddrContext) -> i32 {
    gate::connect6(&ctx)
}

#[cgroup_sockopt(getsockopt)]
pub fn original_dst(ctx: SockoptContext) -> i32 {
    original_dst::getsockopt(&ctx)
}

/// What the helpers ask of the object that calls them.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
