//! `egress.interceptor.io/enforce`: a pod, or all pods of a namespace, reach outside addresses only through the egress
//! gateway. Pure: a text comes in, a value or one clear sentence comes out.

use super::words::{did_you_mean, shortened};

/// The annotation's key.
pub const ENFORCE: &str = "egress.interceptor.io/enforce";

const GATEWAY: &str = "gateway";

/// A value that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{value:?} is no value of {ENFORCE}: expected {GATEWAY}{hint}; remove the annotation to enforce nothing"
)]
pub struct EnforceError {
    value: String,
    hint: String,
}

/// Whether what leaves is enforced to go through the gateway; an empty value says nothing.
pub fn parse_enforce(text: &str) -> Result<bool, EnforceError> {
    match text.trim() {
        "" => Ok(false),
        GATEWAY => Ok(true),
        value => {
            let hint = did_you_mean(value, &[GATEWAY]);
            Err(EnforceError { value: shortened(value), hint })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for (text, expected) in [("", false), ("gateway", true), (" gateway ", true)] {
            assert_eq!(parse_enforce(text), Ok(expected), "{text:?}");
        }
        for (text, said) in [
            ("Gateway", "did you mean `gateway`?"),
            ("true", "\"true\" is no value of egress.interceptor.io/enforce: expected gateway;"),
        ] {
            let error = parse_enforce(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text:?}: {error}");
        }
    }
}
