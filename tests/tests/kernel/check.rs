//! `interceptor check` on nodes that have what is needed, that lack something, and that others have been on.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use interceptor_common::policy::SCHEMA;
use interceptor_tests::{BpfFs, Cgroup, Dir, Netns, binary, eventually};
use serde_json::Value;

use crate::bpf;

/// A hierarchy with a bpf file system, as `interceptor check` is told of it.
struct Node {
    cgroups: Cgroup,
    bpf: BpfFs,
    dir: Dir,
}

impl Node {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { cgroups: Cgroup::new()?, bpf: BpfFs::new()?, dir: Dir::new()? })
    }

    fn kubepods(&self) -> PathBuf {
        self.cgroups.path().join("kubepods")
    }

    fn command(&self) -> anyhow::Result<Command> {
        let mut command = Command::new(binary()?);
        command.args(["check", "-o", "json", "--cgroup-root"]).arg(self.cgroups.path());
        command.arg("--agent-socket").arg(self.dir.join("agent.sock"));
        command.arg("--conf-dir").arg(self.dir.join("net.d"));
        Ok(command)
    }

    fn check(&self) -> anyhow::Result<Report> {
        Report::of(self.command()?.arg("--pins").arg(self.bpf.pins()))
    }

    /// A pod with one process in a network namespace; dropping it takes it away.
    fn pod(&self, uid: &str, netns: &Netns) -> anyhow::Result<RunningPod> {
        let kubepods = self.kubepods();
        let directory = kubepods.join(format!("burstable/pod{uid}"));
        let container = directory.join("container");
        fs::create_dir_all(&container).with_context(|| format!("cannot make {}", container.display()))?;
        let mut command = netns.command("sleep");
        command.arg("infinity").stdin(Stdio::null()).stdout(Stdio::null());
        let pod = RunningPod { process: command.spawn().context("cannot run nsenter")?, directory };
        fs::write(container.join("cgroup.procs"), pod.process.id().to_string())?;
        let is_inside = || {
            let own = fs::read_link(format!("/proc/{}/ns/net", pod.process.id())).ok();
            own.is_some_and(|own| fs::read_link("/proc/self/ns/net").is_ok_and(|ours| ours != own))
        };
        eventually("the pod's process to be in its namespace", is_inside)?;
        Ok(pod)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Its pods are gone by now.
        remove(&self.kubepods());
    }
}

struct RunningPod {
    process: Child,
    directory: PathBuf,
}

impl Drop for RunningPod {
    fn drop(&mut self) {
        if let Err(error) = self.process.kill().and_then(|()| self.process.wait()) {
            eprintln!("cannot end the pod's process: {error}");
        }
        if let Err(error) = eventually("the pod's cgroups to be empty", || remove(&self.directory)) {
            eprintln!("{error:#}");
        }
    }
}

fn remove(directory: &Path) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).all(|below| remove(&below)) && fs::remove_dir(directory).is_ok()
}

/// What was said, and the exit code.
struct Report {
    code: Option<i32>,
    json: Value,
}

impl Report {
    fn of(command: &mut Command) -> anyhow::Result<Self> {
        let output = command.output().context("cannot run interceptor check")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let json = serde_json::from_slice(&output.stdout).with_context(|| stderr.into_owned())?;
        Ok(Self { code: output.status.code(), json })
    }

    /// Verdict and text of every finding about one thing.
    fn about(&self, what: &str) -> Vec<(&str, &str)> {
        let findings = self.json["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
        let about = findings.iter().filter(|finding| finding["what"] == what);
        about.filter_map(|finding| Some((finding["verdict"].as_str()?, finding["found"].as_str()?))).collect()
    }

    #[track_caller]
    fn expect(&self, what: &str, verdict: &str, found: &str) {
        let about = self.about(what);
        let is_there = about.iter().any(|(is, text)| *is == verdict && text.contains(found));
        assert!(is_there, "expected {verdict}: {found}, found {about:?}");
    }
}

#[test]
fn a_node_that_has_everything() -> anyhow::Result<()> {
    let node = Node::new()?;
    let netns = Netns::new()?;
    let _pod = node.pod("0f0c", &netns)?;
    let report = node.check()?;
    assert_eq!(report.code, Some(0), "{:#}", report.json);
    assert_eq!(report.json["verdict"], "ok", "{:#}", report.json);
    report.expect("programs", "ok", "the kernel accepts them");
    report.expect("hooks", "ok", "attached to a new cgroup");
    report.expect("pods", "ok", "1 below");
    report.expect("processes", "ok", "1 of pods are visible");
    report.expect("other hooks", "ok", "nobody else's");
    report.expect("agent", "ok", "none runs");
    report.expect("pins", "ok", "none below");
    // Nothing is left of the probe.
    let entries = fs::read_dir(node.cgroups.path())?.flatten();
    let cgroups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    assert_eq!(cgroups.map(|entry| entry.file_name()).collect::<Vec<_>>(), ["kubepods"]);
    Ok(())
}

#[test]
fn what_is_missing_is_to_be_mended() -> anyhow::Result<()> {
    let node = Node::new()?;
    let report = Report::of(node.command()?.arg("--pins").arg(node.dir.path()))?;
    assert_eq!((report.code, report.json["verdict"].as_str()), (Some(1), Some("failure")));
    report.expect("bpf file system", "failure", "none holds");
    report.expect("pods", "warning", "there is no kubepods");

    let report = Report::of(
        Command::new("setpriv")
            .args(["--reuid", "65534", "--clear-groups"])
            .arg(binary()?)
            .args(["check", "-o", "json", "--cgroup-root"])
            .arg(node.cgroups.path()),
    )?;
    assert_eq!(report.code, Some(1));
    report.expect("capabilities", "failure", "without NET_ADMIN, SYS_PTRACE, SYS_ADMIN, PERFMON, BPF");
    report.expect("programs", "failure", "loading kernel programs, and reading their maps, needs CAP_BPF");
    Ok(())
}

#[test]
fn whoever_shuts_us_out_is_named() -> anyhow::Result<()> {
    let node = Node::new()?;
    let _program = bpf::attach_exclusively(&node.cgroups.open()?)?;
    let report = node.check()?;
    assert_eq!(report.code, Some(1));
    report.expect("hooks", "failure", "program selfish");
    report.expect("other hooks", "failure", "program selfish");
    report.expect("other hooks", "failure", &format!("on connect4 of {}", node.cgroups.path().display()));
    Ok(())
}

#[test]
fn pods_that_are_redirected_already_or_leave_no_port() -> anyhow::Result<()> {
    let node = Node::new()?;
    let (istio, wide) = (Netns::new()?, Netns::new()?);
    let rules = "*nat\n:ISTIO_OUTPUT - [0:0]\n-A OUTPUT -p tcp -j ISTIO_OUTPUT\nCOMMIT\n";
    fs::write(node.dir.join("rules"), rules)?;
    interceptor_tests::run(istio.command("iptables-nft-restore").arg(node.dir.join("rules")))?;
    wide.sysctl("net/ipv4/ip_local_port_range", "1024 65000")?;
    let _pods = (node.pod("1571", &istio)?, node.pod("31de", &wide)?);
    let report = node.check()?;
    assert_eq!((report.code, report.json["verdict"].as_str()), (Some(0), Some("warning")));
    report.expect("Istio in pods", "warning", "are in 1571 (by uid)");
    report.expect("ports of pods", "warning", "no port for a listener in 31de (by uid)");
    Ok(())
}

#[test]
fn agents_and_what_they_left() -> anyhow::Result<()> {
    let node = Node::new()?;
    fs::create_dir_all(node.bpf.pins().join(format!("v{SCHEMA}")))?;
    node.check()?.expect("pins", "warning", "no agent serves it");
    fs::create_dir(node.bpf.pins().join("v4000"))?;
    node.check()?.expect("pins", "warning", "schema 4000 below");
    fs::remove_dir(node.bpf.pins().join("v4000"))?;

    let _agent = UnixListener::bind(node.dir.join("agent.sock"))?;
    let report = node.check()?;
    report.expect("agent", "ok", "listens on");
    report.expect("pins", "ok", &format!("schema {SCHEMA} below"));

    fs::create_dir(node.dir.join("net.d"))?;
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../interceptor-user/src/cni/samples");
    fs::copy(samples.join("10-calico.conflist"), node.dir.join("net.d/10-calico.conflist"))?;
    node.check()?.expect("CNI plugin", "warning", "not in");
    Ok(())
}

/// A node is a pid and a mount namespace here; its container has a mount namespace of its own.
#[test]
fn a_node_without_a_bpf_file_system_gets_one() -> anyhow::Result<()> {
    let script = r#"set -e
        while mountpoint -q /sys/fs/bpf; do umount /sys/fs/bpf; done
        unshare --mount "$1" prepare
        stat -f -c %t /sys/fs/bpf
        unshare --mount "$1" prepare"#;
    let mut node = Command::new("unshare");
    node.args(["--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh"]).arg(binary()?);
    let output = interceptor_tests::output(&mut node)?;
    let said = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = said.lines().collect();
    let expected = [
        "a bpf file system is now mounted at /sys/fs/bpf",
        "cafe4a11",
        "a bpf file system is mounted at /sys/fs/bpf",
    ];
    assert_eq!(lines, expected);
    Ok(())
}
