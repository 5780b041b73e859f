//! Which pod a gateway is: what the selectors of Gateways look at, and what is exported to it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};

use super::client::{Pair, SpiffeFlags, parse_label, parse_name};
use crate::compile::Client;
use crate::resource::Labels;

const GATEWAY: &str = "The gateway";

#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct GatewayFlags {
    /// The gateway's namespace: its Service and its secrets are there, and what is exported to it [default: default]
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE", value_parser = parse_name, help_heading = GATEWAY)]
    namespace: Option<Arc<str>>,

    /// The gateway's labels, which the selectors of Gateways look at; may be repeated
    #[arg(long, value_name = "NAME=VALUE,…", value_delimiter = ',', value_parser = parse_label, help_heading = GATEWAY)]
    labels: Vec<Pair>,

    /// A file of labels as the downward API writes metadata.labels: a line NAME="VALUE" for each
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, help_heading = GATEWAY)]
    labels_file: Option<PathBuf>,

    /// Where credentialName finds its secret: DIR/NAME holds tls.crt, tls.key and ca.crt, or cert, key and cacert
    ///
    /// With an API server, secrets are kept there as NAMESPACE/NAME/KEY: give a file system in memory.
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath, help_heading = GATEWAY)]
    credentials_dir: Option<PathBuf>,

    /// Where the gateway's identity in the mesh is, for TLS mode ISTIO_MUTUAL: cert-chain.pem, key.pem and root-cert.pem, as
    /// Istio writes them, or tls.crt, tls.key and ca.crt, as cert-manager does
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath, help_heading = GATEWAY)]
    identity_dir: Option<PathBuf>,

    #[command(flatten)]
    spiffe: SpiffeFlags,
}

impl GatewayFlags {
    pub(super) fn spiffe_socket(&self) -> Option<PathBuf> {
        self.spiffe.spiffe_socket.clone()
    }

    /// # Errors
    /// When the file of labels can't be read, or is none.
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        let mut labels = match &self.labels_file {
            Some(path) => read_labels(path)?,
            None => Labels::new(),
        };
        labels.extend(self.labels.iter().map(|Pair(name, value)| (Arc::clone(name), Arc::clone(value))));
        let namespace = self.namespace.clone().unwrap_or_else(|| Client::default().namespace);
        Ok(Client {
            labels,
            credentials_dir: self.credentials_dir.clone(),
            identity_dir: self.identity_dir.clone(),
            ..Client::in_namespace(&namespace)
        })
    }
}

fn read_labels(path: &Path) -> anyhow::Result<Labels> {
    let text = std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    let mut labels = Labels::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match line.split_once('=').map(|(name, value)| (name, unquoted(value))) {
            Some((name, Some(value))) if !name.is_empty() => drop(labels.insert(name.into(), value.into())),
            Some(_) | None => bail!(
                "{}: `{line}` is no label: expected NAME=\"VALUE\", as the downward API writes it",
                path.display()
            ),
        }
    }
    Ok(labels)
}

/// Values of labels have nothing that is escaped.
fn unquoted(value: &str) -> Option<&str> {
    value.strip_prefix('"')?.strip_suffix('"').filter(|value| !value.contains(['"', '\\']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        gateway: GatewayFlags,
    }

    fn client(text: &str, words: &[&str]) -> Result<Client, String> {
        let path = std::env::temp_dir().join(format!("labels-{}-{}", std::process::id(), text.len()));
        std::fs::write(&path, text).unwrap();
        let line = Line::try_parse_from(
            ["x", "--labels-file"]
                .iter()
                .map(Path::new)
                .chain([&*path])
                .map(Path::as_os_str)
                .chain(words.iter().map(std::ffi::OsStr::new)),
        );
        let client = line.unwrap().gateway.client().map_err(|error| error.to_string());
        std::fs::remove_file(&path).unwrap();
        client
    }

    #[test]
    fn a_pods_labels_are_in_a_file_and_on_the_command_line() {
        let text = "app=\"istio-egressgateway\"\nistio=\"egressgateway\"\nempty=\"\"\n";
        let words = ["--labels", "istio=other,b=c", "--namespace", "istio-system"];
        let found = client(text, &words).unwrap();
        assert_eq!(&*found.namespace, "istio-system");
        let expected = [("app", "istio-egressgateway"), ("b", "c"), ("empty", ""), ("istio", "other")];
        let found: Vec<_> = found.labels.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_no_label_is_told() {
        for text in ["a=b\n", "a\n", "=\"b\"\n", "a=\"b\n"] {
            let error = client(text, &[]).unwrap_err();
            assert!(error.contains("is no label: expected NAME=\"VALUE\""), "{error}");
        }
    }
}
