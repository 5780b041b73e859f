//! `interceptor gateway` in a pod of its own: another host, as far as applications can tell.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::{Daemon, Dir, LogLine, Pod, binary, eventually, wait_for};

/// A gateway that runs until dropped.
#[derive(Debug)]
pub struct Gateway {
    daemon: Daemon,
    dir: Dir,
    address: String,
}

impl Gateway {
    /// As selector `istio: egressgateway` in istio-system means it; waits until it is ready.
    pub fn start(pod: &Pod, yaml: &str) -> anyhow::Result<Self> {
        Self::with(pod, yaml, &[])
    }

    pub fn with(pod: &Pod, yaml: &str, flags: &[&str]) -> anyhow::Result<Self> {
        Self::run(pod, yaml, flags, pod.command("env"))
    }

    /// As a user without any capability.
    pub fn unprivileged(pod: &Pod, yaml: &str) -> anyhow::Result<Self> {
        let mut command = pod.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "env"]);
        Self::run(pod, yaml, &[], command)
    }

    /// With no more descriptors than these.
    pub fn with_open_files(pod: &Pod, yaml: &str, files: u32) -> anyhow::Result<Self> {
        let mut command = pod.command("prlimit");
        command.arg(format!("--nofile={files}:{files}")).arg("env");
        Self::run(pod, yaml, &[], command)
    }

    fn run(pod: &Pod, yaml: &str, flags: &[&str], mut command: Command) -> anyhow::Result<Self> {
        let dir = Dir::new()?;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777))?;
        let config = dir.write("config.yaml", yaml)?;
        command.arg("--default-signal").arg(binary()?).arg("gateway");
        if !flags.contains(&"--admin-address") {
            command.args(["--admin-address", "off"]);
        }
        command.args(["--namespace", "istio-system", "--labels", "istio=egressgateway"]);
        command.arg("-c").arg(config).arg("--access-log").arg(dir.join("access.log"));
        command.arg("--socket").arg(dir.join("admin.sock")).args(flags);
        let socket = dir.join("admin.sock");
        let daemon = Daemon::spawn(&mut command, &dir.join("stderr"))?
            .wait_ready("the gateway", || ask(&socket, "/readyz").is_ok_and(|(status, _)| status == 200))?;
        Ok(Self { daemon, dir, address: pod.address.clone() })
    }

    /// The Kubernetes Service that applications know it by, as `istio-egressgateway.istio-system.svc.cluster.local`.
    pub fn service(&self, ports: &[(&str, u16)]) -> String {
        let ports: Vec<String> =
            ports.iter().map(|(name, port)| format!("{{name: {name}, port: {port}}}")).collect();
        format!(
            "\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: istio-egressgateway, namespace: istio-system}}\n\
             spec: {{clusterIP: {}, selector: {{istio: egressgateway}}, ports: [{}]}}\n",
            self.address,
            ports.join(", ")
        )
    }

    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// What it has printed so far.
    pub fn said(&self) -> String {
        self.daemon.said()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("access.log")).unwrap_or_default()
    }

    /// The access log, once it has this many lines.
    pub fn lines(&self, count: usize) -> anyhow::Result<Vec<LogLine>> {
        eventually(&format!("{count} lines in the gateway's log"), || self.log().lines().count() >= count)
            .with_context(|| format!("{}\n{}", self.log(), self.said()))?;
        self.log().lines().map(LogLine::parse).collect()
    }

    /// The access log's only line.
    pub fn line(&self) -> anyhow::Result<LogLine> {
        match self.lines(1)?.as_slice() {
            [line] => Ok(line.clone()),
            lines => bail!("{} lines instead of one:\n{}", lines.len(), self.log()),
        }
    }

    /// Replaces the resources while it runs, as an editor does: a new file takes the old one's name.
    pub fn reconfigure(&self, yaml: &str) -> anyhow::Result<()> {
        let new = self.dir.write("config.yaml.new", yaml)?;
        std::fs::rename(&new, self.dir.join("config.yaml")).context("cannot replace config.yaml")
    }

    /// What its admin socket answers: the status, and the body.
    pub fn ask(&self, path: &str) -> anyhow::Result<(u16, String)> {
        ask(&self.dir.join("admin.sock"), path)
    }

    /// For commands that ask it.
    pub fn socket(&self) -> std::path::PathBuf {
        self.dir.join("admin.sock")
    }

    pub fn signal(&self, signal: rustix::process::Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.context("not a process id")?, signal)
            .context("cannot send a signal")
    }

    /// Waits until it has ended by itself, and tells whether it says that all went well.
    pub fn ended(&mut self) -> anyhow::Result<bool> {
        let daemon = &mut self.daemon;
        let status = wait_for("the gateway to end", std::time::Duration::from_secs(60), || daemon.ended())?;
        Ok(status?.success())
    }
}

fn ask(socket: &Path, path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket).context("nobody answers")?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    Ok((status.context("no status")?, body.unwrap_or_default()))
}
