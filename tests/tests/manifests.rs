//! deploy/manifests: objects that Kubernetes knows, for the executable that we build.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use interceptor_tests::binary;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Container, Namespace, PodSpec, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
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

const FILES: [&str; 3] = ["interceptor.yaml", "gateway.yaml", "cleanup.yaml"];

#[test]
fn kubernetes_knows_every_field() -> anyhow::Result<()> {
    for name in FILES {
        for object in documents(name)? {
            let known = match object["kind"].as_str() {
                Some("DaemonSet") => through::<DaemonSet>(&object)?,
                Some("Deployment") => through::<Deployment>(&object)?,
                Some("Service") => through::<Service>(&object)?,
                Some("PodDisruptionBudget") => through::<PodDisruptionBudget>(&object)?,
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
    let is_of_pods = |object: &Value| object["kind"] == "DaemonSet" || object["kind"] == "Deployment";
    let mut object = documents.find(is_of_pods).context("nothing makes pods")?;
    Ok(serde_json::from_value(object["spec"]["template"]["spec"].take())?)
}

fn containers(pod: &PodSpec) -> Vec<&Container> {
    pod.init_containers.iter().flatten().chain(&pod.containers).collect()
}

#[test]
fn the_executable_understands_what_containers_run() -> anyhow::Result<()> {
    for name in FILES {
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
    for name in FILES {
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

/// What selects nothing, or another port than the one that is listened on, shows only when traffic comes.
#[test]
fn the_gateways_service_and_budget_select_its_pods() -> anyhow::Result<()> {
    let objects = documents("gateway.yaml")?;
    let find = |kind: &str| objects.iter().find(|object| object["kind"] == kind).context(kind.to_owned());
    let deployment: Deployment = serde_json::from_value(find("Deployment")?.clone())?;
    let service: Service = serde_json::from_value(find("Service")?.clone())?;
    let budget: PodDisruptionBudget = serde_json::from_value(find("PodDisruptionBudget")?.clone())?;
    let (deployment, service) = (deployment.spec, service.spec.context("no spec")?);
    let labels = deployment.template.metadata.and_then(|meta| meta.labels).context("no labels")?;
    let selectors = [
        deployment.selector.match_labels,
        service.selector,
        budget.spec.and_then(|spec| spec.selector).and_then(|selector| selector.match_labels),
    ];
    for selector in selectors {
        let selector = selector.context("no selector")?;
        assert!(selector.contains_key("istio"), "{selector:?}");
        assert!(selector.iter().all(|(name, value)| labels.get(name) == Some(value)), "{selector:?}");
    }
    let pod = deployment.template.spec.context("no pod")?;
    let listened: Vec<i32> =
        pod.containers[0].ports.iter().flatten().map(|port| port.container_port).collect();
    for port in service.ports.context("no ports")? {
        let target = match port.target_port.context("no target port")? {
            k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(target) => target,
            k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String(name) => anyhow::bail!(name),
        };
        assert!(target >= 1024 && listened.contains(&target), "{target} of {listened:?}");
    }
    // It runs without privileges.
    let context = pod.containers[0].security_context.clone().context("no security context")?;
    let capabilities = context.capabilities.context("no capabilities")?;
    assert_eq!((capabilities.drop, capabilities.add), (Some(vec!["ALL".to_owned()]), None));
    Ok(())
}

/// What it may is what it asks an API server for: `an_api_server_says_what_is_listened_on` has the other side.
#[test]
fn the_gateway_may_write_nothing() -> anyhow::Result<()> {
    let objects = documents("gateway.yaml")?;
    let roles =
        objects.iter().filter(|object| ["ClusterRole", "Role"].iter().any(|kind| object["kind"] == *kind));
    let rules: Vec<_> = roles.flat_map(|role| role["rules"].as_array().into_iter().flatten()).collect();
    assert!(!rules.is_empty());
    for rule in rules {
        assert_eq!(rule["verbs"], serde_json::json!(["list", "watch"]), "{rule}");
        assert!(
            !rule["resources"].as_array().context("no resources")?.contains(&"namespaces".into()),
            "{rule}"
        );
    }
    Ok(())
}
