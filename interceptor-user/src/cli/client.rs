//! Who the client is: flags that every command shares which compiles resources for one.

use std::collections::BTreeMap;
use std::iter::once;
use std::path::PathBuf;
use std::sync::Arc;

use crate::analysis;
use crate::compile::Client;
use crate::enroll::{ENROLL, parse_enroll};
use crate::exec::findings::Findings;
use crate::resource::{
    Annotation, CAPTURE_DNS, ClientPolicy, Diagnostic, ENFORCE, Kind, Level, Meta, Origin, POLICY, Position,
    ResourceKey, parse_capture_dns, parse_enforce,
};
use crate::source::Texts;
use crate::workload::{AnnotationError, RedirectPolicy};
use crate::workload_api::parse_socket;

pub(super) const CLIENT: &str = "The client";

/// For whom resources are compiled.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct ClientFlags {
    /// The client's namespace; it decides what is exported to it [default: default]
    #[arg(long, value_name = "NAMESPACE", value_parser = parse_name, help_heading = CLIENT)]
    namespace: Option<Arc<str>>,

    /// The client's labels, which sourceLabels and workloadSelector look at; may be repeated
    #[arg(long, value_name = "NAME=VALUE,…", value_delimiter = ',', value_parser = parse_own_label, help_heading = CLIENT)]
    labels: Vec<Pair>,

    /// An annotation of the client, such as traffic.sidecar.istio.io/excludeOutboundIPRanges=10.0.0.0/8; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_annotation, help_heading = CLIENT)]
    annotations: Vec<Pair>,

    /// Where credentialName finds its secret: DIR/NAME holds tls.crt, tls.key and ca.crt, or cert, key and cacert
    ///
    /// A CA may also be in DIR/NAME-cacert, a list of revoked certificates beside it as ca.crl or crl. Files that
    /// change are read again. Without the directory, what needs a credential answers 503.
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath, help_heading = CLIENT)]
    credentials_dir: Option<PathBuf>,

    /// Where the client's identity in the mesh is, for TLS mode ISTIO_MUTUAL: cert-chain.pem, key.pem and root-cert.pem, as
    /// Istio writes them, or tls.crt, tls.key and ca.crt, as cert-manager does
    ///
    /// Files that change are read again. Without the directory, or while the identity has expired, ISTIO_MUTUAL answers 503.
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath, help_heading = CLIENT)]
    identity_dir: Option<PathBuf>,
}

/// The identity of our own process, for those who have one.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct SpiffeFlags {
    /// Where the identity for TLS mode ISTIO_MUTUAL comes from instead: the socket of a SPIFFE Workload API, such as
    /// unix:///run/spire/agent.sock
    ///
    /// Followed as it is renewed, and kept in memory only. While the Workload API is away the last identity counts, until
    /// it expires.
    #[arg(long, value_name = "URI", env = "SPIFFE_ENDPOINT_SOCKET", value_parser = parse_socket,
        conflicts_with = "identity_dir", help_heading = CLIENT)]
    pub(super) spiffe_socket: Option<PathBuf>,
}

/// A name and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair(pub(super) Arc<str>, pub(super) Arc<str>);

impl ClientFlags {
    pub(super) fn client(&self) -> Client {
        let labels = self.labels.iter().map(|Pair(name, value)| (Arc::clone(name), Arc::clone(value)));
        let namespace = self.namespace.clone().unwrap_or_else(|| Client::default().namespace);
        // A value that can't be used was refused with the flag.
        let policy = self.annotations().get(POLICY).and_then(|value| ClientPolicy::parse(value).ok());
        let enforced = self.annotations().get(ENFORCE).is_some_and(|value| parse_enforce(value) == Ok(true));
        let annotations = self.annotations();
        let learned_names = annotations.get(CAPTURE_DNS);
        let learned_names = learned_names.is_some_and(|value| parse_capture_dns(value) == Ok(Some(true)));
        Client {
            labels: labels.collect(),
            enforced,
            learned_names,
            policy: policy.unwrap_or_default(),
            credentials_dir: self.credentials_dir.clone(),
            identity_dir: self.identity_dir.clone(),
            ..Client::in_namespace(&namespace)
        }
    }

    /// Whether all that it may have to show was given.
    pub(super) fn has_certificates(&self) -> bool {
        self.credentials_dir.is_some() && self.identity_dir.is_some()
    }

    /// By name; of one given twice the later.
    pub(super) fn annotations(&self) -> BTreeMap<Arc<str>, Arc<str>> {
        self.annotations.iter().map(|Pair(name, value)| (Arc::clone(name), Arc::clone(value))).collect()
    }

    /// Tells on stderr of annotations that nothing reads; where it is certain that ours was meant, the flag was refused.
    pub(super) fn tell_misnamed(&self) {
        let annotations = self.annotations();
        let findings = misnamed(annotations.iter().map(|(name, value)| (&**name, &**value)), &[]);
        let told = |finding: Diagnostic| Diagnostic {
            origin: None,
            resource: "--annotations".into(),
            field: String::new(),
            ..finding
        };
        Findings::default().tell(findings.into_iter().map(told).collect(), Vec::new(), &Texts::default());
    }

    /// What the annotations say about which connections are redirected.
    pub(super) fn redirect_policy(&self) -> Result<RedirectPolicy, AnnotationError> {
        RedirectPolicy::from_annotations(self.annotations.iter().map(|Pair(name, value)| (&**name, &**value)))
    }
}

pub(super) fn parse_name(text: &str) -> Result<Arc<str>, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_name = text.len() <= 63
        && text.starts_with(plain)
        && text.ends_with(plain)
        && text.chars().all(|c| plain(c) || c == '-');
    if is_name { Ok(text.into()) } else { Err("expected lower case letters, digits and `-`".into()) }
}

pub(super) fn parse_label(text: &str) -> Result<Pair, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.contains('=') => {
            Ok(Pair(name.into(), value.into()))
        }
        Some(_) | None => Err("expected NAME=VALUE, several separated by commas".into()),
    }
}

/// What is wrong with the names of a pod's annotations and labels.
fn misnamed<'a>(annotations: impl Iterator<Item = (&'a str, &'a str)>, labels: &[&Pair]) -> Vec<Diagnostic> {
    let nowhere = Position::default();
    let annotations = annotations.map(|(name, value)| {
        (name.into(), Annotation { value: value.into(), key_position: nowhere, position: nowhere })
    });
    let labels = labels.iter().map(|Pair(name, value)| (Arc::clone(name), Arc::clone(value)));
    let unwritten = Meta {
        key: ResourceKey { kind: Kind::Pod, namespace: "".into(), name: "".into() },
        creation_timestamp: None,
        labels: labels.collect(),
        annotations: annotations.collect(),
        origin: Origin::of_file(&"".into()),
    };
    analysis::misnamed(&unwritten, &unwritten.annotations, &unwritten.labels)
}

/// Fails at the first that is certainly a mistake.
fn refuse(findings: &[Diagnostic]) -> Result<(), String> {
    match findings.iter().find(|finding| finding.level == Level::Error) {
        Some(Diagnostic { message, mend, .. }) => Err(format!("{message}: {mend}")),
        None => Ok(()),
    }
}

fn parse_own_label(text: &str) -> Result<Pair, String> {
    let label = parse_label(text)?;
    refuse(&misnamed(std::iter::empty(), &[&label]))?;
    Ok(label)
}

fn parse_annotation(text: &str) -> Result<Pair, String> {
    let Some((name, value)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
        return Err("expected NAME=VALUE".into());
    };
    refuse(&misnamed(once((name, value)), &[]))?;
    if name == POLICY {
        ClientPolicy::parse(value).map_err(|error| error.to_string())?;
    }
    if name == ENFORCE {
        parse_enforce(value).map_err(|error| error.to_string())?;
    }
    if name == ENROLL {
        parse_enroll(value)?;
    }
    if name == CAPTURE_DNS {
        parse_capture_dns(value).map_err(|error| error.to_string())?;
    }
    RedirectPolicy::from_annotations([(name, value)]).map_err(|error| error.cause.to_string())?;
    Ok(Pair(name.into(), value.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        client: ClientFlags,
    }

    fn flags(words: &[&str]) -> Result<ClientFlags, String> {
        let line = Line::try_parse_from(["x"].iter().chain(words));
        line.map(|line| line.client).map_err(|error| error.render().to_string())
    }

    #[test]
    fn a_client_is_what_the_flags_say() {
        assert_eq!(flags(&[]).unwrap().client(), Client::default());
        let given =
            flags(&["--namespace", "shop", "--labels", "app=a,version=v1", "--labels", "b="]).unwrap();
        let expected = [("app", "a"), ("version", "v1"), ("b", "")];
        let labels = expected.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        assert_eq!(given.client(), Client { labels, ..Client::in_namespace("shop") });
    }

    #[test]
    fn annotations_decide_what_is_redirected() {
        let name = "traffic.sidecar.istio.io/excludeOutboundPorts";
        let given = flags(&["--annotations", &format!("{name}=443,5432"), "--annotations", "a=b=c"]).unwrap();
        assert_eq!(given.redirect_policy().unwrap().exclude_ports, [443, 5432]);
        assert_eq!(given.annotations().get("a").map(|value| &**value), Some("b=c"));
        assert_eq!(given.client().policy, ClientPolicy::default());
        assert!(!given.client().enforced && !given.client().learned_names);
        let capture = ["--annotations", "egress.interceptor.io/capture-dns=true"];
        assert!(flags(&capture).unwrap().client().learned_names);
        assert!(
            flags(&["--annotations", "egress.interceptor.io/enforce=gateway"]).unwrap().client().enforced
        );
        // Read by the agent, which decides whose pods these are; a command is intercepted whatever it says.
        assert!(flags(&["--annotations", "egress.interceptor.io/enroll=disabled"]).is_ok());
        let given = flags(&["--annotations", "egress.interceptor.io/policy=REGISTRY_ONLY,strict"]).unwrap();
        assert_eq!(Ok(given.client().policy), ClientPolicy::parse("REGISTRY_ONLY,strict"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (words, expected) in [
            (["--namespace", "Shop"], "lower case"),
            (["--labels", "app"], "NAME=VALUE"),
            (["--labels", "a=b,"], "NAME=VALUE"),
            (["--annotations", "=x"], "NAME=VALUE"),
            (
                ["--annotations", "egress.interceptor.io/polcy=strict"],
                "did you mean egress.interceptor.io/policy?",
            ),
            (
                ["--annotations", "egress.interceptor.io/enroll=yes"],
                "expected enabled, true, disabled or false",
            ),
            (["--labels", "egress.interceptor.io/policy=strict"], "is an annotation"),
            (["--annotations", "egress.interceptor.io/policy=STRICT"], "did you mean `strict`?"),
            (["--annotations", "egress.interceptor.io/enforce=true"], "expected gateway"),
            (["--annotations", "traffic.sidecar.istio.io/excludeOutboundIPRanges=10.0.0.1"], "10.0.0.1/32"),
        ] {
            let error = flags(&words).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
