//! The guard of an enforced workload, tried by every way around the proxy that is known; each is tried once more without
//! the guard, where it has to work.

use std::{io, net::SocketAddr};

use anyhow::Context;
use interceptor_common::verdict::Reason;
use interceptor_tests::uninterrupted;
use interceptor_user::{
    datapath::{Besides, netns_cookie},
    workload::{Enforced, RedirectPolicy},
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    bed::{Bed, DEADLINE, DEVICE, OWN_V4, OWN_V6, own_addresses},
    sys,
};

const NAME_SERVERS: [&str; 2] = ["10.77.0.53", "fd77::53"];
const SOMEWHERE: &str = "93.184.216.34:80";
const SOMEWHERE_V6: &str = "[2001:db8::22]:443";
const IPPROTO_MPTCP: i32 = 262;
const IPPROTO_UDPLITE: i32 = 136;
const IPPROTO_SCTP: i32 = 132;
const EPERM: i32 = libc::EPERM;

fn enforced() -> RedirectPolicy {
    let servers = NAME_SERVERS.map(|server| server.parse().expect("a literal address"));
    RedirectPolicy { enforced: Some(Enforced::new(servers)), ..RedirectPolicy::default() }
}

fn guarded() -> anyhow::Result<Bed> {
    let mut bed = Bed::with(&enforced())?;
    bed.datapath.attach_guard(bed.workload_cgroup.open()?)?;
    reach(&bed)?;
    Ok(bed)
}

fn free() -> anyhow::Result<Bed> {
    let bed = Bed::with(&RedirectPolicy {
        exclude_ip_ranges: vec!["0.0.0.0/0".parse()?, "::/0".parse()?],
        ..RedirectPolicy::default()
    })?;
    reach(&bed)?;
    Ok(bed)
}

/// Packets leave at once, whoever is behind the device.
fn reach(bed: &Bed) -> anyhow::Result<()> {
    let lladdr = "02:00:00:00:00:01";
    for server in NAME_SERVERS {
        bed.netns.ip(&format!("neigh add {server} lladdr {lladdr} dev {DEVICE}\n"))?;
    }
    bed.netns.sysctl("net/ipv4/ping_group_range", "0 2147483647")
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("a literal address")
}

fn udp(bed: &Bed, to: SocketAddr) -> anyhow::Result<Socket> {
    bed.workload.socket(Domain::for_address(to), Type::DGRAM, Protocol::UDP)
}

/// 0: it left, or went on to.
fn errno<T>(result: io::Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(error) => match error.raw_os_error() {
            Some(libc::EINPROGRESS) => 0,
            other => other.unwrap_or(-1),
        },
    }
}

/// By connect(2) and send(2), and by sendto(2).
fn datagrams(bed: &Bed, to: &str) -> anyhow::Result<[i32; 2]> {
    let to = address(to);
    let connected = udp(bed, to)?;
    let connected = match connected.connect(&to.into()) {
        Ok(()) => errno(connected.send(b"x")),
        refused => errno(refused),
    };
    Ok([connected, errno(udp(bed, to)?.send_to(b"x", &to.into()))])
}

#[test]
fn tcp_goes_to_the_proxy_whatever_is_excluded() -> anyhow::Result<()> {
    let policy = RedirectPolicy {
        exclude_ip_ranges: vec!["0.0.0.0/0".parse()?, "::/0".parse()?],
        exclude_ports: vec![80, 443],
        ..enforced()
    };
    let mut bed = Bed::with(&policy)?;
    bed.datapath.attach_guard(bed.workload_cgroup.open()?)?;
    for to in [SOMEWHERE, SOMEWHERE_V6, "169.254.169.254:80"] {
        let client = bed.connect(to)?;
        bed.expect_redirected(&client, to)?;
    }
    let to = address("[::ffff:93.184.216.34]:80");
    let mapped = bed.workload.tcp(Domain::IPV6)?;
    mapped.connect_timeout(&to.into(), DEADLINE)?;
    bed.expect_redirected(&mapped, SOMEWHERE)?;
    let multipath = bed.workload.socket(Domain::IPV4, Type::STREAM, IPPROTO_MPTCP.into())?;
    multipath.connect_timeout(&address(SOMEWHERE).into(), DEADLINE)?;
    bed.expect_redirected(&multipath, SOMEWHERE)?;
    let fast = bed.workload.tcp(Domain::IPV4)?;
    assert_eq!(sys::fast_open(&fast, address(SOMEWHERE), b"")?, 0);
    bed.expect_redirected(&fast, SOMEWHERE)?;
    let bound = bed.workload.tcp(Domain::IPV4)?;
    bound.bind_device(Some(DEVICE.as_bytes()))?;
    bound.connect_timeout(&address(SOMEWHERE).into(), DEADLINE)?;
    bed.expect_redirected(&bound, SOMEWHERE)?;
    assert_eq!(bed.count(Reason::Enforced)?, 7);
    Ok(())
}

#[test]
fn datagrams_are_refused_by_every_call() -> anyhow::Result<()> {
    let (guarded, free) = (guarded()?, free()?);
    let rows = [
        ("93.184.216.34:9", Reason::EnforcedDatagram),
        ("[2001:db8::22]:9", Reason::EnforcedDatagram),
        ("[::ffff:93.184.216.34]:9", Reason::EnforcedDatagram),
        ("93.184.216.34:443", Reason::EnforcedQuic),
        ("[2001:db8::22]:443", Reason::EnforcedQuic),
        ("8.8.8.8:53", Reason::EnforcedNameServer),
        ("[2001:db8::53]:53", Reason::EnforcedNameServer),
        // The right server, by another door.
        ("10.77.0.53:5353", Reason::EnforcedDatagram),
    ];
    for (to, reason) in rows {
        let before = guarded.count(reason)?;
        assert_eq!(datagrams(&guarded, to)?, [EPERM, EPERM], "{to}");
        assert_eq!(guarded.count(reason)? - before, 2, "{to}");
        assert_eq!(datagrams(&free, to)?, [0, 0], "{to} without the guard");
    }
    Ok(())
}

#[test]
fn its_own_name_servers_are_asked() -> anyhow::Result<()> {
    let bed = guarded()?;
    let rows = ["10.77.0.53:53", "[fd77::53]:53", "[::ffff:10.77.0.53]:53"];
    for to in rows {
        assert_eq!(datagrams(&bed, to)?, [0, 0], "{to}");
        bed.start_connect(to).with_context(|| format!("over TCP: {to}"))?;
    }
    // Once for each call; send(2) to a mapped address names its destination anew.
    assert_eq!(bed.count(Reason::OwnNameServer)?, 10);
    assert_eq!(bed.count(Reason::EnforcedPacket)?, 0);
    Ok(())
}

#[test]
fn what_stays_in_the_workload_goes_on() -> anyhow::Result<()> {
    let bed = guarded()?;
    for at in ["127.0.0.1:7000", "[::1]:7001", "10.77.0.1:7002", "[fd77::1]:7003"] {
        let server = bed.server(at)?;
        let _client = bed.connect(at)?;
        server.accept()?;
        let server = udp(&bed, address(at))?;
        server.bind(&address(at).into())?;
        server.set_read_timeout(Some(DEADLINE))?;
        assert_eq!(datagrams(&bed, at)?, [0, 0], "{at}");
        let mut byte = [std::mem::MaybeUninit::uninit(); 1];
        assert_eq!(
            (uninterrupted(|| server.recv(&mut byte))?, uninterrupted(|| server.recv(&mut byte))?),
            (1, 1)
        );
    }
    Ok(())
}

#[test]
fn sockets_of_other_kinds_are_not_made() -> anyhow::Result<()> {
    let (guarded, free) = (guarded()?, free()?);
    let has_sctp = free.workload.socket(Domain::IPV4, Type::STREAM, IPPROTO_SCTP.into()).is_ok();
    let mut rows = vec![
        ("raw ICMP", Type::RAW, Protocol::ICMPV4, Domain::IPV4),
        ("raw TCP", Type::RAW, Protocol::TCP, Domain::IPV4),
        ("raw IP", Type::RAW, 255.into(), Domain::IPV4),
        ("raw IPv6", Type::RAW, Protocol::UDP, Domain::IPV6),
        ("UDP-Lite", Type::DGRAM, IPPROTO_UDPLITE.into(), Domain::IPV4),
        ("UDP-Lite over IPv6", Type::DGRAM, IPPROTO_UDPLITE.into(), Domain::IPV6),
    ];
    if has_sctp {
        rows.push(("SCTP", Type::STREAM, IPPROTO_SCTP.into(), Domain::IPV4));
    }
    let tries = u64::try_from(rows.len())?;
    for (what, kind, protocol, domain) in rows {
        let refused = guarded.workload.socket(domain, kind, protocol).err().context(what)?;
        assert!(refused.to_string().contains("not permitted"), "{what}: {refused:#}");
        free.workload.socket(domain, kind, protocol).with_context(|| format!("{what} without the guard"))?;
    }
    assert_eq!(guarded.count(Reason::EnforcedProtocol)?, tries);
    Ok(())
}

/// Sockets that are older than the guard, as when a pod is enforced while it runs.
#[test]
fn older_sockets_are_guarded_too() -> anyhow::Result<()> {
    let mut bed = Bed::with(&RedirectPolicy::default())?;
    reach(&bed)?;
    let server = address("10.77.0.53:9");
    let raw = bed.workload.socket(Domain::IPV4, Type::RAW, 253.into())?;
    let lite = bed.workload.socket(Domain::IPV4, Type::DGRAM, IPPROTO_UDPLITE.into())?;
    let connected = udp(&bed, server)?;
    connected.connect(&server.into())?;
    let asking = udp(&bed, server)?;
    let ping = bed.workload.socket(Domain::IPV4, Type::DGRAM, Protocol::ICMPV4)?;
    let echo = [8, 0, 0, 0, 0, 1, 0, 1];
    let send_all = || {
        let to_all = |socket: &Socket| errno(socket.send_to(b"x", &server.into()));
        let ping = errno(ping.send_to(&echo, &server.into()));
        [to_all(&raw), to_all(&lite), errno(connected.send(b"x")), ping]
    };
    assert_eq!(send_all(), [0; 4]);
    bed.datapath.attach_guard(bed.workload_cgroup.open()?)?;
    bed.datapath.enroll(bed.cookie, &enforced(), &own_addresses(), bed.listener)?;
    assert_eq!(send_all(), [EPERM; 4]);
    assert_eq!(errno(asking.send_to(b"x", &address("10.77.0.53:53").into())), 0);
    Ok(())
}

/// Whatever lets a connection through that is not redirected, it does not leave.
#[test]
fn the_first_packet_of_a_connection_does_not_leave() -> anyhow::Result<()> {
    let mut bed = free()?;
    bed.datapath.attach_guard(bed.workload_cgroup.open()?)?;
    for (tries, to) in ["10.77.0.53:80", "[fd77::53]:80"].into_iter().enumerate() {
        bed.start_connect(to)?;
        assert!(bed.count(Reason::EnforcedPacket)? > u64::try_from(tries)?, "{to}");
    }
    Ok(())
}

/// A source route leads a packet elsewhere than to the address that the application names.
#[test]
fn source_routes_lead_nowhere() -> anyhow::Result<()> {
    const IP_OPTIONS: i32 = 4;
    const IPV6_RTHDR: i32 = 57;
    // Loose source route by way of 10.77.0.53, and an end.
    let route = [131, 7, 4, 10, 77, 0, 53, 0];
    let (guarded, free) = (guarded()?, free()?);
    for (bed, expected) in [(&free, 0), (&guarded, EPERM)] {
        for to in ["127.0.0.1:53", "10.77.0.53:53"] {
            let socket = udp(bed, address(to))?;
            sys::set_bytes(&socket, libc::IPPROTO_IP, IP_OPTIONS, &route)?;
            // The kernel itself refuses some that begin at loopback.
            let sent = errno(socket.send_to(b"x", &address(to).into()));
            assert!(sent == expected || (to.starts_with("127") && sent != 0), "{to}: {sent}");
        }
        let socket = bed.workload.tcp(Domain::IPV4)?;
        sys::set_bytes(&socket, libc::IPPROTO_IP, IP_OPTIONS, &route)?;
        socket.set_nonblocking(true)?;
        errno(socket.connect(&address("10.77.0.53:53").into()));
    }
    assert!(guarded.count(Reason::EnforcedPacket)? >= 2);

    // A segment routing header, by way of fd77::53: two segments, of which the first is for the destination.
    let by_way = [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53];
    let route = [&[0, 4, 4, 1, 1, 0, 0, 0][..], &[0; 16], &by_way].concat();
    for to in ["[::1]:53", "[fd77::53]:53", SOMEWHERE_V6] {
        let before = guarded.count(Reason::EnforcedPacket)?;
        let socket = guarded.workload.tcp(Domain::IPV6)?;
        sys::set_bytes(&socket, libc::IPPROTO_IPV6, IPV6_RTHDR, &route)?;
        socket.set_nonblocking(true)?;
        errno(socket.connect(&address(to).into()));
        assert!(guarded.count(Reason::EnforcedPacket)? > before, "{to}");
    }
    Ok(())
}

#[test]
fn a_device_leads_nowhere() -> anyhow::Result<()> {
    let (guarded, free) = (guarded()?, free()?);
    for (bed, expected) in [(&guarded, EPERM), (&free, 0)] {
        let socket = udp(bed, address("10.77.0.9:9"))?;
        socket.bind_device(Some(DEVICE.as_bytes()))?;
        assert_eq!(errno(socket.send_to(b"x", &address("93.184.216.34:9").into())), expected);
    }
    // To an address of its own, but out by the device.
    let socket = udp(&guarded, address("127.0.0.1:9"))?;
    socket.bind_device(Some(DEVICE.as_bytes()))?;
    assert_ne!(errno(socket.send_to(b"x", &address("127.0.0.1:9").into())), 0);
    Ok(())
}

/// Replies to inbound connections are none of the guard's concern.
#[test]
fn inbound_connections_go_on() -> anyhow::Result<()> {
    let bed = guarded()?;
    // The other end of the device, in a namespace of its own.
    let outside = interceptor_tests::Netns::new()?;
    bed.netns.ip(&format!("link set {DEVICE}-peer netns {}\n", outside.path().display()))?;
    outside.ip(&format!(
        "link set {DEVICE}-peer up\naddr add 10.77.0.2/24 dev {DEVICE}-peer\naddr add fd77::2/64 dev {DEVICE}-peer nodad\n"
    ))?;
    for own in [OWN_V4, OWN_V6] {
        let at = SocketAddr::new(own.parse()?, 7000);
        let socket = bed.workload.tcp(Domain::for_address(at))?;
        socket.bind(&at.into())?;
        socket.listen(4)?;
        let client = outside.enter(|| std::net::TcpStream::connect_timeout(&at, DEADLINE))??;
        let (mut accepted, _) = socket.accept()?;
        io::Write::write_all(&mut accepted, b"pong")?;
        client.set_read_timeout(Some(DEADLINE))?;
        let mut received = [0_u8; 4];
        io::Read::read_exact(&mut &client, &mut received)?;
        assert_eq!(&received, b"pong");
    }
    assert_eq!(bed.count(Reason::EnforcedPacket)?, 0);
    Ok(())
}

/// A pod's guard comes and goes with its annotation.
#[test]
fn the_guard_comes_and_goes() -> anyhow::Result<()> {
    let mut bed = Bed::pinned(&RedirectPolicy::default())?;
    reach(&bed)?;
    let to = "93.184.216.34:9";
    let guard = Besides { guard: true, ..Besides::default() };
    for (besides, policy, expected) in [
        (Besides::default(), RedirectPolicy::default(), 0),
        (guard, enforced(), EPERM),
        (guard, enforced(), EPERM),
        (Besides::default(), RedirectPolicy::default(), 0),
    ] {
        bed.datapath.attach_pod(bed.workload_cgroup.open()?, besides)?;
        bed.datapath.enroll(bed.cookie, &policy, &own_addresses(), bed.listener)?;
        assert_eq!(datagrams(&bed, to)?, [expected; 2], "{besides:?}");
    }
    Ok(())
}

/// From a namespace that is not enrolled nothing leaves but to its own loopback.
#[test]
fn a_namespace_of_its_own_is_no_way_out() -> anyhow::Result<()> {
    let bed = guarded()?;
    let inner = interceptor_tests::Netns::new()?;
    inner.ip(&format!("link add {DEVICE} type veth peer name {DEVICE}-peer\nlink set {DEVICE} up\nlink set {DEVICE}-peer up\naddr add 10.78.0.1/24 dev {DEVICE}\nroute add default dev {DEVICE}\nlink set lo up\n"))?;
    assert_ne!(inner.enter(netns_cookie)??, bed.cookie);
    let maker = crate::maker::SocketMaker::new(&bed.workload_cgroup, &inner)?;
    let socket = maker.socket(Domain::IPV4, Type::DGRAM, Protocol::UDP)?;
    assert_eq!(errno(socket.send_to(b"x", &address("10.77.0.53:53").into())), EPERM);
    let socket = maker.tcp(Domain::IPV4)?;
    assert_eq!(errno(socket.connect(&address(SOMEWHERE).into())), EPERM);
    Ok(())
}
