//! `explain` as tables: YAML and a target in, the text out. And that its outcome is what the snapshot's lookups give.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod command;
mod config_tables;
mod considered;
mod gateway;
mod gateway_loops;
mod gateway_peers;
mod intercepted;
mod now;
mod outcome;
mod scenarios;
mod support;
mod tables;
