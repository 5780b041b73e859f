//! Cgroups that hold others, that others hold, and that are none.

use std::fs;

use interceptor_tests::{Cgroup, eventually};
use interceptor_user::datapath::Datapath;
use socket2::Domain;

use crate::{bed::Bed, bpf, maker::SocketMaker};

fn attach_error(cgroup: impl std::os::fd::AsFd) -> anyhow::Result<String> {
    let error = Datapath::load()?.attach_workload(cgroup).expect_err("can't be attached");
    Ok(format!("{:#}", anyhow::Error::from(error)))
}

#[test]
fn somebody_elses_exclusive_program_is_named() -> anyhow::Result<()> {
    let cgroup = Cgroup::new()?;
    let _program = bpf::attach_exclusively(&cgroup.open()?)?;
    let inner = cgroup.path().join("inner");
    fs::create_dir(&inner)?;
    for path in [cgroup.path(), &inner] {
        let error = attach_error(fs::File::open(path)?)?;
        let holder = format!("on {} is attached so that nothing", cgroup.path().display());
        assert!(error.contains("program selfish (id ") && error.contains(&holder), "{error}");
    }
    fs::remove_dir(&inner)?;
    Ok(())
}

#[test]
fn what_is_no_cgroup_is_said_to_be_none() -> anyhow::Result<()> {
    let error = attach_error(fs::File::open("/tmp")?)?;
    assert!(error.contains("not a directory of a cgroup2 mount"), "{error}");
    Ok(())
}

/// Below the cgroup of the attachment the hooks run too, and where sock_ops is attached twice it runs twice: to no
/// other effect.
#[test]
fn a_cgroup_inside_a_cgroup() -> anyhow::Result<()> {
    let mut bed = Bed::new()?;
    let inner = bed.workload_cgroup.path().join("inner");
    fs::create_dir(&inner)?;
    bed.datapath.attach_listener(fs::File::open(&inner)?)?;
    let maker = SocketMaker::new(&bed.workload_cgroup, &bed.netns)?;
    maker.move_to(&inner)?;
    for to in ["93.184.216.34:80", "[2001:db8::22]:443"] {
        let address: std::net::SocketAddr = to.parse()?;
        let socket = maker.tcp(Domain::for_address(address))?;
        socket.connect(&address.into())?;
        bed.expect_redirected(&socket, to)?;
    }
    bed.stop_listening()?;
    let refused =
        maker.tcp(Domain::IPV4)?.connect(&"93.184.216.34:80".parse::<std::net::SocketAddr>()?.into());
    assert_eq!(refused.expect_err("nobody listens").raw_os_error(), Some(libc::ECONNREFUSED));
    assert_eq!((bed.datapath.handovers_open(bed.cookie)?, bed.datapath.handovers_waiting()?), (0, 0));
    drop(maker);
    eventually("the inner cgroup to be empty", || fs::remove_dir(&inner).is_ok())
}
