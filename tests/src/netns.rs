//! Throw-away network namespaces, and the cables between them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use rustix::fd::AsFd;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::run;

/// A network namespace that lives as long as this guard, with its loopback up.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    pub fn new() -> anyhow::Result<Self> {
        crate::cgroup::require_root()?;
        let name = crate::unique();
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let netns = Self { name };
        netns.ip("link set lo up\n")?;
        Ok(netns)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that names this namespace to setns(2).
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Runs lines of `ip` commands inside, in one process.
    pub fn ip(&self, lines: &str) -> anyhow::Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run ip (Debian package iproute2)")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(lines.as_bytes()).context("cannot talk to ip")?;
        }
        let output = child.wait_with_output().context("cannot wait for ip")?;
        if !output.status.success() {
            bail!("ip in {}: {} for:\n{lines}", self.name, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Sets a sysctl of this namespace, named as under /proc/sys (`net/ipv6/ip_nonlocal_bind`).
    pub fn sysctl(&self, name: &str, value: &str) -> anyhow::Result<()> {
        self.enter(|| fs::write(Path::new("/proc/sys").join(name), value))?
            .with_context(|| format!("cannot set {name} in {}", self.name))
    }

    /// A command that becomes `program` inside this namespace. Mounts stay as they are, so /sys/fs/cgroup is
    /// there, which `ip netns exec` would hide; /etc/netns/NAME is bound over /etc as it does.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display()));
        let etc = Path::new("/etc/netns").join(&self.name);
        if etc.is_dir() {
            command.args(["unshare", "--mount", "sh", "-c"]);
            command.arg("for f in \"$1\"/*; do mount --bind \"$f\" \"/etc/${f##*/}\" || exit 125; done; shift; exec \"$@\"");
            command.arg("sh").arg(etc);
        }
        command.arg(program);
        command
    }

    /// Gives programs started with [`Self::command`] their own /etc/`file`.
    pub fn etc(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let directory = Path::new("/etc/netns").join(&self.name);
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        fs::write(directory.join(file), text).with_context(|| format!("cannot write /etc/{file}"))
    }

    /// Runs `work` on a thread of its own inside this namespace: sockets made there belong to it.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let file = fs::File::open(self.path()).with_context(|| format!("cannot open {}", self.name))?;
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                        .with_context(|| format!("cannot enter {}", self.name))?;
                    Ok(work())
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("ip").args(["netns", "delete", &self.name])) {
            eprintln!("cannot remove namespace {}: {error:#}", self.name);
        }
        let etc = Path::new("/etc/netns").join(&self.name);
        if etc.exists()
            && let Err(error) = fs::remove_dir_all(&etc)
        {
            eprintln!("cannot remove {}: {error}", etc.display());
        }
    }
}

/// A pair of interfaces that joins two namespaces. It ends with either of them.
#[derive(Debug)]
pub struct Veth {
    pub left: String,
    pub right: String,
}

impl Veth {
    /// Makes interface `left_name` in `left`, and `right_name` in `right`; both up.
    pub fn new(left: &Netns, left_name: &str, right: &Netns, right_name: &str) -> anyhow::Result<Self> {
        left.ip(&format!(
            "link add {left_name} type veth peer name {right_name} netns {}\nlink set {left_name} up\n",
            right.name()
        ))?;
        right.ip(&format!("link set {right_name} up\n"))?;
        Ok(Self { left: left_name.to_owned(), right: right_name.to_owned() })
    }
}
