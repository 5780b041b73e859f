//! What is told about connections (access log, flows, metrics) and about ourselves (logging).

pub mod access_log;
pub mod exposition;
pub mod flows;
pub mod logging;
pub(crate) mod messages;
pub(crate) mod metrics;
pub(crate) mod own_descriptor;
pub mod record;

pub use access_log::{AccessLog, AccessLogError, AccessLogTarget};
pub use flows::{Flow, FlowEvent, FlowKind, Flows, Follower};
pub use record::{AccessRecord, HttpRecord};
