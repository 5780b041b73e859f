//! Datagrams for name servers: they reach the relay, and the application sees the servers it asked. The test plays the
//! relay, on its own sockets.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, UdpSocket},
};

use anyhow::Context;
use interceptor_common::verdict::Reason;
use interceptor_tests::uninterrupted;
use interceptor_user::{
    datapath::{Listener, NameServerReader, QuerySockets},
    workload::RedirectPolicy,
};
use rustix::net::connect_unspec;
use socket2::{Domain, Protocol, SockRef, Type};

use crate::bed::{Bed, DEADLINE, DEVICE, OWN_V4, own_addresses};

const V4: &str = "8.8.8.8:53";
const V6: &str = "[2001:db8::53]:53";
const MAPPED: &str = "[::ffff:8.8.4.4]:53";
const LOCAL: &str = "127.0.0.53:53";

struct DnsBed {
    bed: Bed,
    sockets: QuerySockets,
    servers: NameServerReader,
}

impl DnsBed {
    fn new() -> anyhow::Result<Self> {
        Self::with(&RedirectPolicy::default())
    }

    fn with(policy: &RedirectPolicy) -> anyhow::Result<Self> {
        let mut bed = Bed::new()?;
        let sockets = bed.netns.enter(QuerySockets::open)??;
        let listener = Listener { relay_port: sockets.port, ..bed.listener };
        bed.datapath.enroll(bed.cookie, policy, &own_addresses(), listener)?;
        bed.datapath.attach_dns(bed.workload_cgroup.open()?)?;
        let servers = bed.datapath.name_server_reader();
        Ok(Self { bed, sockets, servers })
    }

    /// A workload's socket that can reach this address.
    fn udp(&self, to: SocketAddr) -> anyhow::Result<UdpSocket> {
        let socket = self.bed.workload.socket(Domain::for_address(to), Type::DGRAM, Protocol::UDP)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        Ok(socket.into())
    }

    /// The next datagram at the relay: the socket it came to, whom it is for, what it says, and who sent it.
    fn received(&self) -> anyhow::Result<(&UdpSocket, SocketAddr, Vec<u8>, SocketAddr)> {
        let v4 = self.sockets.v4.iter().zip(0..).map(|(socket, slot)| (socket, slot, false));
        let v6 = self.sockets.v6.iter().zip(0..).map(|(socket, slot)| (socket, slot, true));
        let all: Vec<(&UdpSocket, u16, bool)> = v4.chain(v6).collect();
        let mut buffer = vec![0; 65_535];
        let (socket, slot, is_v6, length, client) =
            interceptor_tests::wait_for("a datagram at the relay", DEADLINE, || {
                all.iter().find_map(|(socket, slot, is_v6)| {
                    let (length, client) = socket.recv_from(&mut buffer).ok()?;
                    Some((*socket, *slot, *is_v6, length, client))
                })
            })?;
        let server = self.servers.get(self.bed.cookie, slot, is_v6)?;
        buffer.truncate(length);
        Ok((socket, server.context("no name server behind this socket")?, buffer, client))
    }

    /// Answers the next datagram, which must be for `server`, with what it says.
    fn echo(&self, server: SocketAddr) -> anyhow::Result<()> {
        let (socket, asked, query, client) = self.received()?;
        assert_eq!(asked, canonical(server));
        assert!(client.ip().is_loopback() || client.ip().to_string() == OWN_V4, "{client}");
        socket.send_to(&query, client)?;
        Ok(())
    }

    fn nothing_received(&self) -> bool {
        let mut buffer = [0; 16];
        self.sockets.v4.iter().chain(&self.sockets.v6).all(|socket| socket.recv_from(&mut buffer).is_err())
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("a literal address")
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// As glibc asks: connect(2), send(2), recvfrom(2).
#[test]
fn connected_sockets() -> anyhow::Result<()> {
    let dns = DnsBed::new()?;
    let mut buffer = [0; 512];
    for server in [V4, V6, MAPPED, LOCAL, "[::1]:53", "169.254.169.253:53"].map(address) {
        let socket = dns.udp(server)?;
        socket.connect(server)?;
        assert_eq!(socket.peer_addr()?, server, "getpeername");
        socket.send(b"with a name")?;
        dns.echo(server)?;
        assert_eq!(uninterrupted(|| socket.recv_from(&mut buffer))?, (11, server));
        socket.send(b"without one")?;
        dns.echo(server)?;
        assert_eq!(uninterrupted(|| socket.recv(&mut buffer))?, 11);
        assert_eq!(&buffer[..11], b"without one");
    }
    assert_eq!(dns.bed.count(Reason::NameServer)?, 6);
    Ok(())
}

/// As musl asks: one socket, sendto(2) to every server, and answers told apart by their sender.
#[test]
fn several_servers_from_one_socket() -> anyhow::Result<()> {
    let dns = DnsBed::new()?;
    for servers in [
        ["8.8.8.8:53", "8.8.4.4:53", "10.0.0.10:53"].map(address),
        ["[2001:db8::1]:53", "[2001:db8::2]:53", "[::ffff:8.8.8.8]:53"].map(address),
    ] {
        let socket = dns.udp(servers[0])?;
        for server in servers {
            socket.send_to(server.to_string().as_bytes(), server)?;
        }
        let mut waiting = Vec::new();
        for _ in servers {
            let (from, server, query, client) = dns.received()?;
            waiting.push((from, server, query, client));
        }
        // In another order than they were asked.
        for (from, server, query, client) in waiting.into_iter().rev() {
            assert_eq!(String::from_utf8(query.clone())?.parse::<SocketAddr>().map(canonical)?, server);
            from.send_to(&query, client)?;
        }
        let mut answered = BTreeSet::new();
        for _ in servers {
            let mut buffer = [0; 512];
            let (length, from) = uninterrupted(|| socket.recv_from(&mut buffer))?;
            assert_eq!(std::str::from_utf8(&buffer[..length])?, from.to_string());
            answered.insert(from);
        }
        assert_eq!(answered, servers.into());
    }
    Ok(())
}

/// An answer of any size that UDP carries arrives whole (EDNS).
#[test]
fn large_answers() -> anyhow::Result<()> {
    let dns = DnsBed::new()?;
    for server in [V4, V6].map(address) {
        let socket = dns.udp(server)?;
        socket.send_to(b"large, please", server)?;
        for length in [0, 513, 4096, 65_000] {
            let answer: Vec<u8> = (0..length).map(|at: u32| at.to_le_bytes()[0]).collect();
            if length == 0 {
                let (from, _, _, client) = dns.received()?;
                from.send_to(&answer, client)?;
            } else {
                socket.send_to(b"more", server)?;
                let (from, _, _, client) = dns.received()?;
                from.send_to(&answer, client)?;
            }
            let mut buffer = vec![0; 65_535];
            let (got, from) = uninterrupted(|| socket.recv_from(&mut buffer))?;
            assert_eq!((&buffer[..got], from), (&answer[..], server));
        }
    }
    Ok(())
}

/// One socket after the other way: connected to a name server, then to something else, then to nobody.
#[test]
fn a_socket_that_turns_to_others() -> anyhow::Result<()> {
    let dns = DnsBed::new()?;
    let socket = dns.udp(address(V4))?;
    socket.connect(address(V4))?;
    connect_unspec(&socket)?;
    socket.connect(address("93.184.216.34:4433"))?;
    assert_eq!(socket.peer_addr()?, address("93.184.216.34:4433"));
    socket.send(b"elsewhere")?;
    connect_unspec(&socket)?;
    assert_eq!(socket.peer_addr().map_err(|error| error.raw_os_error()), Err(Some(libc::ENOTCONN)));
    assert!(dns.nothing_received());
    socket.send_to(b"8.8.8.8:53", address(V4))?;
    dns.echo(address(V4))
}

/// Other ports, other scopes and what policy excludes are left to the kernel.
#[test]
fn what_is_not_for_a_name_server_is_left_alone() -> anyhow::Result<()> {
    let dns = DnsBed::new()?;
    for to in ["93.184.216.34:5353", "93.184.216.34:54", "[2001:db8::53]:853"].map(address) {
        let socket = dns.udp(to)?;
        socket.send_to(b"x", to)?;
        socket.connect(to)?;
        socket.send(b"x")?;
        assert_eq!(socket.peer_addr()?, to);
    }
    for to in ["224.0.0.251:53", "[ff02::fb%1]:53", "0.0.0.0:53"] {
        let to: SocketAddr = to.replace("%1", "").parse()?;
        // Whether it can be sent is the kernel's business.
        drop(dns.udp(to)?.send_to(b"x", to));
    }
    assert!(dns.nothing_received());
    assert_eq!(dns.bed.datapath.counters()?, []);

    let excluding = DnsBed::with(&RedirectPolicy { exclude_ports: vec![53], ..RedirectPolicy::default() })?;
    let socket = excluding.udp(address(V4))?;
    socket.connect(address(V4))?;
    socket.send(b"x")?;
    assert!(excluding.nothing_received());
    assert_eq!(excluding.bed.count(Reason::ExcludedPort)?, 1);
    assert_eq!(socket.local_addr()?.ip().to_string(), OWN_V4);
    Ok(())
}

/// The relay is out of reach of a socket bound to a device.
#[test]
fn sockets_bound_to_a_device_ask_directly() -> anyhow::Result<()> {
    let dns = DnsBed::new()?;
    let socket = dns.udp(address(V4))?;
    SockRef::from(&socket).bind_device(Some(DEVICE.as_bytes()))?;
    socket.send_to(b"x", address(V4))?;
    assert!(dns.nothing_received());
    assert_eq!(dns.bed.count(Reason::NameServerBoundToDevice)?, 1);
    Ok(())
}

/// A socket bound to an address of its own keeps it: that is whom the relay answers.
#[test]
fn sockets_bound_to_an_address() -> anyhow::Result<()> {
    let dns = DnsBed::new()?;
    let socket = dns.udp(address(V4))?;
    SockRef::from(&socket).bind(&SocketAddr::new(OWN_V4.parse()?, 0).into())?;
    socket.send_to(b"x", address(V4))?;
    dns.echo(address(V4))?;
    let mut buffer = [0; 16];
    assert_eq!(uninterrupted(|| socket.recv_from(&mut buffer))?, (1, address(V4)));
    Ok(())
}

/// More servers than there are stand-ins: the first keep theirs, the rest are asked directly, and counted.
#[test]
fn more_servers_than_can_be_told_apart() -> anyhow::Result<()> {
    let dns = DnsBed::new()?;
    let socket = dns.udp(address(V4))?;
    let servers: Vec<SocketAddr> = (1..=40_u8).map(|last| SocketAddr::from(([9, 9, 9, last], 53))).collect();
    for server in &servers {
        socket.send_to(b"x", server)?;
    }
    assert_eq!((dns.bed.count(Reason::NameServer)?, dns.bed.count(Reason::NameServersFull)?), (32, 8));
    for server in &servers[..32] {
        let (_, asked, ..) = dns.received()?;
        assert!(servers[..32].contains(&asked), "{asked}");
        socket.send_to(b"again", server)?;
    }
    assert_eq!((dns.bed.count(Reason::NameServer)?, dns.bed.count(Reason::NameServersFull)?), (64, 8));
    Ok(())
}

/// Without an IPv6 address there is no way to an IPv6 server, and the kernel says so at once.
#[test]
fn a_family_without_addresses_is_unreachable() -> anyhow::Result<()> {
    let mut dns = DnsBed::new()?;
    dns.bed.datapath.update_network(dns.bed.cookie, &[OWN_V4.parse()?], &Default::default())?;
    let socket = dns.udp(address(V6))?;
    drop(socket.send_to(b"x", address(V6)));
    assert!(dns.nothing_received());
    // Loopback needs no address of one's own.
    socket.send_to(b"x", address("[::1]:53"))?;
    dns.echo(address("[::1]:53"))
}

/// Without capture nothing is attached to UDP at all.
#[test]
fn capture_is_off_unless_attached() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    let socket: UdpSocket = bed.workload.socket(Domain::IPV4, Type::DGRAM, Protocol::UDP)?.into();
    socket.connect(address(V4))?;
    assert_eq!(socket.peer_addr()?, address(V4));
    assert_eq!(bed.datapath.counters()?, []);
    Ok(())
}
