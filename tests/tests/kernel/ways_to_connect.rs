//! Every way into connect(2) that has been seen to slip past an interceptor.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::Context;
use interceptor_common::verdict::Reason;
use interceptor_user::workload::RedirectPolicy;
use rustix::net::connect_unspec;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    bed::{Bed, DEADLINE, OWN_V4, OWN_V6},
    sys,
};

const SOMEWHERE: &str = "93.184.216.34:80";
const SOMEWHERE_V6: &str = "[2001:db8::22]:443";

fn address(text: &str) -> SocketAddr {
    text.parse().expect("a literal address")
}

#[test]
fn blocking() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    let client = bed.workload.tcp(Domain::IPV4)?;
    client.connect(&address(SOMEWHERE).into())?;
    bed.expect_redirected(&client, SOMEWHERE)?;
    Ok(())
}

#[test]
fn non_blocking() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    let client = bed.start_connect(SOMEWHERE)?;
    bed.expect_redirected(&client, SOMEWHERE)?;
    Ok(())
}

#[test]
fn bound_to_its_own_address_first() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    for (own, to) in [(OWN_V4, SOMEWHERE), (OWN_V6, SOMEWHERE_V6)] {
        let client = bed.tcp_for(address(to))?;
        client.bind(&SocketAddr::new(own.parse()?, 0).into())?;
        client.connect_timeout(&address(to).into(), DEADLINE)?;
        bed.expect_redirected(&client, to)?;
        let local = client.local_addr()?.as_socket().context("an IP address")?;
        assert_eq!(local.ip().to_string(), own);
    }
    Ok(())
}

#[test]
fn io_uring() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    for to in [SOMEWHERE, SOMEWHERE_V6] {
        let client = bed.tcp_for(address(to))?;
        sys::io_uring_connect(&client, address(to))?;
        bed.expect_redirected(&client, to)?;
    }
    Ok(())
}

#[test]
fn msg_fastopen() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    for to in [SOMEWHERE, SOMEWHERE_V6] {
        let client = bed.tcp_for(address(to))?;
        assert_eq!(sys::fast_open(&client, address(to), b"")?, 0);
        bed.expect_redirected(&client, to)?;
    }
    Ok(())
}

#[test]
fn tcp_fastopen_connect() -> anyhow::Result<()> {
    const TCP_FASTOPEN_CONNECT: i32 = 30;
    let bed = Bed::new()?;
    let client = bed.workload.tcp(Domain::IPV4)?;
    sys::set_option(&client, libc::IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)?;
    client.connect(&address(SOMEWHERE).into())?;
    // With a cookie the SYN leaves with the first write; without one it has left already.
    bed.expect_redirected(&client, SOMEWHERE)?;
    Ok(())
}

#[test]
fn fast_open_with_a_cookie_sends_its_syn_late() -> anyhow::Result<()> {
    const TCP_FASTOPEN: i32 = 23;
    const TCP_FASTOPEN_CONNECT: i32 = 30;
    let bed = Bed::new()?;
    bed.netns.sysctl("net/ipv4/tcp_fastopen", "3")?;
    for listener in &bed.listeners {
        let listener = Socket::from(listener.try_clone()?);
        sys::set_option(&listener, libc::IPPROTO_TCP, TCP_FASTOPEN, 16)?;
    }
    // The kernel keeps cookies per address: some of these connections find one, and then carry data in the SYN.
    for _ in 0..40 {
        let client = bed.workload.tcp(Domain::IPV4)?;
        sys::set_option(&client, libc::IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)?;
        client.connect(&address(SOMEWHERE).into())?;
        client.send(b"")?;
        let mut writer = &client;
        std::io::Write::write_all(&mut writer, b"early")?;
        let (mut stream, original) = bed.accept()?;
        assert_eq!(original.context("no original destination")?.addr, address(SOMEWHERE));
        let mut received = [0_u8; 5];
        std::io::Read::read_exact(&mut stream, &mut received)?;
        assert_eq!(&received, b"early");
    }
    assert_eq!(bed.datapath.handovers_waiting()?, 0);
    Ok(())
}

#[test]
fn again_after_af_unspec() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    let client = bed.connect(SOMEWHERE)?;
    bed.expect_redirected(&client, SOMEWHERE)?;
    connect_unspec(&client)?;
    client.connect_timeout(&address("198.51.100.7:8443").into(), DEADLINE)?;
    bed.expect_redirected(&client, "198.51.100.7:8443")?;
    Ok(())
}

/// The second destination is excluded: nothing of the first may stick to the socket.
#[test]
fn again_to_an_excluded_destination() -> anyhow::Result<()> {
    let policy = RedirectPolicy { exclude_ip_ranges: vec!["10.10.0.4/32".parse()?], ..Default::default() };
    let bed = Bed::with(&policy)?;
    bed.netns.ip("addr add 10.10.0.4/32 dev lo\n")?;
    let server = bed.server("10.10.0.4:8080")?;
    let client = bed.connect(SOMEWHERE)?;
    bed.expect_redirected(&client, SOMEWHERE)?;
    connect_unspec(&client)?;
    client.connect_timeout(&address("10.10.0.4:8080").into(), DEADLINE)?;
    let (stream, _) = server.accept()?;
    assert_eq!(client.peer_addr()?.as_socket(), Some(address("10.10.0.4:8080")));
    assert_eq!(client.local_addr()?.as_socket(), Some(stream.peer_addr()?));
    Ok(())
}

/// A connect(2) that fails is tried again, on the same socket, to another place: the last one counts.
#[test]
fn a_retry_keeps_the_latest_destination() -> anyhow::Result<()> {
    let mut bed = Bed::new()?;
    bed.stop_listening()?;
    let client = bed.workload.tcp(Domain::IPV4)?;
    let error = client.connect(&address("192.0.2.1:1111").into()).expect_err("nobody listens");
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
    let (listener, listeners) = bed.proxy.listeners()?;
    assert_eq!(listener, bed.listener);
    bed.listeners = listeners;
    client.connect(&address("192.0.2.2:2222").into())?;
    bed.expect_redirected(&client, "192.0.2.2:2222")?;
    assert_eq!(bed.datapath.handovers_waiting()?, 0);
    Ok(())
}

#[test]
fn multipath_tcp() -> anyhow::Result<()> {
    const IPPROTO_MPTCP: i32 = 262;
    let bed = Bed::new()?;
    for to in [SOMEWHERE, SOMEWHERE_V6] {
        let client =
            bed.workload.socket(Domain::for_address(address(to)), Type::STREAM, IPPROTO_MPTCP.into())?;
        client.connect_timeout(&address(to).into(), DEADLINE)?;
        bed.expect_redirected(&client, to)?;
    }
    Ok(())
}

#[test]
fn the_application_sees_its_real_addresses() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    let rows = [
        (SOMEWHERE, SOMEWHERE, OWN_V4),
        (SOMEWHERE_V6, SOMEWHERE_V6, OWN_V6),
        ("[::ffff:93.184.216.34]:80", "[::ffff:93.184.216.34]:80", "::ffff:10.77.0.1"),
    ];
    for (to, peer, own) in rows {
        let client = bed.connect(to)?;
        assert_eq!(client.peer_addr()?.as_socket(), Some(address(peer)), "{to}");
        let local = client.local_addr()?.as_socket().context("an IP address")?;
        assert_eq!(local.ip(), own.parse::<std::net::IpAddr>()?, "{to}");
    }
    Ok(())
}

#[test]
fn udp_is_left_alone() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    let socket = bed.workload.socket(Domain::IPV4, Type::DGRAM, Protocol::UDP)?;
    socket.connect(&address("93.184.216.34:53").into())?;
    assert_eq!(socket.peer_addr()?.as_socket(), Some(address("93.184.216.34:53")));
    assert_eq!(socket.local_addr()?.as_socket().map(|local| local.ip().to_string()), Some(OWN_V4.to_owned()));
    socket.bind(&address("0.0.0.0:0").into()).expect_err("it is bound already");
    let listener_port = bed.workload.socket(Domain::IPV4, Type::DGRAM, Protocol::UDP)?;
    listener_port.bind(&SocketAddr::new(OWN_V4.parse()?, bed.listener.port).into())?;
    assert_eq!(bed.datapath.counters()?, []);
    Ok(())
}

/// Happy eyeballs depend on it: a family without any address fails at once, as it does without us.
#[test]
fn a_family_without_addresses_is_unreachable() -> anyhow::Result<()> {
    let mut bed = Bed::new()?;
    let v4_only = [OWN_V4.parse()?];
    bed.datapath.update_network(bed.cookie, &v4_only, &Default::default())?;
    let error = bed.connect_error(SOMEWHERE_V6)?;
    assert_eq!(error.raw_os_error(), Some(libc::ENETUNREACH));
    bed.connect(SOMEWHERE)?;

    let v6_only = [OWN_V6.parse()?];
    bed.datapath.update_network(bed.cookie, &v6_only, &Default::default())?;
    for to in [SOMEWHERE, "[::ffff:93.184.216.34]:80"] {
        let error = bed.connect_error(to)?;
        assert_eq!(error.raw_os_error(), Some(libc::ENETUNREACH), "{to}");
    }
    bed.connect(SOMEWHERE_V6)?;
    assert_eq!(bed.count(Reason::NoRoute)?, 3);
    Ok(())
}

/// A connection that was never accepted leaves nothing behind once its socket closes.
#[test]
fn a_connection_that_fails_leaves_no_entry() -> anyhow::Result<()> {
    let mut bed = Bed::new()?;
    bed.stop_listening()?;
    for to in [SOMEWHERE, SOMEWHERE_V6] {
        let error = bed.connect_error(to)?;
        assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
    }
    assert_eq!(bed.datapath.handovers_waiting()?, 0);
    Ok(())
}

/// To different addresses of the listener the same source port is in use many times at once.
#[test]
fn connections_at_once_share_source_ports() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    bed.netns.sysctl("net/ipv4/ip_local_port_range", "40000 40019")?;
    let (mut clients, mut delivered, mut ports) = (Vec::new(), Vec::new(), BTreeSet::new());
    let asked: Vec<SocketAddr> =
        (1..=40_u8).map(|last| SocketAddr::from(([203, 0, 113, last], 80))).collect();
    for to in &asked {
        clients.push(bed.connect(&to.to_string())?);
        let (stream, original) = bed.accept()?;
        delivered.push(original.context("no original destination")?.addr);
        ports.insert(stream.peer_addr()?.port());
    }
    assert_eq!(delivered, asked);
    assert!(ports.len() <= 20, "{ports:?}");
    Ok(())
}

/// The hooks belong to the socket's cgroup: it does not matter who connects it.
#[test]
fn a_socket_handed_to_another_process() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    // Every socket of these tests is made in the workload's cgroup and connected from outside of it.
    let outside = bed.proxy.tcp(Domain::IPV4)?;
    outside.set_nonblocking(true)?;
    let error = outside.connect(&address(SOMEWHERE).into()).expect_err("a SYN that nobody answers");
    assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
    interceptor_tests::wait_for("one SYN of its own", Duration::from_secs(30), || {
        (outside.local_addr().ok()?.as_socket()?.ip().to_string() == OWN_V4).then_some(())
    })?;
    assert!(bed.nothing_to_accept());
    let inside = bed.connect(SOMEWHERE)?;
    bed.expect_redirected(&inside, SOMEWHERE)?;
    Ok(())
}
