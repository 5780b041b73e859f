//! The agent of this node: where it is asked, and about which pod.

use std::path::PathBuf;

use http::Method;

use crate::admin::client::{self, Answer, ClientError, Uri};
use crate::admin::default_socket;
use crate::output::Output;

const AGENT: &str = "The agent of this node";

/// A pod, instead of files.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct PodFlags {
    /// The client is this pod of the node, and the agent answers by what is in force; needs root
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = parse_pod, help_heading = AGENT, conflicts_with_all = [
        "mesh_config", "outbound_traffic_policy", "capture_dns", "strict", "from", "namespace", "labels", "annotations",
        "credentials_dir",
    ])]
    pod: Option<String>,

    /// The agent's socket
    #[arg(long, value_name = "PATH", default_value_os = default_socket().as_os_str(), requires = "pod",
        value_hint = clap::ValueHint::AnyPath, help_heading = AGENT)]
    agent_socket: PathBuf,
}

/// A pod of the agent.
#[derive(Clone, Debug)]
pub(super) struct PodOfAgent {
    socket: PathBuf,
    pod: String,
}

pub(super) fn parse_pod(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(text.to_owned())
        }
        Some(_) | None => Err("expected NAMESPACE/NAME of a pod".into()),
    }
}

impl PodFlags {
    pub(super) fn of(self) -> Option<PodOfAgent> {
        Some(PodOfAgent { socket: self.agent_socket, pod: self.pod? })
    }
}

impl PodOfAgent {
    /// Asks about the pod; `parameters` are those that have a value.
    pub(super) fn ask(
        &self,
        method: Method,
        path: &str,
        output: Output,
        parameters: &[(&str, Option<String>)],
        body: Vec<u8>,
    ) -> Result<Answer, ClientError> {
        let mut all = vec![("pod", Some(&*self.pod)), ("output", Some(output.name()))];
        all.extend(parameters.iter().map(|(name, value)| (*name, value.as_deref())));
        client::ask(&self.socket, method, &Uri::new(path, &all), body)
    }
}
