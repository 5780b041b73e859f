//! `egress.interceptor.io/policy`: what a pod or a namespace says about hosts that nobody declared, and whether
//! names must fit the addresses asked for. Pure: a text comes in, a value or one clear sentence comes out.

use super::mesh_config::OutboundTrafficPolicyMode;
use super::words::did_you_mean;

/// The annotation's key.
pub const POLICY: &str = "egress.interceptor.io/policy";

const WORDS: [&str; 3] = ["ALLOW_ANY", "REGISTRY_ONLY", "strict"];

/// What the annotation says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientPolicy {
    /// Instead of what Sidecar and MeshConfig say.
    pub outbound_traffic_policy: Option<OutboundTrafficPolicyMode>,
    /// SNI and Host must fit the address asked for.
    pub strict: bool,
}

/// Why a value can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("{word:?} is no word of {POLICY}: expected ALLOW_ANY or REGISTRY_ONLY, and strict{hint}")]
    Unknown { word: String, hint: String, instead: ClientPolicy },
    #[error("ALLOW_ANY and REGISTRY_ONLY in {POLICY} contradict each other: keep one")]
    Both { instead: ClientPolicy },
}

impl PolicyError {
    /// The most restrictive that can have been meant: what holds where nothing good is known.
    pub fn instead(&self) -> ClientPolicy {
        match self {
            Self::Unknown { instead, .. } | Self::Both { instead } => *instead,
        }
    }
}

impl ClientPolicy {
    /// A comma-separated list of words; blanks around them count for nothing.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        use OutboundTrafficPolicyMode::{AllowAny, RegistryOnly};
        let words: Vec<&str> = text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
        let has = |wanted: &str| words.contains(&wanted);
        let strict = has("strict");
        let mode = match (has("ALLOW_ANY"), has("REGISTRY_ONLY")) {
            (true, true) => {
                let instead = Self { outbound_traffic_policy: Some(RegistryOnly), strict };
                return Err(PolicyError::Both { instead });
            }
            (true, false) => Some(AllowAny),
            (false, true) => Some(RegistryOnly),
            (false, false) => None,
        };
        if let Some(word) = words.iter().find(|word| !WORDS.contains(word)) {
            let hint = did_you_mean(word, &WORDS);
            let instead = Self { outbound_traffic_policy: mode.or(Some(RegistryOnly)), strict: true };
            return Err(PolicyError::Unknown { word: super::words::shortened(word), hint, instead });
        }
        Ok(Self { outbound_traffic_policy: mode, strict })
    }

    /// In words, for findings.
    pub fn described(self) -> &'static str {
        use OutboundTrafficPolicyMode::{AllowAny, AllowAnyDynamicDns, RegistryOnly};
        match (self.outbound_traffic_policy, self.strict) {
            (Some(RegistryOnly), true) => "REGISTRY_ONLY,strict",
            (Some(RegistryOnly), false) => "REGISTRY_ONLY",
            (Some(AllowAny | AllowAnyDynamicDns), true) => "ALLOW_ANY,strict",
            (Some(AllowAny | AllowAnyDynamicDns), false) => "ALLOW_ANY",
            (None, true) => "strict",
            (None, false) => "nothing",
        }
    }

    /// What a pod with this gets in a namespace with `outer`. Strictness of a namespace holds for all its pods.
    #[must_use]
    pub fn within(self, outer: Self) -> Self {
        Self {
            outbound_traffic_policy: self.outbound_traffic_policy.or(outer.outbound_traffic_policy),
            strict: self.strict || outer.strict,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        use OutboundTrafficPolicyMode::{AllowAny, RegistryOnly};
        for (text, mode, strict) in [
            ("", None, false),
            ("ALLOW_ANY", Some(AllowAny), false),
            (" REGISTRY_ONLY , strict ", Some(RegistryOnly), true),
            ("strict,", None, true),
            ("ALLOW_ANY,ALLOW_ANY", Some(AllowAny), false),
        ] {
            let expected = ClientPolicy { outbound_traffic_policy: mode, strict };
            assert_eq!(ClientPolicy::parse(text), Ok(expected), "{text:?}");
        }
        for (text, said) in [
            ("registry_only", "did you mean `REGISTRY_ONLY`?"),
            ("Strict", "did you mean `strict`?"),
            ("ALLOW_ANY,REGISTRY_ONLY", "contradict each other"),
            (
                "deny everything",
                "\"deny everything\" is no word of egress.interceptor.io/policy: expected ALLOW_ANY",
            ),
        ] {
            let error = ClientPolicy::parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_mistake_means_the_most_restrictive_that_it_can() {
        for (text, instead) in [
            ("REGISTRYONLY", "REGISTRY_ONLY,strict"),
            ("strct", "REGISTRY_ONLY,strict"),
            ("ALLOW_ANY,strct", "ALLOW_ANY,strict"),
            ("strct, REGISTRY_ONLY", "REGISTRY_ONLY,strict"),
            ("ALLOW_ANY,REGISTRY_ONLY", "REGISTRY_ONLY"),
            ("ALLOW_ANY,REGISTRY_ONLY,strict", "REGISTRY_ONLY,strict"),
        ] {
            let policy = ClientPolicy::parse(text).unwrap_err().instead();
            assert_eq!(policy.described(), instead, "{text}");
            assert_eq!(ClientPolicy::parse(instead), Ok(policy), "{text}");
        }
    }

    #[test]
    fn a_pod_goes_before_its_namespace() {
        let policy = |text| ClientPolicy::parse(text).unwrap();
        for (pod, namespace, expected) in [
            ("", "REGISTRY_ONLY", "REGISTRY_ONLY"),
            ("ALLOW_ANY", "REGISTRY_ONLY", "ALLOW_ANY"),
            ("ALLOW_ANY", "REGISTRY_ONLY,strict", "ALLOW_ANY,strict"),
            ("strict", "", "strict"),
        ] {
            assert_eq!(policy(pod).within(policy(namespace)), policy(expected), "{pod:?} in {namespace:?}");
        }
    }
}
