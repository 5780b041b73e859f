//! `interceptor cleanup`: the node as it was.

use std::{fs, path::Path, process::Command};

use anyhow::Context;
use interceptor_common::policy::SCHEMA;
use interceptor_tests::{BpfFs, Cgroup, binary};
use interceptor_user::datapath::{Besides, Datapath, NodeSettings, OnAgentDown, Undecided, netns_cookie};

use crate::{
    bed::{Bed, DEADLINE},
    bpf::{connect4_programs, pin_hash},
};

pub(crate) fn cleanup(pins: &Path) -> anyhow::Result<String> {
    let output = interceptor_tests::output(Command::new(binary()?).arg("cleanup").arg("--pins").arg(pins))?;
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn nothing_is_left_and_connections_go_their_own_way() -> anyhow::Result<()> {
    let mut bed = Bed::pinned(&Default::default())?;
    let pins = bed.pins.as_ref().context("a pinned bed")?.pins();
    bed.netns.ip("addr add 198.51.100.7/32 dev lo\n")?;
    let server = bed.server("198.51.100.7:8080")?;
    let kubepods = Cgroup::new()?;
    let settings = NodeSettings {
        host_cookie: netns_cookie()?,
        undecided: Undecided::Refuse,
        on_agent_down: OnAgentDown::Closed,
    };
    bed.datapath.set_settings(&settings)?;
    bed.datapath.gate(kubepods.open()?)?;
    bed.datapath = Datapath::load()?;
    let client = bed.connect("198.51.100.7:8080")?;
    bed.accept()?;
    drop(client);

    let said = cleanup(&pins)?;
    // The pod's nine, the listener's, and two of the gate.
    let expected =
        format!("detached 13 programs from 3 cgroups and removed 15 maps: {}/v{SCHEMA}\n", pins.display());
    assert_eq!(said, expected);
    assert!(!pins.exists());
    for cgroup in [&bed.workload_cgroup, &bed.proxy_cgroup, &kubepods] {
        assert_eq!(connect4_programs(&cgroup.open()?)?, 0);
    }
    let client = bed.tcp_for("198.51.100.7:8080".parse()?)?;
    client.connect_timeout(&"198.51.100.7:8080".parse::<std::net::SocketAddr>()?.into(), DEADLINE)?;
    server.accept()?;
    assert!(bed.nothing_to_accept());

    assert_eq!(cleanup(&pins)?, format!("nothing is pinned in {}\n", pins.display()));
    Ok(())
}

#[test]
fn what_other_versions_pinned_goes_too() -> anyhow::Result<()> {
    let file_system = BpfFs::new()?;
    let pins = file_system.pins();
    let cgroup = Cgroup::new()?;
    Datapath::open(&pins)?.attach_pod(cgroup.open()?, Besides { capture_dns: true, ..Besides::default() })?;
    // As another version might have it: other maps, other programs, other directories.
    fs::rename(pins.join(format!("v{SCHEMA}")), pins.join("v999"))?;
    let links = pins.join("v999/pods");
    let links = links.join(fs::read_dir(&links)?.next().context("a pod")??.file_name());
    fs::rename(links.join("connect4"), links.join("connect_anything"))?;
    fs::create_dir(pins.join("v999/more"))?;
    pin_hash(&pins.join("v999/more/MAP"), 4, 4, 1)?;
    fs::create_dir(pins.join("somebody_elses"))?;
    Datapath::open(&pins)?.attach_pod(cgroup.open()?, Besides::default())?;
    // Ours, and the one of theirs that ours can't take the place of.
    assert_eq!(connect4_programs(&cgroup.open()?)?, 2);

    let said = cleanup(&pins)?;
    let expected = format!(
        "detached 11 programs from 2 cgroups and removed 31 maps: {}/v{SCHEMA}, v999\n",
        pins.display()
    );
    assert_eq!(said, expected);
    assert_eq!(connect4_programs(&cgroup.open()?)?, 0);
    let left: Vec<_> = fs::read_dir(&pins)?.collect::<Result<_, _>>()?;
    assert_eq!(left.len(), 1, "{left:?}");
    Ok(())
}

/// Elsewhere than on a bpf file system there is nothing of ours, whatever it is called.
#[test]
fn files_are_not_pins() -> anyhow::Result<()> {
    let directory = interceptor_tests::Dir::new()?;
    fs::create_dir(directory.join("v1"))?;
    directory.write("v1/file", "of somebody's")?;
    let output = Command::new(binary()?).arg("cleanup").arg("--pins").arg(directory.path()).output()?;
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr)?;
    assert!(error.contains("is not on a bpf file system"), "{error}");
    assert!(directory.join("v1/file").exists());
    Ok(())
}
