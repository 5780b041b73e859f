//! An agent dies, and another takes over what it left pinned.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::Context;
use interceptor_common::{policy::SCHEMA, verdict::Reason};
use interceptor_user::{
    datapath::{Besides, CgroupId, Datapath},
    workload::{IncludeIpRanges, RedirectPolicy},
};

use crate::{
    bed::{Bed, OWN_V4, OWN_V6, own_addresses},
    bpf::PinnedMap,
    changes::connect_until,
    maker::SocketMaker,
};

fn pins(bed: &Bed) -> anyhow::Result<PathBuf> {
    Ok(bed.pins.as_ref().context("a pinned bed")?.pins())
}

/// A new agent in the place of the bed's, which is gone without a word.
fn replace(bed: &mut Bed) -> anyhow::Result<()> {
    let pins = pins(bed)?;
    // In place of the old one only after it has taken over: both hold the maps for a moment, as agents do.
    bed.datapath = Datapath::open(&pins)?;
    bed.reader = bed.datapath.original_dst_reader();
    Ok(())
}

#[test]
fn with_the_agent_dead_connections_are_refused_and_the_next_one_takes_over() -> anyhow::Result<()> {
    let policy = RedirectPolicy { exclude_ip_ranges: vec!["192.0.2.0/24".parse()?], ..Default::default() };
    let mut bed = Bed::pinned(&policy)?;
    let client = bed.connect("198.51.100.1:80")?;
    bed.expect_redirected(&client, "198.51.100.1:80")?;

    let pins = pins(&bed)?;
    let listeners: Vec<_> = bed.listeners.drain(..).collect();
    // Not the pinned maps' process any more: a datapath of nobody's takes its place.
    bed.datapath = Datapath::load()?;
    for listener in &listeners {
        socket2::SockRef::from(listener).shutdown(std::net::Shutdown::Both)?;
    }
    let error = bed.connect_error("198.51.100.1:80")?;
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));

    bed.datapath = Datapath::open(&pins)?;
    bed.reader = bed.datapath.original_dst_reader();
    assert_eq!(bed.datapath.enrolled().into_iter().collect::<Vec<_>>(), [bed.cookie]);
    assert_eq!(bed.datapath.attached_pods()?, [CgroupId::of(bed.workload_cgroup.open()?)?]);
    // Counted by the dead agent's programs.
    assert_eq!(bed.count(Reason::IncludedRange)?, 2);
    let (listener, listeners) = bed.proxy.listeners()?;
    (bed.listener, bed.listeners) = (listener, listeners);
    let before = bed.policy;
    bed.policy = bed.datapath.enroll(bed.cookie, &policy, &own_addresses(), listener)?;
    assert!(bed.policy > before, "{} after {before}", bed.policy);
    let client = bed.connect("198.51.100.1:80")?;
    bed.expect_redirected(&client, "198.51.100.1:80")?;
    bed.start_connect("192.0.2.1:80")?;
    assert_eq!(bed.count(Reason::ExcludedRange)?, 1);
    Ok(())
}

/// A hand-over: the next agent has loaded everything while the last one was still writing.
#[test]
fn what_the_last_agent_writes_last_is_taken_over() -> anyhow::Result<()> {
    let mut bed = Bed::pinned(&RedirectPolicy::default())?;
    let prepared = Datapath::prepare(&pins(&bed)?)?;
    let policy = RedirectPolicy { exclude_ports: vec![22], ..Default::default() };
    bed.policy = bed.datapath.enroll(bed.cookie, &policy, &own_addresses(), bed.listener)?;
    let gone = bed.cookie + 1_000_000;
    bed.datapath.enroll(gone, &policy, &own_addresses(), bed.listener)?;
    bed.datapath.unenroll(gone)?;

    bed.datapath = prepared.adopt()?;
    assert_eq!(bed.datapath.enrolled().into_iter().collect::<Vec<_>>(), [bed.cookie]);
    let client = bed.connect("198.51.100.1:80")?;
    bed.expect_redirected(&client, "198.51.100.1:80")?;
    bed.start_connect("198.51.100.1:22")?;
    assert_eq!(bed.count(Reason::ExcludedPort)?, 1);
    let before = bed.policy;
    bed.policy = bed.datapath.enroll(bed.cookie, &policy, &own_addresses(), bed.listener)?;
    assert!(bed.policy > before, "{} after {before}", bed.policy);
    Ok(())
}

/// What is adopted is as good as what was written: the own addresses change, and the policy says what it said.
#[test]
fn an_adopted_policy_survives_a_change_of_addresses() -> anyhow::Result<()> {
    let policy = RedirectPolicy {
        exclude_ip_ranges: vec!["192.0.2.0/24".parse()?, "10.77.0.0/16".parse()?],
        include_ip_ranges: IncludeIpRanges::List(vec!["0.0.0.0/0".parse()?]),
        exclude_ports: vec![22],
        include_ports: vec![8443],
        ..RedirectPolicy::default()
    };
    let mut bed = Bed::pinned(&policy)?;
    replace(&mut bed)?;
    bed.datapath.update_network(
        bed.cookie,
        &[OWN_V4.parse()?, "198.51.100.9".parse()?, OWN_V6.parse()?],
        &Default::default(),
    )?;
    for (to, reason) in [
        ("192.0.2.1:80", Reason::ExcludedRange),
        ("10.77.5.5:80", Reason::ExcludedRange),
        ("198.51.100.9:80", Reason::OwnAddress),
        ("198.51.100.1:22", Reason::ExcludedPort),
        ("198.51.100.1:80", Reason::IncludedRange),
        ("[2001:db8::1]:8443", Reason::IncludedPort),
        ("[2001:db8::1]:80", Reason::NotIncluded),
    ] {
        let before = bed.count(reason)?;
        bed.start_connect(to).or_else(|error| match error.downcast_ref::<std::io::Error>() {
            Some(io) if io.raw_os_error() == Some(libc::ECONNREFUSED) => bed.tcp_for(to.parse()?),
            _ => Err(error),
        })?;
        assert_eq!(bed.count(reason)?, before + 1, "{to} {reason:?}");
    }
    Ok(())
}

/// A listener that the next agent has got from the last still hands original destinations over.
#[test]
fn a_listener_of_the_last_agent_still_knows_destinations() -> anyhow::Result<()> {
    let mut bed = Bed::pinned(&RedirectPolicy::default())?;
    let waiting = bed.connect("198.51.100.1:80")?;
    replace(&mut bed)?;
    bed.expect_redirected(&waiting, "198.51.100.1:80")?;
    let client = bed.connect("198.51.100.2:80")?;
    bed.expect_redirected(&client, "198.51.100.2:80")?;
    Ok(())
}

/// Also when its cgroup is gone: that of a container that was replaced.
#[test]
fn a_listener_outlives_the_cgroup_it_was_made_in() -> anyhow::Result<()> {
    let mut bed = Bed::pinned(&RedirectPolicy::default())?;
    bed.proxy.move_to(bed.workload_cgroup.path())?;
    fs::remove_dir(bed.proxy_cgroup.path())?;
    replace(&mut bed)?;
    let client = bed.connect("198.51.100.2:80")?;
    let redirected = bed.expect_redirected(&client, "198.51.100.2:80");
    // Its guard wants to remove it.
    fs::create_dir(bed.proxy_cgroup.path())?;
    redirected.map(drop)
}

/// As if an agent had died in the middle of things: a workload's entry is gone, all that it named is still there.
#[test]
fn what_nobody_names_is_removed() -> anyhow::Result<()> {
    let policy = RedirectPolicy { exclude_ports: vec![22], ..Default::default() };
    let mut bed = Bed::pinned(&policy)?;
    let maps = pins(&bed)?.join(format!("v{SCHEMA}/maps"));
    bed.connect("198.51.100.2:80")?;
    bed.accept()?;
    let count = || -> anyhow::Result<Vec<usize>> {
        let names = ["WORKLOADS", "PREFIXES", "PORTS", "COUNTERS", "HANDOVERS", "HANDOVERS_OPEN"];
        names.iter().map(|name| Ok(PinnedMap::open(&maps.join(name))?.keys()?.len())).collect()
    };
    let alone = count()?;
    // Prefixes: each family, and each own address.
    assert_eq!(alone, [1, 4, 1, 1, 0, 1]);

    let gone = bed.cookie + 1_000_000;
    bed.datapath.enroll(gone, &policy, &own_addresses(), bed.listener)?;
    assert_eq!(count()?, [2, 8, 2, 1, 0, 2]);
    PinnedMap::open(&maps.join("WORKLOADS"))?.delete(&gone.to_ne_bytes())?;
    replace(&mut bed)?;
    assert_eq!(count()?, alone);
    assert_eq!(bed.count(Reason::IncludedRange)?, 1);

    bed.datapath.unenroll(bed.cookie)?;
    assert_eq!(count()?, [0; 6]);
    Ok(())
}

/// Links are updated in place: no connection finds a moment without hooks, or with half of them.
#[test]
fn no_connection_slips_through_while_agents_follow_each_other() -> anyhow::Result<()> {
    let mut bed = Bed::pinned(&RedirectPolicy::default())?;
    let maker = SocketMaker::new(&bed.workload_cgroup, &bed.netns)?;
    let done = AtomicBool::new(false);
    let listeners: Vec<_> =
        bed.listeners.iter().map(std::net::TcpListener::try_clone).collect::<Result<_, _>>()?;
    let (agents, connected) = std::thread::scope(|scope| -> anyhow::Result<(u32, u64)> {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                listeners.iter().for_each(|listener| while listener.accept().is_ok() {});
            }
        });
        let client = scope.spawn(|| connect_until(&maker, &done));
        let mut agents = 0;
        let mut follow = || -> anyhow::Result<()> {
            while agents < 8 {
                replace(&mut bed)?;
                bed.datapath.attach_pod(
                    bed.workload_cgroup.open()?,
                    Besides { capture_dns: agents % 2 == 0, ..Besides::default() },
                )?;
                agents += 1;
            }
            Ok(())
        };
        let followed = follow();
        done.store(true, Ordering::Relaxed);
        let connected = client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        followed?;
        Ok((agents, connected))
    })?;
    assert!(connected > 1000, "{agents} agents, {connected} connections");
    assert_eq!(bed.count(Reason::IncludedRange)?, connected, "{:?}", bed.datapath.counters()?);
    Ok(())
}
