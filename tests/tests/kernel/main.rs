//! The kernel half, for real: programs in throw-away cgroups, sockets in a throw-away network namespace. Needs root.

mod bed;
mod redirect;
