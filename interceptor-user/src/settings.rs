//! What the command line and the environment asked for, as values that stay as they are for the process's life.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::compile::{Client, CompileSettings, NodePaths, Role};
use crate::datapath::{OnAgentDown, Undecided};
use crate::enroll::Selectors;
use crate::snapshot::{AccessLogEncoding, OutboundTrafficPolicy};
use crate::source::kubernetes::KubernetesSettings;
use crate::telemetry::AccessLogTarget;
use crate::workload::{RedirectPolicy, SourceWorkload};

/// Everything `interceptor exec` was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecSettings {
    /// Files and directories of resources, `-` for standard input, in the order given; empty: an empty registry.
    pub config: Vec<PathBuf>,
    pub mesh_config: Option<PathBuf>,
    /// The workload that the command stands for.
    pub client: Client,
    /// The Workload API that its identity is from.
    pub spiffe_socket: Option<PathBuf>,
    /// Overrides the mesh configuration's `outboundTrafficPolicy.mode`.
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    pub redirect: RedirectPolicy,
    /// Overrides the mesh configuration's `accessLogFile`.
    pub access_log: Option<AccessLogTarget>,
    /// Overrides the mesh configuration's `accessLogEncoding`.
    pub access_log_format: Option<AccessLogEncoding>,
    /// None: whoever called sudo.
    pub user: Option<UserRequest>,
    pub external_proxy: Option<ExternalProxy>,
    /// Where counters are written on exit.
    pub stats: Option<PathBuf>,
    /// Threads that carry connections; `None`: one for each core.
    pub workers: Option<usize>,
    /// The program and its arguments; never empty.
    pub command: Vec<OsString>,
}

/// Everything `interceptor agent` was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSettings {
    pub source: AgentSource,
    /// Where credentialName finds secrets, as `NAMESPACE/NAME`.
    pub credentials_dir: Option<PathBuf>,
    /// Where identities for ISTIO_MUTUAL are, as `NAMESPACE/SERVICEACCOUNT`.
    pub identity_dir: Option<PathBuf>,
    /// Pods of other nodes are not ours; `None`: all are of this one.
    pub node_name: Option<Arc<str>>,
    pub selectors: Selectors,
    /// Overrides the mesh configuration's `outboundTrafficPolicy.mode`.
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    pub unix_endpoints: NodePaths,
    pub tls_files: NodePaths,
    pub access_log: Option<AccessLogTarget>,
    pub access_log_format: Option<AccessLogEncoding>,
    /// Where the agent is asked.
    pub agent_socket: PathBuf,
    /// Where it shows what anybody on the node may see.
    pub admin_address: Option<SocketAddr>,
    /// Where maps and links are pinned, on a bpf file system.
    pub pins: PathBuf,
    /// Where the cgroup2 hierarchy is mounted; `None`: where this process finds it.
    pub cgroup_root: Option<PathBuf>,
    /// The common ancestor of pods; `None`: looked for.
    pub kubepods: Option<PathBuf>,
    /// The node's own proc file system.
    pub proc: PathBuf,
    pub undecided: Undecided,
    pub on_agent_down: OnAgentDown,
    /// How long open connections may go on after the end of the agent or of a pod.
    pub drain: Duration,
    /// Threads that carry connections; `None`: one for each core.
    pub workers: Option<usize>,
    /// A kubelet starts us again whenever we end.
    pub is_in_pod: bool,
}

impl AgentSettings {
    /// Where a pod's identity is looked for: a pod has that of its service account and no other. `None`: nowhere.
    pub fn identity_of(&self, namespace: &str, service_account: &str) -> Option<PathBuf> {
        // What is put behind a directory must not lead out of it.
        let is_name = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains('/');
        let directory = self.identity_dir.as_ref()?;
        (is_name(namespace) && is_name(service_account))
            .then(|| directory.join(namespace).join(service_account))
    }

    /// How a client's configuration is compiled.
    pub fn compile_settings(&self, client: Client) -> CompileSettings {
        CompileSettings {
            client,
            role: Role::Workload,
            outbound_traffic_policy: self.outbound_traffic_policy,
            unix_endpoints: self.unix_endpoints.clone(),
            tls_files: self.tls_files.clone(),
        }
    }
}

/// Everything `interceptor gateway` was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySettings {
    pub source: AgentSource,
    /// The pod that the gateway is, as Gateways' selectors see it.
    pub client: Client,
    /// The Workload API that its identity is from.
    pub spiffe_socket: Option<PathBuf>,
    /// Where it listens for servers that name no address.
    pub listen_addresses: Vec<IpAddr>,
    pub unix_endpoints: NodePaths,
    pub tls_files: NodePaths,
    pub access_log: Option<AccessLogTarget>,
    pub access_log_format: Option<AccessLogEncoding>,
    /// Where commands ask it.
    pub socket: Option<PathBuf>,
    /// Where it shows what anybody on the host may see.
    pub admin_address: Option<SocketAddr>,
    /// How long open connections may go on after the end of the gateway or of their port.
    pub drain: Duration,
    /// Threads that carry connections; `None`: one for each core.
    pub workers: Option<usize>,
    /// The pod's name.
    pub pod: String,
}

impl GatewaySettings {
    /// Who it is in metrics and flows.
    pub fn source_workload(&self) -> SourceWorkload {
        let label = |name: &str| self.client.labels.get(name).map(|value| value.to_string());
        let app = label("app").unwrap_or_default();
        SourceWorkload {
            namespace: self.client.namespace.to_string(),
            pod: self.pod.clone(),
            workload: app.clone(),
            canonical_service: label("service.istio.io/canonical-name").unwrap_or_else(|| app.clone()),
            canonical_revision: label("service.istio.io/canonical-revision")
                .unwrap_or_else(|| "latest".to_owned()),
            app,
            version: label("version").unwrap_or_default(),
            ..SourceWorkload::default()
        }
    }
}

/// Where an agent's or a gateway's resources, pods and namespaces come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentSource {
    Files { config: Vec<PathBuf>, mesh_config: Option<PathBuf> },
    Kubernetes(KubernetesSettings),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRequest {
    pub user: NameOrId,
    pub gid: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameOrId {
    Name(String),
    Id(u32),
}

/// A proxy of the user's own that reads SO_ORIGINAL_DST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalProxy {
    pub port: u16,
    pub cgroup: PathBuf,
}

/// `NAME`, `UID`, `NAME:GID` or `UID:GID`.
pub fn parse_user(text: &str) -> Result<UserRequest, String> {
    let (user, gid) = match text.split_once(':') {
        Some((user, gid)) => {
            let gid = gid
                .parse()
                .map_err(|error| format!("{gid:?} is no group id: expected a number ({error})"))?;
            (user, Some(gid))
        }
        None => (text, None),
    };
    if user.is_empty() {
        return Err("expected NAME, UID, NAME:GID or UID:GID".to_owned());
    }
    let user = match user.parse::<u32>() {
        Ok(id) => NameOrId::Id(id),
        Err(_) if user.starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
            return Err(format!("{user:?} is neither a user's name nor an id"));
        }
        Err(_) => NameOrId::Name(user.to_owned()),
    };
    Ok(UserRequest { user, gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_name_and_id() {
        let request = |user, gid| Ok(UserRequest { user, gid });
        assert_eq!(parse_user("www-data"), request(NameOrId::Name("www-data".to_owned()), None));
        assert_eq!(parse_user("www-data:5"), request(NameOrId::Name("www-data".to_owned()), Some(5)));
        assert_eq!(parse_user("0"), request(NameOrId::Id(0), None));
        assert_eq!(parse_user("1000:1001"), request(NameOrId::Id(1000), Some(1001)));
        for text in ["", ":5", "me:staff", "-1", "12x"] {
            assert!(parse_user(text).is_err(), "{text}");
        }
    }
}
