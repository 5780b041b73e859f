//! A node: cgroups laid out as the kubelet does, pods as processes in them, and `interceptor agent` beside.

mod agent;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;

pub use agent::Agent;

use crate::{ApiServer, BpfFs, Dir, Http, Pod, World, cgroup_root, eventually, unique};

/// The name of every node here.
const NODE: &str = "worker-1";

/// How the kubelet names cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    Cgroupfs,
    Systemd,
}

/// A throw-away node; dropping it ends everything on it.
#[derive(Debug)]
pub struct Node {
    /// Where its cgroups are: the root that the agent is told of.
    root: PathBuf,
    driver: Driver,
    world: &'static World,
    /// Where pods and resources are, if not in files.
    api: Option<&'static ApiServer>,
    bpf: BpfFs,
    /// Its resources, and what the agent writes.
    pub dir: Dir,
    agents: AtomicU32,
}

impl Node {
    pub fn new() -> anyhow::Result<Self> {
        Self::with_driver(Driver::Cgroupfs)
    }

    /// Its agents follow an API server, which is told of its pods.
    pub fn following(api: &'static ApiServer) -> anyhow::Result<Self> {
        Self::make(Driver::Cgroupfs, Some(api))
    }

    pub fn with_driver(driver: Driver) -> anyhow::Result<Self> {
        Self::make(driver, None)
    }

    fn make(driver: Driver, api: Option<&'static ApiServer>) -> anyhow::Result<Self> {
        crate::cgroup::require_root()?;
        let root = cgroup_root()?.join(unique());
        let dir = Dir::new()?;
        let kubepods = root.join(match driver {
            Driver::Cgroupfs => "kubepods",
            Driver::Systemd => "kubepods.slice",
        });
        fs::create_dir_all(&kubepods).with_context(|| format!("cannot make {}", kubepods.display()))?;
        fs::create_dir(dir.join("resources")).context("cannot make a directory")?;
        let bpf = BpfFs::new()?;
        let world = World::shared()?;
        // The node looks names up where its pods do.
        world.outside.etc("resolv.conf", &format!("nameserver {}\n", world.dns.address))?;
        let node = Self { root, driver, world, api, bpf, dir, agents: AtomicU32::new(0) };
        node.apply(
            "namespaces",
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio-injection: enabled}}\n\
            ---\napiVersion: v1\nkind: Namespace\nmetadata: {name: plain}\n",
        )?;
        Ok(node)
    }

    /// Writes a file of resources, as an editor does: a new file takes the old one's name.
    pub fn apply(&self, name: &str, yaml: &str) -> anyhow::Result<()> {
        if let Some(api) = self.api {
            return api.apply(yaml);
        }
        let new = self.dir.write("new", yaml)?;
        fs::rename(&new, self.dir.join("resources").join(format!("{name}.yaml")))
            .context("cannot replace a file")
    }

    pub fn delete(&self, name: &str) -> anyhow::Result<()> {
        if let (Some(api), Some(name)) = (self.api, name.strip_prefix("pod-shop-")) {
            return api.delete("pods", "shop", name);
        }
        fs::remove_file(self.dir.join("resources").join(format!("{name}.yaml")))
            .context("cannot remove a file")
    }

    pub fn pins(&self) -> PathBuf {
        self.bpf.pins()
    }

    /// The directory of a pod, not made yet.
    fn pod_directory(&self, uid: &str) -> PathBuf {
        match self.driver {
            Driver::Cgroupfs => self.root.join("kubepods/burstable").join(format!("pod{uid}")),
            Driver::Systemd => self
                .root
                .join("kubepods.slice/kubepods-burstable.slice")
                .join(format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"))),
        }
    }

    /// A pod that the API has told of, in namespace `shop`, without a cgroup yet. `metadata` is what it has besides name,
    /// namespace and uid.
    pub fn pod(&self, name: &str, metadata: &str) -> anyhow::Result<NodePod<'_>> {
        self.pod_in("shop", name, metadata)
    }

    pub fn pod_in(&self, namespace: &str, name: &str, metadata: &str) -> anyhow::Result<NodePod<'_>> {
        self.make_pod((namespace, name), metadata, None)
    }

    /// A pod of namespace `shop` with this service account.
    pub fn pod_of_account(&self, name: &str, account: &str) -> anyhow::Result<NodePod<'_>> {
        self.make_pod(("shop", name), "", Some(account.to_owned()))
    }

    fn make_pod(
        &self,
        (namespace, name): (&str, &str),
        metadata: &str,
        account: Option<String>,
    ) -> anyhow::Result<NodePod<'_>> {
        let uid = new_uid();
        let pod = NodePod {
            node: self,
            pod: self.world.pod()?,
            directory: self.pod_directory(&uid),
            uid,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            account,
        };
        pod.describe(metadata)?;
        Ok(pod)
    }

    /// A running pod in a namespace that is joined to nothing.
    pub fn bare_pod(&self, name: &str) -> anyhow::Result<BarePod<'_>> {
        let uid = new_uid();
        let directory = self.pod_directory(&uid);
        self.describe(("shop", name), &uid, "", None)?;
        fs::create_dir_all(directory.join("container"))
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "echo 0 >\"$1/cgroup.procs\" && exec sleep infinity", "sh"]);
        command.arg(directory.join("container"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process(command.spawn().context("cannot run sh")?);
        Ok(BarePod { node: self, name: name.to_owned(), uid, directory, process: Some(process) })
    }

    fn describe(
        &self,
        (namespace, name): (&str, &str),
        uid: &str,
        metadata: &str,
        account: Option<&str>,
    ) -> anyhow::Result<()> {
        let account = account.map(|account| format!(", serviceAccountName: {account}")).unwrap_or_default();
        let yaml = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  uid: {uid}\n{metadata}\
             spec: {{nodeName: {NODE}, containers: [{{name: app}}]{account}}}\n"
        );
        self.apply(&format!("pod-{namespace}-{name}"), &yaml)
    }

    /// Starts `interceptor agent`; it may still be on its way when this returns.
    pub fn agent(&self, flags: &[&str]) -> anyhow::Result<Agent<'_>> {
        self.agent_under(&[], flags)
    }

    /// With a command before it that runs another.
    pub fn agent_under(&self, wrapper: &[&str], flags: &[&str]) -> anyhow::Result<Agent<'_>> {
        let number = self.agents.fetch_add(1, Ordering::Relaxed);
        let cgroup = self.root.join(format!("agent-{number}"));
        fs::create_dir(&cgroup).with_context(|| format!("cannot make {}", cgroup.display()))?;
        let log = self.dir.join(&format!("agent-{number}.stderr"));
        let create =
            |path: &Path| fs::File::create(path).with_context(|| format!("cannot write {}", path.display()));
        let mut command = self.world.outside.command("sh");
        command.env("SSL_CERT_FILE", self.world.ca.root());
        command.args(["-c", "echo 0 >\"$1/cgroup.procs\" && shift && exec \"$@\"", "sh"]).arg(&cgroup);
        command.args(wrapper).arg(crate::binary()?).args(["-v", "agent"]);
        match self.api {
            None => command.arg("-c").arg(self.dir.join("resources")),
            Some(api) => command.arg("--kubeconfig").arg(api.kubeconfig()).args(["--node-name", NODE]),
        };
        command.arg("--credentials-dir").arg(self.dir.join("credentials"));
        command.arg("--pins").arg(self.pins()).arg("--cgroup-root").arg(&self.root);
        command.arg("--access-log").arg(self.access_log());
        command.arg("--agent-socket").arg(self.socket()).args(["--admin-address", "off"]);
        command.args(flags).stdin(Stdio::null()).stdout(Stdio::null()).stderr(create(&log)?);
        let child = command.spawn().context("cannot run sh")?;
        Ok(Agent { child, log, node: self })
    }

    /// The agent's.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/agent.sock")
    }

    pub fn access_log(&self) -> PathBuf {
        self.dir.join("access.log")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(fs::write(self.root.join("cgroup.kill"), "1"));
        if let Err(error) = eventually("the node's cgroups to be empty", || remove_tree(&self.root)) {
            eprintln!("{error:#}");
        }
    }
}

/// Removes a cgroup with all below it; false while something still runs there.
fn remove_tree(directory: &Path) -> bool {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !remove_tree(&entry.path()) {
            return false;
        }
    }
    fs::remove_dir(directory).is_ok() || !directory.exists()
}

/// A pod of a node.
#[derive(Debug)]
pub struct NodePod<'node> {
    node: &'node Node,
    pub pod: Pod,
    pub directory: PathBuf,
    pub uid: String,
    namespace: String,
    name: String,
    account: Option<String>,
}

impl NodePod<'_> {
    /// Replaces what the API tells of it.
    pub fn describe(&self, metadata: &str) -> anyhow::Result<()> {
        self.node.describe((&self.namespace, &self.name), &self.uid, metadata, self.account.as_deref())
    }

    /// The kubelet makes its cgroup, the runtime that of a container.
    pub fn start(&self) -> anyhow::Result<&Self> {
        fs::create_dir_all(self.container())
            .with_context(|| format!("cannot make {}", self.container().display()))?;
        Ok(self)
    }

    fn container(&self) -> PathBuf {
        self.directory.join("container")
    }

    /// A command that enters the pod's namespace, then the container's cgroup, and then becomes `program`.
    pub fn command(&self, program: &str) -> Command {
        let inside = self.pod.command(program);
        let mut arguments = inside.get_args();
        let mut command = Command::new(inside.get_program());
        // The namespace first: whoever is in the cgroup is the pod's.
        command.args(arguments.next());
        command
            .args(["sh", "-c", "echo 0 >\"$1/cgroup.procs\" && shift && exec \"$@\"", "sh"])
            .arg(self.container());
        command.args(arguments);
        for (name, value) in inside.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// The process that holds the pod's namespace, as a runtime starts one for each sandbox.
    pub fn pause(&self) -> anyhow::Result<Process> {
        let mut command = self.command("sleep");
        command.arg("infinity").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Process(command.process_group(0).spawn().context("cannot run sh")?))
    }

    /// Lets it reach pods that are joined, over IPv4.
    pub fn join(&self) -> anyhow::Result<()> {
        self.pod.join(&self.node.world.outside)
    }

    /// `curl -sS -i` with these arguments in the pod.
    pub fn curl(&self, args: &[&str]) -> anyhow::Result<Curl> {
        let output = self
            .command("curl")
            .args(["-sS", "-i", "--max-time", "20"])
            .args(args)
            .stdin(Stdio::null())
            .output()
            .context("cannot run sh")?;
        Ok(Curl {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Waits until connections of the pod are carried.
    pub fn wait_enrolled(&self, agent: &Agent<'_>) -> anyhow::Result<()> {
        agent.wait_said(&format!("pod {}/{}: enrolled", self.namespace, self.name))
    }

    /// Ends its processes and removes its cgroup, as the kubelet does.
    pub fn stop(&self) -> anyhow::Result<()> {
        drop(fs::write(self.directory.join("cgroup.kill"), "1"));
        eventually("the pod's cgroup to be empty", || remove_tree(&self.directory))
    }
}

fn new_uid() -> String {
    static UIDS: AtomicU32 = AtomicU32::new(1);
    format!("{:08x}-0000-4000-8000-{:012x}", std::process::id(), UIDS.fetch_add(1, Ordering::Relaxed))
}

/// A pod that does nothing; dropping it takes it off the node.
#[derive(Debug)]
pub struct BarePod<'node> {
    node: &'node Node,
    name: String,
    uid: String,
    directory: PathBuf,
    process: Option<Process>,
}

impl BarePod<'_> {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Replaces what the API tells of it.
    pub fn describe(&self, metadata: &str) -> anyhow::Result<()> {
        self.node.describe(("shop", &self.name), &self.uid, metadata, None)
    }
}

impl Drop for BarePod<'_> {
    fn drop(&mut self) {
        drop(self.process.take());
        let gone = eventually("the pod's cgroup to be empty", || remove_tree(&self.directory));
        if let Err(error) = gone.and_then(|()| self.node.delete(&format!("pod-shop-{}", self.name))) {
            eprintln!("{error:#}");
        }
    }
}

/// What became of a `curl -i`.
#[derive(Debug)]
pub struct Curl {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Curl {
    /// Its last response.
    pub fn http(&self) -> anyhow::Result<Http> {
        Http::last(&self.stdout).with_context(|| format!("exit {:?}: {}", self.code, self.stderr))
    }
}

/// A process of a pod; dropping it kills it.
#[derive(Debug)]
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have been killed with its cgroup.
        drop(self.0.kill().and_then(|()| self.0.wait()));
    }
}
