//! The relay's sockets in a workload's network namespace: one for each stand-in that a name server may get there.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
};

use interceptor_common::name_server::{SLOTS_V4, SLOTS_V6, stand_in_v4};
use socket2::{Domain, Protocol, Socket, Type};

use super::listeners::{free_port, is_without_v6};

/// Istio's port for captured DNS; the next free ones if it is taken.
const FIRST_PORT: u16 = 15_053;

/// UDP sockets, non-blocking, by the slots of name servers. Without IPv6 there are none for it.
#[derive(Debug)]
pub struct QuerySockets {
    /// For [`super::Listener::relay_port`].
    pub port: u16,
    pub v4: Vec<UdpSocket>,
    pub v6: Vec<UdpSocket>,
}

impl QuerySockets {
    /// Takes a free port of the calling thread's network namespace, outside the range from which the kernel gives
    /// ports to sockets.
    pub fn open() -> io::Result<Self> {
        free_port(FIRST_PORT, SLOTS_V6, Self::at)
    }

    fn at(port: u16) -> io::Result<Self> {
        let v4: io::Result<Vec<UdpSocket>> =
            (0..SLOTS_V4).map(|slot| bind(stand_in_v4(slot).into(), port)).collect();
        let v6: io::Result<Vec<UdpSocket>> =
            (port..port + SLOTS_V6).map(|port| bind(Ipv6Addr::LOCALHOST.into(), port)).collect();
        let v6 = match v6 {
            Err(error) if is_without_v6(&error) => Vec::new(),
            bound => bound?,
        };
        Ok(Self { port, v4: v4?, v6 })
    }
}

fn bind(address: IpAddr, port: u16) -> io::Result<UdpSocket> {
    let address = SocketAddr::new(address, port);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(b"lo"))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
