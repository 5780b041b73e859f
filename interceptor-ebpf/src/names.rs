//! getpeername and getsockname: a redirected socket shows the addresses it would have without us.

use aya_ebpf::programs::SockAddrContext;
use interceptor_common::addr::Ip16;

use crate::{
    maps::{CONNECTING, WORKLOADS},
    outcome::PROCEED,
    sock_addr::{self, Address},
};

pub fn getpeername4(ctx: &SockAddrContext) -> i32 {
    if let Some(connecting) = sock_addr::stored(&CONNECTING, sock_addr::sock(ctx)) {
        sock_addr::write_v4(ctx, connecting.original.address, Some(connecting.original.port));
    }
    PROCEED
}

pub fn getpeername6(ctx: &SockAddrContext) -> i32 {
    if let Some(connecting) = sock_addr::stored(&CONNECTING, sock_addr::sock(ctx)) {
        sock_addr::write_v6(ctx, connecting.original.address, Some(connecting.original.port));
    }
    PROCEED
}

pub fn getsockname4(ctx: &SockAddrContext) -> i32 {
    if let Some(own) = own_address(ctx, &sock_addr::read_v4(ctx)) {
        sock_addr::write_v4(ctx, own, None);
    }
    PROCEED
}

pub fn getsockname6(ctx: &SockAddrContext) -> i32 {
    if let Some(own) = own_address(ctx, &sock_addr::read_v6(ctx)) {
        sock_addr::write_v6(ctx, own, None);
    }
    PROCEED
}

/// What to show instead of the loopback address that the redirect gave the socket. An address the application bound
/// itself is no loopback address and stays.
#[inline(always)]
fn own_address(ctx: &SockAddrContext, shown: &Address) -> Option<Ip16> {
    let connecting = sock_addr::stored(&CONNECTING, sock_addr::sock(ctx))?;
    if !shown.ip.is_loopback() {
        return None;
    }
    // SAFETY: the agent replaces whole entries.
    let workload = unsafe { WORKLOADS.get(&connecting.original.netns_cookie) }?;
    let own = if connecting.original.address.is_v4() { workload.own_v4 } else { workload.own_v6 };
    (!own.is_unspecified()).then_some(own)
}
