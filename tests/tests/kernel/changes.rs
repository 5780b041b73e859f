//! Policies that change while connections are made: each connection is decided by one of them, whole.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use interceptor_common::verdict::Reason;
use interceptor_user::workload::{Cidr, IncludeIpRanges, RedirectPolicy};
use socket2::{Domain, Protocol, Type};

use crate::{
    bed::{Bed, own_addresses},
    maker::SocketMaker,
};

/// Included by range in one policy of the two, by port in the other; a moment without either would let it through.
fn policies() -> anyhow::Result<[RedirectPolicy; 2]> {
    let range: Cidr = "198.51.100.0/24".parse()?;
    let by_range =
        RedirectPolicy { include_ip_ranges: IncludeIpRanges::List(vec![range]), ..Default::default() };
    let by_port = RedirectPolicy {
        include_ip_ranges: IncludeIpRanges::List(vec!["2001:db8::/32".parse()?]),
        include_ports: vec![8443],
        exclude_ip_ranges: vec!["10.0.0.0/8".parse()?],
        ..Default::default()
    };
    Ok([by_range, by_port])
}

pub(crate) fn connect_until(maker: &SocketMaker, done: &AtomicBool) -> anyhow::Result<u64> {
    let to: SocketAddr = "198.51.100.7:8443".parse()?;
    let mut connected = 0;
    while !done.load(Ordering::Relaxed) {
        for socket in maker.sockets(Domain::IPV4, Type::STREAM, Protocol::TCP, 100)? {
            // Let through it would wait for an answer that nobody sends, and say so with EINPROGRESS.
            socket.set_nonblocking(true)?;
            match socket.connect(&to.into()) {
                Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
                result => result?,
            }
            socket.set_linger(Some(Duration::ZERO))?;
            connected += 1;
        }
    }
    Ok(connected)
}

#[test]
fn no_connection_slips_through_while_policies_change() -> anyhow::Result<()> {
    let policies = policies()?;
    let mut bed = Bed::with(&policies[0])?;
    let makers = [
        SocketMaker::new(&bed.workload_cgroup, &bed.netns)?,
        SocketMaker::new(&bed.workload_cgroup, &bed.netns)?,
    ];
    let done = AtomicBool::new(false);
    let listeners: Vec<_> =
        bed.listeners.iter().map(std::net::TcpListener::try_clone).collect::<Result<_, _>>()?;
    let (changes, connected) = std::thread::scope(|scope| -> anyhow::Result<(u32, u64)> {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                listeners.iter().for_each(|listener| while listener.accept().is_ok() {});
            }
        });
        let clients: Vec<_> =
            makers.iter().map(|maker| scope.spawn(|| connect_until(maker, &done))).collect();
        let started = Instant::now();
        let mut changes = 0;
        let mut change = || -> anyhow::Result<()> {
            while started.elapsed() < Duration::from_secs(3) {
                changes += 1;
                let policy = &policies[changes as usize % 2];
                bed.datapath.enroll(bed.cookie, policy, &own_addresses(), bed.listener)?;
            }
            Ok(())
        };
        let changed = change();
        done.store(true, Ordering::Relaxed);
        let mut connected = 0;
        for client in clients {
            connected += client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        changed?;
        Ok((changes, connected))
    })?;
    assert!(changes > 100 && connected > 1000, "{changes} changes, {connected} connections");
    let redirected = bed.count(Reason::IncludedRange)? + bed.count(Reason::IncludedPort)?;
    assert_eq!(redirected, connected, "{:?} after {changes} changes", bed.datapath.counters()?);
    Ok(())
}
