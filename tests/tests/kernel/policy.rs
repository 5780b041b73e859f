//! What the policy says, on real connections; what never is redirected; counters and events.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use interceptor_common::verdict::Reason;
use interceptor_tests::Netns;
use interceptor_user::{
    datapath::{ConnectEvent, netns_cookie},
    workload::{IncludeIpRanges, RedirectPolicy},
};
use socket2::Domain;

use crate::{
    bed::{Bed, DEADLINE, OWN_V4, OWN_V6, own_addresses},
    maker::SocketMaker,
};

/// Connects to each row's destination, and expects exactly one more of its reason, and nothing at the proxy.
fn expect_left_alone(bed: &Bed, rows: &[(&str, Reason)]) -> anyhow::Result<()> {
    for &(to, reason) in rows {
        let before = bed.count(reason)?;
        let to: SocketAddr = to.parse()?;
        let socket = bed.tcp_for(to)?;
        socket.set_nonblocking(true)?;
        if let Err(error) = socket.connect(&to.into()) {
            assert_ne!(error.raw_os_error(), Some(libc::EPERM), "{to}");
        }
        assert_eq!(bed.count(reason)?, before + 1, "{to} {reason:?}");
        assert!(bed.nothing_to_accept(), "{to}");
    }
    Ok(())
}

#[test]
fn never_redirected() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    expect_left_alone(
        &bed,
        &[
            ("127.0.0.1:80", Reason::Loopback),
            ("127.9.9.9:80", Reason::Loopback),
            ("[::1]:80", Reason::Loopback),
            ("[::ffff:127.0.0.1]:80", Reason::Loopback),
            ("0.0.0.0:80", Reason::Unspecified),
            ("[::]:80", Reason::Unspecified),
            ("[::ffff:0.0.0.0]:80", Reason::Unspecified),
            ("224.0.0.1:80", Reason::Multicast),
            ("[ff02::1]:80", Reason::Multicast),
            ("169.254.169.254:80", Reason::LinkLocal),
            ("[fe80::1]:80", Reason::LinkLocal),
            ("10.77.0.1:80", Reason::OwnAddress),
            ("[fd77::1]:80", Reason::OwnAddress),
            ("[::ffff:10.77.0.1]:80", Reason::OwnAddress),
        ],
    )
}

#[test]
fn own_and_unspecified_addresses_reach_local_servers() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    let v4 = bed.server("0.0.0.0:8080")?;
    for to in ["127.0.0.1:8080", "0.0.0.0:8080", "10.77.0.1:8080"] {
        let client = bed.connect(to)?;
        let (stream, _) = v4.accept()?;
        assert_eq!(client.local_addr()?.as_socket(), Some(stream.peer_addr()?), "{to}");
    }
    let v6 = bed.server("[::]:8081")?;
    for to in ["[::1]:8081", "[::]:8081", "[fd77::1]:8081"] {
        bed.connect(to)?;
        v6.accept()?;
    }
    Ok(())
}

#[test]
fn excludes_and_includes() -> anyhow::Result<()> {
    let policy = RedirectPolicy {
        exclude_ip_ranges: vec![
            "10.10.0.4/32".parse()?,
            "2001:db8:1::/48".parse()?,
            "172.16.0.0/12".parse()?,
        ],
        // Inside an excluded range, and longer: the exclude wins all the same.
        include_ip_ranges: IncludeIpRanges::List(vec![
            "10.10.0.0/24".parse()?,
            "172.16.5.0/24".parse()?,
            "2001:db8::/32".parse()?,
        ]),
        exclude_ports: vec![22],
        include_ports: vec![8443],
        ..RedirectPolicy::default()
    };
    let bed = Bed::with(&policy)?;
    for to in [
        "10.10.0.5:80",
        "10.10.0.3:80",
        "[2001:db8:2::1]:80",
        "192.0.2.1:8443",
        "[2001:dead::1]:8443",
        "[::ffff:10.10.0.5]:80",
    ] {
        let client = bed.connect(to)?;
        let asked: SocketAddr = to.parse()?;
        let canonical = SocketAddr::new(asked.ip().to_canonical(), asked.port());
        bed.expect_redirected(&client, &canonical.to_string()).with_context(|| to.to_owned())?;
    }
    expect_left_alone(
        &bed,
        &[
            ("10.10.0.4:80", Reason::ExcludedRange),
            ("10.10.0.4:8443", Reason::ExcludedRange),
            ("[::ffff:10.10.0.4]:80", Reason::ExcludedRange),
            ("172.16.5.1:80", Reason::ExcludedRange),
            ("[2001:db8:1::1]:80", Reason::ExcludedRange),
            ("10.10.0.5:22", Reason::ExcludedPort),
            ("[2001:db8:2::1]:22", Reason::ExcludedPort),
            ("192.0.2.1:80", Reason::NotIncluded),
            ("[2001:dead::1]:80", Reason::NotIncluded),
        ],
    )
}

/// The longest route says it, whatever those around it say; ranges that are excluded stay so wherever they lead.
#[test]
fn what_leaves_by_an_excluded_interface() -> anyhow::Result<()> {
    let ranges = [("0.0.0.0/0", true), ("10.0.0.0/8", false), ("10.1.0.0/16", true), ("2001:db8::/32", true)];
    let ranges = ranges.map(|(range, leaves)| range.parse().map(|range| (range, leaves)));
    let policy = RedirectPolicy {
        exclude_ip_ranges: vec!["10.2.0.0/16".parse()?],
        exclude_ports: vec![22],
        interface_ranges: ranges.into_iter().collect::<Result<_, _>>()?,
        ..Default::default()
    };
    let bed = Bed::with(&policy)?;
    for to in ["10.3.0.1:80", "[2001:db9::1]:80"] {
        let client = bed.connect(to)?;
        bed.expect_redirected(&client, to)?;
    }
    expect_left_alone(
        &bed,
        &[
            ("192.0.2.1:80", Reason::ExcludedInterface),
            ("[::ffff:192.0.2.1]:80", Reason::ExcludedInterface),
            ("10.1.0.1:80", Reason::ExcludedInterface),
            ("[2001:db8::1]:80", Reason::ExcludedInterface),
            ("192.0.2.1:22", Reason::ExcludedPort),
            ("10.2.0.1:80", Reason::ExcludedRange),
        ],
    )
}

/// `::/0` is about IPv6 only, though IPv4 lives below it in the trie.
#[test]
fn all_of_v6_is_not_v4() -> anyhow::Result<()> {
    let policy = RedirectPolicy { exclude_ip_ranges: vec!["::/0".parse()?], ..Default::default() };
    let bed = Bed::with(&policy)?;
    let client = bed.connect("93.184.216.34:80")?;
    bed.expect_redirected(&client, "93.184.216.34:80")?;
    expect_left_alone(&bed, &[("[2001:db8::1]:80", Reason::ExcludedRange)])
}

#[test]
fn a_new_policy_replaces_the_old_whole_and_counts_go_on() -> anyhow::Result<()> {
    let mut bed = Bed::new()?;
    let client = bed.connect("192.0.2.9:80")?;
    bed.expect_redirected(&client, "192.0.2.9:80")?;
    let policy = RedirectPolicy { exclude_ip_ranges: vec!["192.0.2.0/24".parse()?], ..Default::default() };
    bed.policy = bed.datapath.enroll(bed.cookie, &policy, &own_addresses(), bed.listener)?;
    expect_left_alone(&bed, &[("192.0.2.9:80", Reason::ExcludedRange)])?;
    let client = bed.connect("198.51.100.1:80")?;
    bed.expect_redirected(&client, "198.51.100.1:80")?;
    let counters = bed.datapath.counters()?;
    assert!(counters.iter().all(|counter| counter.cookie == bed.cookie), "{counters:?}");
    assert_eq!(bed.count(Reason::IncludedRange)?, 2);
    Ok(())
}

#[test]
fn own_addresses_can_change() -> anyhow::Result<()> {
    let mut bed = Bed::new()?;
    let added = "10.77.0.2".parse()?;
    bed.datapath.update_network(
        bed.cookie,
        &[OWN_V4.parse()?, added, OWN_V6.parse()?],
        &Default::default(),
    )?;
    expect_left_alone(&bed, &[("10.77.0.2:80", Reason::OwnAddress), ("10.77.0.1:80", Reason::OwnAddress)])?;
    bed.datapath.update_network(bed.cookie, &own_addresses(), &Default::default())?;
    let client = bed.connect("10.77.0.2:80")?;
    bed.expect_redirected(&client, "10.77.0.2:80")?;
    Ok(())
}

#[test]
fn an_unknown_namespace_is_refused_all_but_its_loopback() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    let other = Netns::new()?;
    let maker = SocketMaker::new(&bed.workload_cgroup, &other)?;
    for to in ["93.184.216.34:80", "[2001:db8::1]:80", "169.254.169.254:80"] {
        let to: SocketAddr = to.parse()?;
        let socket = maker.tcp(Domain::for_address(to))?;
        let error = socket.connect_timeout(&to.into(), DEADLINE).expect_err("refused");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{to}");
    }
    for to in ["127.0.0.1:9", "[::1]:9", "0.0.0.0:9"] {
        let to: SocketAddr = to.parse()?;
        let socket = maker.tcp(Domain::for_address(to))?;
        let error = socket.connect_timeout(&to.into(), DEADLINE).expect_err("nobody listens, or lo is down");
        assert_ne!(error.raw_os_error(), Some(libc::EPERM), "{to}");
    }
    let mut counted: Vec<_> =
        bed.datapath.counters()?.into_iter().map(|one| (one.cookie, one.reason, one.count)).collect();
    counted.sort_by_key(|(_, reason, _)| *reason);
    assert_eq!(
        counted,
        [(0, Reason::Loopback, 2), (0, Reason::Unspecified, 1), (0, Reason::UnknownWorkload, 3)]
    );
    Ok(())
}

#[test]
fn events_tell_what_was_bypassed_or_refused() -> anyhow::Result<()> {
    let policy = RedirectPolicy { exclude_ip_ranges: vec!["192.0.2.0/24".parse()?], ..Default::default() };
    let mut bed = Bed::with(&policy)?;
    let other = Netns::new()?;
    let stranger = SocketMaker::new(&bed.workload_cgroup, &other)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _entered = runtime.enter();
    let mut events = bed.datapath.events()?.context("the first caller gets the events")?;
    assert!(bed.datapath.events()?.is_none());

    // Redirected, and loopback: no events.
    bed.connect("198.51.100.1:80")?;
    expect_left_alone(bed_without_accept(&bed)?, &[("127.0.0.1:9", Reason::Loopback)])?;
    bed.start_connect("192.0.2.7:8080")?;
    let socket = stranger.tcp(Domain::IPV6)?;
    socket.connect(&"[2001:db8::9]:443".parse::<SocketAddr>()?.into()).expect_err("refused");

    let mut next = || runtime.block_on(async { tokio::time::timeout(DEADLINE, events.next()).await });
    let comm = std::fs::read_to_string("/proc/thread-self/comm")?.trim().to_owned();
    let pid = std::process::id();
    let bypassed = ConnectEvent {
        reason: Reason::ExcludedRange,
        destination: "192.0.2.7:8080".parse()?,
        cookie: bed.cookie,
        policy: bed.policy,
        pid,
        comm: comm.clone(),
    };
    assert_eq!(next()??, bypassed);
    let refused = ConnectEvent {
        reason: Reason::UnknownWorkload,
        destination: "[2001:db8::9]:443".parse()?,
        cookie: other.enter(netns_cookie)??,
        policy: 0,
        pid,
        comm,
    };
    assert_eq!(next()??, refused);
    Ok(())
}

/// Takes what waits at the proxy away.
fn bed_without_accept(bed: &Bed) -> anyhow::Result<&Bed> {
    bed.accept()?;
    Ok(bed)
}

/// Nobody reads the events: the buffer fills, connections go on, and what was lost is counted.
#[test]
fn a_full_event_buffer_costs_events_only() -> anyhow::Result<()> {
    let policy = RedirectPolicy { exclude_ports: vec![9], ..Default::default() };
    let bed = Bed::with(&policy)?;
    bed.netns.ip("addr add 192.0.2.1/32 dev lo\n")?;
    let connections = 6_000;
    for _ in 0..connections {
        // Refused by the kernel at once, because nobody listens there.
        let error = bed.connect_error("192.0.2.1:9")?;
        assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
    }
    assert_eq!(bed.count(Reason::ExcludedPort)?, connections);
    let dropped = bed.count(Reason::EventDropped)?;
    assert!(dropped > 0 && dropped < connections, "{dropped} of {connections} events dropped");
    Ok(())
}

#[test]
fn a_policy_of_ten_thousand_ranges() -> anyhow::Result<()> {
    let mut ranges = Vec::new();
    for index in 0..10_000_u32 {
        let [_, _, high, low] = index.to_be_bytes();
        ranges.push(format!("10.{high}.{low}.0/24").parse()?);
    }
    let started = std::time::Instant::now();
    let bed = Bed::with(&RedirectPolicy { exclude_ip_ranges: ranges, ..Default::default() })?;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    expect_left_alone(&bed, &[("10.39.15.1:80", Reason::ExcludedRange)])?;
    let client = bed.connect("10.39.16.1:80")?;
    bed.expect_redirected(&client, "10.39.16.1:80")?;
    Ok(())
}
