//! Packets on their way out, as the kernel is about to send them: where each goes, and which ones open connections.

use aya_ebpf::{bindings::bpf_sock, helpers::bpf_sk_fullsock, programs::SkBuffContext};
use interceptor_common::{
    addr::{Ip16, Port},
    flow::Flow,
};

const IPPROTO_HOPOPTS: u8 = 0;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_ROUTING: u8 = 43;
const IPPROTO_DSTOPTS: u8 = 60;

/// Every network namespace's own loopback device, and no other.
const LOOPBACK_IFINDEX: u32 = 1;

const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;

/// The socket that sends a packet.
pub struct Sender {
    pub sk: *mut bpf_sock,
    pub kind: u32,
    pub protocol: u32,
}

/// Whose packet leaves on another device than loopback. None: it does not, or no full socket sends it.
#[inline(always)]
pub fn sender(ctx: &SkBuffContext) -> Option<Sender> {
    let raw = ctx.skb.skb;
    // SAFETY: the kernel passes a valid context.
    let (ifindex, sk) = unsafe {
        let ifindex = (&raw const (*raw).ifindex).read_volatile();
        (ifindex, (*raw).__bindgen_anon_2.sk)
    };
    if ifindex == LOOPBACK_IFINDEX || sk.is_null() {
        return None;
    }
    // SAFETY: the helper takes the socket of a context; null: it is no full one.
    let sk = unsafe { bpf_sk_fullsock(sk) };
    if sk.is_null() {
        return None;
    }
    // SAFETY: a full socket, of which these fields may be read.
    let (kind, protocol) =
        unsafe { ((&raw const (*sk).type_).read_volatile(), (&raw const (*sk).protocol).read_volatile()) };
    Some(Sender { sk, kind, protocol })
}

/// Whether a TCP socket's packet is the first of an outgoing connection. One that can't be read is taken for it: IPv6
/// headers in front of TCP's are there only if the application asked for them.
#[inline(always)]
pub fn opens_connection(ctx: &SkBuffContext) -> bool {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    let Ok(first) = ctx.load::<u8>(0) else { return true };
    let (protocol_at, header) = match first >> 4 {
        4 => (9, usize::from(first & 0x0f) * 4),
        _ => (6, V6_HEADER),
    };
    let Ok(protocol) = ctx.load::<u8>(protocol_at) else { return true };
    if protocol != IPPROTO_TCP {
        return true;
    }
    match ctx.load::<u8>(header + 13) {
        Ok(flags) => flags & (SYN | ACK) == SYN,
        Err(_) => true,
    }
}

/// Where a UDP or TCP packet goes. None: it has options, which may lead it elsewhere, or headers of its own.
#[inline(always)]
pub fn destination(ctx: &SkBuffContext) -> Option<Flow> {
    const PLAIN_V4: u8 = 0x45;
    let first = ctx.load::<u8>(0).ok()?;
    let (protocol_at, destination, header) = if first == PLAIN_V4 {
        (9, Ip16::from_kernel_v4(ctx.load(16).ok()?), V4_HEADER)
    } else if first >> 4 == 6 {
        (6, Ip16::from_kernel_v6(ctx.load(24).ok()?), V6_HEADER)
    } else {
        return None;
    };
    let protocol: u8 = ctx.load(protocol_at).ok()?;
    if protocol != IPPROTO_TCP && protocol != IPPROTO_UDP {
        return None;
    }
    let port: u16 = ctx.load(header + 2).ok()?;
    Some(Flow { destination, port: Port(u16::from_be(port)) })
}

/// Whether a packet that leaves on another device than loopback goes elsewhere than the application said that it
/// connects to: for loopback after all, or along a route of the application's own. None: it can't be read.
#[inline(always)]
pub fn leads_elsewhere(ctx: &SkBuffContext) -> Option<bool> {
    let first: u8 = ctx.load(0).ok()?;
    if first >> 4 == 4 {
        let to = Ip16::from_kernel_v4(ctx.load(16).ok()?);
        Some(to.is_loopback() || has_source_route(ctx, usize::from(first & 0x0f) * 4)?)
    } else {
        let to = Ip16::from_kernel_v6(ctx.load(24).ok()?);
        Some(to.is_loopback() || has_routing_header(ctx)?)
    }
}

/// Of the options behind an IPv4 header, loose and strict source routes.
#[inline(always)]
fn has_source_route(ctx: &SkBuffContext, end: usize) -> Option<bool> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    const OPTIONS_MAX: usize = 40;
    let mut at = V4_HEADER;
    for _ in 0..OPTIONS_MAX {
        if at >= end {
            return Some(false);
        }
        match ctx.load::<u8>(at).ok()? {
            END => return Some(false),
            NO_OPERATION => at += 1,
            LOOSE | STRICT => return Some(true),
            _ => {
                let length: u8 = ctx.load(at + 1).ok()?;
                if length < 2 {
                    return None;
                }
                at += usize::from(length);
            }
        }
    }
    None
}

/// Of the headers between IPv6's and TCP's. What is neither an option nor a route is none of the application's making.
#[inline(always)]
fn has_routing_header(ctx: &SkBuffContext) -> Option<bool> {
    const HEADERS_MAX: usize = 8;
    let mut next: u8 = ctx.load(6).ok()?;
    let mut at = V6_HEADER;
    for _ in 0..HEADERS_MAX {
        match next {
            IPPROTO_ROUTING => return Some(true),
            IPPROTO_HOPOPTS | IPPROTO_DSTOPTS => {
                next = ctx.load(at).ok()?;
                let length: u8 = ctx.load(at + 1).ok()?;
                at += (usize::from(length) + 1) * 8;
            }
            _ => return Some(false),
        }
    }
    None
}
