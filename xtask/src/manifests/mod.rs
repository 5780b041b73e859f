//! `cargo xtask manifests`: deploy/manifests is what Helm makes of deploy/chart with its default values. Helm itself comes
//! from PyPI, as a library, into a directory of its own below target/.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::install;
use crate::shell::{self, quiet};

const RENDER: &str = include_str!("render.py");

/// Pod security must let the agent in.
const NAMESPACE: &str = "\
apiVersion: v1
kind: Namespace
metadata:
  name: interceptor
  labels:
    pod-security.kubernetes.io/enforce: privileged
";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write nothing, and fail when the manifests are not what the chart gives
    #[arg(long)]
    pub(crate) check: bool,
}

/// Texts by the names of their templates.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Rendered(BTreeMap<String, String>);

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    for (name, text) in files()? {
        let path = shell::root().join("deploy/manifests").join(name);
        let shown = path.strip_prefix(shell::root()).unwrap_or(&path).display();
        let before = fs::read_to_string(&path).unwrap_or_default();
        if before == text {
            continue;
        }
        if args.check {
            bail!("{shown} is not what deploy/chart gives: run `cargo xtask manifests`");
        }
        fs::write(&path, text).with_context(|| format!("cannot write {shown}"))?;
        println!("   wrote {shown}");
    }
    Ok(())
}

/// What there is to install.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Agent,
    Gateway,
    Cleanup,
}

/// A part as YAML for kubectl. `values` are the chart's.
pub(crate) fn documents(values: &serde_json::Value, part: Part) -> anyhow::Result<String> {
    let rendered = render(values)?;
    let template = |name: &str| {
        let text = rendered.0.get(name).with_context(|| format!("the chart has no {name}"))?;
        anyhow::Ok(plain(text))
    };
    match part {
        Part::Agent => {
            let templates = ["serviceaccount.yaml", "rbac.yaml", "daemonset.yaml"];
            let templates = templates.into_iter().map(template).collect::<anyhow::Result<Vec<_>>>()?;
            Ok(format!("{NAMESPACE}---\n{}", templates.join("---\n")))
        }
        Part::Gateway => template("gateway.yaml"),
        // What waits for the nodes is a person with `kubectl rollout status` here.
        Part::Cleanup => {
            let cleanup = template("cleanup.yaml")?;
            let daemonset = cleanup.split("---\n").find(|document| document.contains("kind: DaemonSet"));
            Ok(daemonset.context("cleanup.yaml has no DaemonSet")?.to_owned())
        }
    }
}

/// What each file has to be.
fn files() -> anyhow::Result<Vec<(&'static str, String)>> {
    let defaults = serde_json::json!({});
    Ok(vec![
        (
            "interceptor.yaml",
            headed(
                "Installs the agent: kubectl apply -f interceptor.yaml",
                &documents(&defaults, Part::Agent)?,
            ),
        ),
        (
            "gateway.yaml",
            headed(
                "Installs an egress gateway where Istio's recipes look for one: kubectl apply -f gateway.yaml\n\
                 # istio-system has to be there. With credentialName, allow its service account to list and watch the secrets.",
                &documents(
                    &serde_json::json!({"gateway": {"enabled": true, "namespace": "istio-system"}}),
                    Part::Gateway,
                )?,
            ),
        ),
        (
            "cleanup.yaml",
            headed(
                "Gives every node back what it had, after `kubectl delete -f interceptor.yaml`:\n\
                 #   kubectl create namespace interceptor\n\
                 #   kubectl label namespace interceptor pod-security.kubernetes.io/enforce=privileged\n\
                 #   kubectl apply -f cleanup.yaml\n\
                 #   kubectl -n interceptor rollout status daemonset/interceptor-cleanup\n\
                 #   kubectl delete namespace interceptor",
                &documents(&defaults, Part::Cleanup)?,
            ),
        ),
    ])
}

fn headed(what: &str, text: &str) -> String {
    format!("# {what}\n# Made of deploy/chart by `cargo xtask manifests`.\n{}\n", text.trim_end())
}

/// Without what only Helm has a use for.
fn plain(text: &str) -> String {
    let is_helms = |line: &&str| {
        let line = line.trim_start();
        line.starts_with("helm.sh/") || line.starts_with("app.kubernetes.io/managed-by: ")
    };
    let lines: Vec<&str> = text.lines().filter(|line| !is_helms(line)).collect();
    // Annotations of which nothing is left.
    let mut plain = String::new();
    for (at, line) in lines.iter().enumerate() {
        let indent = |line: &str| line.len() - line.trim_start().len();
        let is_empty = line.trim() == "annotations:"
            && lines.get(at + 1).is_none_or(|next| indent(next) <= indent(line));
        if !is_empty {
            plain += line;
            plain.push('\n');
        }
    }
    plain
}

fn render(values: &serde_json::Value) -> anyhow::Result<Rendered> {
    let python = install::helm()?;
    let script = target("render.py");
    fs::write(&script, RENDER).with_context(|| format!("cannot write {}", script.display()))?;
    let mut command = Command::new(python);
    command.arg(&script).arg(shell::root().join("deploy/chart")).arg(values.to_string());
    let lines = quiet("helm template", &mut command)?;
    serde_json::from_str(&lines.join("\n")).context("helm's answer can't be read")
}

fn target(name: &str) -> PathBuf {
    shell::target_dir().join("tools").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_manifests_have_nothing_of_helms() {
        let text = "metadata:\n  labels:\n    app.kubernetes.io/managed-by: Helm\n    a: b\n  annotations:\n    \
                    helm.sh/hook: post-delete\nspec:\n  annotations:\n    c: d\n";
        let expected = "metadata:\n  labels:\n    a: b\nspec:\n  annotations:\n    c: d\n";
        assert_eq!(plain(text), expected);
    }
}
