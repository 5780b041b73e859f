//! The original destination under load: every connection is delivered, each with the destination it asked for, and
//! nothing is left behind.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::Context;
use aya::maps::{Array, Map, MapData};
use interceptor_common::{
    policy::{HANDOVERS_MAX, SCHEMA},
    verdict::Reason,
};
use interceptor_tests::{Netns, eventually};
use interceptor_user::{datapath::netns_cookie, workload::RedirectPolicy};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    bed::{Bed, DEADLINE, own_addresses},
    maker::SocketMaker,
};

const ROUNDS: u32 = 25;
const PER_THREAD: u32 = 1000;
/// The kernel passes at most 253 descriptors in one message.
const BATCH: usize = 250;

/// So many sockets one process holds for us; machines give processes 20,000 descriptors or more.
const HELD_EACH: usize = 17_500;

/// Every connection has a destination of its own, in one of three ways to write it.
fn destination(id: u32) -> SocketAddr {
    let v4 = Ipv4Addr::from(0x0b00_0000 | id);
    let port = 1000 + u16::try_from(id % 1000).expect("less than 1000");
    let ip = match id % 3 {
        0 => IpAddr::V4(v4),
        1 => IpAddr::V6(v4.to_ipv6_mapped()),
        _ => IpAddr::V6(Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(id))),
    };
    SocketAddr::new(ip, port)
}

/// What one side knows of connections: by id, the workload's port.
type Seen = BTreeMap<u32, u16>;

/// Connects, says its id, and resets most connections at once, so that their ports are used again while they still
/// wait at the proxy.
fn connect_all(maker: &SocketMaker, ids: std::ops::Range<u32>) -> anyhow::Result<(Seen, Vec<Socket>)> {
    let mut ready: BTreeMap<bool, Vec<Socket>> = BTreeMap::new();
    let (mut seen, mut open) = (Seen::new(), Vec::new());
    for id in ids {
        let to = destination(id);
        let stock = ready.entry(to.is_ipv4()).or_default();
        if stock.is_empty() {
            *stock = maker.sockets(Domain::for_address(to), Type::STREAM, Protocol::TCP, BATCH)?;
        }
        let socket = stock.pop().context("a socket")?;
        socket.connect(&to.into()).with_context(|| format!("connect to {to}"))?;
        (&socket).write_all(&id.to_be_bytes())?;
        seen.insert(id, socket.local_addr()?.as_socket().context("an IP address")?.port());
        if id % 8 == 0 {
            open.push(socket);
        } else {
            socket.set_linger(Some(Duration::ZERO))?;
        }
    }
    Ok((seen, open))
}

/// Accepts until nothing waits and nothing more can come.
fn accept_all(bed: &Bed, done: &AtomicBool) -> anyhow::Result<Seen> {
    let mut seen = Seen::new();
    loop {
        // Read before the queues are: what is connected by then is in them.
        let last = done.load(Ordering::Acquire);
        for listener in &bed.listeners {
            while let Ok((mut stream, peer)) = listener.accept() {
                let original = bed.reader.get(stream.as_fd())?.context("a connection without destination")?;
                let id = id_of(original.addr);
                let expected = SocketAddr::new(destination(id).ip().to_canonical(), destination(id).port());
                assert_eq!(original.addr, expected, "from {peer}");
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(DEADLINE))?;
                let mut said = [0_u8; 4];
                match stream.read_exact(&mut said) {
                    Ok(()) => assert_eq!(u32::from_be_bytes(said), id, "bytes meant for another destination"),
                    // Reset: what it said is gone.
                    Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => {}
                    Err(error) => return Err(error).with_context(|| format!("reading from {peer}")),
                }
                assert_eq!(seen.insert(id, peer.port()), None, "{id} came twice");
            }
        }
        if last {
            return Ok(seen);
        }
    }
}

fn id_of(original: SocketAddr) -> u32 {
    match original.ip() {
        IpAddr::V4(v4) => v4.to_bits() & 0x00ff_ffff,
        IpAddr::V6(v6) => u32::try_from(v6.to_bits() & 0xffff_ffff).expect("32 bits"),
    }
}

#[test]
fn fifty_thousand_with_resets_and_port_reuse() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    // Few enough that ports are used again and again within one round.
    bed.netns.sysctl("net/ipv4/ip_local_port_range", "32768 32895")?;
    let makers = [
        SocketMaker::new(&bed.workload_cgroup, &bed.netns)?,
        SocketMaker::new(&bed.workload_cgroup, &bed.netns)?,
    ];
    for round in 0..ROUNDS {
        let first = round * 2 * PER_THREAD;
        let halves = [first..first + PER_THREAD, first + PER_THREAD..first + 2 * PER_THREAD];
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| -> anyhow::Result<()> {
            // In every other round the proxy does not accept until all is connected, and most of it reset.
            let meanwhile = (round % 2 == 0).then(|| scope.spawn(|| accept_all(&bed, &done)));
            let clients: Vec<_> = makers
                .iter()
                .zip(halves)
                .map(|(maker, ids)| scope.spawn(move || connect_all(maker, ids)))
                .collect();
            let (mut connected, mut open) = (Seen::new(), Vec::new());
            let results: Vec<_> = clients.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            done.store(true, Ordering::Release);
            for result in results {
                let (seen, still_open) = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                connected.extend(seen);
                open.extend(still_open);
            }
            let delivered = match meanwhile {
                Some(accepting) => {
                    accepting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?
                }
                None => accept_all(&bed, &done)?,
            };
            assert_eq!(connected, delivered, "round {round}");
            for socket in open {
                socket.set_linger(Some(Duration::ZERO))?;
            }
            Ok(())
        })?;
    }
    assert_eq!(bed.datapath.handovers_waiting()?, 0);
    assert_eq!(bed.datapath.handovers_open(bed.cookie)?, 0);
    assert_eq!(bed.count(Reason::IncludedRange)?, u64::from(ROUNDS * 2 * PER_THREAD));
    Ok(())
}

#[test]
fn thirty_five_thousand_held_open_to_one_destination() -> anyhow::Result<()> {
    const HELD: usize = 35_000;
    const SAMPLE: usize = 5_000;
    let bed = Bed::new()?;
    let to: SocketAddr = "93.184.216.34:80".parse()?;
    let mut holders = Vec::new();
    let mut durations = Vec::with_capacity(HELD);
    let mut accepted = 0;
    while durations.len() < HELD {
        if durations.len() % (HELD_EACH / 2 / BATCH * BATCH) == 0 {
            holders.push(SocketMaker::new(&bed.proxy_cgroup, &bed.netns)?);
        }
        let holder = holders.last().context("a holder")?;
        let clients = bed.workload.sockets(Domain::IPV4, Type::STREAM, Protocol::TCP, BATCH)?;
        for socket in &clients {
            let started = Instant::now();
            socket.connect(&to.into()).with_context(|| format!("connection {}", durations.len()))?;
            durations.push(started.elapsed());
        }
        holder.hold(&clients)?;
        let mut streams = Vec::new();
        for listener in &bed.listeners {
            while let Ok((stream, _)) = listener.accept() {
                let original = bed.reader.get(stream.as_fd())?.context("a connection without destination")?;
                assert_eq!(original.addr, to);
                streams.push(stream);
            }
        }
        accepted += streams.len();
        holder.hold(&streams)?;
    }
    assert_eq!((durations.len(), accepted), (HELD, HELD));
    let median = |sample: &[Duration]| {
        let mut sorted = sample.to_vec();
        sorted.sort_unstable();
        sorted[sorted.len() / 2]
    };
    let (first, last) = (median(&durations[..SAMPLE]), median(&durations[HELD - SAMPLE..]));
    // To a single listener address it is a factor of 40 at the half of this.
    assert!(last < first * 3, "connect(2) took {first:?} at first, {last:?} with {HELD} held open");
    assert_eq!(bed.datapath.handovers_waiting()?, 0);
    Ok(())
}

/// A proxy that accepts nothing: the workload is refused at its limit, others are not, and all comes back.
#[test]
fn too_many_waiting_are_refused() -> anyhow::Result<()> {
    const LIMIT: u64 = 16_384;
    let mut bed = Bed::new()?;
    for listener in &bed.listeners {
        rustix::net::listen(listener, 16)?;
    }
    let to: SocketAddr = "93.184.216.34:80".parse()?;
    let holder = SocketMaker::new(&bed.proxy_cgroup, &bed.netns)?;
    let refused = 'connecting: loop {
        let clients = bed.workload.sockets(Domain::IPV4, Type::STREAM, Protocol::TCP, BATCH)?;
        holder.hold(&clients)?;
        for socket in clients {
            socket.set_nonblocking(true)?;
            match socket.connect(&to.into()) {
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => break 'connecting socket,
                _ => assert!(bed.datapath.handovers_open(bed.cookie)? <= LIMIT, "never refused"),
            }
        }
    };
    assert_eq!(bed.datapath.handovers_open(bed.cookie)?, LIMIT);
    assert_eq!(bed.datapath.handovers_waiting()?, LIMIT);
    assert_eq!(bed.count(Reason::HandoverFull)?, 1);

    let other = Netns::new()?;
    let cookie = other.enter(netns_cookie)??;
    bed.datapath.enroll(cookie, &RedirectPolicy::default(), &own_addresses(), bed.listener)?;
    let stranger = SocketMaker::new(&bed.workload_cgroup, &other)?.tcp(Domain::IPV4)?;
    let error = stranger.connect_timeout(&to.into(), DEADLINE).expect_err("nobody listens there");
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));

    drop(holder);
    eventually("every waiting connection to be forgotten", || {
        bed.datapath.handovers_open(bed.cookie).is_ok_and(|open| open == 0)
    })?;
    assert_eq!(bed.datapath.handovers_waiting()?, 0);
    while bed.accept().is_ok_and(|(_, original)| original.is_some()) && !bed.nothing_to_accept() {}
    refused.set_nonblocking(false)?;
    refused.connect_timeout(&to.into(), DEADLINE)?;
    Ok(())
}

/// However many workloads take what they get, there is room for one more.
#[test]
fn workloads_share_the_places_to_wait() -> anyhow::Result<()> {
    const LEFT: u64 = 100;
    let mut bed = Bed::pinned(&RedirectPolicy::default())?;
    for listener in &bed.listeners {
        rustix::net::listen(listener, 16)?;
    }
    let pins = bed.pins.as_ref().context("no pins")?.pins();
    let path = pins.join(format!("v{SCHEMA}/maps/HANDOVERS_ALL"));
    let mut all: Array<MapData, u64> = Array::try_from(Map::Array(MapData::from_pin(path)?))?;
    // What others have.
    let others = u64::from(HANDOVERS_MAX) - LEFT;
    all.set(0, others, 0)?;
    let to: SocketAddr = "93.184.216.34:80".parse()?;
    let clients = bed.workload.sockets(Domain::IPV4, Type::STREAM, Protocol::TCP, BATCH)?;
    let mut refused = 0;
    for socket in &clients {
        socket.set_nonblocking(true)?;
        let error = socket.connect(&to.into()).err();
        refused += u64::from(error.and_then(|error| error.raw_os_error()) == Some(libc::EPERM));
    }
    assert_eq!((bed.datapath.handovers_open(bed.cookie)?, all.get(&0, 0)?), (LEFT / 2, others + LEFT / 2));
    assert_eq!(bed.count(Reason::HandoverFull)?, refused);

    let other = Netns::new()?;
    let cookie = other.enter(netns_cookie)??;
    bed.datapath.enroll(cookie, &RedirectPolicy::default(), &own_addresses(), bed.listener)?;
    let stranger = SocketMaker::new(&bed.workload_cgroup, &other)?.tcp(Domain::IPV4)?;
    let error = stranger.connect_timeout(&to.into(), DEADLINE).expect_err("nobody listens there");
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));

    drop(clients);
    eventually("what waited to be given back", || all.get(&0, 0).is_ok_and(|all| all == others))?;
    // What programs can't count is set right.
    bed.datapath.unenroll(cookie)?;
    assert_eq!(all.get(&0, 0)?, 0);
    Ok(())
}
