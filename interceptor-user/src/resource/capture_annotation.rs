//! `egress.interceptor.io/capture-dns`: names are learned from the DNS answers of a pod, or of all pods of a namespace.
//! Pure: a text comes in, a value or one clear sentence comes out.

use super::words::{did_you_mean, shortened};

/// The annotation's key.
pub const CAPTURE_DNS: &str = "egress.interceptor.io/capture-dns";

const TRUE: &str = "true";
const FALSE: &str = "false";

/// A value that can't be used; it changes nothing then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is no value of {CAPTURE_DNS}: expected {TRUE} or {FALSE}{hint}")]
pub struct CaptureDnsError {
    value: String,
    hint: String,
}

/// Whether DNS answers are captured; `None`: an empty value says nothing.
pub fn parse_capture_dns(text: &str) -> Result<Option<bool>, CaptureDnsError> {
    match text.trim() {
        "" => Ok(None),
        TRUE => Ok(Some(true)),
        FALSE => Ok(Some(false)),
        value => {
            let hint = did_you_mean(value, &[TRUE, FALSE]);
            Err(CaptureDnsError { value: shortened(value), hint })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for (text, expected) in [("", None), ("true", Some(true)), (" false ", Some(false))] {
            assert_eq!(parse_capture_dns(text), Ok(expected), "{text:?}");
        }
        for (text, said) in [
            ("True", "did you mean `true`?"),
            ("on", "\"on\" is no value of egress.interceptor.io/capture-dns: expected true or false"),
        ] {
            let error = parse_capture_dns(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text:?}: {error}");
        }
    }
}
