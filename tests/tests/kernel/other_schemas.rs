//! An agent starts where one of another schema has left its pins, and cannot read that one's maps.

use std::{
    fs,
    io::ErrorKind,
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use anyhow::Context;
use interceptor_common::{policy::SCHEMA, verdict::Reason};
use interceptor_tests::{Cgroup, eventually};
use interceptor_user::datapath::{
    Besides, CgroupId, Datapath, NodeSettings, OnAgentDown, Undecided, netns_cookie,
};
use socket2::{Domain, Protocol, Type};

use crate::{
    bed::{Bed, own_addresses},
    bpf::{self, PinnedMap, connect4_programs},
    cleanup::cleanup,
    maker::SocketMaker,
};

const OTHER: &str = "v1";

fn pins(bed: &Bed) -> anyhow::Result<PathBuf> {
    Ok(bed.pins.as_ref().context("a pinned bed")?.pins())
}

fn gate(datapath: &mut Datapath, kubepods: &Cgroup) -> anyhow::Result<()> {
    datapath.set_settings(&NodeSettings {
        host_cookie: netns_cookie()?,
        undecided: Undecided::Refuse,
        on_agent_down: OnAgentDown::Closed,
    })?;
    datapath.gate(kubepods.open()?)?;
    Ok(())
}

/// A bed whose agent, which still runs, is of another schema, with a gate and a program that we don't have.
fn of_another_schema(kubepods: &Cgroup) -> anyhow::Result<Bed> {
    let mut bed = Bed::pinned(&Default::default())?;
    gate(&mut bed.datapath, kubepods)?;
    let besides = Besides { guard: true, capture_dns: true };
    let id = bed.datapath.attach_pod(bed.workload_cgroup.open()?, besides)?;
    let other = pins(&bed)?.join(OTHER);
    fs::rename(pins(&bed)?.join(format!("v{SCHEMA}")), &other)?;
    let links = other.join("pods").join(id.0.to_string());
    fs::rename(links.join("dns_connect4"), links.join("relay4"))?;
    // A map that would be written past its end, were it taken over.
    fs::remove_file(other.join("maps/PORTS"))?;
    bpf::pin_hash(&other.join("maps/PORTS"), 8, 56, 4096)?;
    Ok(bed)
}

#[test]
fn its_pods_are_refused_until_they_are_enrolled_and_then_nothing_of_it_is_left() -> anyhow::Result<()> {
    let kubepods = Cgroup::new()?;
    let mut bed = of_another_schema(&kubepods)?;
    let other = pins(&bed)?.join(OTHER);
    let workloads = PinnedMap::open(&other.join("maps/WORKLOADS"))?;
    let client = bed.connect("198.51.100.1:80")?;
    bed.expect_redirected(&client, "198.51.100.1:80")?;

    let ours = Datapath::open(&pins(&bed)?)?;
    let before = std::mem::replace(&mut bed.datapath, ours);
    let id = CgroupId::of(bed.workload_cgroup.open()?)?;
    assert_eq!(bed.datapath.attached_pods()?, [id]);
    // Ours and the one that we don't have, which goes last.
    assert_eq!(connect4_programs(&bed.workload_cgroup.open()?)?, 3);
    assert_eq!(bed.connect_error("198.51.100.1:80")?.raw_os_error(), Some(libc::EPERM));
    assert_eq!(bed.count(Reason::UnknownWorkload)?, 1);
    assert_eq!(connect4_programs(&kubepods.open()?)?, 1);

    bed.datapath.attach_pod(bed.workload_cgroup.open()?, Besides::default())?;
    let listener = bed.listener;
    bed.policy = bed.datapath.enroll(bed.cookie, &Default::default(), &own_addresses(), listener)?;
    bed.reader = bed.datapath.original_dst_reader();
    bed.datapath.attach_listener(bed.proxy_cgroup.open()?)?;
    assert_eq!(workloads.keys()?.len(), 1);
    gate(&mut bed.datapath, &kubepods)?;

    assert!(!other.exists());
    // Whoever holds the map sees that the pod is no longer its own.
    assert_eq!(workloads.keys()?.len(), 0);
    assert_eq!(before.enrolled().len(), 1);
    drop(before);
    for cgroup in [&bed.workload_cgroup, &kubepods] {
        assert_eq!(connect4_programs(&cgroup.open()?)?, 1);
    }
    let client = bed.connect("198.51.100.1:80")?;
    bed.expect_redirected(&client, "198.51.100.1:80")?;
    Ok(())
}

/// What an agent that ends in the middle leaves, its successor completes, and cleanup removes.
#[test]
fn halfway_it_can_be_completed_and_cleaned_up() -> anyhow::Result<()> {
    let kubepods = Cgroup::new()?;
    let mut bed = of_another_schema(&kubepods)?;
    let id = CgroupId::of(bed.workload_cgroup.open()?)?.0.to_string();
    let (ours, other) = (pins(&bed)?.join(format!("v{SCHEMA}/pods")), pins(&bed)?.join(OTHER).join("pods"));
    bed.datapath = Datapath::open(&pins(&bed)?)?;
    // Some are not taken yet.
    for name in ["connect4", "sock_ops", "guard_egress"] {
        fs::rename(ours.join(&id).join(name), other.join(&id).join(name))?;
    }
    bed.datapath = Datapath::open(&pins(&bed)?)?;
    for name in ["connect4", "sock_ops", "guard_egress"] {
        assert!(ours.join(&id).join(name).exists(), "{name}");
    }
    assert_eq!(bed.connect_error("198.51.100.1:80")?.raw_os_error(), Some(libc::EPERM));

    bed.datapath = Datapath::load()?;
    let said = cleanup(&pins(&bed)?)?;
    assert!(said.ends_with(&format!("{}/{OTHER}, v{SCHEMA}\n", pins(&bed)?.display())), "{said}");
    assert!(!pins(&bed)?.exists());
    for cgroup in [&bed.workload_cgroup, &bed.proxy_cgroup, &kubepods] {
        assert_eq!(connect4_programs(&cgroup.open()?)?, 0);
    }
    Ok(())
}

/// The links of pods that went while no agent ran.
#[test]
fn dead_links_of_it_are_no_obstacle() -> anyhow::Result<()> {
    let kubepods = Cgroup::new()?;
    let mut bed = of_another_schema(&kubepods)?;
    let pod = Cgroup::new()?;
    let id = CgroupId::of(pod.open()?)?.0.to_string();
    let other = pins(&bed)?.join(OTHER);
    bed.datapath = Datapath::open(&pins(&bed)?)?;
    bed.datapath.attach_pod(pod.open()?, Besides::default())?;
    fs::rename(pins(&bed)?.join(format!("v{SCHEMA}/pods")).join(&id), other.join("pods").join(&id))?;
    drop(pod);
    eventually("an agent to start without them", || {
        let Ok(mut datapath) = Datapath::open(&pins(&bed).unwrap_or_default()) else { return false };
        gate(&mut datapath, &kubepods).is_ok() && !other.exists()
    })
}

#[test]
fn no_connection_slips_through_meanwhile() -> anyhow::Result<()> {
    let kubepods = Cgroup::new()?;
    let mut bed = of_another_schema(&kubepods)?;
    bed.netns.ip("addr add 198.51.100.7/32 dev lo\n")?;
    // Whatever is let through arrives here.
    let server = bed.server("198.51.100.7:8443")?;
    server.set_nonblocking(true)?;
    let maker = SocketMaker::new(&bed.workload_cgroup, &bed.netns)?;
    let (done, tried) = (AtomicBool::new(false), AtomicU64::new(0));
    let listeners: Vec<_> =
        bed.listeners.iter().map(std::net::TcpListener::try_clone).collect::<Result<_, _>>()?;
    let refused = std::thread::scope(|scope| -> anyhow::Result<u64> {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                listeners.iter().for_each(|listener| while listener.accept().is_ok() {});
            }
        });
        let client = scope.spawn(|| connect_until(&maker, &done, &tried));
        let wait_more = || {
            let more = tried.load(Ordering::Relaxed) + 300;
            eventually("more connections", || tried.load(Ordering::Relaxed) > more)
        };
        let mut follow = || -> anyhow::Result<()> {
            let (pins, current) = (pins(&bed)?, format!("v{SCHEMA}"));
            for _round in 0..8 {
                wait_more()?;
                bed.datapath = Datapath::open(&pins)?;
                wait_more()?;
                bed.datapath.attach_pod(bed.workload_cgroup.open()?, Besides::default())?;
                bed.datapath.enroll(bed.cookie, &Default::default(), &own_addresses(), bed.listener)?;
                gate(&mut bed.datapath, &kubepods)?;
                wait_more()?;
                fs::rename(pins.join(&current), pins.join(OTHER))?;
            }
            Ok(())
        };
        let followed = follow();
        done.store(true, Ordering::Relaxed);
        let refused = client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        followed.map(|()| refused)
    })?;
    assert!(refused >= 8 * 300, "{refused}");
    assert_eq!(server.accept().map_err(|error| error.kind()).err(), Some(ErrorKind::WouldBlock));
    cleanup(&pins(&bed)?)?;
    bed.tcp_for("198.51.100.7:8443".parse()?)?.connect(&"198.51.100.7:8443".parse::<SocketAddr>()?.into())?;
    server.accept()?;
    Ok(())
}

/// Returns how many were refused.
fn connect_until(maker: &SocketMaker, done: &AtomicBool, tried: &AtomicU64) -> anyhow::Result<u64> {
    let to: SocketAddr = "198.51.100.7:8443".parse()?;
    let mut refused = 0;
    while !done.load(Ordering::Relaxed) {
        for socket in maker.sockets(Domain::IPV4, Type::STREAM, Protocol::TCP, 100)? {
            socket.set_nonblocking(true)?;
            match socket.connect(&to.into()) {
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => refused += 1,
                Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
                result => result?,
            }
            socket.set_linger(Some(Duration::ZERO))?;
            tried.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(refused)
}
