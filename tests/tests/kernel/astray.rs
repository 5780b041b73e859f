//! TCP connections that would leave for elsewhere than connect(2) was told, without any capability.

use std::net::SocketAddr;

use interceptor_common::verdict::Reason;
use interceptor_user::workload::RedirectPolicy;
use socket2::Socket;

use crate::{
    bed::{Bed, DEVICE},
    sys,
};

const IP_OPTIONS: i32 = 4;
const IPV6_RTHDR: i32 = 57;

/// Outside, and of a policy that excludes them.
const EXCLUDED: [&str; 2] = ["10.77.0.53:80", "[fd77::53]:80"];

fn bed() -> anyhow::Result<Bed> {
    Bed::with(&RedirectPolicy {
        exclude_ip_ranges: vec!["10.77.0.53/32".parse()?, "fd77::53/128".parse()?],
        ..RedirectPolicy::default()
    })
}

/// By way of 10.77.0.53, and an end.
fn source_route(kind: u8) -> [u8; 8] {
    [kind, 7, 4, 10, 77, 0, 53, 0]
}

/// A segment routing header, by way of fd77::53.
fn routing_header() -> Vec<u8> {
    let by_way = [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53];
    // Of two segments, of four times eight bytes; the first is for the destination.
    [&[0, 4, 4, 1, 1, 0, 0, 0][..], &[0; 16], &by_way].concat()
}

/// Whether the connection's first packet was refused on its way out.
fn is_refused(bed: &Bed, to: &str, prepare: impl Fn(&Socket) -> std::io::Result<()>) -> anyhow::Result<bool> {
    let before = bed.count(Reason::AstrayPacket)?;
    let to: SocketAddr = to.parse()?;
    let socket = bed.tcp_for(to)?;
    prepare(&socket)?;
    socket.set_nonblocking(true)?;
    // Sends the packet before it returns, whatever it says.
    let _unanswered = socket.connect(&to.into());
    Ok(bed.count(Reason::AstrayPacket)? > before)
}

#[test]
fn source_routes_lead_no_connection_out() -> anyhow::Result<()> {
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    let bed = bed()?;
    for to in ["127.0.0.1:7000", "93.184.216.34:80", EXCLUDED[0], "[::ffff:93.184.216.34]:80"] {
        for kind in [LOOSE, STRICT] {
            let refused = is_refused(&bed, to, |socket| {
                sys::set_bytes(socket, libc::IPPROTO_IP, IP_OPTIONS, &source_route(kind))
            })?;
            assert!(refused, "{to} {kind}");
        }
    }
    for to in ["[::1]:7000", "[2001:db8::22]:443", EXCLUDED[1]] {
        let refused = is_refused(&bed, to, |socket| {
            sys::set_bytes(socket, libc::IPPROTO_IPV6, IPV6_RTHDR, &routing_header())
        })?;
        assert!(refused, "{to}");
    }
    assert!(bed.nothing_to_accept());
    Ok(())
}

#[test]
fn what_is_for_loopback_does_not_leave_by_a_device() -> anyhow::Result<()> {
    let bed = bed()?;
    for to in ["127.0.0.1:7000", "[::1]:7000"] {
        let refused = is_refused(&bed, to, |socket| socket.bind_device(Some(DEVICE.as_bytes())))?;
        assert!(refused, "{to}");
    }
    Ok(())
}

#[test]
fn what_goes_where_its_address_says_goes_on() -> anyhow::Result<()> {
    const RECORD_ROUTE: [u8; 8] = [7, 7, 4, 0, 0, 0, 0, 0];
    let bed = bed()?;
    for to in EXCLUDED {
        assert!(!is_refused(&bed, to, |_| Ok(()))?, "{to}");
        assert!(!is_refused(&bed, to, |socket| socket.bind_device(Some(DEVICE.as_bytes())))?, "{to}");
    }
    let refused = is_refused(&bed, EXCLUDED[0], |socket| {
        sys::set_bytes(socket, libc::IPPROTO_IP, IP_OPTIONS, &RECORD_ROUTE)
    })?;
    assert!(!refused, "an option that leads nowhere");
    Ok(())
}
