//! The agent's own HTTP server, and the commands that ask it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod bounds;
mod commands;
mod config;
mod flows;
mod health;
mod requests;
mod sockets;
mod support;
