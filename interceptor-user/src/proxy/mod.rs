//! How an intercepted connection is carried: accepted, inspected, routed, sent on, recorded.

pub mod active;
pub mod copy;
pub mod downstream;
pub mod http;
pub mod inspect;
pub mod outcome;
pub mod upstream;
pub mod worker;
