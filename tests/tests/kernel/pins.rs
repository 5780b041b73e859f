//! What is pinned, what is refused of what others pinned, and what goes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use interceptor_common::policy::SCHEMA;
use interceptor_tests::{BpfFs, Cgroup, eventually};
use interceptor_user::datapath::{Besides, CgroupId, Datapath};

use crate::{
    bed::{Bed, DEADLINE},
    bpf,
};

fn names(directory: &Path) -> anyhow::Result<Vec<String>> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut names = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn open_error(pins: &Path) -> anyhow::Result<String> {
    let error = Datapath::open(pins).err().context("it opened")?;
    Ok(format!("{:#}", anyhow::Error::from(error)))
}

struct Pod {
    cgroup: Cgroup,
    id: CgroupId,
    directory: PathBuf,
}

impl Pod {
    fn new(file_system: &BpfFs) -> anyhow::Result<Self> {
        let cgroup = Cgroup::new()?;
        let id = CgroupId::of(cgroup.open()?)?;
        let directory = file_system.pins().join(format!("v{SCHEMA}/pods/{}", id.0));
        Ok(Self { cgroup, id, directory })
    }
}

const HOOKS: [&str; 10] = [
    "astray_egress",
    "bind4",
    "bind6",
    "connect4",
    "connect6",
    "getpeername4",
    "getpeername6",
    "getsockname4",
    "getsockname6",
    "sock_ops",
];

#[test]
fn elsewhere_than_on_a_bpf_file_system_nothing_is_pinned() -> anyhow::Result<()> {
    let error = open_error(Path::new("/tmp/nothing/of/ours"))?;
    assert!(error.contains("/tmp/nothing/of/ours is not on a bpf file system"), "{error}");
    assert!(error.contains("mount -t bpf bpf /sys/fs/bpf"), "{error}");
    assert!(!Path::new("/tmp/nothing").exists());
    Ok(())
}

/// A map that another version pinned under the same name would be written past its end.
#[test]
fn a_map_of_another_shape_is_refused() -> anyhow::Result<()> {
    let file_system = BpfFs::new()?;
    drop(Datapath::open(&file_system.pins())?);
    let workloads = file_system.pins().join(format!("v{SCHEMA}/maps/WORKLOADS"));
    fs::remove_file(&workloads)?;
    bpf::pin_hash(&workloads, 8, 56, 4096)?;
    let error = open_error(&file_system.pins())?;
    for part in [
        &format!("the pinned map {} is of another version", workloads.display()),
        "it is Hash, keys of 8 bytes, values of 56, 4096 entries, flags 0x1, but this one needs",
        "values of 48",
        "`interceptor cleanup`",
    ] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    fs::remove_file(&workloads)?;
    drop(Datapath::open(&file_system.pins())?);
    Ok(())
}

#[test]
fn attached_again_it_is_the_same_and_detached_there_is_nothing() -> anyhow::Result<()> {
    let file_system = BpfFs::new()?;
    let pod = Pod::new(&file_system)?;
    let mut datapath = Datapath::open(&file_system.pins())?;
    for _ in 0..2 {
        assert_eq!(datapath.attach_pod(pod.cgroup.open()?, Besides::default())?, pod.id);
        assert_eq!(names(&pod.directory)?, HOOKS);
    }
    assert_eq!(bpf::connect4_programs(&pod.cgroup.open()?)?, 1);
    datapath.attach_pod(pod.cgroup.open()?, Besides { capture_dns: true, ..Besides::default() })?;
    assert_eq!(names(&pod.directory)?.len(), HOOKS.len() + 8);
    assert_eq!(bpf::connect4_programs(&pod.cgroup.open()?)?, 2);
    // DNS is not captured any more.
    datapath.attach_pod(pod.cgroup.open()?, Besides::default())?;
    assert_eq!(names(&pod.directory)?, HOOKS);
    assert_eq!(bpf::connect4_programs(&pod.cgroup.open()?)?, 1);

    for _ in 0..2 {
        datapath.detach_pod(pod.id)?;
        assert!(!pod.directory.exists());
        assert_eq!(bpf::connect4_programs(&pod.cgroup.open()?)?, 0);
        assert_eq!(datapath.attached_pods()?, []);
    }
    Ok(())
}

/// A crash between two pins leaves some; the next agent completes them.
#[test]
fn half_of_the_pins_are_completed() -> anyhow::Result<()> {
    let file_system = BpfFs::new()?;
    let pod = Pod::new(&file_system)?;
    let mut datapath = Datapath::open(&file_system.pins())?;
    datapath.attach_pod(pod.cgroup.open()?, Besides::default())?;
    for name in ["sock_ops", "getpeername4", "bind6"] {
        fs::remove_file(pod.directory.join(name))?;
    }
    drop(datapath);
    let mut datapath = Datapath::open(&file_system.pins())?;
    assert_eq!(datapath.attached_pods()?, [pod.id]);
    datapath.attach_pod(pod.cgroup.open()?, Besides::default())?;
    assert_eq!(names(&pod.directory)?, HOOKS);
    eventually("one program of each kind", || {
        pod.cgroup.open().is_ok_and(|open| bpf::connect4_programs(&open).is_ok_and(|count| count == 1))
    })
}

/// What another attachment forbids leaves nothing behind.
#[test]
fn a_pod_that_cannot_be_attached_has_no_pins() -> anyhow::Result<()> {
    let file_system = BpfFs::new()?;
    let pod = Pod::new(&file_system)?;
    let mut datapath = Datapath::open(&file_system.pins())?;
    let _program = bpf::attach_exclusively(&pod.cgroup.open()?)?;
    let error =
        datapath.attach_pod(pod.cgroup.open()?, Besides::default()).err().context("it was attached")?;
    assert!(error.to_string().contains("program selfish (id "), "{error}");
    assert!(!pod.directory.exists());
    assert_eq!(datapath.attached_pods()?, []);
    Ok(())
}

#[test]
fn links_of_cgroups_that_are_gone_are_collected() -> anyhow::Result<()> {
    let file_system = BpfFs::new()?;
    let (alive, dead) = (Pod::new(&file_system)?, Pod::new(&file_system)?);
    let mut datapath = Datapath::open(&file_system.pins())?;
    for pod in [&alive, &dead] {
        datapath.attach_pod(pod.cgroup.open()?, Besides::default())?;
    }
    assert_eq!(datapath.collect_dead()?, []);
    let opened = dead.cgroup.open()?;
    let (id, directory) = (dead.id, dead.directory.clone());
    drop(dead);
    let error = datapath
        .attach_pod(&opened, Besides { capture_dns: true, ..Besides::default() })
        .err()
        .context("attached to a cgroup that is gone")?;
    assert!(error.cgroup_is_gone(), "{error}");
    let mut collected = Vec::new();
    eventually("the kernel to let go of the links", || {
        collected.extend(datapath.collect_dead().unwrap_or_default());
        !collected.is_empty()
    })?;
    assert_eq!(collected, [id]);
    assert!(!directory.exists());
    datapath.detach_pod(id)?;
    assert_eq!(datapath.attached_pods()?, [alive.id]);
    assert_eq!(names(&alive.directory)?, HOOKS);
    Ok(())
}

/// The next agent meets links of cgroups that went while nobody looked.
#[test]
fn dead_links_do_not_keep_the_next_agent_from_starting() -> anyhow::Result<()> {
    let file_system = BpfFs::new()?;
    let pod = Pod::new(&file_system)?;
    let mut datapath = Datapath::open(&file_system.pins())?;
    datapath.attach_pod(pod.cgroup.open()?, Besides::default())?;
    drop(datapath);
    let directory = pod.directory.clone();
    drop(pod);
    eventually("an agent to start without them", || {
        let Ok(mut datapath) = Datapath::open(&file_system.pins()) else { return false };
        datapath.collect_dead().is_ok() && !directory.exists()
    })
}

/// A pod that is let go: its connections go their own way at once.
#[test]
fn a_detached_pod_is_on_its_own() -> anyhow::Result<()> {
    let mut bed = Bed::pinned(&Default::default())?;
    bed.netns.ip("addr add 198.51.100.7/32 dev lo\n")?;
    let server = bed.server("198.51.100.7:8081")?;
    let client = bed.connect("198.51.100.7:8081")?;
    bed.expect_redirected(&client, "198.51.100.7:8081")?;
    let id = CgroupId::of(bed.workload_cgroup.open()?)?;
    bed.datapath.detach_pod(id)?;
    bed.datapath.unenroll(bed.cookie)?;
    let client = bed.tcp_for("198.51.100.7:8081".parse()?)?;
    client.connect_timeout(&"198.51.100.7:8081".parse::<std::net::SocketAddr>()?.into(), DEADLINE)?;
    server.accept()?;
    assert!(bed.nothing_to_accept());
    Ok(())
}
