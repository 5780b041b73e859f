//! httpbin (PyPI) under gunicorn: the outside world's echo of what arrived.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};

use crate::{Daemon, Dir, Netns};

#[derive(Debug)]
pub struct Httpbin {
    _daemon: Daemon,
    dir: Dir,
}

impl Httpbin {
    pub fn start(netns: &Netns, address: SocketAddr) -> anyhow::Result<Self> {
        let gunicorn = tool("httpbin/bin/gunicorn")?;
        let dir = Dir::new()?;
        let mut command = netns.command(&gunicorn.display().to_string());
        command.args(["--bind", &address.to_string(), "--workers", "2", "--threads", "16"]);
        command.args(["--keep-alive", "60", "--worker-tmp-dir", "/dev/shm", "--access-logfile"]);
        command.arg(dir.join("access.log"));
        command.args(["--access-logformat", "%(h)s %({REMOTE_PORT}e)s %(m)s %(U)s %(s)s"]);
        command.arg("httpbin:app").current_dir(dir.path());
        let daemon = Daemon::spawn(&mut command, &dir.join("log"))?.wait_ready("httpbin", || {
            netns.enter(|| std::net::TcpStream::connect(address)).is_ok_and(|socket| socket.is_ok())
        })?;
        Ok(Self { _daemon: daemon, dir })
    }

    /// `PORT METHOD PATH STATUS` of each request that came from this address.
    pub fn hits(&self, from: &str) -> Vec<String> {
        let log = std::fs::read_to_string(self.dir.join("access.log")).unwrap_or_default();
        let prefix = format!("{from} ");
        log.lines().filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned).collect()
    }
}

/// A command that runs this Python, with the modules socket, struct, sys and time: for clients that no program
/// plays.
pub fn python(script: &str) -> anyhow::Result<Vec<String>> {
    let python = crate::interceptor::target_dir()?.join("tools/httpbin/bin/python");
    if !python.exists() {
        bail!("{} is missing: cargo xtask test installs it", python.display());
    }
    let script = format!("import socket, struct, sys, time\n{script}");
    Ok(vec![python.display().to_string(), "-c".to_owned(), script])
}

/// A program that `cargo xtask test` installed below target/tools.
pub(crate) fn tool(path: &str) -> anyhow::Result<PathBuf> {
    let tool = crate::interceptor::target_dir()?.join("tools").join(path);
    if !tool.is_file() {
        bail!("{} is missing: cargo xtask test installs it", tool.display());
    }
    tool.canonicalize().with_context(|| format!("cannot find {}", tool.display()))
}
