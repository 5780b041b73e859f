//! The harness of the end-to-end tests: throw-away namespaces, cgroups and servers behind guards, and the real
//! `interceptor` with the real curl between them. Nothing here sleeps: it waits for conditions, with deadlines.
//!
//! A test asks for the [`World`] (the internet: one namespace with every server, shared by a test binary), makes
//! its own [`Pod`] (a namespace joined to it, never shared), and runs commands in it with an [`Interceptor`].

mod access_log;
mod api_server;
mod bpffs;
mod ca;
mod cgroup;
mod dir;
mod dns;
mod envoy;
mod gateway;
mod http;
mod httpbin;
mod interceptor;
mod mesh;
mod name;
mod netns;
mod nginx;
mod node;
mod origin;
mod pod;
mod process;
mod seeds;
mod session;
mod stopwatch;
mod wait;
mod world;

pub use access_log::LogLine;
pub use api_server::{ApiServer, Fault, StreamingLists};
pub use bpffs::BpfFs;
pub use ca::{Ca, Identity};
pub use cgroup::{Cgroup, root as cgroup_root};
pub use dir::Dir;
pub use dns::{Dns, Record};
pub use envoy::{Envoy, envoy_binary};
pub use gateway::Gateway;
pub use http::Http;
pub use httpbin::{Httpbin, python};
pub use interceptor::{Finished, Interceptor, Running, binary};
pub use mesh::{Mesh, serial};
pub use name::unique;
pub use netns::{Netns, Veth};
pub use nginx::{Hit, Nginx, large};
pub use node::{Agent, BarePod, Curl, Driver, Node, NodePod, Process};
pub use origin::{Origin, content_length, echo_heads, header, read_head};
pub use pod::{Interface, Pod};
pub use process::{Daemon, output, run};
pub use seeds::{seeds, seeds_dir};
pub use session::Session;
pub use stopwatch::Stopwatch;
pub use wait::{eventually, uninterrupted, wait_for};
pub use world::World;
