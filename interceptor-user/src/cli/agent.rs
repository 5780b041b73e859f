//! `interceptor agent`: its flags, turned into settings.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use super::exec::{formats, policies};
use crate::admin;
use crate::compile::NodePaths;
use crate::datapath::{OnAgentDown, Undecided};
use crate::enroll::{NamespaceLabel, Selectors};
use crate::settings::{AgentSettings, AgentSource};
use crate::snapshot::{AccessLogEncoding, OutboundTrafficPolicy};
use crate::source::kubernetes::{Audience, ConfigMapKey, KubernetesSettings};
use crate::telemetry::AccessLogTarget;

const PODS: &str = "Pods";
const CONFIGURATION: &str = "Configuration";
const NODE: &str = "The node";

/// An agent that has not told for so long that it lives is down.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Intercept the outbound TCP connections of this node's pods
///
/// Finds the pods of the node, attaches kernel programs to their cgroups before their first process runs, opens a
/// listener inside each pod's network namespace and applies the resources to what arrives there. Pods need no sidecar,
/// no init container and no change.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Exit codes:\n  \
        0 after SIGTERM or SIGINT\n  \
        1 when the node or the configuration can't be used: stderr says what is missing\n  \
        2 when the command line is wrong\n\n\
        SIGHUP has the access log's file opened anew, for who rotates it.\n\n\
        What it leaves:\n  \
        Programs and maps stay pinned below --pins when it ends, however it ends: connections of enrolled pods are \
        refused until an agent serves them again. `interceptor cleanup` removes them.\n\n\
        Examples:\n  \
        # As a DaemonSet runs it\n  \
        NODE_NAME=worker-1 interceptor agent\n\n  \
        # Pods, namespaces and Istio resources from a directory, no API server\n  \
        interceptor agent -c /etc/interceptor/\n\n  \
        # Namespaces with another label\n  \
        interceptor agent -c /etc/interceptor/ --enroll-namespaces team-egress=on")]
pub(super) struct Arguments {
    /// Resources, pods and namespaces among them, from YAML files or directories instead of an API server; may be repeated
    #[arg(short, long, value_name = "FILE-OR-DIR", value_hint = clap::ValueHint::AnyPath, help_heading = CONFIGURATION)]
    config: Vec<PathBuf>,

    /// Istio's mesh configuration (MeshConfig), as a YAML file beside those
    #[arg(long, value_name = "FILE", requires = "config", help_heading = CONFIGURATION)]
    mesh_config: Option<PathBuf>,

    /// How to reach the API server [default: the service account of the pod that the agent is]
    #[arg(long, value_name = "FILE", env = "KUBECONFIG", conflicts_with = "config", help_heading = CONFIGURATION)]
    kubeconfig: Option<PathBuf>,

    /// The ConfigMap of the mesh configuration, and its key
    #[arg(long, value_name = "NAMESPACE/NAME/KEY", default_value = "istio-system/istio/mesh",
        value_parser = parse_config_map, conflicts_with = "config", help_heading = CONFIGURATION)]
    mesh_config_map: ConfigMapKey,

    /// Where secrets that are named by credentialName are kept, as NAMESPACE/NAME/KEY: on a file system in memory
    ///
    /// Without an API server they are looked for there.
    #[arg(long, value_name = "DIR", default_value = "/run/interceptor/credentials", help_heading = CONFIGURATION)]
    credentials_dir: PathBuf,

    /// Where the pods' identities in the mesh are, for TLS mode ISTIO_MUTUAL: DIR/NAMESPACE/SERVICEACCOUNT holds
    /// cert-chain.pem, key.pem and root-cert.pem, or tls.crt, tls.key and ca.crt
    ///
    /// A pod has that of its own namespace and service account, as the API server tells them. Files that change are read
    /// again. Without its identity, or while that has expired, ISTIO_MUTUAL answers 503.
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath, help_heading = CONFIGURATION)]
    identity_dir: Option<PathBuf>,

    /// What becomes of hosts that no ServiceEntry names; overrides everything else that says so
    #[arg(long, value_name = "POLICY", value_parser = policies(), help_heading = CONFIGURATION)]
    outbound_traffic_policy: Option<OutboundTrafficPolicy>,

    /// Directories whose unix sockets ServiceEntries and WorkloadEntries may name as endpoints [default: none]
    ///
    /// The agent connects as root: whoever writes resources gets what the servers there give root. Symbolic links are
    /// not followed.
    #[arg(long, value_name = "DIR,…", value_delimiter = ',', value_parser = NodePaths::parse_directory,
        help_heading = CONFIGURATION)]
    allow_unix_endpoints: Vec<PathBuf>,

    /// Directories whose files DestinationRules may name as clientCertificate, privateKey, caCertificates and caCrl
    /// [default: none]
    ///
    /// They are the node's, read as root: whoever writes resources can have pods authenticate with every key that is there.
    #[arg(long, value_name = "DIR,…", value_delimiter = ',', value_parser = NodePaths::parse_directory,
        help_heading = CONFIGURATION)]
    allow_tls_files: Vec<PathBuf>,

    /// Labels of namespaces whose pods are enrolled, one of which is enough
    #[arg(long, value_name = "NAME[=VALUE],…", value_delimiter = ',', help_heading = PODS,
        default_value = "istio-injection=enabled,egress.interceptor.io/enroll=enabled")]
    enroll_namespaces: Vec<NamespaceLabel>,

    /// Runtime classes that are sandboxes with a kernel of their own, which nothing here reaches; * at the end for any
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_value = "gvisor*,runsc*,kata*", help_heading = PODS)]
    sandboxed_runtimes: Vec<Arc<str>>,

    /// What becomes of connections of pods about which the agent has not decided yet
    #[arg(long, value_name = "VERDICT", default_value = "refuse", value_parser = undecided(), help_heading = PODS)]
    undecided: Undecided,

    /// What becomes of new connections of enrolled pods while no agent runs
    #[arg(long, value_name = "STATE", default_value = "closed", value_parser = on_agent_down(), help_heading = PODS)]
    on_agent_down: OnAgentDown,

    /// How long open connections may go on after the end of the agent or of their pod
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration(), help_heading = PODS)]
    drain: Duration,

    /// The name of this node: pods of others are left alone [default: all pods are of this node]
    #[arg(long, value_name = "NAME", env = "NODE_NAME", help_heading = NODE)]
    node_name: Option<Arc<str>>,

    /// The unix socket that commands ask, and the CNI plugin
    #[arg(long, value_name = "PATH", default_value = admin::SOCKET, help_heading = NODE)]
    agent_socket: PathBuf,

    /// Where health, metrics and what is in force are shown to anybody on the node; `off` for nowhere
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15000", value_parser = parse_admin_address,
        help_heading = NODE)]
    admin_address: AdminAddress,

    /// Where programs and maps are pinned: a directory on a bpf file system
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/interceptor", help_heading = NODE)]
    pins: PathBuf,

    /// Where the cgroup2 hierarchy is mounted [default: where our own cgroup is found]
    #[arg(long, value_name = "DIR", help_heading = NODE)]
    cgroup_root: Option<PathBuf>,

    /// The cgroup of all pods [default: the one directory kubepods or kubepods.slice below the root]
    #[arg(long, value_name = "DIR", help_heading = NODE)]
    kubepods: Option<PathBuf>,

    /// The node's proc file system, where its first process and those of pods are found
    #[arg(long, value_name = "DIR", default_value = "/proc", help_heading = NODE)]
    proc: PathBuf,

    /// Threads that carry connections [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256).map(usize::from),
        help_heading = NODE)]
    workers: Option<usize>,

    /// Where the access log goes: a file (appended to), or - for standard output
    ///
    /// Off unless given here or by the mesh configuration's accessLogFile.
    #[arg(long, value_name = "FILE|-")]
    access_log: Option<String>,

    /// How access log lines are written; overrides the mesh configuration's accessLogEncoding
    #[arg(long, value_name = "FORMAT", value_parser = formats())]
    access_log_format: Option<AccessLogEncoding>,
}

/// `None`: nowhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct AdminAddress(pub(super) Option<SocketAddr>);

pub(super) fn parse_admin_address(text: &str) -> Result<AdminAddress, String> {
    if text == "off" {
        return Ok(AdminAddress(None));
    }
    let address =
        text.parse().map_err(|_malformed| "expected ADDRESS:PORT such as 127.0.0.1:15000, or off")?;
    Ok(AdminAddress(Some(address)))
}

pub(super) fn parse_config_map(text: &str) -> Result<ConfigMapKey, String> {
    match text.split('/').collect::<Vec<_>>()[..] {
        [namespace, name, key] if !namespace.is_empty() && !name.is_empty() && !key.is_empty() => {
            Ok(ConfigMapKey { namespace: namespace.into(), name: name.into(), key: key.into() })
        }
        _ => Err("expected NAMESPACE/NAME/KEY".to_owned()),
    }
}

fn undecided() -> impl TypedValueParser<Value = Undecided> {
    PossibleValuesParser::new([
        PossibleValue::new("refuse").help("They fail with EPERM; a pod is decided about within milliseconds"),
        PossibleValue::new("allow").help("They go their own way, and are counted"),
    ])
    .map(|word| if word == "allow" { Undecided::Allow } else { Undecided::Refuse })
}

fn on_agent_down() -> impl TypedValueParser<Value = OnAgentDown> {
    PossibleValuesParser::new([
        PossibleValue::new("closed").help("They are refused"),
        PossibleValue::new("open").help("They go their own way once the agent has been silent for 5 s"),
    ])
    .map(|word| match word.as_str() {
        "open" => OnAgentDown::Open { after: SILENCE_MAX },
        _ => OnAgentDown::Closed,
    })
}

/// Go's durations, as Kubernetes and Istio write them.
pub(super) fn parse_duration() -> impl TypedValueParser<Value = Duration> {
    clap::builder::StringValueParser::new().try_map(|text| {
        crate::resource::parse_duration(&text).ok_or("expected a duration such as 30s or 1m30s")
    })
}

impl Arguments {
    /// # Errors
    /// When an API server is to be followed, and nobody says which node this is.
    pub(super) fn into_settings(self) -> anyhow::Result<AgentSettings> {
        let source = if self.config.is_empty() {
            let node_name = self.node_name.clone().context(
                "which node is this? Give --node-name (in a pod: the environment variable NODE_NAME from spec.nodeName), \
                 or resources as files with -c",
            )?;
            AgentSource::Kubernetes(KubernetesSettings {
                kubeconfig: self.kubeconfig,
                audience: Audience::Node(node_name),
                mesh_config_map: self.mesh_config_map,
                credentials_dir: Some(self.credentials_dir.clone()),
            })
        } else {
            AgentSource::Files { config: self.config, mesh_config: self.mesh_config }
        };
        Ok(AgentSettings {
            source,
            credentials_dir: Some(self.credentials_dir),
            identity_dir: self.identity_dir,
            node_name: self.node_name,
            selectors: Selectors {
                namespaces: self.enroll_namespaces,
                sandboxed_runtimes: self.sandboxed_runtimes,
                name_servers: Vec::new(),
            },
            outbound_traffic_policy: self.outbound_traffic_policy,
            unix_endpoints: NodePaths::Below(self.allow_unix_endpoints),
            tls_files: NodePaths::Below(self.allow_tls_files),
            access_log: self.access_log.as_deref().map(AccessLogTarget::new),
            access_log_format: self.access_log_format,
            agent_socket: self.agent_socket,
            admin_address: self.admin_address.0,
            pins: self.pins,
            cgroup_root: self.cgroup_root,
            kubepods: self.kubepods,
            proc: self.proc,
            undecided: self.undecided,
            on_agent_down: self.on_agent_down,
            drain: self.drain,
            workers: self.workers,
            // The kubelet sets it in every container.
            is_in_pod: std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
        })
    }
}
