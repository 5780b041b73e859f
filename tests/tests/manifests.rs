//! deploy/manifests: objects that Kubernetes knows, for the executable that we build.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use interceptor_tests::binary;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Container, Namespace, PodSpec, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn documents(name: &str) -> anyhow::Result<Vec<Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/manifests").join(name);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    serde_saphyr::from_multiple(&text).with_context(|| path.display().to_string())
}

/// What an object is after Kubernetes' own types have read it: what they don't know is gone.
fn through<T: DeserializeOwned + Serialize>(object: &Value) -> anyhow::Result<Value> {
    let typed: T = serde_json::from_value(object.clone()).with_context(|| object.to_string())?;
    Ok(serde_json::to_value(typed)?)
}

#[test]
fn kubernetes_knows_every_field() -> anyhow::Result<()> {
    for name in ["interceptor.yaml", "cleanup.yaml"] {
        for object in documents(name)? {
            let known = match object["kind"].as_str() {
                Some("DaemonSet") => through::<DaemonSet>(&object)?,
                Some("Namespace") => through::<Namespace>(&object)?,
                Some("ServiceAccount") => through::<ServiceAccount>(&object)?,
                Some("ClusterRole") => through::<ClusterRole>(&object)?,
                Some("ClusterRoleBinding") => through::<ClusterRoleBinding>(&object)?,
                kind => anyhow::bail!("{name} has an unexpected {kind:?}"),
            };
            assert_eq!(known, object, "{name}");
        }
    }
    Ok(())
}

fn pod(name: &str) -> anyhow::Result<PodSpec> {
    let mut documents = documents(name)?.into_iter();
    let daemonset = documents.find(|object| object["kind"] == "DaemonSet").context("no DaemonSet")?;
    let daemonset: DaemonSet = serde_json::from_value(daemonset)?;
    daemonset.spec.template.spec.context("no pod")
}

fn containers(pod: &PodSpec) -> Vec<&Container> {
    pod.init_containers.iter().flatten().chain(&pod.containers).collect()
}

#[test]
fn the_executable_understands_what_containers_run() -> anyhow::Result<()> {
    for name in ["interceptor.yaml", "cleanup.yaml"] {
        let pod = pod(name)?;
        let mut commands = Vec::new();
        for container in containers(&pod) {
            commands.extend(container.args.clone());
            let probes = [&container.startup_probe, &container.liveness_probe, &container.readiness_probe];
            for probe in probes.into_iter().flatten() {
                let command =
                    probe.exec.as_ref().and_then(|exec| exec.command.clone()).context("no command")?;
                assert_eq!(command[0], "/interceptor");
                commands.push(command[1..].to_vec());
            }
        }
        assert!(commands.len() >= 3, "{commands:?}");
        for command in commands {
            // Help is given where everything before it could be read.
            let output = Command::new(binary()?).args(&command).arg("--help").output()?;
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name}: {command:?}: {stderr}");
        }
    }
    Ok(())
}

#[test]
fn every_volume_is_there_and_used() -> anyhow::Result<()> {
    for name in ["interceptor.yaml", "cleanup.yaml"] {
        let pod = pod(name)?;
        let volumes: BTreeSet<&str> =
            pod.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
        let mounts =
            containers(&pod).into_iter().flat_map(|container| container.volume_mounts.iter().flatten());
        let used: BTreeSet<&str> = mounts.map(|mount| mount.name.as_str()).collect();
        assert_eq!(volumes, used, "{name}");
    }
    Ok(())
}
