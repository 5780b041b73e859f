//! A cluster, by kubectl.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::resources;

/// How long something that Kubernetes does may take.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Cluster {
    kubeconfig: PathBuf,
    pub(super) node: String,
}

impl Cluster {
    pub(super) fn connect(kubeconfig: &Path, node: Option<String>) -> anyhow::Result<Self> {
        ensure!(kubeconfig.is_file(), "there is no {}: --kubeconfig names a file", kubeconfig.display());
        let mut cluster = Self { kubeconfig: kubeconfig.to_owned(), node: String::new() };
        let nodes = cluster
            .kubectl(&[
                "get",
                "nodes",
                "-o",
                "jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=='Ready')].status}{'\\n'}{end}",
            ])
            .context("cannot list the cluster's nodes")?;
        cluster.node = choose(&nodes, node)?;
        Ok(cluster)
    }

    pub(super) fn version(&self) -> anyhow::Result<String> {
        let text = self.kubectl(&["version", "-o", "json"])?;
        let version: serde_json::Value = serde_json::from_str(&text).context("kubectl version")?;
        Ok(version["serverVersion"]["gitVersion"].as_str().unwrap_or("of an unknown version").to_owned())
    }

    /// Runs kubectl to its end, and gives what it printed.
    pub(super) fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.kubectl_with(arguments, None)
    }

    pub(super) fn apply(&self, yaml: &str) -> anyhow::Result<()> {
        self.kubectl_with(&["apply", "-f", "-"], Some(yaml)).map(drop)
    }

    pub(super) fn delete(&self, yaml: &str) -> anyhow::Result<()> {
        self.kubectl_with(&["delete", "--ignore-not-found", "--timeout=120s", "-f", "-"], Some(yaml))
            .map(drop)
    }

    fn kubectl_with(&self, arguments: &[&str], input: Option<&str>) -> anyhow::Result<String> {
        let mut child =
            self.command(arguments).stdin(Stdio::piped()).spawn().context("cannot run kubectl")?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            stdin.write_all(input.as_bytes()).context("cannot talk to kubectl")?;
        }
        let output = child.wait_with_output().context("cannot wait for kubectl")?;
        if !output.status.success() {
            bail!("kubectl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// For who wants to wait for it himself.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What the program of the scenarios says in the client's pod.
    pub(super) fn client(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut all = vec!["-n", super::INSIDE, "exec", "client", "--", "/e2e"];
        all.extend(arguments);
        self.kubectl(&all)
    }

    pub(super) fn wait_ready(&self, namespace: &str, pod: &str) -> anyhow::Result<()> {
        let pod = format!("pod/{pod}");
        let waited = self.kubectl(&["-n", namespace, "wait", "--for=condition=Ready", &pod, "--timeout=90s"]);
        waited.map(drop).with_context(|| {
            let events = self.kubectl(&["-n", namespace, "get", "events", "-o", "custom-columns=:.message"]);
            format!("{namespace}/{pod} is not ready; events: {}", events.unwrap_or_default())
        })
    }

    pub(super) fn pod_ip(&self, namespace: &str, pod: &str) -> anyhow::Result<String> {
        let ip = self.kubectl(&["-n", namespace, "get", "pod", pod, "-o", "jsonpath={.status.podIP}"])?;
        ensure!(!ip.is_empty(), "{namespace}/{pod} has no address");
        Ok(ip)
    }

    /// Polls until `probe` says so; its last answer is in the error.
    pub(super) fn eventually(
        &self,
        what: &str,
        probe: impl Fn() -> anyhow::Result<Result<(), String>>,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            match probe() {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(last)) if started.elapsed() > PATIENCE => {
                    bail!("{what}: not within {PATIENCE:?}: {last}")
                }
                Err(error) if started.elapsed() > PATIENCE => return Err(error.context(what.to_owned())),
                Ok(Err(_)) | Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// Istio's kinds, without their schemas, where the cluster has no Istio.
    pub(super) fn apply_missing_crds(&self) -> anyhow::Result<()> {
        let there = self.kubectl(&["get", "crds", "-o", "name"])?;
        for (plural, kind) in resources::KINDS {
            let name = format!("{plural}.networking.istio.io");
            if !there.lines().any(|line| line.ends_with(&format!("/{name}"))) {
                self.apply(&resources::crd(plural, kind))?;
                self.kubectl(&[
                    "wait",
                    "--for=condition=Established",
                    &format!("crd/{name}"),
                    "--timeout=60s",
                ])?;
            }
        }
        Ok(())
    }

    pub(super) fn delete_own_crds(&self) -> anyhow::Result<()> {
        let selector = format!("{}=true", resources::OWN);
        self.kubectl(&["delete", "crds", "-l", &selector, "--ignore-not-found", "--timeout=60s"]).map(drop)
    }
}

/// Lines of `NAME True`.
fn choose(nodes: &str, wanted: Option<String>) -> anyhow::Result<String> {
    let ready: Vec<&str> = nodes.lines().filter_map(|line| line.strip_suffix(" True")).collect();
    match wanted {
        Some(wanted) => {
            ensure!(
                ready.contains(&wanted.as_str()),
                "node {wanted} is not there, or not ready; ready are: {}",
                ready.join(", ")
            );
            Ok(wanted)
        }
        None => Ok((*ready.first().context("no node of the cluster is ready")?).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_node_is_chosen() {
        let nodes = "a False\nb True\nc True\nd Unknown";
        assert_eq!(choose(nodes, None).unwrap(), "b");
        assert_eq!(choose(nodes, Some("c".into())).unwrap(), "c");
        assert!(choose(nodes, Some("a".into())).unwrap_err().to_string().contains("ready are: b, c"));
        assert!(choose("", None).is_err());
    }
}
