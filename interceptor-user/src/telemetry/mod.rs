//! What is told about connections (access log) and about ourselves (logging).

pub mod access_log;
pub mod exposition;
pub mod logging;
pub(crate) mod metrics;
pub mod record;

pub use access_log::{AccessLog, AccessLogError, AccessLogTarget};
pub use record::{AccessRecord, HttpRecord};
