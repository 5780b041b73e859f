//! Resources from a Kubernetes API server: `follow` lists and watches what there is and hands over a World, with every
//! finding, whenever something changes. What was good last goes on holding while the server is slow, away or wrong.
//!
//! `discovery` (which kinds there are) and one `follow` for each of `watches` → `known` (pure: objects → World) → `run`
//! (when to hand it over) → `reporter` (Events about what is wrong).

mod credentials;
mod discovery;
mod events;
mod failure;
mod follow;
mod held;
mod known;
mod mesh;
mod named_secrets;
mod object;
mod patience;
mod reporter;
mod rollout;
mod run;
mod running;
mod status;
mod watches;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use arc_swap::ArcSwap;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tokio::sync::oneshot;

use crate::resource::{Diagnostic, Labels, World};
use credentials::CredentialFiles;
pub use known::NodeChange;
pub use reporter::Reporter;
pub use rollout::{RolloutError, await_daemonset};
pub use status::{Status, Trouble, WatchState, WatchStatus};

/// Which API server, and what of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesSettings {
    /// Else that of the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    pub audience: Audience,
    pub mesh_config_map: ConfigMapKey,
    /// Where Secrets that resources name by credentialName go, as `NAMESPACE/NAME/KEY`; without it none is asked for.
    pub credentials_dir: Option<PathBuf>,
}

/// For whom the API server is followed, beside what acts on everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// An agent: the pods of its node are told, and namespaces.
    Node(Arc<str>),
    /// A gateway: the EndpointSlices of its namespace are, which say on which ports its Service leads to it, and Secrets there
    /// that Gateways with a selector for its labels name, or DestinationRules that act on it. Pods are told where
    /// `follows_pods`: they may be its clients. No namespace is asked for, and no Event is written.
    Gateway { namespace: Arc<str>, labels: Labels, follows_pods: bool },
}

/// A value of a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigMapKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub key: Arc<str>,
}

impl Default for ConfigMapKey {
    /// Where Istio keeps the mesh's settings.
    fn default() -> Self {
        Self { namespace: "istio-system".into(), name: "istio".into(), key: "mesh".into() }
    }
}

/// Why there is nothing to follow.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("can't use the kubeconfig {path}: {source}")]
    Kubeconfig { path: String, source: Box<KubeconfigError> },
    #[error("no kubeconfig was given, and this is no pod with a service account: {0}")]
    InCluster(kube::config::InClusterError),
    #[error("can't make a client for the API server: {0}")]
    Client(Box<kube::Error>),
    #[error("can't keep credentials in {path}: {source}")]
    Credentials { path: String, source: io::Error },
    #[error("can't start following the API server: {0}")]
    Start(io::Error),
}

/// Following goes on until this is dropped.
#[derive(Debug)]
pub struct Following {
    status: Arc<ArcSwap<Status>>,
    reporter: Reporter,
    thread: thread::JoinHandle<()>,
    /// Dropped with it, which stops the thread.
    _stop: oneshot::Sender<()>,
}

impl Following {
    pub fn status(&self) -> Arc<Status> {
        self.status.load_full()
    }

    /// Writes Events about what is wrong.
    pub fn reporter(&self) -> &Reporter {
        &self.reporter
    }

    /// False when it has ended by a panic, of a callback or its own: nothing is followed any more.
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }
}

/// Starts to follow. An API server that is away is no error: it is waited for.
///
/// `on_world` gets everything that holds, and every finding, at most some 50 ms after it changed; for the first time when
/// all that exists and may be read is known. It may take its time: meanwhile changes are gathered. `on_node` gets pods of
/// the node and namespaces at once, on the thread that reads from the server: it must not block.
pub fn follow(
    settings: KubernetesSettings,
    on_world: impl FnMut(&Arc<World>, Vec<Diagnostic>) + Send + 'static,
    on_node: impl FnMut(NodeChange) + Send + 'static,
) -> Result<Following, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Start)?;
    let config = runtime.block_on(config(settings.kubeconfig.as_deref()))?;
    tracing::info!(server = %config.cluster_url, "following the API server");
    let clients = {
        let _within = runtime.enter();
        Clients { common: client(&config)?, discovery: client(&config)? }
    };
    let credentials = match &settings.credentials_dir {
        Some(directory) => Some(CredentialFiles::open(directory).map_err(|source| {
            let path = directory.display().to_string();
            Error::Credentials { path, source }
        })?),
        None => None,
    };
    let status = Arc::new(ArcSwap::from_pointee(Status::default()));
    let (reporter, findings) = Reporter::new();
    let (stop, stopped) = oneshot::channel();
    let run = run::Run::new(settings, clients, credentials, Arc::clone(&status), on_world, on_node);
    let thread = thread::Builder::new()
        .name("kubernetes".into())
        .spawn(move || {
            runtime.block_on(run.run(findings, stopped));
            // A callback may still be at work: nobody waits for it.
            runtime.shutdown_background();
        })
        .map_err(Error::Start)?;
    Ok(Following { status, reporter, thread, _stop: stop })
}

/// Each with connections of its own.
struct Clients {
    common: Client,
    /// One request at a time, on a connection that stays for as long as the server lets it.
    discovery: Client,
}

fn client(config: &Config) -> Result<Client, Error> {
    Client::try_from(config.clone()).map_err(|error| Error::Client(Box::new(error)))
}

async fn config(kubeconfig: Option<&Path>) -> Result<Config, Error> {
    let mut config = match kubeconfig {
        Some(path) => {
            let error = |source| {
                let path = path.display().to_string();
                Error::Kubeconfig { path, source: Box::new(source) }
            };
            let file = Kubeconfig::read_from(path).map_err(error)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(error)?
        }
        None => Config::incluster().map_err(Error::InCluster)?,
    };
    // Failures are told, and tried again, by whoever asked.
    config.default_retry = false;
    Ok(config)
}
