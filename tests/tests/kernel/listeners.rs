//! The proxy's sockets: who reaches them, who can't take their place, and proxies that only know SO_ORIGINAL_DST.

use std::net::{SocketAddr, TcpListener};

use anyhow::Context;
use interceptor_common::verdict::Reason;
use interceptor_user::{datapath::Listener, workload::RedirectPolicy};
use socket2::{Domain, SockRef};

use crate::bed::{Bed, DEADLINE, OWN_V4, OWN_V6, own_addresses};

#[test]
fn not_reachable_at_the_namespaces_own_addresses() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    for own in [OWN_V4, OWN_V6] {
        let at = SocketAddr::new(own.parse()?, bed.listener.port);
        // Not a workload's socket: no hook has a say.
        let socket = bed.proxy.tcp(Domain::for_address(at))?;
        let error = socket.connect_timeout(&at.into(), DEADLINE).expect_err("refused");
        assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{at}");
    }
    Ok(())
}

#[test]
fn somebody_who_connects_to_the_listener_itself_has_no_destination() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    let port = bed.listener.port;
    for at in [format!("127.0.0.1:{port}"), format!("127.0.0.5:{port}"), format!("[::1]:{port}")] {
        let _client = bed.connect(&at)?;
        let (stream, original) = bed.accept()?;
        assert_eq!(original, None, "{at}");
        assert!(SockRef::from(&stream).original_dst_v4().is_err());
    }
    Ok(())
}

#[test]
fn a_workload_cannot_take_the_port() -> anyhow::Result<()> {
    let mut bed = Bed::new()?;
    // As if the proxy had died.
    bed.stop_listening()?;
    let port = bed.listener.port;
    let last = port + bed.listener.ports_v6 - 1;
    let rows = [
        format!("127.0.0.1:{port}"),
        format!("0.0.0.0:{port}"),
        format!("[::1]:{last}"),
        format!("[::]:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
    ];
    for at in &rows {
        let at: SocketAddr = at.parse()?;
        let error = bed.tcp_for(at)?.bind(&at.into()).expect_err("refused");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{at}");
    }
    assert_eq!(bed.count(Reason::ListenerPort)?, 5);
    for at in [format!("127.0.0.1:{}", last + 1), format!("[::1]:{}", port - 1), "0.0.0.0:0".to_owned()] {
        let at: SocketAddr = at.parse()?;
        bed.tcp_for(at)?.bind(&at.into()).with_context(|| format!("bind {at}"))?;
    }
    Ok(())
}

#[test]
fn the_port_is_no_ephemeral_port_and_moves_if_taken() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    let (second, _sockets) = bed.proxy.listeners()?;
    assert_eq!(second.port, bed.listener.port + bed.listener.ports_v6);
    bed.netns.sysctl("net/ipv4/ip_local_port_range", "10000 20000")?;
    let (third, _sockets) = bed.proxy.listeners()?;
    assert!(third.port > 20_000, "{third:?}");
    Ok(())
}

#[test]
fn connections_spread_over_all_addresses() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    let mut at = std::collections::BTreeSet::new();
    for to in ["93.184.216.34:80", "[2001:db8::22]:443"] {
        for _ in 0..200 {
            let _client = bed.connect(to)?;
            at.insert(bed.accept()?.0.local_addr()?);
        }
    }
    assert_eq!(at.len(), 16, "{at:?}");
    Ok(())
}

/// One dual-stack socket, as Envoy or any other proxy for iptables REDIRECT opens it.
#[test]
fn an_unmodified_proxy_asks_so_original_dst() -> anyhow::Result<()> {
    let mut bed = Bed::new()?;
    let socket = bed.proxy.tcp(Domain::IPV6)?;
    socket.set_only_v6(false)?;
    socket.bind(&"[::]:15101".parse::<SocketAddr>()?.into())?;
    socket.listen(16)?;
    let proxy = TcpListener::from(socket);
    let listener = Listener { port: 15_101, spread_v4: 1, ports_v6: 1, relay_port: 0 };
    bed.datapath.enroll(bed.cookie, &RedirectPolicy::default(), &own_addresses(), listener)?;

    for (to, v4, v6) in [
        ("93.184.216.34:80", Some("93.184.216.34:80"), "[::ffff:93.184.216.34]:80"),
        ("[2001:db8::22]:443", None, "[2001:db8::22]:443"),
    ] {
        let _client = bed.connect(to)?;
        let (stream, _) = proxy.accept()?;
        let stream = SockRef::from(&stream);
        let answered_v4 = stream.original_dst_v4().ok().and_then(|address| address.as_socket());
        assert_eq!(answered_v4, v4.map(|text| text.parse()).transpose()?, "{to}");
        assert_eq!(stream.original_dst_v6()?.as_socket(), Some(v6.parse()?), "{to}");
    }
    Ok(())
}

/// At SOL_SOCKET the same number is another option.
#[test]
fn other_options_pass() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    let client = bed.connect("93.184.216.34:80")?;
    let (stream, _) = bed.accept()?;
    assert!(SockRef::from(&stream).recv_buffer_size()? > 0);
    // The client's side has no such answer, whatever its hooks.
    assert!(client.original_dst_v4().is_err());
    Ok(())
}

/// Whoever holds the links keeps the redirects: with the agent gone connections are refused, not let through.
#[test]
fn links_outlive_the_datapath() -> anyhow::Result<()> {
    let mut bed = Bed::new()?;
    let links = bed.datapath.links()?;
    bed.stop_listening()?;
    let Bed { datapath, workload, netns: _netns, .. } = bed;
    drop(datapath);
    let to: SocketAddr = "93.184.216.34:80".parse()?;
    let error = workload.tcp(Domain::IPV4)?.connect_timeout(&to.into(), DEADLINE).expect_err("refused");
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));

    drop(links);
    // For a moment a process that another test starts holds copies.
    interceptor_tests::eventually("a connection that goes its own way", || {
        let Ok(socket) = workload.tcp(Domain::IPV4) else { return false };
        let waiting = socket.set_nonblocking(true).and_then(|()| socket.connect(&to.into()));
        waiting.is_err_and(|error| error.raw_os_error() == Some(libc::EINPROGRESS))
    })
}
