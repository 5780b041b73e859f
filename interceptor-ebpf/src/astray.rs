//! What of a workload's TCP is about to leave for elsewhere than its connect(2) said.
//!
//! The verdict is on the address that the application names. Where packets go can differ from it: along a source route
//! (IP_OPTIONS, IPV6_RTHDR, which need no capability), and for loopback by a device that the socket is bound to. So the
//! first packet of each connection that leaves on another device than loopback is looked at once more. Guards refuse
//! more than this, on the cgroups where they sit.

use aya_ebpf::programs::SkBuffContext;
use interceptor_common::{policy::NOT_ENROLLED, verdict::Reason};

use crate::{
    first_packet::{Sender, leads_elsewhere, opens_connection, sender},
    maps::CONNECTING,
    outcome::{PROCEED, REFUSE, count},
    sock_addr,
};

const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;

pub fn egress(ctx: &SkBuffContext) -> i32 {
    let Some(Sender { sk, kind, protocol }) = sender(ctx) else { return PROCEED };
    if kind != SOCK_STREAM || protocol != IPPROTO_TCP || !opens_connection(ctx) {
        return PROCEED;
    }
    // What goes to the listener is on loopback, or somebody has led it elsewhere.
    let redirected = sock_addr::stored(&CONNECTING, sk).map(|connecting| connecting.original.netns_cookie);
    if redirected.is_none() && !leads_elsewhere(ctx).unwrap_or(true) {
        return PROCEED;
    }
    count(redirected.unwrap_or(NOT_ENROLLED), Reason::AstrayPacket);
    REFUSE
}
