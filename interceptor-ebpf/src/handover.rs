//! sock_ops: the original destination on its way from the connecting to the accepted socket.
//!
//! At TCP_CONNECT the source port is final and the SYN has not left, so the entry is there before any peer can look
//! for it; at PASSIVE_ESTABLISHED it moves into the accepted socket's own storage, before accept(2) can return the
//! socket. A lookup by peer address at accept would be wrong: an application that resets frees its port while the
//! old connection still waits in the queue. An entry whose connection never gets there goes when its socket closes.
//!
//! Runs on the workload's cgroup and on the listener's; where one holds the other it runs twice, to no other effect.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock,
    },
    helpers::generated::bpf_get_netns_cookie,
    programs::SockOpsContext,
};
use interceptor_common::{
    addr::{Ip16, Port},
    policy::HandoverKey,
};

use crate::{
    maps::{ACCEPTED, CONNECTING, HANDOVERS, HANDOVERS_ALL, HANDOVERS_OPEN},
    sock_addr::{stored, stored_or_zeroed},
};

const TCP_CLOSE: u32 = 7;
const AF_INET6: u32 = 10;
const BPF_NOEXIST: u64 = 1;

pub fn sock_ops(ctx: &SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => open(ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => hand_over(ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == TCP_CLOSE => close(ctx),
        _ => {}
    }
    1
}

#[inline(always)]
fn open(ctx: &SockOpsContext) {
    let Some(sk) = sock(ctx) else { return };
    let Some(connecting) = stored(&CONNECTING, sk) else { return };
    let key = Tuple::read(ctx).key_of_client(connecting.original.address.is_v4());
    if HANDOVERS.insert(&key, &connecting.original, BPF_NOEXIST).is_ok() {
        change_open(key.netns_cookie, 1);
    } else if HANDOVERS.insert(&key, &connecting.original, 0).is_err() {
        // No entry: the proxy closes the connection when it accepts it.
        return;
    }
    connecting.handover = key;
    connecting.handover_open = 1;
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
    // If it can't be set, the entry stays until the next connection with the same tuple overwrites it.
    let _unset = ctx.set_cb_flags(flags as i32);
}

#[inline(always)]
fn hand_over(ctx: &SockOpsContext) {
    let Some(sk) = sock(ctx) else { return };
    let key = Tuple::read(ctx).key_of_server();
    // SAFETY: the entry is written once, before the SYN leaves.
    let Some(original) = (unsafe { HANDOVERS.get(&key) }) else { return };
    // No memory: the proxy finds nothing and closes the connection.
    if let Some(accepted) = stored_or_zeroed(&ACCEPTED, sk) {
        // SAFETY: values of two maps, which don't overlap. An assignment would not know that, and call memmove.
        unsafe { core::ptr::copy_nonoverlapping(original, accepted, 1) };
    }
    remove(&key);
}

#[inline(always)]
fn close(ctx: &SockOpsContext) {
    let Some(sk) = sock(ctx) else { return };
    let Some(connecting) = stored(&CONNECTING, sk) else { return };
    if connecting.handover_open == 1 {
        connecting.handover_open = 0;
        let key = connecting.handover;
        remove(&key);
    }
}

#[inline(always)]
fn remove(key: &HandoverKey) {
    if HANDOVERS.remove(key).is_ok() {
        change_open(key.netns_cookie, u64::MAX);
    }
}

/// Adds with wrap-around: `u64::MAX` takes one away.
#[inline(always)]
fn change_open(netns_cookie: u64, by: u64) {
    for count in
        [HANDOVERS_OPEN.get_ptr_mut(&netns_cookie), HANDOVERS_ALL.get_ptr_mut(0)].into_iter().flatten()
    {
        // SAFETY: map values are aligned and live as long as the program runs.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(count, by) };
    }
}

/// What the context says of a connection, in both families: all fields are read before any is chosen, see sock_addr.
struct Tuple {
    netns_cookie: u64,
    is_ipv6_socket: bool,
    v4: Ends,
    v6: Ends,
    local_port: Port,
    remote_port: Port,
}

#[derive(Clone, Copy)]
struct Ends {
    local: Ip16,
    remote: Ip16,
}

impl Tuple {
    #[inline(always)]
    fn read(ctx: &SockOpsContext) -> Self {
        let raw = ctx.ops;
        // SAFETY: the kernel passes a valid context, and the helper takes the context itself.
        unsafe {
            let local_v4 = (&raw const (*raw).local_ip4).read_volatile();
            let remote_v4 = (&raw const (*raw).remote_ip4).read_volatile();
            let local_v6 = [
                (&raw const (*raw).local_ip6[0]).read_volatile(),
                (&raw const (*raw).local_ip6[1]).read_volatile(),
                (&raw const (*raw).local_ip6[2]).read_volatile(),
                (&raw const (*raw).local_ip6[3]).read_volatile(),
            ];
            let remote_v6 = [
                (&raw const (*raw).remote_ip6[0]).read_volatile(),
                (&raw const (*raw).remote_ip6[1]).read_volatile(),
                (&raw const (*raw).remote_ip6[2]).read_volatile(),
                (&raw const (*raw).remote_ip6[3]).read_volatile(),
            ];
            let local_port = (&raw const (*raw).local_port).read_volatile();
            let remote_port = (&raw const (*raw).remote_port).read_volatile();
            let family = (&raw const (*raw).family).read_volatile();
            Self {
                netns_cookie: bpf_get_netns_cookie(raw.cast()),
                is_ipv6_socket: family == AF_INET6,
                v4: Ends { local: Ip16::from_kernel_v4(local_v4), remote: Ip16::from_kernel_v4(remote_v4) },
                v6: Ends { local: Ip16::from_kernel_v6(local_v6), remote: Ip16::from_kernel_v6(remote_v6) },
                // sock_ops has this one in host order.
                local_port: Port(local_port as u16),
                remote_port: Port::from_kernel(remote_port),
            }
        }
    }

    /// Seen from the connecting socket, which knows what family it was sent to.
    #[inline(always)]
    fn key_of_client(&self, is_v4: bool) -> HandoverKey {
        let ends = if is_v4 { self.v4 } else { self.v6 };
        HandoverKey {
            netns_cookie: self.netns_cookie,
            source: ends.local,
            destination: ends.remote,
            source_port: self.local_port,
            destination_port: self.remote_port,
            unused: 0,
        }
    }

    /// Seen from the accepted socket. A dual-stack listener's children are AF_INET6 with mapped addresses; the IPv4
    /// fields alone don't tell, those of an IPv6 socket hold a placeholder.
    #[inline(always)]
    fn key_of_server(&self) -> HandoverKey {
        let is_v4 = !self.is_ipv6_socket || self.v6.local.is_v4();
        let ends = if is_v4 { self.v4 } else { self.v6 };
        HandoverKey {
            netns_cookie: self.netns_cookie,
            source: ends.remote,
            destination: ends.local,
            source_port: self.remote_port,
            destination_port: self.local_port,
            unused: 0,
        }
    }
}

#[inline(always)]
fn sock(ctx: &SockOpsContext) -> Option<*mut bpf_sock> {
    // SAFETY: the kernel passes a valid context; the field is null unless the socket is a full one.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    (!sk.is_null()).then_some(sk)
}
