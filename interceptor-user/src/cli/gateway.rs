//! `interceptor gateway`: its flags, turned into settings.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::builder::TypedValueParser;

use super::agent::{AdminAddress, parse_admin_address, parse_config_map, parse_duration};
use super::exec::formats;
use super::gateway_client::GatewayFlags;
use crate::compile::NodePaths;
use crate::settings::{AgentSource, GatewaySettings};
use crate::snapshot::AccessLogEncoding;
use crate::source::kubernetes::{Audience, ConfigMapKey, KubernetesSettings};
use crate::telemetry::AccessLogTarget;

const CONFIGURATION: &str = "Configuration";
const NETWORK: &str = "Network";

/// Be an egress gateway: listen as Gateway resources say, and send on what comes
///
/// Applications reach it by a VirtualService that leads their traffic to the gateway's Service; the routes that a
/// VirtualService has for the Gateway lead it on. The same resources as with Istio, and the same proxy as in the agent.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Exit codes:\n  \
        0 after SIGTERM or SIGINT, when what was open has ended or --drain is over\n  \
        1 when the configuration can't be read: stderr says what is missing\n  \
        2 when the command line is wrong\n\n\
        SIGHUP has the access log's file opened anew, for who rotates it.\n\n\
        A port that can't be had is told on stderr with what to do, and tried again each second; the others are served.\n\n\
        Needs no privileges, but for ports below 1024 the capability NET_BIND_SERVICE.\n\n\
        Examples:\n  \
        # The gateway that selector `istio: egressgateway` means, from files\n  \
        interceptor gateway -c config/ --namespace istio-system --labels istio=egressgateway --access-log -\n\n  \
        # In a pod: labels from the downward API, resources from the API server\n  \
        interceptor gateway --labels-file /etc/podinfo/labels\n\n  \
        # Its identity for ISTIO_MUTUAL from SPIRE's agent\n  \
        interceptor gateway -c config/ --spiffe-socket unix:///run/spire/agent.sock")]
pub(super) struct Arguments {
    /// Resources from YAML files or directories instead of an API server; may be repeated
    #[arg(short, long, value_name = "FILE-OR-DIR", value_hint = clap::ValueHint::AnyPath, help_heading = CONFIGURATION)]
    config: Vec<PathBuf>,

    /// Istio's mesh configuration (MeshConfig), as a YAML file beside those
    #[arg(long, value_name = "FILE", requires = "config", help_heading = CONFIGURATION)]
    mesh_config: Option<PathBuf>,

    /// How to reach the API server [default: the service account of the pod that the gateway is]
    #[arg(long, value_name = "FILE", env = "KUBECONFIG", conflicts_with = "config", help_heading = CONFIGURATION)]
    kubeconfig: Option<PathBuf>,

    /// The ConfigMap of the mesh configuration, and its key
    #[arg(long, value_name = "NAMESPACE/NAME/KEY", default_value = "istio-system/istio/mesh",
        value_parser = parse_config_map, conflicts_with = "config", help_heading = CONFIGURATION)]
    mesh_config_map: ConfigMapKey,

    /// Whether pods are followed: they name clients in access log and metrics, and rules with labels ask for them
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, conflicts_with = "config",
        help_heading = CONFIGURATION)]
    follow_pods: bool,

    #[command(flatten)]
    gateway: GatewayFlags,

    /// Directories whose files DestinationRules and Gateways may name as certificates, keys and CAs
    /// [default: any with -c, none with an API server]
    #[arg(long, value_name = "DIR,…", value_delimiter = ',', value_parser = NodePaths::parse_directory,
        help_heading = CONFIGURATION)]
    allow_tls_files: Option<Vec<PathBuf>>,

    /// The addresses to listen on for servers without `bind` [default: all of this host, IPv4 and IPv6]
    #[arg(long, value_name = "ADDRESS,…", value_delimiter = ',', help_heading = NETWORK)]
    listen_address: Vec<IpAddr>,

    /// How long open connections may go on after the end of the gateway, or of their port
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration(), help_heading = NETWORK)]
    drain: Duration,

    /// Where health, metrics and what is in force are shown to anybody on the host; `off` for nowhere
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15000", value_parser = parse_admin_address,
        help_heading = NETWORK)]
    admin_address: AdminAddress,

    /// A unix socket where `interceptor config`, `explain` and `flows` ask the gateway (their --agent-socket)
    #[arg(long, value_name = "PATH", help_heading = NETWORK)]
    socket: Option<PathBuf>,

    /// Threads that carry connections [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256).map(usize::from),
        help_heading = NETWORK)]
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

impl Arguments {
    /// # Errors
    /// When the file of labels can't be read.
    pub(super) fn into_settings(self) -> anyhow::Result<GatewaySettings> {
        let mut client = self.gateway.client()?;
        let spiffe_socket = self.gateway.spiffe_socket();
        let is_from_files = !self.config.is_empty();
        // Whoever writes files for a gateway may name what it can open.
        let allowed = if is_from_files { NodePaths::Any } else { NodePaths::default() };
        let source = if is_from_files {
            AgentSource::Files { config: self.config, mesh_config: self.mesh_config }
        } else {
            // Secrets are kept there by namespace, and the gateway's are those of its own.
            let own = client.credentials_dir.as_ref().map(|directory| directory.join(&*client.namespace));
            let credentials_dir = std::mem::replace(&mut client.credentials_dir, own);
            let (namespace, labels) = (Arc::clone(&client.namespace), client.labels.clone());
            AgentSource::Kubernetes(KubernetesSettings {
                kubeconfig: self.kubeconfig,
                audience: Audience::Gateway { namespace, labels, follows_pods: self.follow_pods },
                mesh_config_map: self.mesh_config_map,
                credentials_dir,
            })
        };
        let everywhere = || vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let listen_addresses =
            if self.listen_address.is_empty() { everywhere() } else { self.listen_address };
        Ok(GatewaySettings {
            source,
            client,
            spiffe_socket,
            listen_addresses,
            unix_endpoints: allowed.clone(),
            tls_files: self.allow_tls_files.map_or(allowed, NodePaths::Below),
            access_log: self.access_log.as_deref().map(AccessLogTarget::new),
            access_log_format: self.access_log_format,
            socket: self.socket,
            admin_address: self.admin_address.0,
            drain: self.drain,
            workers: self.workers,
            // A pod's host name is its name.
            pod: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        })
    }
}
