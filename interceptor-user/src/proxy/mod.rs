//! How an intercepted connection is carried: accepted, inspected, routed, sent on, recorded.

pub mod copy;
pub mod downstream;
pub mod inspect;
pub mod outcome;
