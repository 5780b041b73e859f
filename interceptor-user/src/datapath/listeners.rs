//! The proxy's sockets in a workload's network namespace, as connect hooks spread connections over them.
//!
//! IPv4: one socket takes 127.0.0.1 … 127.0.0.N. It is bound to 0.0.0.0 and to the device lo, so neither another
//! host nor the namespace's own address reaches it. IPv6 has one loopback address, so several ports of it are taken.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    ops::RangeInclusive,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::Listener;

/// From Istio's outbound port on; the next free ones if it is taken.
pub const LISTENER_PORTS: RangeInclusive<u16> = FIRST_PORT..=LAST_PORT;
const FIRST_PORT: u16 = 15_001;
const LAST_PORT: u16 = 32_000;
/// For connections that never leave the host: nothing is lost on the way, and nothing has to be found out about it. What
/// the node has for networks, such as BBR, which paces by timers, costs a third more for each byte. Every kernel has it, and lets
/// everybody have it.
const CONGESTION_CONTROL: &[u8] = b"reno";
/// The kernel lowers it to net.core.somaxconn.
const BACKLOG: i32 = 65_535;

/// Listening sockets, non-blocking, and where connections to them must go.
#[derive(Debug)]
pub struct Listeners {
    pub listener: Listener,
    pub v4: TcpListener,
    pub v6: Vec<TcpListener>,
}

impl Listeners {
    /// Takes a free port of the calling thread's network namespace, outside the range from which the kernel gives
    /// ports to connecting sockets. Without IPv6 there, `listener.ports_v6` is 0.
    ///
    /// The sockets must be made after [`super::Datapath::attach_listener`], in the cgroup it was called with.
    pub fn open(spread_v4: u16, ports_v6: u16) -> io::Result<Self> {
        free_port(FIRST_PORT, ports_v6, |port| Self::at(port, spread_v4, ports_v6))
    }

    fn at(port: u16, spread_v4: u16, ports_v6: u16) -> io::Result<Self> {
        let v4 = listen_v4(port)?;
        let v6: io::Result<Vec<TcpListener>> = (port..port + ports_v6).map(listen_v6).collect();
        let v6 = match v6 {
            Err(error) if is_without_v6(&error) => Vec::new(),
            opened => opened?,
        };
        let ports_v6 = if v6.is_empty() { 0 } else { ports_v6 };
        Ok(Self { listener: Listener { port, spread_v4, ports_v6, relay_port: 0 }, v4, v6 })
    }
}

/// What `open` makes of the first `ports` free ports in a row, from `first` on, outside the range from which the kernel
/// gives ports to connecting sockets.
pub(super) fn free_port<T>(first: u16, ports: u16, open: impl Fn(u16) -> io::Result<T>) -> io::Result<T> {
    let ephemeral = ephemeral_ports();
    let mut port = first;
    while port <= LAST_PORT {
        let last = port.saturating_add(ports.max(1) - 1);
        let overlaps = *ephemeral.start() <= last && port <= *ephemeral.end();
        if overlaps {
            port = ephemeral.end().saturating_add(1);
            continue;
        }
        match open(port) {
            // Refused: we run below another interceptor, which protects the port of its own listener.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) =>
            {
                port = last.saturating_add(1);
            }
            opened => return opened,
        }
    }
    let message =
        format!("no free port between {first} and {LAST_PORT} outside net.ipv4.ip_local_port_range");
    Err(io::Error::new(io::ErrorKind::AddrInUse, message))
}

fn listen_v4(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind_device(Some(b"lo"))?;
    listen(socket, Ipv4Addr::UNSPECIFIED.into(), port)
}

fn listen_v6(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(true)?;
    listen(socket, Ipv6Addr::LOCALHOST.into(), port)
}

fn listen(socket: Socket, address: IpAddr, port: u16) -> io::Result<TcpListener> {
    // Connections of the listener before us may still be in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Accepted sockets have it from here.
    socket.set_tcp_congestion(CONGESTION_CONTROL)?;
    socket.bind(&SocketAddr::new(address, port).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

pub(super) fn is_without_v6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT))
}

/// net.ipv4.ip_local_port_range, which holds for IPv6 too.
pub fn ephemeral_ports() -> RangeInclusive<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    parse_range(&text.unwrap_or_default()).unwrap_or(32_768..=60_999)
}

fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some(numbers.next()?.ok()?..=numbers.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_connections_are_not_paced() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        let listener = listen(socket, Ipv4Addr::LOCALHOST.into(), 0).unwrap();
        listener.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _peer) = listener.accept().unwrap();
        let algorithm = socket2::SockRef::from(&accepted).tcp_congestion().unwrap();
        assert!(algorithm.starts_with(CONGESTION_CONTROL), "{algorithm:?}");
    }

    #[test]
    fn port_ranges() {
        assert_eq!(parse_range("32768\t60999\n"), Some(32_768..=60_999));
        assert_eq!(parse_range(""), None);
    }
}
