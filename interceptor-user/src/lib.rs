//! Intercepts outbound TCP connections in the kernel and applies the Istio egress API to them.
//!
//! `resource`, `analysis`, `report`, `output`, `compile`, `snapshot`, `workload` and `plan` are pure: no IO, no clock, no async.
//! The rest is the shell around them. docs/architecture.md draws the picture.

pub mod admin;
pub mod agent;
pub mod analysis;
pub mod certs;
pub mod check;
pub mod cli;
pub mod cni;
pub mod compile;
pub mod datapath;
pub mod dns;
pub mod dump;
pub mod enroll;
pub mod exec;
pub mod explain;
pub mod gateway;
pub mod hash;
pub mod output;
pub mod plan;
pub mod proxy;
pub mod report;
pub mod resource;
pub mod settings;
pub mod shared_map;
pub mod snapshot;
pub mod source;
pub mod tables;
pub mod telemetry;
pub mod workload;
mod workload_api;
