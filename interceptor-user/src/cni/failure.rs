//! The error object of the CNI specification.

use serde::Serialize;

pub(super) const INCOMPATIBLE_VERSION: u32 = 1;
pub(super) const INVALID_ENVIRONMENT: u32 = 4;
pub(super) const IO_FAILURE: u32 = 5;
pub(super) const DECODING_FAILURE: u32 = 6;
pub(super) const INVALID_CONFIG: u32 = 7;
pub(super) const TRY_AGAIN_LATER: u32 = 11;
/// From 100 on codes are the plugin's own. The agent says no.
pub(super) const REFUSED: u32 = 100;

/// Why an operation failed. Runtimes show `msg; details` in the pod's events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{msg}")]
pub(super) struct Failure {
    pub(super) code: u32,
    pub(super) msg: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) details: String,
}

impl Failure {
    pub(super) fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    pub(super) fn with_details(self, details: impl Into<String>) -> Self {
        Self { details: details.into(), ..self }
    }
}
