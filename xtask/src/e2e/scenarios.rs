//! What is shown on a real cluster. Each scenario begins with a client whose pod is enrolled, and leaves it so.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};

use super::cluster::Cluster;
use super::resources::{self, REGISTERED, SECURE, UNKNOWN};
use super::{AGENT, INSIDE, OUTSIDE};

pub(super) struct Scenario {
    pub(super) name: &'static str,
    /// Gets the server's address.
    pub(super) play: fn(&Cluster, &str) -> anyhow::Result<()>,
}

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "hosts that nobody registered are refused", play: unknown },
    Scenario { name: "a ServiceEntry registers a host", play: registry },
    Scenario { name: "a range that an annotation excludes is left alone, and taken back", play: exclude },
    Scenario { name: "a VirtualService sets a timeout", play: timeout },
    Scenario { name: "a DestinationRule originates TLS", play: tls_origination },
    Scenario { name: "a pod that connects in its first moment is intercepted", play: start_race },
    Scenario { name: "a restart of the agent under load fails no request", play: restart },
];

const PROXIED: &str = r#"200 {"proxied":true,"tls":false}"#;
const DIRECT: &str = r#"200 {"proxied":false,"tls":false}"#;

/// Asks until the answer begins with `expected`: changes take effect within seconds.
fn expect(cluster: &Cluster, url: &str, host: &str, expected: &str) -> anyhow::Result<()> {
    cluster.eventually(&format!("GET {url} of {host} to answer {expected}"), || {
        let answer = cluster.client(&["get", url, host])?;
        Ok(if answer.starts_with(expected) { Ok(()) } else { Err(answer) })
    })
}

fn unknown(cluster: &Cluster, server: &str) -> anyhow::Result<()> {
    expect(cluster, &format!("http://{server}/"), UNKNOWN, "502")
}

fn registry(cluster: &Cluster, server: &str) -> anyhow::Result<()> {
    let url = format!("http://{server}/");
    expect(cluster, &url, REGISTERED, "502")?;
    cluster.apply(&resources::registered(server))?;
    expect(cluster, &url, REGISTERED, PROXIED)
}

fn exclude(cluster: &Cluster, server: &str) -> anyhow::Result<()> {
    const ANNOTATION: &str = "traffic.sidecar.istio.io/excludeOutboundIPRanges";
    let url = format!("http://{server}/");
    let annotate = |value: &str| {
        cluster.kubectl(&["-n", INSIDE, "annotate", "--overwrite", "pod", "client", value]).map(drop)
    };
    expect(cluster, &url, UNKNOWN, "502")?;
    annotate(&format!("{ANNOTATION}={server}/32"))?;
    let excluded = expect(cluster, &url, UNKNOWN, DIRECT);
    annotate(&format!("{ANNOTATION}-"))?;
    excluded?;
    expect(cluster, &url, UNKNOWN, "502")
}

fn timeout(cluster: &Cluster, server: &str) -> anyhow::Result<()> {
    cluster.apply(&resources::registered(server))?;
    let url = format!("http://{server}/delay/3");
    expect(cluster, &url, REGISTERED, PROXIED)?;
    cluster.apply(&resources::timeout())?;
    let timed_out = expect(cluster, &url, REGISTERED, "504");
    cluster.delete(&resources::timeout())?;
    timed_out
}

fn tls_origination(cluster: &Cluster, server: &str) -> anyhow::Result<()> {
    let said = cluster.kubectl(&["-n", OUTSIDE, "logs", "server"])?;
    let (certificate, _) = said.split_once("ready").context("the server has no certificate")?;
    cluster.apply(&resources::tls_origination(server, certificate.trim_end()))?;
    expect(cluster, &format!("http://{server}/"), SECURE, r#"200 {"proxied":true,"tls":true}"#)
}

fn start_race(cluster: &Cluster, server: &str) -> anyhow::Result<()> {
    const ROUNDS: u32 = 5;
    for round in 0..ROUNDS {
        let name = format!("early-{round}");
        let pod = resources::client(&cluster.node, &name, &format!(", \"http://{server}/\", {UNKNOWN}"));
        cluster.apply(&pod)?;
        let ready = cluster.wait_ready(INSIDE, &name);
        let said = ready.and_then(|()| {
            cluster.eventually("the pod to have asked", || {
                let said = cluster.kubectl(&["-n", INSIDE, "logs", &name])?;
                Ok(if said.is_empty() { Err("it has said nothing".to_owned()) } else { Ok(()) })
            })?;
            cluster.kubectl(&["-n", INSIDE, "logs", &name])
        });
        cluster.delete(&pod)?;
        let said = said?;
        ensure!(said.starts_with("502"), "its first connection was answered {said:?} in round {round}");
    }
    Ok(())
}

fn restart(cluster: &Cluster, server: &str) -> anyhow::Result<()> {
    cluster.apply(&resources::registered(server))?;
    let url = format!("http://{server}/");
    expect(cluster, &url, REGISTERED, PROXIED)?;
    let arguments = ["-n", INSIDE, "exec", "client", "--", "/e2e", "load", &url, REGISTERED, "45"];
    let load = cluster.command(&arguments).spawn().context("cannot run kubectl")?;
    let restarted =
        cluster.kubectl(&["-n", AGENT, "rollout", "restart", "daemonset/interceptor"]).and_then(|_| {
            cluster.kubectl(&["-n", AGENT, "rollout", "status", "daemonset/interceptor", "--timeout=180s"])
        });
    let output = load.wait_with_output().context("cannot wait for kubectl")?;
    restarted?;
    let said = String::from_utf8_lossy(&output.stdout);
    let answers: BTreeMap<String, u64> = serde_json::from_str(said.trim())
        .with_context(|| format!("the load said {said:?}, {}", String::from_utf8_lossy(&output.stderr)))?;
    ensure!(answers.len() == 1 && answers.contains_key(PROXIED), "answers during the restart: {answers:?}");
    // The pods' connections are those of the new agent now.
    expect(cluster, &url, UNKNOWN, "502")
}
