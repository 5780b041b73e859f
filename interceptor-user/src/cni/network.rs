//! The network configuration that the runtime writes to our standard input: our own keys, and what was made of the
//! container's network so far. Pure.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::failure::{self, Failure};
use crate::admin::SOCKET;
use crate::resource::parse_duration;

/// Versions of the CNI specification that we speak, oldest first.
pub(super) const VERSIONS: &[&str] = &["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// How long an agent that does not answer is waited for. The runtime's own limits are in minutes.
pub const DEADLINE: &str = "10s";

/// Our keys of the network configuration, as the installer writes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Keys {
    pub agent_socket: PathBuf,
    /// As Go writes durations.
    pub deadline: String,
    pub if_agent_down: IfAgentDown,
    /// Their pods are not asked about: those that the agent itself needs to start.
    pub exclude_namespaces: Vec<String>,
    /// Where calls are logged; the runtime loses our standard error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_file: Option<PathBuf>,
}

/// What becomes of a pod when the agent does not answer in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum IfAgentDown {
    /// Its sandbox is not started; the kubelet tries again.
    #[default]
    Fail,
    /// It starts; what it connects to until the agent finds it is up to the agent's --undecided.
    Allow,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            agent_socket: SOCKET.into(),
            deadline: DEADLINE.to_owned(),
            if_agent_down: IfAgentDown::default(),
            exclude_namespaces: Vec::new(),
            log_file: None,
        }
    }
}

impl Keys {
    /// Whether the plugin could work with them, before they are written to a node.
    pub(super) fn check(&self) -> Result<(), String> {
        self.deadline()?;
        if self.agent_socket.is_absolute() {
            return Ok(());
        }
        Err(format!("agentSocket is {:?}: expected an absolute path such as {SOCKET}", self.agent_socket))
    }

    fn deadline(&self) -> Result<Duration, String> {
        match parse_duration(&self.deadline) {
            Some(deadline) if !deadline.is_zero() => Ok(deadline),
            _ => Err(format!("deadline is {:?}: expected a duration such as {DEADLINE}", self.deadline)),
        }
    }
}

/// All of the configuration that we look at.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) cni_version: String,
    pub(super) keys: Keys,
    pub(super) deadline: Duration,
    prev_result: Option<Box<RawValue>>,
}

impl Network {
    pub(super) fn parse(text: &[u8]) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Envelope {
            #[serde(default)]
            cni_version: String,
            prev_result: Option<Box<RawValue>>,
        }
        let unreadable = |error: serde_json::Error| {
            Failure::new(
                failure::DECODING_FAILURE,
                format!("the network configuration on standard input can't be read: {error}"),
            )
        };
        let envelope: Envelope = serde_json::from_slice(text).map_err(unreadable)?;
        let keys: Keys = serde_json::from_slice(text).map_err(unreadable)?;
        let invalid = |error| Failure::new(failure::INVALID_CONFIG, error);
        keys.check().map_err(invalid)?;
        let deadline = keys.deadline().map_err(invalid)?;
        Ok(Self { cni_version: envelope.cni_version, keys, deadline, prev_result: envelope.prev_result })
    }

    /// Fails for versions that we don't speak, and for those before `since`.
    pub(super) fn require_version(&self, since: &str) -> Result<(), Failure> {
        let position = |version: &str| VERSIONS.iter().position(|known| *known == version);
        if position(&self.cni_version).is_some_and(|at| Some(at) >= position(since)) {
            return Ok(());
        }
        let details = format!(
            "supported are {}{}",
            VERSIONS.join(", "),
            if since == VERSIONS[0] {
                String::new()
            } else {
                format!(", for this operation from {since} on")
            }
        );
        let msg = format!("cniVersion {:?} of the network configuration is not supported", self.cni_version);
        Err(Failure::new(failure::INCOMPATIBLE_VERSION, msg).with_details(details))
    }

    /// What plugins before us made of the network: the answer to ADD, which we change nothing of.
    pub(super) fn result(&self) -> Result<String, Failure> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            cni_version: Option<String>,
        }
        let Some(result) = &self.prev_result else {
            return Err(Failure::new(
                failure::INVALID_CONFIG,
                "there is no prevResult: this plugin makes no network, it must stand behind one that does",
            )
            .with_details("add it at the end of plugins in a .conflist; `interceptor cni install` does so"));
        };
        let result = result.get();
        let unreadable =
            |error| Failure::new(failure::DECODING_FAILURE, format!("prevResult is no object: {error}"));
        let version: Version = serde_json::from_str(result).map_err(unreadable)?;
        // Runtimes write it, but the specification asks only plugins to.
        match (version.cni_version, result.strip_prefix('{')) {
            (None, Some(rest)) => {
                let comma = if rest.trim_start().starts_with('}') { "" } else { "," };
                Ok(format!("{{\"cniVersion\":\"{}\"{comma}{rest}", self.cni_version))
            }
            (Some(_), _) | (None, None) => Ok(result.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Network, Failure> {
        Network::parse(text.as_bytes())
    }

    #[test]
    fn keys_and_their_defaults() {
        let network = parse(r#"{"cniVersion":"1.0.0","name":"net","type":"interceptor-cni"}"#).unwrap();
        assert_eq!(network.keys, Keys::default());
        assert_eq!(network.deadline, Duration::from_secs(10));
        let network = parse(
            r#"{"agentSocket":"/a.sock","deadline":"1m30s","ifAgentDown":"allow","excludeNamespaces":["a"],
                "logFile":"/log","runtimeConfig":{},"args":{"x":1}}"#,
        );
        let network = network.unwrap();
        let keys = Keys {
            agent_socket: "/a.sock".into(),
            deadline: "1m30s".into(),
            if_agent_down: IfAgentDown::Allow,
            exclude_namespaces: vec!["a".into()],
            log_file: Some("/log".into()),
        };
        assert_eq!((network.keys, network.deadline), (keys, Duration::from_secs(90)));
    }

    #[test]
    fn mistakes() {
        for (text, code, expected) in [
            ("", failure::DECODING_FAILURE, "EOF while parsing a value at line 1 column 0"),
            ("{", failure::DECODING_FAILURE, "line 1 column 1"),
            ("[]", failure::DECODING_FAILURE, "standard input can't be read"),
            (r#"{"ifAgentDown":"maybe"}"#, failure::DECODING_FAILURE, "expected `fail` or `allow`"),
            (r#"{"deadline":10}"#, failure::DECODING_FAILURE, "expected a string"),
            (r#"{"deadline":"10"}"#, failure::INVALID_CONFIG, "expected a duration such as 10s"),
            (r#"{"deadline":"0s"}"#, failure::INVALID_CONFIG, "expected a duration such as 10s"),
            (r#"{"agentSocket":"a.sock"}"#, failure::INVALID_CONFIG, "expected an absolute path"),
        ] {
            let failure = parse(text).unwrap_err();
            assert_eq!(failure.code, code, "{text}");
            assert!(failure.msg.contains(expected), "{text}: {}", failure.msg);
        }
    }

    #[test]
    fn versions() {
        let require = |version: &str, since: &str| {
            parse(&format!(r#"{{"cniVersion":"{version}"}}"#)).unwrap().require_version(since)
        };
        for version in VERSIONS {
            assert_eq!(require(version, "0.3.1"), Ok(()), "{version}");
        }
        assert_eq!(require("1.1.0", "1.1.0"), Ok(()));
        for (version, since) in [("0.2.0", "0.3.1"), ("1.2.0", "0.3.1"), ("", "0.3.1"), ("1.0.0", "1.1.0")] {
            let failure = require(version, since).unwrap_err();
            assert_eq!(failure.code, failure::INCOMPATIBLE_VERSION, "{version}");
            assert!(failure.details.contains("0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{}", failure.details);
        }
    }

    #[test]
    fn results_pass_byte_by_byte() {
        let result = |previous: &str| {
            let text = format!(r#"{{"cniVersion":"1.0.0","prevResult":{previous}}}"#);
            parse(&text).and_then(|network| network.result())
        };
        let previous = r#"{ "ips": [{"address": "10.0.0.5/32", "interface":2}],
            "cniVersion": "1.0.0", "unknown": 1e400, "dns": {} }"#;
        assert_eq!(result(previous).as_deref(), Ok(previous));
        assert_eq!(result(r#"{"ips":[]}"#).as_deref(), Ok(r#"{"cniVersion":"1.0.0","ips":[]}"#));
        assert_eq!(result("{ }").as_deref(), Ok(r#"{"cniVersion":"1.0.0" }"#));
        assert_eq!(result("null").unwrap_err().code, failure::INVALID_CONFIG);
        assert_eq!(result("[]").unwrap_err().code, failure::DECODING_FAILURE);
    }
}
