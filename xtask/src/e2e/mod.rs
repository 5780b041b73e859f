//! `cargo xtask e2e`: deploys deploy/ to a real cluster, plays the pod scenarios there, one line each, and takes everything
//! away again.

mod cluster;
mod images;
mod resources;
mod scenarios;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, bail};

use crate::{manifests, shell};
use cluster::Cluster;
use scenarios::Scenario;

/// The images' tag.
const TAG: &str = "e2e";
/// Where the agent is.
const AGENT: &str = "interceptor";
/// Where the clients are; its pods are enrolled.
const INSIDE: &str = "interceptor-e2e";
/// Where the server is; its pods are not.
const OUTSIDE: &str = "interceptor-e2e-outside";

#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
        # A cluster whose node is this machine\n  \
        cargo xtask e2e --kubeconfig /etc/kubernetes/admin.conf\n\n  \
        # kind\n  \
        cargo xtask e2e --kubeconfig ~/.kube/config --load 'kind load image-archive'")]
pub(crate) struct Args {
    /// How to reach the cluster, as somebody who may do everything there
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,

    /// The node on which the pods of the scenarios run [default: the first that is ready]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,

    /// Gives an image archive, whose path is appended, to the nodes of the cluster
    #[arg(long, value_name = "COMMAND", default_value = "ctr --namespace k8s.io images import")]
    load: String,

    /// Where the container runtime of the nodes looks for CNI plugins, and for the configuration of the network
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    cni_bin_dir: String,
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    cni_conf_dir: String,

    /// Leave everything as it is at the end, to be looked at
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let started = Instant::now();
    if !shell::has("kubectl") {
        bail!("kubectl is missing: install it, in a version that fits the cluster's");
    }
    let cluster = Cluster::connect(&args.kubeconfig, args.node.clone())?;
    println!("Cluster {}, node {}", cluster.version()?, cluster.node);
    println!("Building the images");
    images::build_and_load(&args.load)?;

    let outcome = deploy(&cluster, &args).and_then(|()| play(&cluster));
    if args.keep {
        println!("Everything stays as it is (--keep)");
    } else {
        println!("Cleaning up");
        clean(&cluster, &args).context("cannot clean up")?;
    }
    let failed = outcome?;
    println!("\nFinished in {:.1} minutes", started.elapsed().as_secs_f64() / 60.0);
    println!("{} passed, {failed} failed", scenarios::ALL.len() - failed);
    if failed > 0 {
        std::process::exit(1);
    }
    Ok(())
}

/// What the chart is given.
fn values(args: &Args) -> serde_json::Value {
    serde_json::json!({
        "image": {"repository": AGENT, "tag": TAG, "pullPolicy": "Never"},
        "agent": {"outboundTrafficPolicy": "REGISTRY_ONLY", "drainSeconds": 10},
        "cni": {"binDir": args.cni_bin_dir, "confDir": args.cni_conf_dir},
        "secrets": [{"namespace": INSIDE, "names": [resources::CREDENTIAL, format!("{}-cacert", resources::CREDENTIAL)]}],
    })
}

fn deploy(cluster: &Cluster, args: &Args) -> anyhow::Result<()> {
    println!("Deploying");
    cluster.apply(&resources::namespaces())?;
    cluster.apply_missing_crds()?;
    let agent = manifests::documents(&values(args), manifests::Part::Agent)?;
    cluster.apply(&agent)?;
    cluster
        .kubectl(&["-n", AGENT, "rollout", "status", "daemonset/interceptor", "--timeout=180s"])
        .with_context(|| {
            let said =
                cluster.kubectl(&["-n", AGENT, "logs", "daemonset/interceptor", "-c", "agent", "--tail=20"]);
            format!("the agent is not ready on every node; it said: {}", said.unwrap_or_default())
        })?;
    cluster.apply(&resources::server(&cluster.node))?;
    cluster.wait_ready(OUTSIDE, "server")?;
    cluster.apply(&resources::client(&cluster.node, "client", ""))?;
    cluster.wait_ready(INSIDE, "client")
}

/// How many failed.
fn play(cluster: &Cluster) -> anyhow::Result<usize> {
    let server = cluster.pod_ip(OUTSIDE, "server")?;
    println!("Playing the scenarios");
    let mut failed = 0;
    for Scenario { name, play } in scenarios::ALL {
        let started = Instant::now();
        let outcome = play(cluster, &server);
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => println!("   ok      {name} ({seconds:.1} s)"),
            Err(error) => {
                failed += 1;
                println!("   FAILED  {name} ({seconds:.1} s): {error:#}");
            }
        }
    }
    Ok(failed)
}

fn clean(cluster: &Cluster, args: &Args) -> anyhow::Result<()> {
    let agent = manifests::documents(&values(args), manifests::Part::Agent)?;
    cluster.delete(&agent)?;
    let cleanup = manifests::documents(&values(args), manifests::Part::Cleanup)?;
    cluster.apply(&resources::namespace(AGENT, "pod-security.kubernetes.io/enforce: privileged"))?;
    cluster.apply(&cleanup)?;
    cluster.kubectl(&[
        "-n",
        AGENT,
        "rollout",
        "status",
        "daemonset/interceptor-cleanup",
        "--timeout=180s",
    ])?;
    for namespace in [INSIDE, OUTSIDE, AGENT] {
        cluster.kubectl(&["delete", "namespace", namespace, "--ignore-not-found", "--timeout=120s"])?;
    }
    cluster.delete_own_crds()
}
