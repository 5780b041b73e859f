//! The node agent: pods of this node are enrolled, followed and shown.

pub mod view;
