//! The kernel half, for real: programs in throw-away cgroups, sockets in a throw-away network namespace. Needs root.

mod adoption;
mod astray;
mod attach;
mod bed;
mod bound;
mod bpf;
mod changes;
mod check;
mod cleanup;
mod dns;
mod down;
mod dump;
mod gate;
mod guard;
mod handover;
mod listeners;
mod maker;
mod other_schemas;
mod pins;
mod policy;
mod programs;
mod redirect;
mod sys;
mod unenroll;
mod ways_to_connect;
