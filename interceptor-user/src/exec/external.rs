//! A proxy of the user's own that reads SO_ORIGINAL_DST: is it there, and is it where the user says?

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};

use super::sockets::{self, ListeningSocket};
use crate::datapath::Listener;
use crate::settings::ExternalProxy;

const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// The proxy's cgroup, open, and where connections to it must go.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) cgroup: File,
    pub(super) listener: Listener,
}

pub(super) fn find(external: &ExternalProxy) -> anyhow::Result<Found> {
    let directory = &external.cgroup;
    let cgroup = open_cgroup(directory)?;
    let sockets = sockets::listening_on(external.port)?;
    let takes = |to: IpAddr| sockets.iter().any(|socket| socket.takes(to));
    let (v4, v6) = (takes(Ipv4Addr::LOCALHOST.into()), takes(Ipv6Addr::LOCALHOST.into()));
    if !v4 && !v6 {
        bail!(
            "nobody listens on 127.0.0.1:{port} or [::1]:{port}: start the proxy first, in the cgroup {directory}",
            port = external.port,
            directory = directory.display()
        );
    }
    check_cgroup(&sockets, directory)?;
    for (family, present) in [("IPv4", v4), ("IPv6", v6)] {
        if !present {
            tracing::warn!(
                "the proxy does not listen on {family} loopback: {family} connections are refused"
            );
        }
    }
    let listener = Listener { port: external.port, spread_v4: v4.into(), ports_v6: v6.into(), relay_port: 0 };
    Ok(Found { cgroup, listener })
}

fn open_cgroup(directory: &Path) -> anyhow::Result<File> {
    let shown = directory.display();
    let cgroup =
        File::open(directory).with_context(|| format!("can't open --external-proxy-cgroup {shown}"))?;
    let file_system = rustix::fs::fstatfs(&cgroup).context("can't tell the file system")?;
    if file_system.f_type != CGROUP2_MAGIC {
        bail!(
            "--external-proxy-cgroup {shown} is not in a cgroup2 file system: give the directory of the proxy's cgroup there"
        );
    }
    Ok(cgroup)
}

/// The hooks that answer SO_ORIGINAL_DST act on listeners made in that cgroup or below it, wherever the process is now.
fn check_cgroup(sockets: &[ListeningSocket], directory: &Path) -> anyhow::Result<()> {
    let below = inodes_below(directory)?;
    let stranger = sockets.iter().find(|socket| socket.cgroup.is_some_and(|cgroup| !below.contains(&cgroup)));
    match stranger {
        None => Ok(()),
        Some(socket) => Err(anyhow!(
            "the listener on {}:{} was made in another cgroup than {} (`ss -ltn --cgroup` names it): move the proxy's \
             process there before it listens",
            socket.address,
            socket.port,
            directory.display()
        )),
    }
}

fn inodes_below(directory: &Path) -> anyhow::Result<Vec<u64>> {
    let mut inodes = Vec::new();
    let mut waiting: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(path) = waiting.pop() {
        inodes.push(fs::metadata(&path).with_context(|| format!("can't read {}", path.display()))?.ino());
        for entry in fs::read_dir(&path).with_context(|| format!("can't read {}", path.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    Ok(inodes)
}
