//! Sockets that the application bound to a device: loopback is out of their reach until they are unbound.

use std::net::SocketAddr;

use anyhow::Context;
use interceptor_common::verdict::Reason;
use interceptor_user::workload::RedirectPolicy;
use rustix::{
    net::connect_unspec,
    thread::{CapabilitySet, capabilities, set_capabilities},
};
use socket2::Socket;

use crate::bed::{Bed, DEADLINE, DEVICE};

fn bound(bed: &Bed, to: SocketAddr) -> anyhow::Result<Socket> {
    let socket = bed.tcp_for(to)?;
    socket.bind_device(Some(DEVICE.as_bytes()))?;
    Ok(socket)
}

#[test]
fn bound_to_a_device() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    for to in ["93.184.216.34:80", "[2001:db8::22]:443", "[::ffff:93.184.216.34]:80"] {
        let address: SocketAddr = to.parse()?;
        let client = bound(&bed, address)?;
        client.connect_timeout(&address.into(), DEADLINE).with_context(|| to.to_owned())?;
        let (_stream, original) = bed.accept()?;
        let expected = SocketAddr::new(address.ip().to_canonical(), address.port());
        assert_eq!(original.context("no original destination")?.addr, expected);
    }
    Ok(())
}

/// What we unbound for a redirect is bound again when the same socket goes where we don't redirect.
#[test]
fn the_device_comes_back() -> anyhow::Result<()> {
    let policy = RedirectPolicy { exclude_ports: vec![8080], ..Default::default() };
    let bed = Bed::with(&policy)?;
    let to: SocketAddr = "93.184.216.34:80".parse()?;
    let client = bound(&bed, to)?;
    client.connect_timeout(&to.into(), DEADLINE)?;
    bed.accept()?;
    assert_eq!(client.device()?, None);
    connect_unspec(&client)?;
    client.set_nonblocking(true)?;
    let error = client
        .connect(&"93.184.216.34:8080".parse::<SocketAddr>()?.into())
        .expect_err("a SYN that nobody answers");
    assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
    assert_eq!(client.device()?.as_deref(), Some(DEVICE.as_bytes()));
    Ok(())
}

/// The kernel lets nobody without CAP_NET_RAW unbind a socket, a program on his behalf included: refused, never let
/// through, and counted.
#[test]
fn without_net_raw_a_bound_socket_is_refused() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    let to: SocketAddr = "93.184.216.34:80".parse()?;
    let client = bound(&bed, to)?;
    let connected = std::thread::scope(|scope| {
        scope
            .spawn(|| -> anyhow::Result<std::io::Result<()>> {
                let mut sets = capabilities(None)?;
                sets.effective.remove(CapabilitySet::NET_RAW);
                set_capabilities(None, sets)?;
                Ok(client.connect_timeout(&to.into(), DEADLINE))
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    assert_eq!(connected.expect_err("refused").raw_os_error(), Some(libc::EPERM));
    assert_eq!(bed.count(Reason::BoundToDevice)?, 1);
    assert!(bed.nothing_to_accept());
    Ok(())
}
