//! What is told about connections (access log) and about ourselves (logging).

pub mod record;

pub use record::{AccessRecord, HttpRecord};
